"""The verbs of a deployment: up, smoke, status, down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli.group import (
    break_lock_option,
    check_option,
    confirm,
    json_option,
    load,
    main,
    make_console,
    parallel_option,
    spec_option,
    vault_option,
    verbose_option,
    yes_option,
)
from provision.cli.output import show_changes, show_checks, show_json, show_status, show_where
from provision.errors import Exit

if TYPE_CHECKING:
    from rich.console import Console

    from provision.changes import Change
    from provision.deploy import Renewal
    from provision.reports import Check, UpReport
    from provision.session import Session
    from provision.smoke.run import Level
    from provision.spec import Testbed


@main.command()
@spec_option
@vault_option
@yes_option
@click.option("--prove", is_flag=True, help="Run the full chain even if nothing changed.")
@check_option
@click.option("--diff", is_flag=True, help="With --check: show how the texts of files would change, but no secret.")
@parallel_option
@break_lock_option
@json_option
@verbose_option
def up(
    spec: Path | None,
    vault_password_file: Path | None,
    yes: bool,
    prove: bool,
    check: bool,
    diff: bool,
    parallel: int,
    break_lock: bool,
    as_json: bool,
    verbose: int,
) -> None:
    """Bring the testbed up, or up to date, and prove that it works.

    The full chain (telemetry, dataset, training, model) runs when something changed or was not proven yet; otherwise
    the quick checks. Ends with a table of checks; exit code 0 only if all passed.

    With provider openstack, first shows the plan (see `testbed plan`) and makes the servers, then waits for SSH.

    With --check: lists every package, account, folder, environment, file, service and key that would come, change or
    go, and changes nothing; exit code 0 whether there are any or not.

    \b
    Examples:
      testbed up                          says what it will do, and asks
      testbed up --yes --prove            asks nothing, and runs every check
      testbed up --spec lab.yaml          another file than ./testbed.yaml
      testbed up --check --diff           says what would change, and changes nothing
      testbed up --yes --json | jq .urls  for scripts
    """
    from provision import deploy
    from provision.cli import in_cloud
    from provision.session import need_root, open_check, open_session
    from provision.smoke import STAGE

    if diff and not check:
        raise click.UsageError("--diff goes with --check")
    testbed, console = load(spec), make_console(stderr=as_json or check)
    if testbed.provider == "openstack":
        if check:
            in_cloud.check_up(
                testbed,
                console,
                vault_password_file,
                diff=diff,
                parallel=parallel,
                as_json=as_json,
                verbose=verbose,
            )
        else:
            in_cloud.bring_up(
                testbed,
                console,
                vault_password_file,
                verb="up",
                yes=yes,
                prove=prove,
                parallel=parallel,
                break_lock=break_lock,
                as_json=as_json,
                verbose=verbose,
            )
        return
    if check:
        need_root(testbed)
        with open_check(testbed, "up --check", console, vault_password_file, verbosity=verbose) as session:
            changes = deploy.check_up(session)
        _show(testbed, changes, diff=diff, as_json=as_json)
        return
    console.print(f"Testbed [bold]{testbed.name}[/] on {deploy.where(testbed)}:", soft_wrap=True)
    for line in deploy.describe(testbed):
        console.print(f"  - {line}", soft_wrap=True, markup=False)
    confirm("Go ahead?", yes)
    need_root(testbed)
    with open_session(
        testbed,
        "up",
        console,
        vault_password_file,
        verbosity=verbose,
        stages=(*deploy.stages(testbed), STAGE),
        break_lock=break_lock,
    ) as session:
        report = bring_up(session, prove=prove)
    show_up(console, report, as_json=as_json)


def bring_up(
    session: Session,
    *,
    prove: bool,
    proven: Callable[[], None] = lambda: None,
    renewal: Renewal | None = None,
    paused: Mapping[str, Sequence[str]] | None = None,
) -> UpReport:
    """Bring the session's testbed up, check it, and return what that gave. Raises `TestbedError`.

    `proven`, `renewal`, `paused`: see `deploy.up`.
    """
    from provision import deploy, reports, upgrade_begun
    from provision.paths import write_private
    from provision.smoke.run import run

    testbed = session.testbed
    wanted = testbed.model_dump_json()
    was_proven = session.proven.exists() and session.proven.read_text(encoding="utf-8") == wanted
    session.proven.unlink(missing_ok=True)  # until the checks at the end: a run that is killed has proven nothing
    outcome = deploy.up(session, proven, renewal, paused)
    level: Level = "quick" if was_proven and not (outcome.changed or outcome.issued or prove) else "full"
    checks = run(session, level).checks
    healthy = all_well(checks)
    if healthy:
        write_private(session.proven, wanted.encode())
        upgrade_begun.end(testbed.name)  # whichever server it has is proven: there is nothing to go back to
    return reports.UpReport(
        testbed=testbed.name,
        healthy=healthy,
        changed=outcome.changed,
        issued=outcome.issued,
        revoked=outcome.revoked,
        level=level,
        checks=checks,
        urls=reports.Urls.of(testbed, session.machines),
        users=[
            reports.UserFiles(name=name, conf=f"~{name}/clearml.conf", venv=f"~{name}/clearml-venv")
            for name in (user.name for user in testbed.users)
        ],
        log=str(session.log),
    )


def show_up(console: Console, report: UpReport, *, as_json: bool) -> None:
    """Print what `bring_up` gave; ends the command when a check failed."""
    if as_json:
        show_json(report)
    else:
        show_checks(console, report.checks, report.log)
        if report.healthy:
            show_where(console, report)
    if not report.healthy:
        raise SystemExit(Exit.FAILED)


@main.command()
@spec_option
@vault_option
@click.option(
    "--level",
    type=click.Choice(["quick", "full"]),
    default="full",
    show_default=True,
    help="full: the whole chain, too.",
)
@click.option("--only", default="", metavar="NAME", help="Only checks whose name has this in it.")
@click.option(
    "--repeat", type=click.IntRange(min=1), default=1, show_default=True, help="So many times, one after the other."
)
@click.option(
    "--conf",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Check the ClearML server that this clearml.conf leads to; no testbed is needed.",
)
@click.option("--queue", metavar="NAME", help="With --conf: a queue that agents are to serve, and to train on.")
@click.option("--keep", is_flag=True, help="Leave the project of the run on the server, to look at it.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write JUnit XML, too.")
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write a page to hand on, too."
)
@json_option
def smoke(
    spec: Path | None,
    vault_password_file: Path | None,
    level: Level,
    only: str,
    repeat: int,
    conf: Path | None,
    queue: str | None,
    keep: bool,
    junit: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Check the running testbed from end to end.

    quick: services, ports, TLS, credentials, workers, telemetry, files, disk, clocks. full: that, both reference
    workloads from data to a model that predicts, and a task for every agent and every queue. It works in a project of
    its own on the server, which it removes at its end, also when it is stopped.

    With --conf: checks any ClearML server from here, with the key in that file. What needs a host is left out. The
    training has generated data, and runs on --queue, else in a Python of this machine, else not.

    \b
    Examples:
      testbed smoke                            the whole chain
      testbed smoke --level quick              seconds; after a reboot, or every hour
      testbed smoke --level quick --only key   some checks
      testbed smoke --json >result.json        for scripts
      testbed smoke --html report.html         for people
      testbed smoke --conf ~/clearml.conf --queue default
    """
    from provision.cli import smoke as smoking

    for option, file in (("--junit", junit), ("--html", html)):
        if file is not None and not file.absolute().parent.is_dir():
            raise click.UsageError(f"{option} {file}: there is no folder {file.absolute().parent}; make it first")
    options = smoking.Wanted(level, only, repeat, keep, junit, html, as_json)
    if conf is not None:
        if spec is not None:
            raise click.UsageError("--conf and --spec: a server alone, or a testbed")
        smoking.check_server(conf, queue, options)
        return
    if queue is not None:
        raise click.UsageError("--queue goes with --conf; the queues of a testbed are in its testbed.yaml")
    smoking.check_testbed(load(spec), vault_password_file, options)


