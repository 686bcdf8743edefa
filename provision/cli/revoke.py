"""The verbs by which users' keys go: revoke, expire, audit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli.credentials import at_work, credentials
from provision.cli.group import (
    confirm,
    confirm_by_name,
    json_option,
    load,
    make_console,
    spec_option,
    vault_option,
    yes_option,
)
from provision.cli.output import OTHERS, show_checks, show_findings, show_json, show_keys
from provision.errors import Exit, InputError

if TYPE_CHECKING:
    from rich.console import Console

    from provision.credentials.keys import Key, Keys
    from provision.reports import RevokeReport


@credentials.command("revoke")
@click.argument("what", metavar="KEY|USER")
@click.option("--purpose", metavar="WORD", help="With USER: the user's key for that purpose alone.")
@click.option("--now", is_flag=True, help="End the tokens, too, that the keys were exchanged for.")
@spec_option
@vault_option
@yes_option
@json_option
def revoke(
    what: str,
    purpose: str | None,
    now: bool,
    spec: Path | None,
    vault_password_file: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Revoke a key, by its access key, or all of a user, also those that the user made.

    A revoked key is refused at once. Tokens that it was exchanged for end with it on the embedded server; on the
    official one they live on for days. There, --now replaces what signs tokens: everybody is logged out, and agents,
    tasks and SDKs log in again by themselves. It says how many tasks run, and wants the testbed's name typed.

    What `up` wrote into a user's home works no more, either; while the user is in testbed.yaml, the next `up` issues
    another. Who is there no more is found while the server has them: on the embedded one, until the next `up`. Keys
    that agents and the toolkit have stay, and those whose labels name another testbed: which these are is told. They go
    when they are named by access key.

    \b
    Examples:
      testbed credentials revoke ada --purpose laptop
      testbed credentials revoke ada
      testbed credentials revoke 0123456789ABCDEFGHIJKLMNOPQRST --now --yes
    """
    from provision import reports, rotation
    from provision.credentials.keys import today

    testbed, console = load(spec), make_console(stderr=as_json)
    if now and testbed.server.is_external:
        raise InputError(
            f"{testbed.server.url('api')} is somebody else's, and so is what signs its tokens",
            "Revoke without --now, and ask who runs it to end the tokens.",
        )
    signs = now and testbed.server.backend == "docker"
    with at_work(testbed, "credentials-revoke", console, vault_password_file) as (session, found, secrets):
        keys, left = _chosen(found, what, purpose, signs=signs)
        report = reports.RevokeReport(
            testbed=testbed.name,
            revoked=[key.report(today()) for key in keys],
            left=[key.report(today()) for key in left],
            tokens="ended" if now or testbed.server.backend == "lite" else "live on",
        )
        if keys and not as_json:
            show_keys(console, report.revoked)
        if signs:
            running = len(rotation.running(session.testbed, secrets))
            console.print(
                f"Everybody is logged out; the server restarts. {running} tasks run, and log in again by themselves.",
                soft_wrap=True,
            )
            confirm_by_name(f"Revoke {len(keys)} keys and end every login?", testbed.name, yes)
        elif keys:
            confirm(f"Revoke {len(keys)} keys?", yes)
        for key in keys:
            found.revoke(key)
        if signs:
            from provision.cli.deployment import bring_up

            session.vault.rotate(session.testbed, "tokens")
            done = bring_up(session, prove=False)
            report = report.model_copy(update={"healthy": done.healthy, "checks": done.checks, "log": done.log})
    if as_json:
        show_json(report)
    else:
        _show(console, report, what)
    if not report.healthy:
        raise SystemExit(Exit.FAILED)


def _show(console: Console, report: RevokeReport, what: str) -> None:
    """Print what was revoked, what stays, and the checks where the server was restarted."""
    if report.checks:
        show_checks(console, report.checks, report.log)
    keys = report.revoked
    told = f"Revoked {len(keys)} keys." if keys or report.left else f"{what} has no key."
    console.print(told, soft_wrap=True, markup=False)
    if report.left:
        console.print(
            "These stay: by their labels, services or another testbed work with them. "
            "To revoke one, name it by its access key.",
            soft_wrap=True,
        )
        show_keys(console, report.left)
    if report.log:
        console.print(OTHERS)
    if keys and report.tokens == "live on":
        console.print("Tokens that they were exchanged for live on; to end these, too: --now", soft_wrap=True)


