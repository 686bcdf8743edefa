"""The commands as administrators type them, on the test cloud: what they show, change, ask and refuse.

Guests of fake hypervisors answer no SSH, so here `up` and its kin are stopped where they wait for it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pexpect
import pytest
import yaml

from provision.errors import Exit
from provision.paths import ROOT
from tests.lab.openstack import proxy as front
from tests.lab.openstack.bed import Done
from tests.lab.openstack.cloud import ENTRY, Cloud, Project, contents
from tests.lab.openstack.proxy import Call, Cut, Fault, Proxy, Reply, answer, at

TESTBED = str(ROOT / "testbed")
ENDED_WITHIN_S = 900
SERVERS_ARE_THERE = "✓ Bring up the servers"


class Desk:
    """An administrator's machine: key, clouds.yaml and testbed.yaml of a testbed."""

    def __init__(self, folder: Path, project: Project, name: str = "ran", auth_url: str = "", **openstack: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.project, self.name = folder, project, name
        self.key, self.spec = folder / "key", folder / "testbed.yaml"
        self.clouds = project.clouds_yaml(folder, auth_url=auth_url)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self.openstack: dict[str, Any] = {"cloud": ENTRY, "image": "blank", "flavor": "t1.tiny", "key": str(self.key)}
        self.openstack |= {"network": {"cidr": "10.20.0.0/24"}, "nodes": {"agents": {"count": 1}}}
        self.say(**openstack)

    def say(self, **changed: Any) -> None:
        """Write testbed.yaml, with changes in its section `openstack`."""
        self.openstack |= changed
        line = " ".join(Path(f"{self.key}.pub").read_text().split()[:2])
        said = {"name": self.name, "provider": "openstack", "openstack": self.openstack, "server": {}}
        said |= {"users": [{"name": "alice"}], "administrators": [{"name": "ada", "ssh_keys": [line]}]}
        self.spec.write_text(yaml.safe_dump(said, sort_keys=False))

    @property
    def environment(self) -> dict[str, str]:
        """What a shell there has."""
        kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        homes = {f"XDG_{name}_HOME": str(self.folder / name.lower()) for name in ("CONFIG", "STATE")}
        return {**kept, **homes, "OS_CLIENT_CONFIG_FILE": str(self.clouds), "LANG": "C.UTF-8", "TERM": "xterm"}

    def words(self, *arguments: str) -> list[str]:
        """Return a command on this testbed."""
        verb, *rest = arguments
        return [verb, "--spec", str(self.spec), *rest]

    def run(self, *arguments: str) -> Done:
        """Run a command to its end."""
        done = subprocess.run(
            [TESTBED, *self.words(*arguments)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ENDED_WITHIN_S,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def report(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run a command, which must end with that exit code, with --json."""
        done = self.run(*arguments, "--json")
        assert done.code == code, done.err
        found: dict[str, Any] = json.loads(done.out)
        return found

    def work(self) -> set[tuple[str, str, str]]:
        """Return what `plan` would do."""
        actions = self.report("plan")["actions"]
        return {(each["action"], each["kind"], each["name"]) for each in actions if each["action"] != "keep"}

    def until_ssh(self, *arguments: str) -> str:
        """Run a command and stop it where it waits for SSH; return all that it printed."""
        process = subprocess.Popen(
            [TESTBED, *self.words(*arguments, "--yes")],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        lines = []
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            if line.startswith(SERVERS_ARE_THERE):
                process.terminate()
        text = "".join(lines)
        assert process.wait(ENDED_WITHIN_S) == Exit.TERMINATED, text
        assert "Traceback" not in text, text
        return text


@pytest.fixture(scope="module")
def project(cloud: Cloud) -> Iterator[Project]:
    """A project for this file's tests, one after the other."""
    with cloud.project("commands") as found:
        yield found


@pytest.fixture(scope="module")
def proxy(cloud: Cloud) -> Iterator[Proxy]:
    """A proxy in front of the cloud."""
    with front.running(cloud) as found:
        yield found


@pytest.fixture
def desk(project: Project, tmp_path: Path) -> Iterator[Desk]:
    """A testbed that is not up."""
    yield Desk(tmp_path / "desk", project)
    project.clear()


@pytest.fixture(scope="class")
def up(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A testbed whose servers are there, for several tests, in a project of its own."""
    with cloud.project("commands-up") as project:
        desk = Desk(tmp_path_factory.mktemp("up") / "desk", project)
        desk.until_ssh("up")
        yield desk


def holder(project: Project, *tags: str) -> list[str]:
    """Mark the testbed's security group, if there are tags, and return those that it has."""
    network = project.connection.network
    (group,) = network.security_groups(description="testbed.ran", project_id=project.id)
    if tags:
        network.set_tags(group, list(tags))
    return list(group.tags)


def servers(project: Project) -> dict[str, str]:
    """Return the IDs of the project's servers, by name."""
    return {each.name: each.id for each in project.connection.compute.servers()}


class TestPlan:
    def test_it_shows_all_that_would_come_and_changes_nothing(self, desk: Desk) -> None:
        before = contents(desk.project)
        found = desk.report("plan")
        assert found["fits"] is True
        assert {(each["kind"], each["name"]) for each in found["actions"] if each["kind"] in ("server", "port")} == {
            (kind, name) for kind in ("server", "port") for name in ("server", "agent-1")
        }
        cores = next(row for row in found["quotas"] if row["name"] == "cores")
        assert (cores["before"], cores["after"]) == (0, 2)
        assert contents(desk.project) == before
        text = desk.run("plan").out
        assert "create   2 servers: server, agent-1 (t1.tiny: 1 vCPU, 512 MiB, 1 GiB; blank)" in text
        assert not Path(desk.environment["XDG_CONFIG_HOME"]).exists()

    def test_all_that_is_wrong_is_named_at_once_with_the_largest_layout(self, desk: Desk) -> None:
        desk.say(
            image="blonk",
            network="nowhere",
            floating_ip_pool="no pool",
            availability_zone="moon",
            boot_volume={"size": 1, "type": "no type"},
            key="/nowhere",
            nodes={"agents": {"count": 1, "flavor": "t1.tinny"}},
        )
        done = desk.run("plan")
        assert done.code == Exit.BAD_INPUT
        for words in (
            "image 'blonk' is not in this project",
            "flavor 't1.tinny' is not in this cloud",
            "Did you mean 't1.tiny'?",
            "network 'nowhere' is not in this project",
            "external network 'no pool' is not there",
            "availability zone 'moon' is not there",
            "volume type 'no type' is not there",
            "openstack.key: /nowhere: no such file",
        ):
            assert words in done.out
        refused = desk.run("up", "--yes")
        assert refused.code == Exit.BAD_INPUT
        assert "image 'blonk' is not in this project" in refused.err
        assert contents(desk.project) == []

    def test_every_short_quota_says_by_how_much_and_the_largest_layout_that_fits(self, desk: Desk) -> None:
        desk.project.set_quotas(instances=4, cores=3)
        try:
            desk.say(nodes={"agents": {"count": 9}})
            found = desk.report("plan", code=Exit.BAD_INPUT)
        finally:
            desk.project.set_quotas(instances=10, cores=20)
        assert (found["fits"], found["largest"]) == (False, "server, 2 agents")
        short = {row["name"]: row["short_by"] for row in found["quotas"] if row["short_by"]}
        assert short == {"instances": 6, "cores": 7}

    def test_a_short_quota_of_the_default_volume_type_is_named(self, desk: Desk) -> None:
        desk.project.set_quotas(gigabytes___DEFAULT__=3, volumes___DEFAULT__=5)
        try:
            desk.say(boot_volume={"size": 2})
            found = desk.report("plan", code=Exit.BAD_INPUT)
        finally:
            desk.project.set_quotas(gigabytes___DEFAULT__=-1, volumes___DEFAULT__=-1)
        rows = {row["name"]: (row["after"], row["short_by"]) for row in found["quotas"]}
        assert rows["gigabytes of type __DEFAULT__"] == (4, 1)
        assert rows["volumes of type __DEFAULT__"] == (2, 0)
        assert rows["gigabytes"] == (4, 0)

    def test_what_the_user_may_not_read_is_named_beside_the_rest(
        self, project: Project, proxy: Proxy, tmp_path: Path
    ) -> None:
        desk = Desk(tmp_path / "desk", project, auth_url=proxy.auth_url, image="blonk")
        for service, path in (
            ("nova", r"/servers/detail"),
            ("neutron", r"/networks"),
            ("cinder", r"/(limits|os-quota-sets/\w+)"),
        ):
            proxy.add(Fault(at(service, "GET", path), before=answer(403, "not for you"), times=float("inf")))
        try:
            done = desk.run("plan")
        finally:
            proxy.forget()
        assert done.code == Exit.BAD_INPUT
        for words in ("project's servers: ", "project's networks: ", "quotas of volumes: ", "image 'blonk' is not"):
            assert words in done.out
        assert "Ask for a larger quota, or for this right, in the project." in done.out

    def test_a_clock_that_is_far_off_is_named(self, project: Project, proxy: Proxy, tmp_path: Path) -> None:
        desk = Desk(tmp_path / "desk", project, auth_url=proxy.auth_url)

        def an_hour_ago(call: Call, reply: Reply) -> Reply:
            headers = [header for header in reply.headers if header[0].lower() != "date"]
            date = ("Date", formatdate(time.time() - 3600, usegmt=True))
            return dataclasses.replace(reply, headers=(*headers, date))

        told = proxy.add(Fault(at("neutron", "GET", "/(v2.0/?)?"), after=an_hour_ago, times=float("inf")))
        try:
            done = desk.run("plan")
        finally:
            proxy.forget()
        assert told.met
        assert done.code == Exit.BAD_INPUT
        assert re.search(r"this machine's clock and the cloud's are (3599|3600|3601) s apart", done.out)
        assert "timedatectl set-ntp true" in done.out

    def test_a_login_that_may_only_read_is_told_before_anything_is_tried(self, cloud: Cloud, tmp_path: Path) -> None:
        with cloud.project("reads", role="reader") as project:
            done = Desk(tmp_path / "desk", project).run("plan")
        assert done.code == Exit.BAD_INPUT
        assert "this login may only read in the project: its role is reader" in done.out

    @pytest.mark.parametrize(
        ("entry", "words"),
        [
            ({"password": "wrong"}, "Check user, password or application credential"),
            ({"auth_url": "http://127.0.0.1:1/v3"}, "no connection to http://127.0.0.1:1: Connection refused"),
        ],
        ids=["password", "endpoint"],
    )
    def test_no_way_into_the_cloud_is_named_beside_a_key_that_is_none(
        self, desk: Desk, entry: dict[str, str], words: str
    ) -> None:
        clouds = yaml.safe_load(desk.clouds.read_text())
        clouds["clouds"][ENTRY]["auth"] |= entry
        desk.clouds.write_text(yaml.safe_dump(clouds))
        desk.say(key=str(desk.folder / "none"))
        done = desk.run("plan")
        assert done.code == Exit.BAD_INPUT
        assert words in done.out
        assert "no such file, or no private key" in done.out


class TestUp:
    @pytest.mark.drawn
    def test_it_shows_the_plan_and_each_resource_and_goes_on_after_it_was_stopped(self, desk: Desk) -> None:
        text = desk.until_ssh("up")
        assert "create   2 servers: server, agent-1" in text
        for line in ("created network testbed.ran.network", "server server: ACTIVE", "server agent-1: ACTIVE"):
            assert f"    {line}\n" in text
        assert "stopped by SIGTERM\n  done         Bring up the servers\n" in text
        assert "not started  Bring up agents and clients" in text
        assert desk.work() == set()
        assert holder(desk.project) == [], "nobody is at work any more"
        assert "The cloud is as testbed.yaml says; there is nothing to do." in desk.until_ssh("up")
        state = Path(desk.environment["XDG_STATE_HOME"]) / "testbed" / "ran"
        assert state.exists()
        desk.report("down", "--yes", "--purge")
        assert not state.exists()
        assert contents(desk.project) == []

    @pytest.mark.drawn
    def test_fifty_servers_come_at_once_and_are_in_the_inventory(self, desk: Desk) -> None:
        desk.project.set_quotas(instances=50, cores=50)
        desk.say(nodes={"agents": {"count": 49}})
        desk.until_ssh("up")
        there = {each.name: each.status for each in desk.project.connection.compute.servers()}
        assert len(there) == 50
        assert set(there.values()) == {"ACTIVE"}
        assert desk.work() == set()
        found = json.loads(desk.run("inventory", "--list").out)
        assert found["agents"]["hosts"] == [f"agent-{number}" for number in range(1, 50)]
        assert len({each["testbed_address"] for each in found["_meta"]["hostvars"].values()}) == 50
        desk.report("down", "--yes", "--purge")
        assert contents(desk.project) == []

    def test_without_a_terminal_nobody_is_asked_and_nothing_is_changed(self, desk: Desk) -> None:
        done = desk.run("up")
        assert done.code == Exit.DECLINED
        assert contents(desk.project) == []

    def test_who_says_no_to_the_plan_changes_nothing(self, desk: Desk) -> None:
        plain = {"env": desk.environment | {"NO_COLOR": "1", "TERM": "dumb"}, "dimensions": (50, 200)}
        screen = pexpect.spawn(TESTBED, desk.words("up"), **plain, encoding="utf-8", timeout=60)
        screen.expect("create   2 servers: server, agent-1")
        screen.expect("Go ahead?")
        screen.sendline("n")
        screen.expect(pexpect.EOF)
        screen.close()
        assert screen.exitstatus == Exit.DECLINED
        assert contents(desk.project) == []

    def test_its_check_lists_the_plan_and_changes_nothing(self, desk: Desk) -> None:
        found = desk.report("up", "--check")
        added = {(each["action"], each["kind"], each["name"]) for each in found["changes"]}
        assert ("add", "server", "agent-1") in added
        assert contents(desk.project) == []

    @pytest.mark.parametrize("word", ["agents", "agents=0", "agents=many", "mice=2", "server=2", "clients=2"])
    def test_what_cannot_be_scaled_is_refused(self, desk: Desk, word: str) -> None:
        assert desk.run("scale", word, "--yes").code == Exit.BAD_INPUT

    def test_a_testbed_that_is_not_up_has_no_hosts(self, desk: Desk) -> None:
        for arguments in (("inventory",), ("ssh", "server"), ("status",)):
            done = desk.run(*arguments)
            assert done.code == Exit.FAILED
            assert "testbed ran has no servers" in done.err
        assert "Nothing of testbed ran is in the cloud." in desk.run("down", "--yes").out

    @pytest.mark.drawn
    def test_volumes_are_kept_and_booted_from_again(self, desk: Desk) -> None:
        desk.say(boot_volume={"size": 1}, nodes={"agents": {"on": "server"}})
        desk.until_ssh("up")
        connection = desk.project.connection
        (volume,) = connection.block_storage.volumes()
        desk.report("down", "--yes", "--keep-volumes")
        left = contents(desk.project)
        assert len(left) == 1
        assert left[0].startswith("volume ")
        assert ("create", "volume", "server") not in desk.work()
        desk.until_ssh("up")
        (server,) = connection.compute.servers()
        assert [each["id"] for each in server.attached_volumes] == [volume.id]


@pytest.mark.drawn
class TestATestbedThatIsUp:
    """One testbed for all of these, in this order: each leaves it whole, and the last one takes it down."""

    BUSY = ("team:ran", "testbed-holder:bob@desk", "testbed-since:2999-01-01T00:00:00Z")

    def test_ansible_takes_its_inventory_as_a_script(self, up: Desk) -> None:
        script = up.folder / "inventory"
        script.write_text(f'#!/bin/sh\nexec {TESTBED} inventory --spec {up.spec} "$@"\n')
        script.chmod(0o755)
        ansible = Path(sys.executable).with_name("ansible-inventory")
        done = subprocess.run(
            [ansible, "-i", script, "--list"], env=up.environment, capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout)
        assert found["agents"]["hosts"] == ["agent-1"]
        assert found["server"]["hosts"] == found["clients"]["hosts"] == ["server"]
        assert found["_meta"]["hostvars"]["agent-1"]["ansible_host"].startswith("10.20.0.")
        assert found["_meta"]["hostvars"]["server"]["ansible_user"] == "ubuntu"

    def test_a_name_that_is_none_says_which_there_are(self, up: Desk) -> None:
        for arguments in (("ssh", "agent-7", "--", "true"), ("rebuild", "agent-7", "--yes")):
            done = up.run(*arguments)
            assert done.code == Exit.BAD_INPUT
            assert "agent-7" in done.err
            assert "agent-1" in done.err

    def test_a_count_that_does_not_fit_is_not_written(self, up: Desk) -> None:
        text = up.spec.read_text()
        done = up.run("scale", "agents=5000", "--yes")
        assert done.code == Exit.BAD_INPUT
        assert "quota of instances" in done.err
        assert up.spec.read_text() == text

    def test_another_administrator_at_work_stops_up_and_down(self, up: Desk) -> None:
        holder(up.project, *self.BUSY)
        before = contents(up.project)
        for verb in ("up", "down"):
            done = up.run(verb, "--yes")
            assert done.code == Exit.BUSY
            assert "another administrator works on testbed ran: bob@desk since 2999-01-01 00:00:00 UTC" in done.err
        assert contents(up.project) == before
        assert up.work() == set(), "who is at work is no difference"
        (found,) = up.report("list")["testbeds"]
        assert (found["name"], found["servers"], found["holder"]) == ("ran", 2, "bob@desk")
        up.until_ssh("up", "--break-lock")
        assert holder(up.project) == ["team:ran"], "other tags stay"

    def test_who_was_killed_hours_ago_is_in_nobodys_way(self, up: Desk) -> None:
        holder(up.project, *self.BUSY[:2], "testbed-since:2020-01-01T00:00:00Z")
        up.until_ssh("up")
        assert holder(up.project) == ["team:ran"]

    def test_rebuild_makes_that_server_anew_on_its_port(self, up: Desk) -> None:
        before, address = servers(up.project), self._address(up)
        shown = up.until_ssh("rebuild", "agent-1")
        assert "replace  server: agent-1 (a rebuild is asked for; " in shown
        after = servers(up.project)
        assert {*after} == {*before}
        assert after["ran-server"] == before["ran-server"]
        assert after["ran-agent-1"] != before["ran-agent-1"]
        assert self._address(up) == address
        assert up.work() == set()

    def _address(self, desk: Desk) -> str:
        return str(json.loads(desk.run("inventory", "--host", "agent-1").out)["testbed_address"])

    def test_a_rebuild_that_was_killed_is_said_again(self, up: Desk, proxy: Proxy, tmp_path: Path) -> None:
        up.clouds = up.project.clouds_yaml(tmp_path, auth_url=proxy.auth_url)
        before = servers(up.project)
        process = subprocess.Popen(
            [TESTBED, *up.words("rebuild", "agent-1", "--yes")], env=up.environment, stdout=subprocess.DEVNULL
        )

        def kill(_: Call) -> None:
            process.kill()
            raise Cut

        proxy.add(Fault(at("nova", "POST", "/servers"), before=kill))
        try:
            assert process.wait(ENDED_WITHIN_S) == -signal.SIGKILL
        finally:
            proxy.forget()
        assert {*servers(up.project)} == {"ran-server"}
        up.until_ssh("rebuild", "agent-1")
        assert {*servers(up.project)} == {*before}
        assert servers(up.project)["ran-server"] == before["ran-server"]
        assert up.work() == set()

    def test_host_keys_that_are_not_known_here_are_read_from_the_consoles(
        self, up: Desk, proxy: Proxy, tmp_path: Path
    ) -> None:
        up.clouds = up.project.clouds_yaml(tmp_path, auth_url=proxy.auth_url)
        asked = proxy.add(Fault(at("nova", "POST", r"/servers/[^/]+/action"), times=float("inf")))
        try:
            done = up.run("status")
        finally:
            proxy.forget()
        assert done.code == Exit.FAILED, "these guests answer no SSH"
        assert {json.loads(call.body).popitem()[0] for call in asked.met} == {"os-getConsoleOutput"}
        assert {call.path.split("/")[-2] for call in asked.met} == set(servers(up.project).values())

    def test_scale_changes_the_count_in_the_file_and_then_just_that_in_the_cloud(self, up: Desk) -> None:
        before = servers(up.project)
        text = up.spec.read_text()
        up.spec.write_text(f"# ours\n{text}")
        shown = up.until_ssh("scale", "agents=2")
        assert up.spec.read_text() == f"# ours\n{text.replace('count: 1', 'count: 2')}"
        assert "-      count: 1\n+      count: 2\n" in shown
        after = servers(up.project)
        assert {*after} - {*before} == {"ran-agent-2"}
        assert {name: after[name] for name in before} == before
        assert up.work() == set()

    def test_down_takes_all_of_it_and_nothing_else_after_its_name_was_typed(self, up: Desk, tmp_path: Path) -> None:
        other = Desk(tmp_path / "other", up.project, "ran-2", nodes={"agents": {"on": "server"}})
        other.until_ssh("up")
        up.project.connection.network.create_network(name="testbed.ran.network")
        before = contents(up.project)
        shown = up.report("down", "--check")["changes"]
        assert {each["action"] for each in shown} == {"remove"}
        for typed, code in (("yes", Exit.DECLINED), ("ran", Exit.OK)):
            screen = pexpect.spawn(
                TESTBED, up.words("down"), env=up.environment, encoding="utf-8", timeout=ENDED_WITHIN_S
            )
            screen.expect("Type ran to go ahead")
            screen.sendline(typed)
            screen.expect(pexpect.EOF)
            screen.close()
            assert screen.exitstatus == code
            if code:
                assert contents(up.project) == before
        assert up.work() != set()
        assert other.work() == set(), "a testbed whose name begins alike is whole"
        names = [each.name for each in up.project.connection.network.networks(project_id=up.project.id)]
        assert sorted(names) == ["testbed.ran-2.network", "testbed.ran.network"]
        assert {each["name"] for each in up.report("list")["testbeds"]} == {"ran-2"}
