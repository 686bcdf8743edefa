"""Provider `hosts`: three machines behind a bastion, and an administrator who is root nowhere on their own machine."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.lab import hosts as lab

if TYPE_CHECKING:
    from tests.lab.conftest import Engine

MACHINES = ("server", "one", "two")
BUSY = 4
SPEC = """\
name: far
provider: hosts
hosts:
  user: keeper
  jump_host: {{host: {bastion}, user: keeper}}
  machines:
    - {{name: server, address: {server}, groups: [server, telemetry, clients], host_key: {host_key}}}
    - {{name: one, address: {one}, groups: [agents]}}
    - {{name: two, address: {two}, groups: [agents], user: root}}
server: {{backend: lite}}
users: [{{name: researcher}}]
"""


@pytest.fixture
def there(engine: Engine) -> Iterator[lab.Lab]:
    """Three machines behind a bastion."""
    with lab.running(engine, dict.fromkeys(MACHINES, lab.Kind()), SPEC + lab.MIRRORS) as found:
        yield found


@pytest.mark.full
def test_a_testbed_behind_a_bastion_comes_up_and_goes_without_a_trace(there: lab.Lab) -> None:
    there.prepare()
    before = {name: lab.snapshot(host) for name, host in there.machines.items()}

    there.begin("up", "--yes")
    lab.wait_for(lambda: "Make sure of everybody's key  " in there.said(), "the first command does not get on")
    time.sleep(5)
    there.desk.run("sh", "-c", f"kill -9 $(cat {lab.HOME}/pid)")

    first = there.testbed("up", "--yes")
    passed = re.search(r"(\d+) of (\d+) checks passed", first)
    assert passed, first
    assert passed[1] == passed[2], first
    assert int(passed[2]) > 30, f"the full chain runs, too: {first}"
    workers = [f"{host}:{worker}" for host in ("one", "two") for worker in ("default", "prepared")]
    found = json.loads(there.testbed("status", "--json", progress=False))
    assert found["healthy"], found
    assert sorted(worker["name"] for worker in found["workers"]) == workers
    there.testbed("secrets", "status")

    there.begin("up", "--yes")
    lab.wait_for(
        lambda: "Look whose" in there.said() or "Prepare secrets" in there.said(), "the second does not get on"
    )
    bob = ("XDG_STATE_HOME=/tmp/bob", "XDG_CONFIG_HOME=/tmp/bob")  # another administrator, as far as the hosts know
    refused = there.testbed("up", "--check", environment=bob, code=BUSY)
    assert "`testbed up` of ada@testbed-lab-desk" in refused, refused
    lab.wait_for(lambda: "checks passed" in there.said(), "the second does not end")
    assert re.findall(r"changed=(\d+)", there.said()) == ["0", "0"], there.said()

    there.testbed("down", "--yes", "--purge")
    assert {name: lab.snapshot(host) for name, host in there.machines.items()} == before
    assert there.desk.run("find", f"{lab.HOME}/.config", f"{lab.HOME}/.local", "-name", "far") == ""
    assert there.desk.run("sh", "-c", "ls -d /tmp/testbed-* 2>/dev/null || true") == ""
