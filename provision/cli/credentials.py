"""The verbs of users' keys: issue, list; `rotate` and `revoke` have the others."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli.group import (
    json_option,
    load,
    main,
    make_console,
    read_passphrase,
    spec_option,
    vault_option,
)
from provision.cli.output import show_json, show_keys
from provision.cli.paper import Bundle, Delivery, Paper
from provision.errors import InputError, SecretsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from provision.credentials.bundle import Lock
    from provision.credentials.keys import Issued, Keys
    from provision.credentials.labels import Label
    from provision.secrets import Secrets
    from provision.session import Session
    from provision.spec import Testbed

LAPTOP = "laptop"
user_argument = click.argument("user")
purpose_option = click.option(
    "--purpose", default=LAPTOP, show_default=True, metavar="WORD", help="What the key is for: one key for each."
)
expires_option = click.option(
    "--expires",
    default="90d",
    show_default=True,
    metavar="90d|12w|DATE|never",
    help="Until when it may be used; `credentials expire` revokes it then.",
)
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The clearml.conf to write; with --bundle, the folder for it. Default: clearml-USER-PURPOSE.conf here.",
)
show_option = click.option("--show", is_flag=True, help="Print the clearml.conf, secret and all, and write no file.")
bundle_option = click.option(
    "--bundle",
    is_flag=True,
    help="Write an archive that only the user can open: clearml.conf, CA, the way to the hosts, and how to start.",
)
to_option = click.option(
    "--to",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --bundle: the user's public key, of age, SSH or OpenPGP. Default: the user's ssh_keys in testbed.yaml, "
    "else a passphrase.",
)
bundle_passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="With --bundle: file with a passphrase to encrypt it to (/dev/fd/3: what descriptor 3 is). Default: "
    "TESTBED_PASSPHRASE, else it is asked for.",
)
deliver_option = click.option(
    "--deliver",
    is_flag=True,
    help="Write ~/clearml-PURPOSE.conf into the user's home on the testbed's hosts, and no file here.",
)


@main.group()
def credentials() -> None:
    """Give users keys of their own, and look after them until they are revoked."""


@credentials.command("issue")
@user_argument
@purpose_option
@expires_option
@out_option
@bundle_option
@to_option
@bundle_passphrase_option
@deliver_option
@show_option
@spec_option
@vault_option
@json_option
def issue(
    user: str,
    purpose: str,
    expires: str,
    out: Path | None,
    bundle: bool,
    to: Path | None,
    passphrase_file: Path | None,
    deliver: bool,
    show: bool,
    spec: Path | None,
    vault_password_file: Path | None,
    as_json: bool,
) -> None:
    """Issue a key for USER and one purpose, as a complete clearml.conf that only you can read.

    The key's label on the server says testbed, user, purpose, and from when until when. Where the server's certificate
    is from a CA of the testbed's own, or of yours, that is written beside. A command that was killed leaves no key that
    nobody has: the next one for the same user and purpose revokes it.

    \b
    Examples:
      testbed credentials issue ada                              for a laptop, for 90 days
      testbed credentials issue ada --purpose ci --expires never --out ci.conf
      testbed credentials issue ada --bundle --to ada.pub        for the owner of that key alone
      testbed credentials issue ada --purpose gpu --deliver      into ~ada/clearml-gpu.conf on the hosts
    """
    from provision.credentials import labels
    from provision.credentials.keys import today

    testbed, console = load(spec), make_console(stderr=as_json or show)
    labels.check_purpose(purpose)
    until = labels.expiry(expires, today())
    if show and (as_json or out or bundle or deliver):
        raise click.UsageError("--show goes without --json, --out, --bundle and --deliver")
    lock = locked(testbed, user, out, to, passphrase_file, bundle=bundle, deliver=deliver)
    with at_work(testbed, "credentials-issue", console, vault_password_file) as (session, found, secrets):
        label = labels.Label(session.testbed.name, found.user_named(user), purpose, today(), until)
        if show:
            found.issue(label, Paper(session.testbed, secrets, Path("clearml.conf")).show)
            return
        paper = outlet(session, secrets, label, out, lock, deliver=deliver)
        paper.check(found, label)
        issued = found.issue(label, paper.put)
        paper.done(issued)
    tell(console, testbed, paper, issued, as_json=as_json)


@credentials.command("list")
@click.argument("user", required=False)
@spec_option
@vault_option
@json_option
def list_(user: str | None, spec: Path | None, vault_password_file: Path | None, as_json: bool) -> None:
    """List the keys on the server: of USER, or of everybody; never a secret.

    For each: what for, since when and until when, when and from where it was last used, and its state.

    \b
    Examples:
      testbed credentials list
      testbed credentials list ada --json
    """
    from provision import reports
    from provision.credentials.keys import today

    testbed, console = load(spec), make_console(stderr=as_json)
    with at_work(testbed, "credentials-list", console, vault_password_file, changes=False) as (_, found, _):
        keys = found.of_anybody(user) if user else found.all()
    report = reports.KeysReport(testbed=testbed.name, keys=[key.report(today()) for key in keys])
    if as_json:
        show_json(report)
    else:
        show_keys(make_console(), report.keys)


@contextmanager
def at_work(
    testbed: Testbed, verb: str, console: Console, vault_password_file: Path | None, *, changes: bool = True
) -> Iterator[tuple[Session, Keys, Secrets]]:
    """Yield a session, the keys on the testbed's server, and the secrets."""
    from provision.credentials import keys
    from provision.session import need_root, open_session

    if changes:
        need_root(testbed)
    with open_session(testbed, verb, console, vault_password_file, changes=changes) as session:
        secrets = session.vault.load()
        if secrets is None:
            raise SecretsError(
                f"testbed {testbed.name} has no secrets here",
                "`testbed up` makes them; `testbed secrets status` says more.",
            )
        if secrets.changing and changes:
            raise SecretsError(
                f"a {secrets.changing} of the testbed was begun and has not ended, so its secrets are still changing",
                "Let `testbed up` complete it, and run the same command again.",
            )
        with keys.opened(session.testbed, secrets) as found:
            yield session, found, secrets


