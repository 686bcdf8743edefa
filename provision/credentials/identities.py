"""Who needs a key: each user, each agent service, and the toolkit. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from provision import inventory
from provision.spec import ADMIN_USER, AGENT_USER, Testbed

TOOLKIT = "toolkit"


@dataclass(frozen=True)
class Identity:
    """One holder of one key. `name` is unique within the testbed; `user` is the ClearML username that the key is of."""

    name: str
    user: str
    purpose: str

    def label(self, testbed: str) -> str:
        """Return the label that the key carries on the server."""
        return f"testbed:{testbed} user:{self.user} purpose:{self.purpose}"


def of(testbed: Testbed, hosts: dict[str, Any]) -> list[Identity]:
    """Return every identity of `testbed`; `hosts` is its inventory."""
    people = [Identity(f"user/{user.name}", user.name, "client") for user in testbed.users]
    agents = [
        Identity(f"agent/{host}/{worker.name}", AGENT_USER, f"agent@{host}/{worker.name}")
        for host in inventory.hosts(hosts, "agents")
        for worker in testbed.agents.workers
    ]
    return [Identity(TOOLKIT, ADMIN_USER, TOOLKIT), *people, *agents]
