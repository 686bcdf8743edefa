"""`testbed smoke`: of a testbed, or of a server alone."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from provision.cli.group import make_console
from provision.cli.output import show_checks, show_json
from provision.errors import Exit, TestbedError

if TYPE_CHECKING:
    from rich.console import Console

    from provision.session import Session
    from provision.smoke.page import HostCard
    from provision.smoke.run import Level, Outcome
    from provision.spec import Testbed

HOSTS_LEFT_OUT = (
    "hosts: services, ports, disks, clocks, the keys of agents and users, telemetry. A clearml.conf leads to a server, "
    "not to its hosts."
)


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for."""

    level: Level
    only: str
    repeat: int
    keep: bool
    junit: Path | None
    html: Path | None
    as_json: bool


def check_testbed(testbed: Testbed, vault_password_file: Path | None, wanted: Wanted) -> None:
    """Check a testbed, and tell. Raises `TestbedError`; ends the command when a check failed."""
    from provision.session import need_root, open_session
    from provision.smoke import STAGE
    from provision.smoke.plugin import Options
    from provision.smoke.run import run

    need_root(testbed)
    console = make_console(stderr=wanted.as_json)
    with open_session(testbed, "smoke", console, vault_password_file, stages=[STAGE]) as session:
        found = run(session, wanted.level, Options(wanted.only, wanted.keep), wanted.repeat)
        log = session.log
        _tell(console, testbed.name, found, wanted, log, testbed.server.url("web"), [])
        _write(wanted, testbed.name, found, [], lambda: _hosts(session, found))
    _end(found)


def check_server(conf: Path, queue: str | None, wanted: Wanted) -> None:
    """Check the server that a clearml.conf leads to, and tell. Raises `TestbedError`; ends the command as above."""
    from provision import console as progress
    from provision.paths import make_private, state_dir
    from provision.smoke import page, target, training
    from provision.smoke.plugin import Options
    from provision.smoke.run import run_conf

    server = target.of_conf(conf, queue)
    console = make_console(stderr=wanted.as_json)
    folder = state_dir(".conf") / "logs"  # no testbed's name begins with a dot
    make_private(folder)
    log = folder / f"smoke-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    left_out = [HOSTS_LEFT_OUT]
    if wanted.level == "full" and (why := training.left_out(server)):
        left_out.append(why)
    found = run_conf(
        server,
        wanted.level,
        Options(wanted.only, wanted.keep),
        wanted.repeat,
        log,
        lambda title: progress.stage(console, title),
    )
    version = str(found.figures.get("version", ""))
    _tell(console, server.name, found, wanted, log, server.url("web"), left_out)
    _write(
        wanted,
        server.name,
        found,
        left_out,
        lambda: page.of_server(server.name, server.urls, version, found.checks),
    )
    _end(found)


def _tell(
    console: Console, name: str, found: Outcome, wanted: Wanted, log: Path, web: str, left_out: list[str]
) -> None:
    from provision import reports

    if wanted.as_json:
        show_json(
            reports.SmokeReport(
                testbed=name,
                healthy=found.healthy,
                level=wanted.level,
                checks=found.checks,
                left_out=left_out,
                kept=found.kept,
                log=str(log),
            )
        )
    else:
        for reason in left_out:
            console.print(f"Left out: {reason}", markup=False, soft_wrap=True)
        show_checks(console, found.checks, str(log))
        for project in found.kept:
            console.print(f"Kept: project {project} on {web}; delete it there.", markup=False, soft_wrap=True)


def _end(found: Outcome) -> None:
    if not found.healthy:
        raise SystemExit(Exit.FAILED)


def _write(
    wanted: Wanted,
    name: str,
    found: Outcome,
    left_out: list[str],
    hosts: Callable[[], list[HostCard]],
) -> None:
    """Write the reports that are wanted; what `hosts` has to ask for is asked for where there is a page only."""
    from provision.paths import write_atomic
    from provision.smoke import junit, page
    from provision.version import current

    if wanted.junit is not None:
        write_atomic(wanted.junit, junit.document(name, found.checks))
    if wanted.html is None:
        return
    text = page.render(
        name=name,
        level=wanted.level,
        at=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        version=current(),
        checks=found.checks,
        hosts=_asked(hosts),
        figures=found.figures,
        left_out=left_out,
        only=wanted.only,
    )
    write_atomic(wanted.html, text.encode())


def _asked(hosts: Callable[[], list[HostCard]]) -> list[HostCard]:
    from provision.smoke import page

    try:
        return hosts()
    except TestbedError as error:  # the results are worth a page without the hosts
        return [page.HostCard("Hosts", [], f"could not be asked: {error.message}")]


def _hosts(session: Session, found: Outcome) -> list[HostCard]:
    from provision import status
    from provision.smoke import page, versions

    groups = ("server", "agents", "clients", "telemetry", "inference")
    roles = {
        host: [
            group for group in groups if host in session.inventory["all"]["children"].get(group, {}).get("hosts", {})
        ]
        for host in session.hosts
    }
    seen = status.collect(session)
    return page.of_testbed(seen, roles, found.checks, versions.of_services(session, seen.services))
