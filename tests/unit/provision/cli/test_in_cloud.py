"""What a command on a cloud says when it is stopped, and of a testbed whose addresses are not known yet."""

from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from provision import spec
from provision.cli.in_cloud import Steps, told
from provision.cloud.plan import Action, Plan
from provision.errors import CloudError, Exit, StoppedError, TestbedError
from provision.machines import Machine, resolved
from provision.reports import Urls
from provision.spec_types import JumpHost

SPEC = """\
name: ran
provider: openstack
openstack: {cloud: lab, image: focal, network: net}
server: {}
users: [{name: alice}]
administrators:
  - name: ada
    ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGvxSwlNFKnjHRrbiv+0tFGoNFFaT8UB1UvOSFiSA9Vo"]
"""


class ImpatientReader(io.StringIO):
    """Who stops the command as soon as a stage is shown as done."""

    def write(self, text: str) -> int:
        if "✓" in text:
            raise KeyboardInterrupt
        return super().write(text)


def test_a_stage_that_is_shown_as_done_is_told_as_done():
    steps = Steps(Console(file=ImpatientReader()), "one", "two")
    with pytest.raises(StoppedError) as error, steps.stoppable(), steps.stage("one"):
        pass
    assert error.value.message.splitlines()[1:] == ["  done         one", "  not started  two"]


def stop(steps: Steps, title: str) -> None:
    """Do stages until one is stopped, or the time after it."""
    for stage in ("one", "two", "three"):
        with steps.stage(stage) as current:
            if stage == title:
                current.step("14 of 50 servers ACTIVE")
                raise KeyboardInterrupt
        if f"after {stage}" == title:
            raise KeyboardInterrupt


def stopped_in(title: str) -> str:
    steps = Steps(Console(file=io.StringIO()), "one", "two", "three")
    with pytest.raises(StoppedError) as error, steps.stoppable():
        stop(steps, title)
    assert error.value.exit_code == Exit.STOPPED
    return error.value.message


def delete_and_fail(console: Console) -> None:
    gone = Action("delete", "network", "net", "no longer wanted", "n-1")
    with Steps(console).followed("Delete") as progress:
        progress.planned(Plan((gone,)))
        progress.told(gone, "done")
        raise CloudError("no more")


def test_a_stopped_command_says_what_was_done_and_what_was_not():
    assert stopped_in("two") == (
        "stopped by Ctrl-C\n  done         one\n  stopped in   two, at 14 of 50 servers ACTIVE\n  not started  three"
    )
    assert stopped_in("after one") == (
        "stopped by Ctrl-C\n  done         one\n  not started  two\n  not started  three"
    )


def test_the_line_of_a_stage_says_what_was_done_also_when_it_failed():
    console = Console(file=io.StringIO(), width=120)
    with pytest.raises(CloudError):
        delete_and_fail(console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0].strip() == "deleted network net"
    assert lines[1].startswith("✗ Delete")
    assert lines[1].endswith("1 deleted")


def test_urls_show_the_servers_name_until_it_has_an_address():
    testbed = spec.parse(SPEC, "testbed.yaml")
    assert told(testbed, []).server.url("api") == "http://server:8008"
    everything = ("server", "clients", "telemetry", "inference")
    machine = Machine("server", everything, "203.0.113.9", internal="10.0.0.5", user="ubuntu")
    assert told(testbed, [machine]).server.url("api") == "http://10.0.0.5:8008"


def test_a_server_that_is_to_come_is_told_by_its_name():
    testbed = spec.parse(SPEC.replace("network: net", "network: net, nodes: {telemetry: {}}"), "testbed.yaml")
    there = Machine("server", ("server", "telemetry", "clients"), "203.0.113.7", "10.0.0.7", "ubuntu")
    shown = told(testbed, [there])
    assert shown.server.url("api") == "http://10.0.0.7:8008"
    assert shown.telemetry.url == "http://telemetry:8086"
    agent = Machine("agent-1", ("agents",), "203.0.113.8", "10.0.0.8", "ubuntu")
    assert told(testbed, [agent]).server.url("api") == "http://server:8008"


def test_a_host_that_is_not_there_is_named():
    testbed = spec.parse(SPEC, "testbed.yaml")
    agent = Machine("agent-1", ("agents",), "203.0.113.8", "10.0.0.8", "ubuntu")
    with pytest.raises(TestbedError) as error:
        resolved(testbed, [agent])
    assert "the host of server is not there" in error.value.message


def test_the_web_app_is_also_shown_where_the_administrator_reaches_it():
    testbed = spec.parse(SPEC, "testbed.yaml")
    everything = ("server", "clients", "telemetry", "inference")
    floating = Machine("server", everything, "203.0.113.9", internal="10.0.0.5", user="ubuntu")
    assert Urls.of(resolved(testbed, [floating]), [floating]).outside == "http://203.0.113.9:8080"
    plain = dataclasses.replace(floating, address="10.0.0.5")
    assert Urls.of(resolved(testbed, [plain]), [plain]).outside is None
    behind = dataclasses.replace(floating, jump_host=JumpHost(host="gw", user="ada"))
    assert Urls.of(resolved(testbed, [behind]), [behind]).outside is None
