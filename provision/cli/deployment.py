"""The verbs of a deployment: up, smoke, status, down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from provision.cli.group import (
    EXIT_UNHEALTHY,
    confirm,
    json_option,
    load,
    main,
    make_console,
    spec_option,
    vault_option,
    yes_option,
)
from provision.cli.output import show_checks, show_status, show_where

if TYPE_CHECKING:
    from provision.smoke.plugin import Check


@main.command()
@spec_option
@vault_option
@yes_option
@click.option("--prove", is_flag=True, help="Run the full chain even if nothing changed.")
def up(spec: Path | None, vault_password_file: Path | None, yes: bool, prove: bool) -> None:
    """Bring the testbed up, or up to date, and prove that it works.

    The full chain (telemetry, dataset, training, model) runs when something changed or was not proven yet; otherwise
    the quick checks. Ends with a table of checks; exit code 0 only if all passed.
    """
    from provision import deploy
    from provision.session import need_root, open_session

    testbed, console = load(spec), make_console()
    console.print(f"Testbed [bold]{testbed.name}[/] on this machine:")
    for line in deploy.describe(testbed):
        console.print(f"  - {line}", soft_wrap=True, markup=False)
    confirm("Go ahead?", yes)
    need_root()
    with open_session(testbed, "up", console, vault_password_file) as session:
        wanted = testbed.model_dump_json()
        proven = session.proven.exists() and session.proven.read_text(encoding="utf-8") == wanted
        session.proven.unlink(missing_ok=True)  # until the checks at the end: a run that is killed has proven nothing
        outcome = deploy.up(session)
        checks = _check(session, "quick" if proven and not (outcome.changed or outcome.issued or prove) else "full")
        show_checks(console, checks, session.log)
        if any(check.result == "failed" for check in checks):
            raise SystemExit(EXIT_UNHEALTHY)
        session.proven.write_text(wanted, encoding="utf-8")
        show_where(console, testbed, session.log)


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
@json_option
def smoke(spec: Path | None, vault_password_file: Path | None, level: str, as_json: bool) -> None:
    """Check the running testbed from end to end.

    quick: services, ports, credentials, workers, telemetry, files, disk. full: that, and the reference workload from
    telemetry to a model that predicts.
    """
    from provision.session import need_root, open_session

    testbed = load(spec)
    need_root()
    console = make_console(stderr=as_json)
    with open_session(testbed, "smoke", console, vault_password_file) as session:
        checks = _check(session, level)
        if as_json:
            found = [{key: getattr(check, key) for key in check.__dataclass_fields__} for check in checks]
            click.echo(
                json.dumps(
                    {"testbed": testbed.name, "level": level, "checks": found, "log": str(session.log)}, indent=2
                )
            )
        else:
            show_checks(console, checks, session.log)
        if any(check.result == "failed" for check in checks):
            raise SystemExit(EXIT_UNHEALTHY)


@main.command()
@spec_option
@vault_option
@json_option
def status(spec: Path | None, vault_password_file: Path | None, as_json: bool) -> None:
    """Show services, versions, workers, queues and disk; exit code 0 only if all is well."""
    from provision import status as states
    from provision.session import need_root, open_session

    testbed = load(spec)
    need_root()
    console = make_console()
    with open_session(testbed, "status", console, vault_password_file, changes=False) as session:
        found = states.collect(session)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        show_status(console, found)
    if not found["healthy"]:
        raise SystemExit(EXIT_UNHEALTHY)


@main.command()
@spec_option
@vault_option
@yes_option
@click.option("--purge", is_flag=True, help="Remove data, users' homes and secrets, too.")
def down(spec: Path | None, vault_password_file: Path | None, yes: bool, purge: bool) -> None:
    """Remove exactly what `up` installed; data stays unless --purge."""
    import shutil

    from provision import deploy
    from provision.paths import config_dir, state_dir
    from provision.session import need_root, open_session

    testbed, console = load(spec), make_console()
    console.print(
        f"This removes testbed [bold]{testbed.name}[/] from this machine: its services, programs in /opt/testbed,"
    )
    console.print("settings in /etc/testbed, and the packages and accounts that `up` installed.")
    if purge:
        console.print(
            f"[bold red]And all data[/]: {testbed.data_dir}, the homes of accounts that `up` made, secrets and logs."
        )
    else:
        console.print(f"Data in {testbed.data_dir}, users' homes and the secrets stay.")
    confirm("Remove it?", yes)
    need_root()
    with open_session(testbed, "down", console, vault_password_file) as session:
        deploy.down(session, purge=purge)
    if purge:
        shutil.rmtree(config_dir(testbed.name), ignore_errors=True)
        shutil.rmtree(state_dir(testbed.name))
    console.print("Removed." if purge else "Removed. `testbed up` brings it back with its data.")


def _check(session: Any, level: Any) -> list[Check]:
    from provision.smoke.run import run

    return run(session, level)
