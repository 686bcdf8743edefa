"""What lies beside the clearml.conf in a user's bundle: how to start, and the way to the hosts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from provision.credentials.labels import Label
from provision.known_hosts import Pin, entry
from provision.machines import Machine, with_group
from provision.paths import HOST_PINS, TEMPLATES
from provision.spec import Testbed

PAGE, SSH_CONFIG, KNOWN_HOSTS = "START.md", "ssh_config", "ssh_known_hosts"
# a user's bundle names no key: whichever ssh offers by itself
_SSH = "    UserKnownHostsFile {known}\n    GlobalKnownHostsFile none\n    StrictHostKeyChecking yes\n"


@dataclass(frozen=True)
class Way:
    """How a user gets to the testbed's hosts: ssh's names of these, the gateway's, and the two files."""

    hosts: list[str]
    gateway: str
    config: str
    known_hosts: str


def way(testbed: str, user: str, machines: Iterable[Machine], pins: Sequence[Pin]) -> Way | None:
    """Return the way of `user` to the hosts with users' accounts; None where that is the administrator's machine.

    `pins`: the host keys that are known.
    """
    there = [machine for machine in with_group(machines, "clients") if machine.address]
    if not there:
        return None
    blocks, names, known = [], [], []
    gateways = {machine.jump_host: f"{testbed}-gateway" for machine in there if machine.jump_host}
    for number, jump in enumerate(gateways):
        gateways[jump] += f"-{number + 1}" if number else ""
        blocks.append(_host(gateways[jump], jump.host, jump.port, user))
        known.append(entry(jump.host, jump.port))
    for machine in there:
        assert machine.address is not None  # noqa: S101 (chosen above)
        names.append(f"{testbed}-{machine.name}")
        through = f"    ProxyJump {gateways[machine.jump_host]}\n" if machine.jump_host else ""
        blocks.append(_host(names[-1], machine.address, machine.port, user) + through)
        known.append(entry(machine.address, machine.port))
    lines = "".join(f"{pin.host} {pin.key}\n" for pin in pins if pin.host in known)
    first = next(iter(gateways), None)
    return Way(names, first.host if first else "", "\n".join(blocks), lines)


def _host(name: str, address: str, port: int, user: str) -> str:
    where = f"Host {name}\n    HostName {address}\n    Port {port}\n    User {user}\n"
    return where + _SSH.format(known=KNOWN_HOSTS)


def page(testbed: Testbed, label: Label, way: Way | None, ca_name: str | None) -> str:
    """Return the page for the user that `label` names."""
    import jinja2

    [user] = [user for user in testbed.users if user.name == label.user]
    start: dict[str, Any] = {
        "testbed": testbed.name,
        "user": user.name,
        "full_name": user.full_name,
        "purpose": label.purpose,
        "expires": label.expires,
        "web_url": testbed.server.url("web"),
        "clearml": _sdk(),
        "queues": _queues(testbed),
        "hosts": way.hosts if way else [],
        "gateway": way.gateway if way else "",
        "let_in": bool(user.ssh_keys),
        **({"ca_name": ca_name} if ca_name else {}),
    }
    # what it renders is no HTML
    environment = jinja2.Environment(  # noqa: S701
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("start.md.j2").render(start=start)


def _sdk() -> str:
    """Return the newest version of the SDK that hosts get."""
    found: list[str] = re.findall(r"^clearml==([0-9.]+)", HOST_PINS.read_text(encoding="utf-8"), re.MULTILINE)
    return max(found, key=lambda version: [int(part) for part in version.split(".")])


def _queues(testbed: Testbed) -> list[dict[str, str]]:
    what = {
        "task": "anything: the agent makes an environment from your task's own requirements",
        "prepared": "what needs no more than TensorFlow, pandas, pyarrow and scikit-learn: it starts at once",
    }
    found = {queue: what[worker.environment] for worker in testbed.agents.workers for queue in worker.queues}
    return [{"name": name, "what": text} for name, text in found.items()]
