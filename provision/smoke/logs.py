"""The last lines of a service's log, for a check that failed."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable

from provision import inventory, on_host, service_logs
from provision.session import Session
from provision.smoke.problem import HostService

AGENT = "testbed-agent-"
LINES = 8
WAIT_S = 20
MOST = 4  # a check of all agents is not told with all their logs


def concerned(session: Session, kinds: Iterable[str]) -> list[HostService]:
    """Return the services that are meant by `api`, `files`, `web`, `agents`, `telemetry`, `inference`, `watchdogs`."""
    testbed = session.testbed
    there = inventory.services(testbed, session.inventory)
    api = inventory.api_service(testbed)
    docker = testbed.server.backend == "docker"
    wanted: list[str] = []
    for kind in kinds:
        if kind in inventory.PORT_SERVICES:
            wanted.append(inventory.container(inventory.PORT_SERVICES[kind]) if docker else api)
        wanted += {
            "telemetry": ["testbed-influxdb"],
            "inference": [inventory.INFERENCE],
            "watchdogs": ["testbed-watchdog"],
        }.get(kind, [])
        if kind == "agents":
            wanted += [name for _, name in there if name.startswith(AGENT)]
    return [each for each in there if each[1] in wanted][:MOST]


def last(session: Session, host: str, service: str, redacted: Callable[[str], str]) -> list[str]:
    """Return the last lines of a service's log; why there are none, where it cannot be read."""
    command = on_host.command(
        session.inventory["all"]["hosts"][host],
        session.ssh_options.get(host, ()),
        "logs",
        service_logs.asked(service_logs.Log(host, service, service), LINES, None, follow=False),
    )
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=WAIT_S,
        )
    except subprocess.TimeoutExpired:
        return [f"(its log cannot be read: no answer in {WAIT_S} s)"]
    if done.returncode != 0:
        return [f"(its log cannot be read: {' '.join(done.stderr.split())[-300:]})"]
    return [redacted(line)[:500] for line in done.stdout.splitlines()[-LINES:]]
