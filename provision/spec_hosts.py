"""The section `hosts` of testbed.yaml: machines that are there already, and how to reach them by SSH."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from provision.spec_types import (
    SINGLE,
    AbsolutePath,
    Group,
    HostName,
    JumpHost,
    Name,
    Port,
    Section,
    UserName,
    public_key,
    refuse_duplicates,
)

# Ansible's own
RESERVED_NAMES = ("all", "localhost", "ungrouped")


class HostMachine(Section):
    """A machine; what is not said of its SSH is as in `hosts`."""

    name: Name
    """Its name in the testbed: in reports, and of its workers."""
    address: HostName
    """Where SSH reaches it from here or, if there is one, from the jump host."""
    internal: HostName | None = None
    """Name or address by which the testbed's other hosts reach it; default: `address`."""
    groups: Annotated[tuple[Group, ...], Field(min_length=1)]
    """What lives there: `server`, `agents`, `clients`, `telemetry`, `inference`."""
    user: UserName | None = None
    """The account to log in to."""
    port: Port | None = None
    """Its SSH port."""
    key: Path | None = None
    """The private key file for it."""
    python: AbsolutePath | None = None
    """Another Python 3.8 or later there, for Ansible, agents and environments; default: /usr/bin/python3. Keep
    /usr/bin/python3 on the host, too."""
    host_key: str | None = None
    """Its public host key, a line of /etc/ssh/ssh_host_*_key.pub there; without it, the first one seen is trusted."""

    @field_validator("groups")
    @classmethod
    def _are_distinct(cls, groups: tuple[Group, ...]) -> tuple[Group, ...]:
        refuse_duplicates("group", list(groups))
        return groups

    @field_validator("host_key")
    @classmethod
    def _is_public(cls, line: str | None) -> str | None:
        return None if line is None else public_key(line)

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name in RESERVED_NAMES:
            raise ValueError(f"{name!r} means something else to Ansible; take another name")
        return name


class Hosts(Section):
    """Machines that are there already. A group that no machine has lives on the server's; on the first one where the
    server is external."""

    user: UserName
    """The account to log in to: root, or one with passwordless sudo."""
    key: Path | None = None
    """The private key file for it; without it, what ssh offers by itself (agent, ~/.ssh)."""
    port: Port = 22
    """SSH port."""
    jump_host: JumpHost | None = None
    """The SSH gateway to the machines, if there is one."""
    machines: Annotated[tuple[HostMachine, ...], Field(min_length=1)]
    """The machines; one of them has group `server`, and none where the server is external."""

    @field_validator("machines")
    @classmethod
    def _are_apart(cls, machines: tuple[HostMachine, ...]) -> tuple[HostMachine, ...]:
        refuse_duplicates("machine", [machine.name for machine in machines])
        refuse_duplicates("address", [f"{machine.address}, port {machine.port or 22}" for machine in machines])
        return machines

    @model_validator(mode="after")
    def _have_what_is_single(self) -> Self:
        for group in SINGLE:
            names = [machine.name for machine in self.machines if group in machine.groups]
            if len(names) > 1:
                raise ValueError(f"group {group} is on {' and '.join(names)}; one machine has it")
        return self

    @property
    def with_agents(self) -> tuple[str, ...]:
        """The names of the machines that run agents; the server's where none says so."""
        named = tuple(machine.name for machine in self.machines if "agents" in machine.groups)
        home = [machine.name for machine in self.machines if "server" in machine.groups]
        return named or tuple(home) or (self.machines[0].name,)