def locked(
    testbed: Testbed,
    user: str,
    out: Path | None,
    to: Path | None,
    passphrase_file: Path | None,
    *,
    bundle: bool,
    deliver: bool,
) -> Lock | None:
    """Return what a bundle is locked with; None where none is wanted. Raises `UsageError`, `TestbedError`."""
    from provision.credentials import bundle as bundles
    from provision.exchange import refuse_weak

    if deliver and (bundle or out):
        raise click.UsageError("--deliver goes without --bundle and --out")
    if not bundle:
        if to or passphrase_file:
            raise click.UsageError("--to and --passphrase-file go with --bundle")
        return None
    if to and passphrase_file:
        raise click.UsageError("--to goes without --passphrase-file")
    if to:
        return bundles.for_key_file(to)
    keys = [key for person in testbed.users if person.name == user for key in person.ssh_keys]
    if not passphrase_file and (lock := bundles.for_ssh_keys(keys, f"ssh_keys of {user} in testbed.yaml")):
        return lock
    passphrase = read_passphrase(passphrase_file, twice=True)
    refuse_weak(passphrase)
    return bundles.for_passphrase(passphrase)


def outlet(
    session: Session, secrets: Secrets, label: Label, out: Path | None, lock: Lock | None, *, deliver: bool
) -> Paper | Bundle | Delivery:
    """Return where the key with `label` goes."""
    if deliver:
        return Delivery(session, secrets, label)
    if lock is not None:
        return Bundle(session, secrets, (out or Path()).absolute(), label, lock)
    path = (out or Path(f"clearml-{label.user}-{label.purpose}.conf")).absolute()
    if path.is_dir():
        raise InputError(f"{path}: is a folder", "Name a file with --out, or say --bundle.")
    return Paper(session.testbed, secrets, path)


def tell(
    console: Console, testbed: Testbed, paper: Paper | Bundle | Delivery, issued: Issued, *, as_json: bool
) -> None:
    """Print which key was issued, and where it is."""
    from provision import reports

    label = issued.label
    report = reports.IssueReport(
        testbed=testbed.name,
        user=label.user,
        purpose=label.purpose,
        access_key=issued.key.access_key,
        expires=str(label.expires) if label.expires else None,
        file=paper.file,
        ca_file=str(paper.ca_file) if paper.ca_file else None,
        hosts=list(paper.hosts),
        revoked=len(issued.replaced),
    )
    if as_json:
        show_json(report)
        return
    until = f"until {report.expires}" if report.expires else "without an end"
    lines = [f"Issued key {report.access_key} of {report.user} for {report.purpose}, {until}.", *paper.told()]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