@main.command()
@click.option(
    "--watch",
    is_flag=False,
    flag_value=5.0,
    type=click.FloatRange(min=1),
    metavar="[SECONDS]",
    help="Look again every so often (5 seconds unless said), until Ctrl-C.",
)
@spec_option
@vault_option
@json_option
def status(watch: float | None, spec: Path | None, vault_password_file: Path | None, as_json: bool) -> None:
    """Show services, versions, workers, queues, disks and clocks, and what to do about each problem.

    Exit code 0 only if all is well. With --watch, it shows that anew until Ctrl-C, and then ends with exit code 0; with
    --json, too, every look is one line.

    \b
    Examples:
      testbed status
      testbed status --watch                      every 5 seconds
      testbed status --json | jq .problems        for scripts
      testbed status --json --watch 60 >>history  an object a line
    """
    from provision import status as states
    from provision.cli.output import watch_status
    from provision.session import need_root, open_session

    testbed = load(spec)
    need_root(testbed)
    console = make_console(stderr=as_json)
    with open_session(testbed, "status", console, vault_password_file, changes=False) as session:
        if watch is not None:
            watch_status(console, lambda: states.collect(session), watch, as_json=as_json)
            return
        found = states.collect(session)
    if as_json:
        show_json(found)
    else:
        show_status(console, found)
    if not found.healthy:
        raise SystemExit(Exit.FAILED)


