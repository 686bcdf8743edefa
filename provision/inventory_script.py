"""The testbed's machines as Ansible's inventory scripts tell theirs: groups, and how to reach each host. Pure.

Source: Ansible's developer guide, "Developing dynamic inventory" (`--list` with `_meta`, `--host`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from provision import inventory, ssh
from provision.errors import SpecError
from provision.machines import Machine
from provision.spec_types import GROUPS


def listed(machines: Sequence[Machine], known_hosts: Path) -> dict[str, Any]:
    """Return what `--list` prints: every group with its hosts, and every host's variables."""
    groups = {group: [machine.name for machine in machines if group in machine.groups] for group in GROUPS}
    found: dict[str, Any] = {group: {"hosts": names} for group, names in groups.items() if names}
    found["all"] = {"children": list(found)}
    found["_meta"] = {"hostvars": {machine.name: variables(machine, known_hosts) for machine in machines}}
    return found


def of_host(machines: Sequence[Machine], known_hosts: Path, name: str) -> dict[str, Any]:
    """Return what `--host NAME` prints: its variables. Raises `SpecError`."""
    return variables(named(machines, name), known_hosts)


def named(machines: Sequence[Machine], name: str) -> Machine:
    """Return the machine of that name. Raises `SpecError`."""
    for machine in machines:
        if machine.name == name:
            return machine
    names = ", ".join(machine.name for machine in machines) or "none"
    raise SpecError(f"the testbed has no host {name}", f"There are: {names}.")


def variables(machine: Machine, known_hosts: Path) -> dict[str, Any]:
    """Return a host's variables: the way to it, and by which address the others reach it."""
    options = [] if machine.is_local else ssh.options(machine, known_hosts)
    return {**inventory.connection(machine, options), "testbed_address": machine.internal}
