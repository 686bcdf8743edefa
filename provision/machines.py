"""The hosts of a testbed, whichever provider has them: how to reach each, and what lives there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.errors import TestbedError
from provision.spec import LOCAL, ManagedTelemetry, Testbed, is_everywhere
from provision.spec_hosts import Hosts
from provision.spec_types import GROUPS, Group, JumpHost

PYTHON = "/usr/bin/python3"


@dataclass(frozen=True)
class Machine:
    """A host of the testbed.

    `name`: in the inventory, such as `server` or `agent-1`. `groups`: what lives there. `address`: where SSH goes
    (name or IP address); None: this machine, without SSH. `internal`: the address by which the testbed's other hosts
    reach it. `python`: path of the Python there that Ansible and the environments use. `host_keys`: public keys
    (`TYPE BASE64`) that the spec names. `id`: the server in its cloud; one that was
    made anew has another, and other host keys.
    """

    name: str
    groups: tuple[Group, ...]
    address: str | None
    internal: str
    user: str
    port: int = 22
    key: Path | None = None
    jump_host: JumpHost | None = None
    python: str = PYTHON
    host_keys: tuple[str, ...] = ()
    id: str = ""

    @property
    def is_local(self) -> bool:
        """Whether it is this machine."""
        return self.address is None


@dataclass(frozen=True)
class Console:
    """What a machine's console tells of its host keys (`TYPE BASE64`); `final`: no others will come."""

    host_keys: tuple[str, ...]
    final: bool


def local(account: str) -> tuple[Machine, ...]:
    """Return this machine, which `account` manages, as the only host of a testbed."""
    return (Machine(LOCAL, GROUPS, address=None, internal="127.0.0.1", user=account),)


def described(hosts: Hosts) -> tuple[Machine, ...]:
    """Return the machines of the section `hosts`; a group that none has lives on the server's, or on the first."""
    taken = {group for machine in hosts.machines for group in machine.groups}
    home = next((machine for machine in hosts.machines if "server" in machine.groups), hosts.machines[0])
    found = []
    for machine in hosts.machines:
        rest = set(GROUPS) - taken - {"server"} if machine is home else set()
        key = machine.key or hosts.key
        found.append(
            Machine(
                name=machine.name,
                groups=tuple(group for group in GROUPS if group in machine.groups or group in rest),
                address=machine.address,
                internal=machine.internal or machine.address,
                user=machine.user or hosts.user,
                port=machine.port or hosts.port,
                key=key.expanduser().absolute() if key else None,
                jump_host=hosts.jump_host,
                python=machine.python or PYTHON,
                host_keys=(machine.host_key,) if machine.host_key else (),
            )
        )
    return tuple(found)


def with_group(machines: Iterable[Machine], *groups: Group) -> list[Machine]:
    """Return the machines on which one of `groups` lives."""
    return [machine for machine in machines if {*groups} & {*machine.groups}]


def main_machine(machines: Iterable[Machine]) -> Machine:
    """Return the machine that stands for the testbed: the server's; the first where the server is somebody else's."""
    there = list(machines)
    return next(iter(with_group(there, "server")), there[0])


def without_server(machines: Iterable[Machine]) -> tuple[Machine, ...]:
    """Return `machines` as they are where the server is somebody else's."""
    return tuple(
        dataclasses.replace(machine, groups=tuple(group for group in machine.groups if group != "server"))
        for machine in machines
    )


def single(machines: Iterable[Machine], group: Group) -> Machine:
    """Return the machine on which a group lives that has but one. Raises `TestbedError` where there is none."""
    found = with_group(machines, group)
    if len(found) != 1:
        names = ", ".join(machine.name for machine in found)
        raise TestbedError(
            f"{group} lives on {len(found)} hosts: {names}" if found else f"the host of {group} is not there",
            "Bring the testbed up: testbed up",
        )
    return found[0]


def resolved(testbed: Testbed, machines: Iterable[Machine]) -> Testbed:
    """Return `testbed` with the addresses that only its machines tell: where server and InfluxDB are.

    With provider local, and where the spec says them, they stay as they are.
    """
    if testbed.provider == "local":
        return testbed
    machines = tuple(machines)
    found: dict[str, Any] = {}
    if not testbed.server.is_external:
        server = single(machines, "server")
        bind = testbed.server.bind if "bind" in testbed.server.model_fields_set else "0.0.0.0"  # noqa: S104
        host = testbed.server.host or (server.internal if is_everywhere(bind) else bind)
        found["server"] = testbed.server.model_copy(update={"bind": bind, "host": host})
    source = testbed.telemetry
    if isinstance(source, ManagedTelemetry) and "host" not in source.model_fields_set:
        telemetry = single(machines, "telemetry")
        readers = with_group(machines, "clients", "inference")
        address = "127.0.0.1" if readers == [telemetry] else telemetry.internal
        found["telemetry"] = source.model_copy(update={"host": address})
    return testbed.model_copy(update=found)


def within(bind: str) -> str:
    """Return the address by which a machine itself reaches what listens on `bind`."""
    if not is_everywhere(bind):
        return bind
    return "::1" if ":" in bind else "127.0.0.1"
