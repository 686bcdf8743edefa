"""The hosts of a testbed, whichever provider has them: how to reach each, and what lives there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provision.spec_openstack import Group, JumpHost


@dataclass(frozen=True)
class Machine:
    """A host of the testbed.

    `name`: in the inventory, such as `server` or `agent-1`. `groups`: what lives there. `address`: where SSH goes
    (name or IP address); None: this machine, without SSH. `internal`: the address by which the testbed's other hosts
    reach it. `host_keys`: public keys (`TYPE BASE64`) that are known beforehand, from the console or the spec; empty:
    trust on first use.
    """

    name: str
    groups: tuple[Group, ...]
    address: str | None
    internal: str
    user: str
    port: int = 22
    key: Path | None = None
    jump_host: JumpHost | None = None
    host_keys: tuple[str, ...] = ()