@main.command()
@spec_option
@vault_option
@yes_option
@click.option("--purge", is_flag=True, help="Remove data, users' homes and secrets, too.")
@click.option("--keep-volumes", is_flag=True, help="With provider openstack: delete all but the volumes.")
@check_option
@parallel_option
@break_lock_option
@json_option
@verbose_option
def down(
    spec: Path | None,
    vault_password_file: Path | None,
    yes: bool,
    purge: bool,
    keep_volumes: bool,
    check: bool,
    parallel: int,
    break_lock: bool,
    as_json: bool,
    verbose: int,
) -> None:
    """Remove exactly what `up` installed; data stays unless --purge.

    With provider openstack: deletes all that carries the testbed's mark in the cloud, servers with their data, and
    nothing else. Where it holds data, the testbed's name has to be typed. The secrets stay on this machine unless
    --purge, the volumes in the cloud with --keep-volumes: the next `up` boots from them.

    \b
    Examples:
      testbed down                 says what will go, and asks
      testbed down --check         lists what would go, and removes nothing
      testbed down --yes --purge   asks nothing; data, homes and secrets go, too
      testbed down --keep-volumes  deletes a cloud's servers, and keeps their volumes
    """
    from provision import deploy, reports
    from provision.cli import in_cloud
    from provision.paths import config_dir, state_dir
    from provision.session import need_root, open_check, open_session

    testbed, console = load(spec), make_console(stderr=as_json or check)
    if testbed.provider == "openstack":
        in_cloud.take_down(
            testbed,
            console,
            yes=yes,
            purge=purge,
            check=check,
            as_json=as_json,
            keep_volumes=keep_volumes,
            parallel=parallel,
            break_lock=break_lock,
        )
        return
    if keep_volumes:
        raise click.UsageError(f"--keep-volumes is for provider openstack; this testbed's is {testbed.provider}")
    if check:
        need_root(testbed)
        with open_check(testbed, "down --check", console, vault_password_file, verbosity=verbose) as session:
            changes = deploy.check_down(session, purge=purge)
        _show(testbed, changes, diff=False, as_json=as_json)
        return
    console.print(
        f"This removes testbed [bold]{testbed.name}[/] from {deploy.where(testbed)}: its services, programs in "
        "/opt/testbed,",
        soft_wrap=True,
    )
    console.print("settings in /etc/testbed, and the packages and accounts that `up` installed.")
    if purge:
        console.print(
            f"[bold red]And all data[/]: {testbed.data_dir}, the homes of accounts that `up` made, secrets and logs."
        )
    else:
        console.print(f"Data in {testbed.data_dir}, users' homes and the secrets stay.")
    if testbed.server.is_external:
        console.print(
            f"Keys that it has issued on {testbed.server.url('api')} are revoked; all else there stays.", soft_wrap=True
        )
    confirm("Remove it?", yes)
    need_root(testbed)
    with open_session(
        testbed,
        "down",
        console,
        vault_password_file,
        verbosity=verbose,
        stages=deploy.DOWN,
        break_lock=break_lock,
    ) as session:
        removed = deploy.down(session, purge=purge)
        if purge:
            session.gone += [config_dir(testbed.name), state_dir(testbed.name)]
    for change in removed.stay:
        console.print(f"{change.host}: {change.name} stays there: {change.detail}", soft_wrap=True, markup=False)
    console.print("Removed." if purge else "Removed. `testbed up` brings it back with its data.")
    if as_json:
        log = None if purge else str(session.log)
        show_json(
            reports.DownReport(
                testbed=testbed.name, changed=removed.changed, purged=purge, revoked=removed.revoked, log=log
            )
        )


def _show(testbed: Testbed, changes: list[Change], *, diff: bool, as_json: bool) -> None:
    from provision import reports

    if as_json:
        show_json(reports.CheckReport.of(testbed.name, changes, diff=diff))
    else:
        show_changes(make_console(), changes, diff=diff)


def all_well(checks: list[Check]) -> bool:
    """Return whether no check failed."""
    return all(check.result != "failed" for check in checks)
