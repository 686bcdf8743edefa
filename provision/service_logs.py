"""`logs`: what a service of the testbed wrote, read on its host."""

from __future__ import annotations

import datetime
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from provision import inventory, on_host
from provision.errors import TestbedError
from provision.session import Session

FOLDER = "/var/log/testbed"
PREFIX = "testbed-"
AGO = re.compile(r"(\d+)([smhd])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class LogError(TestbedError):
    """There is no such log, or it cannot be read."""


@dataclass(frozen=True)
class Log:
    """The log of one service on one host, by the name that people call it: without `testbed-`."""

    host: str
    name: str
    service: str


def listed(services: Sequence[tuple[str, str]]) -> list[Log]:
    """Return the logs of (host, service) pairs. Pure."""
    return [Log(host, service.removeprefix(PREFIX), service) for host, service in services]


def chosen(logs: Sequence[Log], name: str, host: str | None, *, follow: bool) -> list[Log]:
    """Return those of service `name`, on `host` if one is named. Raises `LogError`."""
    there = ", ".join(dict.fromkeys(log.name for log in logs))
    found = [log for log in logs if name in (log.name, log.service)]
    if not found:
        raise LogError(f"the testbed has no service {name}", f"There are: {there}.")
    hosts = [log.host for log in found]
    if host is not None:
        found = [log for log in found if log.host == host]
    if not found:
        raise LogError(f"service {name} is not on {host}", f"It is on: {', '.join(hosts)}.")
    if follow and len(found) > 1:
        raise LogError(f"service {name} is on {len(found)} hosts", f"Name one with --host: {', '.join(hosts)}.")
    return found


def since(text: str, now: float) -> float:
    """Return the time, in seconds since 1970, that `10m`, `2h`, `3d` ago or an ISO 8601 time means.

    `now` is in seconds since 1970, too. Raises `ValueError`.
    """
    if ago := AGO.fullmatch(text):
        return now - int(ago[1]) * SECONDS[ago[2]]
    return datetime.datetime.fromisoformat(text).astimezone().timestamp()


def asked(log: Log, lines: int | None, from_: float | None, *, follow: bool) -> dict[str, Any]:
    """Return what `logs_on_host.py` is told."""
    container = log.service if inventory.is_container(log.service) else None
    path = f"{FOLDER}/{log.service}.log"
    return {"container": container, "path": path, "lines": lines, "since": from_, "follow": follow}


def show(
    session: Session, console: Console, logs: Sequence[Log], *, lines: int | None, from_: float | None, follow: bool
) -> None:
    """Copy the logs to stdout, one after the other; `follow`: until the person stops it. Raises `LogError`."""
    for log in logs:
        if len(logs) > 1:
            console.print(f"==> {log.service} on {log.host} <==", markup=False)
            console.file.flush()
        command = on_host.command(
            session.inventory["all"]["hosts"][log.host],
            session.ssh_options.get(log.host, ()),
            "logs",
            asked(log, lines, from_, follow=follow),
        )
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace", check=False
            )
        except KeyboardInterrupt:
            if follow:  # that is how it ends
                return
            raise
        if done.returncode != 0:
            raise LogError(f"{log.host}: {done.stderr.strip()}", "`testbed status` tells how the service is.")


def of(session: Session) -> list[Log]:
    """Return every log of the session's testbed."""
    return listed(inventory.services(session.testbed, session.inventory))


def moment(text: str | None) -> float | None:
    """Return what `--since` means now; None where it was not said. Raises `LogError`."""
    if text is None:
        return None
    try:
        return since(text, time.time())
    except ValueError:
        raise LogError(
            f"--since {text}: is no time", "Write 30s, 10m, 2h, 3d (ago), or a time as 2026-11-22T14:00."
        ) from None
