"""The verbs of the deployment's secrets: export, import, status, rotate, rekey."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli.deployment import bring_up, show_up
from provision.cli.group import (
    confirm,
    json_option,
    load,
    main,
    make_console,
    passphrase_option,
    read_passphrase,
    spec_option,
    vault_option,
    yes_option,
)
from provision.cli.output import OTHERS, show_checks, show_json, show_secrets
from provision.errors import Exit, SecretsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from provision.secrets import Extent
    from provision.spec import Testbed


@main.group()
def secrets() -> None:
    """Share, look after and replace the testbed's secrets."""


@secrets.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@spec_option
@vault_option
@passphrase_option
@click.option("--force", is_flag=True, help="Replace a file that is there, without asking.")
@json_option
def export_(
    file: Path,
    spec: Path | None,
    vault_password_file: Path | None,
    passphrase_file: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write all secrets to FILE, encrypted with a passphrase, for a second administrator or as a backup.

    `ansible-vault view FILE` opens it, too. The password of this vault is not in it.

    \b
    Examples:
      testbed secrets export lab.vault                          asks for a passphrase
      testbed secrets export lab.vault --passphrase-file words  for scripts
    """
    from provision import exchange, reports
    from provision.secrets import Vault

    testbed = load(spec)
    vault = Vault(testbed.name, vault_password_file)
    passphrase = read_passphrase(passphrase_file, twice=True)
    found = vault.load()
    if found is None:
        raise SecretsError(
            f"testbed {testbed.name} has no secrets here",
            "`testbed up` makes them; `testbed secrets status` says more.",
        )
    if file.exists() and not force:
        if not sys.stdin.isatty():
            raise SecretsError(f"{file}: exists already", "Name another file, or say --force.")
        confirm(f"{file} exists. Replace it?", yes=False)
    exchange.write(file, testbed.name, found, passphrase)
    if as_json:
        show_json(reports.ExportReport(testbed=testbed.name, id=found.id, file=str(file)))
        return
    click.echo(f"Wrote the secrets of testbed {testbed.name} to {file}, encrypted.")
    click.echo("Give it away by one way and its passphrase by another. There: testbed secrets import FILE")


@secrets.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@spec_option
@vault_option
@passphrase_option
@click.option("--replace", is_flag=True, help="Take the place of other secrets here; these are kept beside.")
@json_option
def import_(
    file: Path,
    spec: Path | None,
    vault_password_file: Path | None,
    passphrase_file: Path | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Take the testbed's secrets from FILE, which `secrets export` wrote.

    \b
    Examples:
      testbed secrets import lab.vault            asks for the passphrase; other secrets here are left alone
      testbed secrets import lab.vault --replace  other secrets here are kept under another name
    """
    from provision import exchange, reports
    from provision.session import open_session

    testbed = load(spec)
    console = make_console(stderr=as_json)
    with open_session(testbed, "secrets-import", console, vault_password_file, on_hosts=False) as session:
        found = exchange.read(file, testbed.name, read_passphrase(passphrase_file, twice=False))
        done = exchange.take(session.vault, found.secrets, replace=replace)
    report = reports.ImportReport(
        testbed=found.testbed,
        id=found.secrets.id,
        exported=found.exported,
        result=done.result,
        kept=str(done.kept) if done.kept else None,
    )
    if as_json:
        show_json(report)
        return
    click.echo(f"{file}: secrets of testbed {report.testbed}, exported {report.exported}, id {report.id}")
    if report.kept:
        click.echo(f"What was there is kept in {report.kept}.")
    if report.result == "same":
        click.echo("They are here already; nothing was changed.")
    else:
        click.echo(f"They are in {session.vault.path} now. Next: testbed secrets status")


@secrets.command("status")
@spec_option
@vault_option
@json_option
def status_(spec: Path | None, vault_password_file: Path | None, as_json: bool) -> None:
    """Show where the secrets are, what they are (never a value), and whether the running testbed takes them.

    Exit code 0 only if all is well. Needs no root.
    """
    from provision import hosts, secret_state
    from provision.machines import main_machine
    from provision.secrets import Vault
    from provision.session import open_session

    testbed = load(spec)
    if testbed.provider == "local":
        found = secret_state.collect(testbed, Vault(testbed.name, vault_password_file))
    else:
        console = make_console(stderr=as_json)
        with open_session(testbed, "secrets-status", console, vault_password_file, changes=False) as session:
            there = hosts.connect(session.inventory_file, main_machine(session.machines).name)
            found = secret_state.collect(session.testbed, session.vault, host=there)
    if as_json:
        show_json(found)
    else:
        show_secrets(make_console(), found)
    if not found.healthy:
        raise SystemExit(Exit.FAILED)


@secrets.command("rotate")
@spec_option
@vault_option
@yes_option
@click.option("--tokens-only", is_flag=True, help="End every login, and leave keys, passwords and tasks alone.")
@click.option("--force", is_flag=True, help="Go ahead although tasks run, which then fail.")
@json_option
def rotate(
    spec: Path | None,
    vault_password_file: Path | None,
    yes: bool,
    tokens_only: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Replace the secrets of the running testbed as planned, while the old ones are still at hand.

    New are the server's token and session secrets and system keys, the passwords of users and of InfluxDB, and every
    key that the testbed has issued to agents, users and itself. Data stays, and so do keys that users made for
    themselves: where secrets are lost or in wrong hands, `secrets rekey` is the one that revokes these, too.

    --tokens-only replaces what signs tokens: everybody's login ends at once, also that of a user whose key was
    revoked; keys stay, so agents, tasks and SDKs log in again by themselves.

    What was killed half way is completed by the same command, or by `testbed up`. Exit code 4: tasks run, or an agent
    does not answer.

    \b
    Examples:
      testbed secrets rotate                      says what people will notice, and asks
      testbed secrets rotate --tokens-only --yes  after a user's key was revoked
      testbed secrets rotate --yes --json         for scripts
    """
    from provision import away, deploy, drain, reports, rotation
    from provision.session import need_root, open_session
    from provision.smoke import STAGE

    testbed, console = load(spec), make_console(stderr=as_json)
    if tokens_only and testbed.server.is_external:
        raise SecretsError(
            f"{testbed.server.url('api')} is somebody else's, and so is what signs its tokens",
            "Ask who runs it; without --tokens-only, the testbed's own keys and passwords are replaced.",
        )
    what = "what signs the logins" if tokens_only else "the secrets"
    console.print(f"This replaces {what} of testbed [bold]{testbed.name}[/]. Data stays. What people notice:")
    for line in _noticed(testbed, tokens_only=tokens_only):
        console.print(f"  - {line}", soft_wrap=True, markup=False)
    need_root(testbed)
    stages = (*deploy.stages(testbed), STAGE)
    with open_session(testbed, "secrets-rotate", console, vault_password_file, stages=stages) as session:
        testbed = session.testbed
        extent: Extent = "tokens" if tokens_only else "all"
        found = session.vault.load()
        if found is None:
            raise SecretsError(
                f"testbed {testbed.name} has no secrets here",
                "Take them from a colleague or a backup with `testbed secrets import FILE`.",
            )
        if found.restoring is not None:
            raise SecretsError(
                "a restore of the testbed was begun and has not ended, so its secrets are still changing",
                "Let `testbed up` complete it, then rotate.",
            )
        waits = not (tokens_only or force)  # for agents, until they run no task
        if found.rekeying or found.rotating in ("all", extent):
            console.print(f"A {found.changing} was begun, and is completed now.")
            waits = False
        else:
            if not found.changing:
                deploy.look_whose(session, {"whose_id": found.id})
            rotation.check_theirs(testbed, found)
            if waits:
                rotation.check_idle(testbed, found)
        confirm("Replace them?", yes)
        paused = drain.there(session) if waits else {}
        with drain.paused(session, paused, stays=True):
            if waits:
                rotation.check_idle(testbed, found)
            aside = session.vault.rotate(testbed, extent)
        new = session.vault.load()
        if aside:
            console.print(f"The secrets of until now are kept in {aside}", soft_wrap=True, markup=False)
        with away.watched(f"{testbed.server.url('api')}/debug.ping") as gone:
            done = bring_up(session, prove=False, paused=paused)
    report = reports.RotateReport(
        testbed=testbed.name,
        healthy=done.healthy,
        id=new.id if new else "",
        rotated=rotation.names(testbed, new) if new else [],
        issued=done.issued,
        revoked=done.revoked,
        away_seconds=round(gone.seconds, 1),
        kept=str(aside) if aside else None,
        checks=done.checks,
        log=done.log,
    )
    if as_json:
        show_json(report)
    else:
        show_checks(console, report.checks, report.log)
        console.print(f"\nNew: {', '.join(report.rotated)}", soft_wrap=True, markup=False)
        console.print(
            f"{report.issued} keys issued, {report.revoked} revoked. The API server was away for {gone.seconds:.1f} s."
        )
        console.print(OTHERS)
    if not report.healthy:
        raise SystemExit(Exit.FAILED)


def _noticed(testbed: Testbed, *, tokens_only: bool) -> Iterator[str]:
    """Yield what people notice of a rotation, a line each."""
    from provision.spec import ManagedTelemetry

    if testbed.server.is_external:
        yield f"{testbed.server.url('api')} is somebody else's: its secrets, passwords and logins stay"
    else:
        yield "everybody is logged out of the web app; the server restarts, and is away for some seconds"
    if tokens_only:
        yield "keys and passwords stay: agents, running tasks and SDKs log in again by themselves"
        yield "one call of each fails at that moment: a value that a task reports just then may be missing"
    else:
        passwords = "" if testbed.server.is_external else "the passwords of the web app and "
        yield f"{passwords}the keys that the testbed issued stop working"
        users = ", ".join(user.name for user in testbed.users)
        yield f"new keys are written into ~/clearml.conf of {users}; copies of it elsewhere must be fetched anew"
        if isinstance(testbed.telemetry, ManagedTelemetry):
            yield "InfluxDB's passwords change, and it restarts; new ones are written into ~/telemetry.env"
        yield "agents take no task meanwhile, and restart; while a task runs nothing is rotated, unless --force"
        yield "keys that users made for themselves stay"
    yield "other administrators need the new secrets: testbed secrets export FILE"


@secrets.command("rekey")
@spec_option
@vault_option
@yes_option
@json_option
def rekey(spec: Path | None, vault_password_file: Path | None, yes: bool, as_json: bool) -> None:
    """Replace all secrets of the running testbed: when they are lost, or when somebody has them who should not.

    Unlike `secrets rotate`, it needs none of the old secrets, and revokes every key, also those that users made. Data
    stays. What was killed half way is completed by the same command, or by `testbed up`.
    """
    from provision import deploy
    from provision.session import need_root, open_session
    from provision.smoke import STAGE

    testbed, console = load(spec), make_console(stderr=as_json)
    console.print(f"This replaces every secret of testbed [bold]{testbed.name}[/]. Data stays. What people notice:")
    theirs = f"keys that the testbed issued on {testbed.server.url('api')} stop working; all else there stays"
    for line in (
        theirs
        if testbed.server.is_external
        else "every ClearML key and password stops working, also those that users made for themselves",
        f"new keys are written into ~/clearml.conf of {', '.join(user.name for user in testbed.users)}; "
        "copies of it elsewhere must be fetched anew",
        "InfluxDB's passwords change; new ones are written into ~/telemetry.env",
        "everybody is logged out; running tasks fail, so let them end first",
        "other administrators need the new secrets: testbed secrets export FILE",
    ):
        console.print(f"  - {line}", soft_wrap=True, markup=False)
    need_root(testbed)
    stages = (*deploy.stages(testbed), STAGE)
    with open_session(testbed, "secrets-rekey", console, vault_password_file, stages=stages) as session:
        try:
            session.vault.load()
            deploy.look_whose(session)
        except SecretsError as error:
            console.print(f"{error.message}: it will be moved aside, not deleted.", soft_wrap=True, markup=False)
            console.print("If you have its password, answer no and give it.")
        confirm("Replace them?", yes)
        aside = session.vault.rekey(testbed)
        if aside:
            console.print(f"The secrets of until now are kept in {aside}", soft_wrap=True, markup=False)
        report = bring_up(session, prove=True)
        console.print("All secrets are new.")
    show_up(console, report, as_json=as_json)
