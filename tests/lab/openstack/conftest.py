"""An OpenStack cloud in a container, on the lab's Docker Engine; or one that is up already, by TESTBED_LAB_CLOUD."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.lab.openstack import proxy as front
from tests.lab.openstack.bed import Bed
from tests.lab.openstack.cloud import Cloud, Project, contents

if TYPE_CHECKING:
    from tests.lab.conftest import Engine

HERE = Path(__file__).parent
NAME = "testbed-lab-cloud"
DRAWN = 2


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the tests marked `drawn`, keep those that TESTBED_SEED draws; a class is one of them."""
    if not (seed := os.environ.get("TESTBED_SEED")):
        return
    groups: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("drawn"):
            groups.setdefault(item.nodeid.rsplit("::", 1)[0] if item.cls else item.nodeid, []).append(item)  # type: ignore[attr-defined]
    left = sorted(groups)
    kept = set(random.Random(int(seed)).sample(left, min(DRAWN, len(left))))
    gone = {item for group in groups.keys() - kept for item in groups[group]}
    config.hook.pytest_deselected(items=list(gone))
    items[:] = [item for item in items if item not in gone]


def log_in(address: str) -> dict[str, object]:
    """Return the administrator's entry of clouds.yaml for a cloud at an address."""
    auth = {"username": "admin", "password": "admin", "project_name": "admin"}
    auth |= {"user_domain_name": "Default", "project_domain_name": "Default"}
    return {"auth": {"auth_url": f"http://{address}:5000/v3", **auth}, "region_name": "RegionOne"}


@contextmanager
def running(engine: Engine, variant: str, *options: str) -> Iterator[Cloud]:
    """Yield a new cloud, `fake` or `libvirt`, on a network of its own; `options` are docker's."""
    image, name = f"{NAME}:{variant}", f"{NAME}-{variant}"
    engine.build(HERE / "build.sh", image, variant)
    engine.run("network", "create", name)
    try:
        engine.run("run", "--detach", "--name", name, "--hostname", "lab", "--network", name, *options, image)
        engine.run("exec", name, "python3", "/lab/register.py")
        address = engine.run("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", name)
        file = engine.folder / f"{variant}.clouds.yaml"
        file.write_text(yaml.safe_dump({"clouds": {"admin": log_in(address)}}))
        yield Cloud(file)
    finally:
        subprocess.run([*engine.docker, "rm", "--force", "--volumes", name], check=False, capture_output=True)
        engine.run("network", "rm", name)


@pytest.fixture(scope="session")
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """A cloud whose hypervisors are fake."""
    if there := os.environ.get("TESTBED_LAB_CLOUD"):
        yield Cloud(Path(there))
        return
    with running(request.getfixturevalue("bare_engine"), "fake") as found:
        yield found


@pytest.fixture(scope="session")
def proxy(cloud: Cloud) -> Iterator[front.Proxy]:
    """A proxy in front of it."""
    with front.running(cloud) as found:
        yield found


@pytest.fixture(scope="module")
def project(cloud: Cloud) -> Iterator[Project]:
    """A project for the module's tests, one after the other."""
    with cloud.project("lab", {"security_group": 20, "security_group_rule": 200, "volumes": 50}) as found:
        yield found


@pytest.fixture
def bed(project: Project, proxy: front.Proxy, tmp_path: Path) -> Iterator[Bed]:
    """A testbed behind the proxy: two servers with boot volumes, a floating IP, and a network with its router."""
    yield two_servers("ran", project, proxy, tmp_path)
    proxy.forget()
    project.clear()


def two_servers(name: str, project: Project, proxy: front.Proxy, folder: Path) -> Bed:
    """Return a testbed that has one of every kind of resource."""
    return Bed(name, project, folder, proxy.auth_url, {"floating_ip_pool": "public", "boot_volume": {"size": 1}})


@pytest.fixture
def small_bed(project: Project, proxy: front.Proxy, tmp_path: Path) -> Iterator[Bed]:
    """A testbed behind the proxy: one server, which boots from its own disk, and a network with its router."""
    yield Bed("ran", project, tmp_path, proxy.auth_url, {"nodes": {"agents": {"on": "server"}}})
    proxy.forget()
    project.clear()


@pytest.fixture(scope="session")
def undisturbed(cloud: Cloud, proxy: front.Proxy, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What is in the project of `bed` when nothing went wrong."""
    with cloud.project("lab") as project:
        bed = two_servers("ran", project, proxy, tmp_path_factory.mktemp("undisturbed"))
        done = bed.run("up")
        assert done.code == 0, done.err
        return contents(project)
