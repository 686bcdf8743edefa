"""Provider `hosts`: three machines behind a bastion, and an administrator who is root nowhere on their own machine."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import gateway as lab

if TYPE_CHECKING:
    from tests.lab.conftest import Engine, Host

HOME = "/home/ada"
CHECKOUT = f"{HOME}/testbed"
ENVIRONMENT = ("LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
MACHINES = ("server", "one", "two")
ACCOUNT = "keeper"
# systemd's own, and what logins leave
NOT_COMPARED = (
    "/var/log/journal",
    "/var/lib/systemd",
    "/run/",
    f"/home/{ACCOUNT}/",
    "/var/log/wtmp",
    "/var/log/lastlog",
)
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
server: {{}}
users: [{{name: researcher}}]
mirrors:
  apt: {mirror}/debian
  apt_security: {mirror}/debian-security
  pip: {index}
  ca_file: ./mirror.crt
"""


@dataclass(frozen=True)
class Lab:
    """The desk, the machines by name, and the gateway to packages."""

    desk: Host
    machines: dict[str, Host]
    gateway: lab.Gateway

    def testbed(self, *arguments: str, environment: tuple[str, ...] = (), code: int = 0, progress: bool = True) -> str:
        """Run ./testbed as the administrator, in a login's environment; return what it said, with its `progress`."""
        clean = ("env", "-i", f"HOME={HOME}", *ENVIRONMENT, *environment)
        errors = "2>&1" if progress else f"2>{HOME}/errors"
        words = f"{shlex.join([*clean, './testbed', *arguments])} {errors}; echo $?"
        told = self.desk.run("sh", "-c", words, options=("--user", "ada", "--workdir", CHECKOUT))
        assert told.splitlines()[-1] == str(code), told
        return told.removesuffix(f"{code}\n")