@credentials.command("expire")
@spec_option
@vault_option
@json_option
def expire(spec: Path | None, vault_password_file: Path | None, as_json: bool) -> None:
    """Revoke the keys that are past their day, and those that killed commands left and nobody has.

    The server itself knows no expiry: have this run every day, by cron say. A key whose owner edited its label away is
    not found by it; `credentials list` shows it as edited.

    \b
    Example:
      testbed credentials expire --json
    """
    from provision import reports
    from provision.credentials.keys import today

    testbed, console = load(spec), make_console(stderr=as_json)
    with at_work(testbed, "credentials-expire", console, vault_password_file) as (_, found, _):
        keys = found.unwanted(found.all())
        for key in keys:
            found.revoke(key)
    report = reports.RevokeReport(
        testbed=testbed.name,
        revoked=[key.report(today()) for key in keys],
        tokens="ended" if testbed.server.backend == "lite" else "live on",
    )
    if as_json:
        show_json(report)
        return
    if keys:
        show_keys(console, report.revoked)
    console.print(f"Revoked {len(keys)} keys.")


@credentials.command("audit")
@click.option(
    "--unused",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    metavar="DAYS",
    help="Tell keys that were not used for so long, or never since they were issued so long ago.",
)
@spec_option
@vault_option
@json_option
def audit(unused: int, spec: Path | None, vault_password_file: Path | None, as_json: bool) -> None:
    """Tell what is not well with the keys on the server; exit code 0 only if nothing is.

    That is: keys past their day, keys that nobody has, labels that somebody changed, keys without a label of this
    testbed's, labels of another testbed (unless the server is somebody else's), two keys for one purpose, keys that
    nobody uses, keys of the testbed's own hosts that were last used from elsewhere (with the embedded server: others do
    not see hosts' own addresses), and default keys that everybody knows. Nothing is changed.

    \b
    Examples:
      testbed credentials audit
      testbed credentials audit --unused 90 --json
    """
    import datetime

    from provision import reports
    from provision.credentials.audit import findings
    from provision.credentials.ensure import works
    from provision.credentials.public import PUBLIC_KEYS

    testbed, console = load(spec), make_console(stderr=as_json)
    with at_work(testbed, "credentials-audit", console, vault_password_file, changes=False) as (session, found, _):
        keys = found.all()
        hosts = {"127.0.0.1", "::1"}
        for machine in session.machines:
            hosts |= {address for address in (machine.address, machine.internal) if address}
        hosts |= {session.testbed.server.bind}
        told = findings(
            keys,
            datetime.datetime.now(datetime.UTC),
            unused,
            hosts if testbed.server.backend == "lite" else (),
            users=[*(user.name for user in testbed.users), testbed.agent_user, testbed.admin_user],
            shared=testbed.server.is_external,
        )
        url = session.testbed.server.url("api")
        for name, key in PUBLIC_KEYS.items():
            if works(url, key):
                told.append(
                    reports.Finding(
                        kind="public",
                        user=name,
                        access_key=key.access_key,
                        message=f"{url} takes the default key of {name}, which everybody knows",
                        remedy="testbed up; on a server of somebody else's, tell who runs it",
                    )
                )
    report = reports.AuditReport(testbed=testbed.name, healthy=not told, keys=len(keys), findings=told)
    if as_json:
        show_json(report)
    else:
        show_findings(make_console(), report)
    if not report.healthy:
        raise SystemExit(Exit.FAILED)


def _chosen(found: Keys, what: str, purpose: str | None, *, signs: bool) -> tuple[list[Key], list[Key]]:
    """Return the key that `what` names, or those of the user that it names, and which of the user's stay.

    `signs`: what signs tokens is replaced then. Raises `InputError` where it names none.
    """
    if not what.isupper():
        theirs = [key for key in found.of_anybody(what) if purpose in (None, key.purpose)]
        go = [key for key in theirs if found.is_revocable(key)]
        return go, [key for key in theirs if key not in go]
    named = [key for key in found.all() if key.access_key == what]
    if not named:
        remedy = "`testbed credentials list` has all of them."
        if signs:
            remedy += " If it was revoked just now by a command that was stopped: testbed secrets rotate --tokens-only"
        raise InputError(f"no user has a key {what}", remedy)
    for key in named:
        found.check_revocable(key)
    return named, []
