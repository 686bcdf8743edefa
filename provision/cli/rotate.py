"""The verb that replaces users' keys: rotate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from provision.cli.credentials import (
    at_work,
    bundle_option,
    bundle_passphrase_option,
    credentials,
    deliver_option,
    expires_option,
    locked,
    out_option,
    outlet,
    purpose_option,
    tell,
    to_option,
)
from provision.cli.deployment import bring_up
from provision.cli.group import confirm, json_option, load, make_console, spec_option, vault_option, yes_option
from provision.cli.output import show_checks, show_json
from provision.credentials.labels import CLIENT
from provision.errors import Exit

if TYPE_CHECKING:
    from provision.secrets import KeyPair


@credentials.command("rotate")
@click.argument("user", required=False)
@click.option("--all", "everybody", is_flag=True, help="All keys on the testbed's hosts, and the toolkit's own.")
@purpose_option
@expires_option
@out_option
@bundle_option
@to_option
@bundle_passphrase_option
@deliver_option
@click.option("--force", is_flag=True, help="With --all or --purpose client: also while tasks run, which then fail.")
@spec_option
@vault_option
@yes_option
@json_option
def rotate(
    user: str | None,
    everybody: bool,
    purpose: str,
    expires: str,
    out: Path | None,
    bundle: bool,
    to: Path | None,
    passphrase_file: Path | None,
    deliver: bool,
    force: bool,
    spec: Path | None,
    vault_password_file: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Replace USER's key for one purpose: the new one is proven and written before the old one is revoked.

    The clearml.conf or bundle of `credentials issue` is replaced, where it is here. With --purpose client it is the key
    in ~/clearml.conf on the testbed's hosts, and with --all those of all users and services there, and the toolkit's
    own: the new ones are written, read back and proven before an old one is revoked. As agents then start
    anew, nothing is done while a task runs (exit code 4). What was killed half way, the next `testbed up` tidies.

    \b
    Examples:
      testbed credentials rotate ada                until 90 days from now
      testbed credentials rotate ada --purpose ci --expires never --out ci.conf
      testbed credentials rotate ada --bundle --to ada.pub
      testbed credentials rotate ada --purpose client
      testbed credentials rotate --all --yes
    """
    from provision.credentials import ensure, labels
    from provision.credentials.keys import today
    from provision.errors import ApiError

    if bool(user) == everybody:
        raise click.UsageError("Name a USER, or say --all")
    if everybody or purpose == CLIENT:
        if out or bundle or to or passphrase_file or deliver:
            raise click.UsageError("keys on the hosts go there, so --out, --bundle and --deliver go without them")
        if _said("expires"):
            raise click.UsageError(
                "keys on the hosts have no end, so --expires goes without --all and --purpose client"
            )
        if everybody and _said("purpose"):
            raise click.UsageError("--all goes without --purpose: it means every key on the hosts")
        _renew(user, spec, vault_password_file, force=force, yes=yes, as_json=as_json)
        return
    testbed, console = load(spec), make_console(stderr=as_json)
    labels.check_purpose(purpose)
    until = labels.expiry(expires, today())
    name = user or ""
    lock = locked(testbed, name, out, to, passphrase_file, bundle=bundle, deliver=deliver)
    with at_work(testbed, "credentials-rotate", console, vault_password_file) as (session, found, secrets):
        label = labels.Label(session.testbed.name, found.user_named(name), purpose, today(), until)
        paper = outlet(session, secrets, label, out, lock, deliver=deliver)
        paper.check(found, label, replaced=True)
        url = session.testbed.server.url("api")

        def prove(key: KeyPair) -> None:
            if not ensure.works(url, key):
                raise ApiError(f"{url}: does not take the key that it has issued", "Look at the server's log.")

        issued = found.replace(label, paper.put, prove)
        paper.done(issued)
    tell(console, testbed, paper, issued, as_json=as_json)


def _said(option: str) -> bool:
    """Return whether an option of the command that runs was said, and is not its default."""
    return click.get_current_context().get_parameter_source(option) is not ParameterSource.DEFAULT


def _renew(
    user: str | None, spec: Path | None, vault_password_file: Path | None, *, force: bool, yes: bool, as_json: bool
) -> None:
    """Replace the keys on the hosts: those of `user` in the home there, or everybody's and the toolkit's."""
    from provision import reports, rotation
    from provision.credentials import identities
    from provision.deploy import Renewal

    testbed, console = load(spec), make_console(stderr=as_json)
    with at_work(testbed, "credentials-rotate", console, vault_password_file) as (session, found, secrets):
        name = found.user_named(user) if user else None
        whose = found.id_of(name) if name else ""
        rotation.check_theirs(session.testbed, secrets)

        def wanted(identity: identities.Identity) -> bool:
            return name is None or (identity.user, identity.purpose) == (name, CLIENT)

        def check() -> None:
            if not force:
                rotation.check_idle(session.testbed, session.vault.load() or secrets, whose)

        def running() -> list[str]:
            return rotation.running(session.testbed, session.vault.load() or secrets, whose)

        check()
        chosen = [each.name for each in identities.of(session.testbed, session.inventory) if wanted(each)]
        if name is None:
            confirm(f"Replace {len(chosen)} keys on the hosts, and start the agents anew?", yes)
        done = bring_up(session, prove=False, renewal=Renewal(wanted, check, running, force=force))
    report = reports.RenewReport(
        testbed=testbed.name,
        healthy=done.healthy,
        renewed=chosen,
        issued=done.issued,
        revoked=done.revoked,
        checks=done.checks,
        log=done.log,
    )
    if as_json:
        show_json(report)
    else:
        show_checks(console, report.checks, report.log)
        console.print(f"\n{report.issued} keys issued, {report.revoked} revoked.")
        console.print("Keys that are elsewhere, as in users' bundles, stay: testbed credentials rotate USER")
    if not report.healthy:
        raise SystemExit(Exit.FAILED)