@pytest.fixture
def there(engine: Engine) -> Iterator[Lab]:
    """A desk, a bastion and three machines, on a network whose only way out is the gateway."""
    names = {name: f"testbed-lab-{name}" for name in ("bastion", *MACHINES, "desk")}
    with lab.running(engine) as gateway:
        try:
            hosts = {name: _start(engine, found, gateway) for name, found in names.items()}
            desk = hosts.pop("desk")
            addresses = {name: _address(engine, host) for name, host in hosts.items()}
            for host in hosts.values():
                _let_in(host, (engine.folder / "key.pub").read_bytes())
            for name in MACHINES:  # what the desk sends to a machine by itself goes nowhere
                desk.run("ip", "route", "add", "prohibit", f"{addresses[name]}/32")
            host_key = " ".join(hosts["server"].run("cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()[:2])
            words = {"mirror": gateway.mirror, "index": gateway.mirror_index, "host_key": host_key}
            _furnish(desk, SPEC.format(**words, **addresses), gateway, engine.folder / "key")
            yield Lab(desk, {name: hosts[name] for name in MACHINES}, gateway)
        finally:
            for found in names.values():
                engine.run("rm", "--force", "--volumes", found)


def _start(engine: Engine, name: str, gateway: lab.Gateway) -> Host:
    known = f"{lab.MIRROR}:{gateway.address}"
    host = engine.start(name, "--network", lab.NETWORK, "--add-host", known, "--hostname", name)
    host.run("ip", "route", "delete", "default")  # Docker's internal networks have one, and firewall it
    host.write("/etc/apt/apt.conf.d/99lab", lab.apt_settings().encode())
    return host


def _address(engine: Engine, host: Host) -> str:
    [found] = json.loads(engine.run("inspect", host.name))
    return str(found["NetworkSettings"]["Networks"][lab.NETWORK]["IPAddress"])


def _let_in(host: Host, key: bytes) -> None:
    """Run sshd with host keys of its own, and an account with sudo."""
    host.run("sh", "-c", "rm /etc/ssh/ssh_host_* /etc/systemd/system/ssh.service && ssh-keygen -A")
    host.run("useradd", "--create-home", "--shell", "/bin/bash", ACCOUNT)
    host.write("/etc/sudoers.d/lab", f"{ACCOUNT} ALL=(ALL) NOPASSWD: ALL\n".encode())
    host.write(f"/home/{ACCOUNT}/.ssh/authorized_keys", key)
    host.run("chown", "-R", f"{ACCOUNT}:", f"/home/{ACCOUNT}/.ssh")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "ssh")


def _furnish(desk: Host, spec: str, gateway: lab.Gateway, key: Path) -> None:
    """Give the desk an administrator with a checkout, a spec and a key; ada may not become root."""
    desk.run("useradd", "--create-home", "--shell", "/bin/bash", "ada")
    desk.put_checkout(CHECKOUT)
    desk.write(f"{CHECKOUT}/testbed.yaml", spec.encode())
    desk.write(f"{CHECKOUT}/mirror.crt", (gateway.folder / "mirror.crt").read_bytes())
    desk.write(f"{CHECKOUT}/machine.crt", lab.CERTIFICATES.read_bytes())
    desk.write(f"{HOME}/.ssh/id_ed25519", key.read_bytes())
    desk.run("chown", "-R", "ada:", HOME)
    desk.run("chmod", "-R", "go=", f"{HOME}/.ssh")
    assert "not allowed to run sudo" in desk.run("sudo", "-l", "-U", "ada", check=False)


def _snapshot(host: Host) -> dict[str, list[str]]:
    """Return packages, accounts and files of a machine, without what passes."""
    script = (Path(__file__).parents[1] / "integration/removal/snapshot.py").read_bytes()
    host.write("/root/snapshot.py", script)
    host.run("python3", "/root/snapshot.py", "/root/snapshot.json")
    found = json.loads(host.run("cat", "/root/snapshot.json"))
    host.run("rm", "/root/snapshot.py", "/root/snapshot.json")
    found["files"] = [path for path in found["files"] if not path.startswith((*NOT_COMPARED, "/root/snapshot"))]
    return dict(found)


def _wait_for(what: Callable[[], bool], why: str, seconds: int = 900) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why
        time.sleep(1)


def _begin(there: Lab, *arguments: str) -> None:
    """Start ./testbed on the desk; its process is in ~/pid, its output in ~/out."""
    words = shlex.join(["env", "-i", f"HOME={HOME}", *ENVIRONMENT, "./testbed", *arguments])
    script = f"echo $$ >{HOME}/pid; exec {words} >{HOME}/out 2>&1"
    there.desk.run("sh", "-c", script, options=("--detach", "--user", "ada", "--workdir", CHECKOUT))


def _said(there: Lab) -> str:
    return there.desk.run("cat", f"{HOME}/out", check=False)


@pytest.mark.full
def test_a_testbed_behind_a_bastion_comes_up_and_goes_without_a_trace(there: Lab) -> None:
    own = (f"https_proxy={there.gateway.proxy}", f"PIP_CERT={CHECKOUT}/machine.crt")
    there.testbed("version", environment=(*own, f"PIP_INDEX_URL={there.gateway.indexes.pip}"))
    before = {name: _snapshot(host) for name, host in there.machines.items()}

    _begin(there, "up", "--yes")
    _wait_for(lambda: "Make sure of everybody's key  " in _said(there), "the first command does not get on")
    time.sleep(5)
    there.desk.run("sh", "-c", f"kill -9 $(cat {HOME}/pid)")

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

    _begin(there, "up", "--yes")
    _wait_for(lambda: "Look whose" in _said(there) or "Prepare secrets" in _said(there), "the second does not get on")
    bob = ("XDG_STATE_HOME=/tmp/bob", "XDG_CONFIG_HOME=/tmp/bob")  # another administrator, as far as the hosts know
    refused = there.testbed("up", "--check", environment=bob, code=BUSY)
    assert "`testbed up` of ada@testbed-lab-desk" in refused, refused
    _wait_for(lambda: "checks passed" in _said(there), "the second does not end")
    assert re.findall(r"changed=(\d+)", _said(there)) == ["0", "0"], _said(there)

    there.testbed("down", "--yes", "--purge")
    assert {name: _snapshot(host) for name, host in there.machines.items()} == before
    assert there.desk.run("find", f"{HOME}/.config", f"{HOME}/.local", "-name", "far") == ""
    assert there.desk.run("sh", "-c", "ls -d /tmp/testbed-* 2>/dev/null || true") == ""
