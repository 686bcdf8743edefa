"""Who needs a key: each user, each agent, inference service and watchdog, and the toolkit. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from provision import inventory
from provision.credentials.labels import CLIENT, TOOLKIT, Label
from provision.spec import Testbed

__all__ = ["TOOLKIT"]

WORKER = "agent@"  # beginning of the purpose of a worker's key
WATCHDOG = "watchdog@"  # and of a watchdog's
INFERENCE = "inference@"  # and of an inference service's
LABEL = re.compile(r"testbed:(\S+) user:(\S+) purpose:(\S+)")


@dataclass(frozen=True)
class Identity:
    """One holder of one key. `name` is unique within the testbed; `user` is the ClearML username that the key is of."""

    name: str
    user: str
    purpose: str

    @property
    def is_service(self) -> bool:
        """Whether it is a service on a host: a worker, a watchdog, or an inference service."""
        return self.purpose.startswith((WORKER, WATCHDOG, INFERENCE))

    def label(self, testbed: str) -> str:
        """Return the label that the key carries on the server."""
        return Label(testbed, self.user, self.purpose).text


def of_label(label: str, testbed: str) -> Identity | None:
    """Return whom a key with this label is for, where it is one of `testbed`'s."""
    found = LABEL.match(label)
    if found is None or found[1] != testbed:
        return None
    user, purpose = found[2], found[3]
    if purpose.startswith(WORKER):
        return Identity(f"agent/{purpose.removeprefix(WORKER)}", user, purpose)
    for kind in (WATCHDOG, INFERENCE):
        if purpose.startswith(kind):
            return Identity(f"{kind.removesuffix('@')}/{purpose.removeprefix(kind)}", user, purpose)
    return Identity(f"user/{user}", user, purpose)


def of(testbed: Testbed, hosts: dict[str, Any]) -> list[Identity]:
    """Return every identity of `testbed`; `hosts` is its inventory."""
    people = [Identity(f"user/{user.name}", user.name, CLIENT) for user in testbed.users]
    agents = [
        Identity(f"agent/{host}/{worker.name}", testbed.agent_user, f"{WORKER}{host}/{worker.name}")
        for host, worker in inventory.workers(testbed, hosts)
    ]
    others = [
        Identity(f"{kind.removesuffix('@')}/{host}", testbed.agent_user, f"{kind}{host}")
        for kind, group in ((INFERENCE, "inference"), (WATCHDOG, "watchdogs"))
        for host in inventory.hosts(hosts, group)
    ]
    return [Identity(TOOLKIT, testbed.admin_user, TOOLKIT), *people, *agents, *others]
