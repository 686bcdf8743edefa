"""SSH to hosts with a real sshd: keys are pinned on first use, and what keeps us out is told for each host."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import testinfra

from provision import ssh
from provision.errors import ReachError
from provision.known_hosts import entry, fingerprint, parse
from provision.machines import Console, Machine
from provision.paths import ROOT
from provision.spec_types import JumpHost

if TYPE_CHECKING:
    from tests.lab.conftest import Engine, Host

NETWORK = "testbed-lab-ssh"
NEW_KEYS = "rm -f /etc/ssh/ssh_host_*; ssh-keygen -qA"
# each host has keys of its own; root's key opens the account of the jump host's user, too
SSHD = f"""
{NEW_KEYS}
mkdir -p /run/sshd
useradd --create-home --shell /bin/sh gate
cp -r /root/.ssh ~gate
chown -R gate ~gate/.ssh
while :; do /usr/sbin/sshd -D $*; sleep 0.2; done
"""
PORTS = {"gate": 2222, "one": 2201, "two": 2202}
# all are in the jump host's network; the others listen for it alone on addresses of its own, too
INSIDE = {"one": "127.0.1.1", "two": "127.0.1.2"}


@dataclass
class Site:
    """A testbed of hosts: the one that is reached directly is the others' jump host, which alone knows their names."""

    engine: Engine
    hosts: dict[str, Host]
    folder: Path
    warnings: list[str] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known hosts 100%"  # a folder's name may be anything

    @property
    def gate(self) -> str:
        address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.engine.run("inspect", "--format", address, self.hosts["gate"].name)

    def machine(self, name: str) -> Machine:
        return Machine(name, (), self.gate, self.gate, "root", PORTS[name], key=self.engine.folder / "key")

    def inside(self, name: str) -> Machine:
        key = self.engine.folder / "key"
        jump = JumpHost(host=self.gate, user="gate", port=PORTS["gate"], key=key)
        return Machine(name, (), f"{name}.inside", f"{name}.inside", "root", key=key, jump_host=jump)

    def reach(self, *machines: Machine, limit_s: float = 20, console: ssh.ReadConsole | None = None) -> None:
        told = {"tell": lambda *what: self.told.append(what), "warn": self.warnings.append, "limit_s": limit_s}
        ssh.pin(machines, self.known_hosts, console=console, **told)
        ssh.wait(machines, self.known_hosts, **told)

    def host_key(self, name: str) -> str:
        return " ".join(self.hosts[name].run("cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()[:2])

    def renew_keys(self, name: str) -> None:
        self.hosts[name].run("sh", "-c", f"{NEW_KEYS}; pkill -o sshd")

    def run(self, machine: Machine, *words: str) -> str:
        command = ssh.command(machine, self.known_hosts, *words)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def hosts(engine: Engine) -> Iterator[dict[str, Host]]:
    engine.run("network", "create", "--internal", NETWORK)
    found = {}
    try:
        for name, port in PORTS.items():
            network = NETWORK if name == "gate" else f"container:{NETWORK}-gate"
            listen = [
                f"ListenAddress=0.0.0.0:{port}",
                *([f"ListenAddress={INSIDE[name]}:22"] if name in INSIDE else []),
            ]
            words = [word for each in listen for word in ("-o", each)]
            found[name] = engine.start(
                f"{NETWORK}-{name}", "--network", network, command=("sh", "-c", SSHD, "sh", *words)
            )
        names = "".join(f"{address} {name}.inside\n" for name, address in INSIDE.items())
        found["gate"].run("sh", "-c", f"printf '{names}' >>/etc/hosts; echo 'hosts: files' >/etc/nsswitch.conf")
        yield found
    finally:
        engine.run("rm", "--force", "--volumes", *(f"{NETWORK}-{name}" for name in PORTS))
        engine.run("network", "rm", NETWORK)


@pytest.fixture
def site(engine: Engine, hosts: dict[str, Host], tmp_path: Path) -> Site:
    return Site(engine, hosts, tmp_path / "a testbed's state")


def test_the_first_key_is_pinned_with_a_warning_that_names_it(site: Site) -> None:
    site.reach(site.machine("one"), site.machine("two"))
    for name in ("one", "two"):
        [warning] = [each for each in site.warnings if each.startswith(f"{name} ({site.gate})")]
        assert "trusted on first use" in warning
        assert fingerprint(site.host_key(name)) in warning
    assert site.known_hosts.stat().st_mode & 0o777 == 0o600
    site.warnings.clear()
    site.reach(site.machine("one"), site.machine("two"))
    assert site.warnings == [], "what is pinned is not trusted anew"
    assert site.run(site.machine("one"), "hostname") == site.hosts["one"].run("hostname").strip()


def test_a_host_behind_the_jump_host_is_reached_through_it_alone(site: Site) -> None:
    inside = [site.inside("one"), site.inside("two")]
    site.reach(*inside)
    assert len(site.warnings) == 3
    assert any(
        f"jump host {site.gate}" in each and fingerprint(site.host_key("gate")) in each for each in site.warnings
    )
    assert site.run(inside[0], "echo $SSH_CONNECTION").split()[0] == "127.0.0.1"
    assert {pin.host for pin in parse(site.known_hosts.read_text())} == {
        entry(site.gate, PORTS["gate"]),
        "one.inside",
        "two.inside",
    }


def test_ansible_and_testinfra_go_the_same_way(site: Site) -> None:
    machine = site.inside("two")
    site.reach(machine)
    options = shlex.join(ssh.options(machine, site.known_hosts))
    variables = {"ansible_host": machine.address, "ansible_ssh_common_args": options, "ansible_user": machine.user}
    variables["ansible_python_interpreter"] = "/usr/bin/python3"
    inventory = site.folder / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": {"two": variables}}}))
    ansible = [str(Path(sys.executable).with_name("ansible")), "two", "-i", str(inventory), "-m", "command"]
    done = subprocess.run([*ansible, "-a", "hostname"], check=False, capture_output=True, text=True)
    name = site.hosts["two"].run("hostname").strip()
    assert done.stdout.splitlines()[-1] == name, done.stdout + done.stderr
    host = testinfra.get_host(f"ansible://two?ansible_inventory={inventory}")
    assert host.check_output("hostname") == name


def test_ansible_comes_again_where_a_jump_host_turns_away_many_at_once(site: Site) -> None:
    names = [f"many-{number}" for number in range(12)]
    aliases = "".join(f"{INSIDE['one']} {name}.inside\n" for name in names)
    site.hosts["gate"].run("sh", "-c", f"printf '{aliases}' >>/etc/hosts")
    machines = [site.inside(name) for name in names]
    site.reach(*machines, limit_s=120)
    site.hosts["gate"].run("sh", "-c", "echo 'MaxStartups 2:50:8' >/etc/ssh/sshd_config.d/few.conf; pkill -o sshd")
    site.reach(site.inside("one"))  # it listens again
    variables = {
        machine.name: {
            "ansible_host": machine.address,
            "ansible_ssh_common_args": shlex.join(ssh.options(machine, site.known_hosts)),
            "ansible_user": machine.user,
        }
        for machine in machines
    }
    inventory = site.folder / "inventory.json"
    inventory.write_text(json.dumps({"all": {"hosts": variables}}))
    ansible = [str(Path(sys.executable).with_name("ansible")), "all", "-i", str(inventory), "-m", "raw", "-a", "true"]
    try:
        done = subprocess.run(
            ansible,
            env=os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(site.folder / "home")},
            check=False,
            capture_output=True,
            text=True,
        )
    finally:
        site.hosts["gate"].run("sh", "-c", "rm /etc/ssh/sshd_config.d/few.conf; pkill -o sshd")
    assert done.returncode == 0, done.stdout + done.stderr


def test_another_key_is_refused_with_both_fingerprints_until_its_line_is_removed(site: Site) -> None:
    machine = site.machine("one")
    site.reach(machine)
    before = site.host_key("one")
    site.renew_keys("one")
    with pytest.raises(ReachError) as refused:
        site.reach(machine)
    assert fingerprint(before) in refused.value.message
    assert fingerprint(site.host_key("one")) in refused.value.message
    subprocess.run(shlex.split(refused.value.remedy.partition("again: ")[2]), check=True, capture_output=True)
    site.reach(machine)


def test_another_key_of_the_jump_host_is_refused_in_its_name(site: Site) -> None:
    machine = site.inside("one")
    site.reach(machine)
    site.renew_keys("gate")
    with pytest.raises(ReachError, match=f"jump host {site.gate} shows another host key") as refused:
        site.reach(machine)
    assert fingerprint(site.host_key("gate")) in refused.value.message
    subprocess.run(shlex.split(refused.value.remedy.partition("again: ")[2]), check=True, capture_output=True)
    site.reach(machine)


def test_a_server_made_anew_has_a_new_key(site: Site) -> None:
    site.reach(replace(site.machine("one"), id="first"))
    site.renew_keys("one")
    site.reach(replace(site.machine("one"), id="second"))
    assert [pin.id for pin in parse(site.known_hosts.read_text())] == ["second"]


def test_a_key_from_the_console_needs_no_trust(site: Site) -> None:
    machine = replace(site.machine("one"), id="first")
    shown = iter([Console((), final=False), Console((), final=False), Console((site.host_key("one"),), final=True)])
    site.reach(machine, console=lambda _: next(shown))
    assert site.warnings == []
    assert [pin.key for pin in parse(site.known_hosts.read_text())] == [site.host_key("one")]


def test_a_host_that_shows_another_key_than_its_console_is_refused(site: Site) -> None:
    machine = replace(site.machine("one"), id="first")
    with pytest.raises(ReachError, match="another host key"):
        site.reach(machine, console=lambda _: Console((site.host_key("two"),), final=True))


def test_a_console_that_has_ended_without_keys_leads_to_trust(site: Site) -> None:
    site.reach(replace(site.machine("one"), id="first"), console=lambda _: Console((), final=True))
    assert len(site.warnings) == 1


@pytest.mark.parametrize(
    ("end", "warned"), [("echo status: done", []), ("printf 'status: error\\ndetail: no disk\\n'; exit 1", ["no disk"])]
)
def test_a_host_is_reached_when_its_cloud_init_has_ended(site: Site, end: str, warned: list[str]) -> None:
    again = "[ -e /run/looked ] || { touch /run/looked; echo status: running; exit 0; }"
    site.hosts["one"].write("/usr/local/bin/cloud-init", f"#!/bin/sh\n{again}\n{end}\n".encode())
    site.hosts["one"].run("chmod", "755", "/usr/local/bin/cloud-init")
    try:
        site.reach(site.machine("one"))
    finally:
        site.hosts["one"].run("rm", "/usr/local/bin/cloud-init", "/run/looked")
    assert [text for _, text in site.told] == ["cloud-init is at work", "reached"]
    assert len(site.warnings) == 1 + len(warned)
    assert all(word in site.warnings[-1] for word in warned)


def test_what_keeps_us_out_is_told_for_each_host(site: Site, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    good, inside = site.machine("one"), site.inside("two")
    site.reach(good, inside)
    wrong = [
        replace(good, name="wrong-key", key=tmp_path / "other"),
        replace(good, name="wrong-user", user="stranger"),
        replace(good, name="wrong-port", port=23, host_keys=(site.host_key("one"),)),
        replace(inside, name="behind-wrong-port", port=23, host_keys=(site.host_key("two"),)),
        replace(inside, name="behind-nowhere", address="nowhere.inside", host_keys=(site.host_key("two"),)),
        replace(inside, name="jump-denies", jump_host=inside.jump_host.model_copy(update={"user": "root2"})),
    ]
    with pytest.raises(ReachError) as refused:
        site.reach(good, *wrong, limit_s=6)
    said = {line.split()[0]: line for line in refused.value.message.splitlines()[1:]}
    assert set(said) == {machine.name for machine in wrong}
    gate = site.gate
    assert f"denies user root with the key {tmp_path / 'other'}" in said["wrong-key"]
    assert "denies user stranger" in said["wrong-user"]
    assert "connection refused" in said["wrong-port"]
    assert f"jump host {gate}: connection refused" in said["behind-wrong-port"]
    assert "name nowhere.inside is not known" in said["behind-nowhere"]
    assert f"jump host {gate}: denies user root2" in said["jump-denies"]
