"""An OpenStack cloud in a container, on the lab's Docker Engine; or one that is up already, by TESTBED_LAB_CLOUD."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.lab.openstack.cloud import Cloud

if TYPE_CHECKING:
    from tests.lab.conftest import Engine

HERE = Path(__file__).parent
NAME = "testbed-lab-cloud"


def log_in(address: str) -> dict[str, object]:
    """Return the administrator's entry of clouds.yaml for a cloud at an address."""
    auth = {"username": "admin", "password": "admin", "project_name": "admin"}
    auth |= {"user_domain_name": "Default", "project_domain_name": "Default"}
    return {"auth": {"auth_url": f"http://{address}:5000/v3", **auth}, "region_name": "RegionOne"}


@contextmanager
def running(engine: Engine, variant: str, *options: str) -> Iterator[Cloud]:
    """Yield a new cloud, `fake` or `libvirt`, on a network of its own; `options` are docker's."""
    engine.build(HERE / "build.sh", f"{NAME}:{variant}", variant)
    engine.run("network", "create", NAME)
    try:
        engine.run(
            "run", "--detach", "--name", NAME, "--hostname", "lab", "--network", NAME, *options, f"{NAME}:{variant}"
        )
        engine.run("exec", NAME, "python3", "/lab/register.py")
        address = engine.run("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", NAME)
        file = engine.folder / "clouds.yaml"
        file.write_text(yaml.safe_dump({"clouds": {"admin": log_in(address)}}))
        yield Cloud(file)
    finally:
        subprocess.run([*engine.docker, "rm", "--force", "--volumes", NAME], check=False, capture_output=True)
        engine.run("network", "rm", NAME)


@pytest.fixture(scope="session")
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """A cloud whose hypervisors are fake."""
    if there := os.environ.get("TESTBED_LAB_CLOUD"):
        yield Cloud(Path(there))
        return
    with running(request.getfixturevalue("bare_engine"), "fake") as found:
        yield found
