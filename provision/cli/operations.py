"""The verbs of a testbed that runs for years: logs."""

from __future__ import annotations

from pathlib import Path

import click

from provision.cli.group import load, main, make_console, spec_option, vault_option
from provision.cli.output import show_rows


@main.command()
@spec_option
@vault_option
@click.option("--host", help="Only on this host, as in `testbed inventory`.")
@click.option("--lines", type=click.IntRange(min=1), default=100, show_default=True, help="So many of the last lines.")
@click.option("--since", metavar="TIME", help="Only lines since then: 30s, 10m, 2h, 3d (ago), or 2026-11-22T14:00.")
@click.option("--follow", is_flag=True, help="Go on with what is written from now on, until Ctrl-C.")
@click.argument("service", required=False)
def logs(
    spec: Path | None,
    vault_password_file: Path | None,
    host: str | None,
    lines: int,
    since: str | None,
    follow: bool,
    service: str | None,
) -> None:
    """Show what a service of the testbed wrote on its host; without SERVICE, list the services.

    A service on several hosts is shown host by host. Lines that carry no time belong to the one before them.

    \b
    Examples:
      testbed logs                                which services there are
      testbed logs clearml-lite --since 10m       the server
      testbed logs agent-default --host agent-2   one agent of several
      testbed logs agent-prepared --follow        until Ctrl-C
    """
    from provision import service_logs
    from provision.session import need_root, open_session

    testbed = load(spec)
    from_ = service_logs.moment(since)
    need_root(testbed)
    console = make_console()
    with open_session(testbed, "logs", make_console(stderr=True), vault_password_file, changes=False) as session:
        found = service_logs.of(session)
        if service is None:
            show_rows(console, "", ["Service", "Host"], [[log.name, log.host] for log in found])
            return
        wanted = service_logs.chosen(found, service, host, follow=follow)
        # a time that was named is the limit then, unless a number was named, too
        named = click.get_current_context().get_parameter_source("lines") is click.core.ParameterSource.COMMANDLINE
        count = lines if named or since is None else None
        service_logs.show(session, console, wanted, lines=count, from_=from_, follow=follow)
