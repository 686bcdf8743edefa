"""What is looked at before the official server comes: each of the role's checks, run by Ansible itself."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROLE = Path(__file__).parents[3] / "roles/clearml_server"
DATA = "/srv/clearml"
WELL: dict[str, Any] = {"memory_mb": 7950, "cpus": 8, "avx": True, "limits": {"memlock": True, "nofile": 65536}}
WELL |= {"free_mb": {"/var/lib/docker": 8000, DATA: 6000}, "images_folder": "/var/lib/docker"}
WELL |= {"engine_answers": True, "images_missing": ["server", "mongo", "elasticsearch", "redis"]}
ELSEWHERE = {name: {"host": f"{name}.example"} for name in ("mongo", "elasticsearch")}
BASE = {
    "clearml_server_backend": "docker",
    "clearml_server_data_dir": DATA,
    "clearml_server_capacity": WELL,
    "clearml_server_present": {"stat": {"exists": False}},
    "clearml_server_data_version": {"rc": 1, "stdout": ""},
    "clearml_server_knocked": {"results": []},
}


def host(**having: Any) -> dict[str, Any]:
    return {"clearml_server_capacity": {**WELL, **having}}


def room(docker: int, data: int) -> dict[str, Any]:
    return host(free_mb={"/var/lib/docker": docker, DATA: data})


def images(free_mb: int, *missing: str) -> dict[str, Any]:
    return host(
        images_folder="/big", images_missing=[*missing], free_mb={"/var/lib/docker": 10, "/big": free_mb, DATA: 6000}
    )


def without_avx(mongo: str) -> dict[str, Any]:
    return {**host(avx=False), "clearml_server_images": {"mongo": mongo}}


def of_version(found: str, wanted: str = "2.4.0", restoring: str = "") -> dict[str, Any]:
    return {
        "clearml_server_data_version": {"rc": 0, "stdout": found},
        "clearml_server_version": wanted,
        "clearml_server_restoring": restoring,
    }


# by name of a host: what it has, or is told, and what is said of it; nothing where all is well
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "norm": ({}, ""),
    "half": (host(memory_mb=3900), "of 3900 MiB of memory, 3900 (100 %) are the server's"),
    "shared": ({"clearml_server_memory_share": 50}, "of 7950 MiB of memory, 3975 (50 %) are the server's"),
    "shared16": ({**host(memory_mb=15900), "clearml_server_memory_share": 50}, ""),
    "half-elsewhere": ({**host(memory_mb=3900), "clearml_server_stores": ELSEWHERE}, ""),
    "no-avx": (host(avx=False), "its processor shows no AVX (/proc/cpuinfo), and MongoDB 8 needs it"),
    "no-avx-elsewhere": ({**host(avx=False), "clearml_server_stores": ELSEWHERE}, ""),
    "docker-full": (room(7999, 6000), "7999 MiB are free for images in /var/lib/docker, and those that"),
    "docker-elsewhere": (images(8000, "a", "b", "c", "d"), ""),
    "elsewhere-full": (images(7999, "a", "b", "c", "d"), "7999 MiB are free for images in /big, and those that"),
    "one-image": (images(2000, "redis:8"), ""),
    "one-too-many": (images(1999, "redis:8"), "are not here yet take about 2000 (redis:8). Free some space, or give"),
    "old-mongo": (without_avx("r.example:5000/hub/mongo:4.4.29@sha256:5"), ""),
    "newer-mongo": (without_avx("r.example:5000/mongo:6.0"), "and MongoDB 6 needs it"),
    "mongo-by-digest": (without_avx("r.example:5000/mongo@sha256:4" + "0" * 63), "and MongoDB 8 needs it"),
    "data-full": (room(8000, 5999), f"5999 MiB are free for {DATA}, and 6000 are needed"),
    "full-later": (
        {
            **host(images_missing=[], free_mb={"/var/lib/docker": 10, DATA: 10}),
            "clearml_server_present": {"stat": {"exists": True}},
        },
        "",
    ),
    "full-and-down": (
        {**host(engine_answers=False, free_mb={"/var/lib/docker": 10, DATA: 10})}
        | {"clearml_server_present": {"stat": {"exists": True}}},
        "",
    ),
    "unknown": ({"clearml_server_version": "2.9.9"}, "2.9.9 of the official server is not known here"),
    "short-logins": ({"clearml_server_token_seconds": 43200}, "agents would log in before every call"),
    "no-ca": (
        {"clearml_server_stores": {"mongo": {"host": "m.example", "ca_file": "/nowhere.pem"}}},
        "/nowhere.pem is no file with",
    ),
    "other-data": (of_version("2.3.0"), "in testbed.yaml is 2.4.0, and the data on other-data are of 2.3.0"),
    "same-data": (of_version("2.3.0", "2.3.0"), ""),
    "restored-data": (of_version("2.3.0", restoring="abc"), ""),
}  # fmt: skip


def ask(folder: Path, tasks: list[dict[str, Any]], hosts: dict[str, Any]) -> dict[str, list[str]]:
    """Return what tasks of the role say of each host."""
    play = {"hosts": "all", "gather_facts": False, "vars_files": [str(ROLE / "vars/main.yml")], "tasks": tasks}
    (folder / "play.yml").write_text(yaml.safe_dump([play], sort_keys=False))
    common = yaml.safe_load((ROLE / "defaults/main.yml").read_text()) | BASE
    (folder / "inventory.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))
    environment = {**os.environ, "ANSIBLE_HOME": str(folder), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORKS": "2"}
    environment["ANSIBLE_FILTER_PLUGINS"] = str(ROLE / "filter_plugins")
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(folder / "inventory.json")]
    command += ["-e", "clearml_server_store_seconds=1"]
    done = subprocess.run(
        [*command, str(folder / "play.yml")], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert "PLAY RECAP" in done.stdout, done.stdout + done.stderr
    found: dict[str, list[str]] = {name: [] for name in hosts}
    for name, result in re.findall(r"^(?:fatal|failed): \[([\w-]+)\].* => (\{.*\})$", done.stdout, re.MULTILINE):
        if "results" not in json.loads(result):
            found[name].append(json.loads(result)["msg"])
    return found


TASKS = yaml.safe_load((ROLE / "tasks/validate_docker.yml").read_text())


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the role's checks say of each host."""
    checks = [task for task in TASKS if "ansible.builtin.assert" in task]
    return ask(tmp_path_factory.mktemp("checks"), checks, {name: having for name, (having, _) in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_a_host_that_will_not_do_is_refused_before_anything_changes(said: dict[str, list[str]], name: str) -> None:
    expected = CASES[name][1]
    assert bool(said[name]) == bool(expected), said[name]
    assert all(expected in message and message.endswith("Nothing was changed.") for message in said[name])
    assert len(said[name]) <= 1, "one thing is wrong, and that one is told"


def test_a_store_elsewhere_that_does_not_answer_is_named_before_anything_changes(tmp_path: Path) -> None:
    [at] = [index for index, task in enumerate(TASKS) if "ansible.builtin.wait_for" in task]
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # taken, and nobody listens
        good, bad = there.getsockname()[1], silent.getsockname()[1]
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        stores = {
            "well": {"redis": {"host": "127.0.0.1", "port": good}},
            "closed": {
                "elasticsearch": {"host": "127.0.0.1", "port": good},
                "redis": {"host": "localhost", "port": bad},
            },
            "unknown": {"mongo": {"host": "no.such.invalid", "port": bad, "further_hosts": ["localhost"]}},
            "one-away": {"mongo": {"host": "no.such.invalid", "port": good, "further_hosts": ["127.0.0.1"]}},
            "none": {},
        }
        hosts = {name: {**here, "clearml_server_stores": told} for name, told in stores.items()}
        found = ask(tmp_path, TASKS[at : at + 2], hosts)
    assert (found["well"], found["none"], found["one-away"]) == ([], [], [])
    [closed], [unknown] = found["closed"], found["unknown"]
    assert f"server.stores.redis in testbed.yaml: localhost:{bad} does not answer closed" in closed
    assert f"server.stores.mongo in testbed.yaml: no.such.invalid:{bad} and localhost:{bad} does not answer" in unknown
    assert "Look at its name and port" in closed
    assert closed.endswith("Nothing was changed.")
