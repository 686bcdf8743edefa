"""The verbs of users' keys: issue, list, rotate, revoke, expire, audit."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli.group import (
    confirm,
    confirm_by_name,
    json_option,
    load,
    main,
    make_console,
    spec_option,
    vault_option,
    yes_option,
)
from provision.cli.output import show_findings, show_json, show_keys
from provision.errors import Exit, InputError, SecretsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from provision.credentials.keys import Issued, Key, Keys
    from provision.credentials.labels import Label
    from provision.secrets import KeyPair, Secrets
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
    type=click.Path(path_type=Path, dir_okay=False),
    help="The clearml.conf to write. Default: clearml-USER-PURPOSE.conf here.",
)
show_option = click.option("--show", is_flag=True, help="Print the clearml.conf, secret and all, and write no file.")


@main.group()
def credentials() -> None:
    """Give users keys of their own, and look after them until they are revoked."""


@credentials.command("issue")
@user_argument
@purpose_option
@expires_option
@out_option
@show_option
@spec_option
@vault_option
@json_option
def issue(
    user: str,
    purpose: str,
    expires: str,
    out: Path | None,
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
    """
    from provision.credentials import labels
    from provision.credentials.keys import today

    testbed, console = load(spec), make_console(stderr=as_json or show)
    labels.check_purpose(purpose)
    until = labels.expiry(expires, today())
    if show and (as_json or out):
        raise click.UsageError("--show goes without --json and --out")
    path = (out or Path(f"clearml-{user}-{purpose}.conf")).absolute()
    with at_work(testbed, "credentials-issue", console, vault_password_file) as (session, found, secrets):
        label = labels.Label(session.testbed.name, found.user_named(user), purpose, today(), until)
        if not show:
            _refuse_another(path, found, label)
        paper = Paper(session.testbed, secrets, path)
        issued = found.issue(label, paper.show if show else paper.write)
    if not show:
        _tell(console, testbed, paper, issued, as_json=as_json)


@credentials.command("rotate")
@user_argument
@purpose_option
@expires_option
@out_option
@spec_option
@vault_option
@json_option
def rotate(
    user: str,
    purpose: str,
    expires: str,
    out: Path | None,
    spec: Path | None,
    vault_password_file: Path | None,
    as_json: bool,
) -> None:
    """Replace USER's key for one purpose: the new one is proven and written before the old one is revoked.

    The clearml.conf of `credentials issue` is replaced, where it is here. Keys of agents, of the toolkit and of what
    `up` wrote into users' homes are replaced by `testbed secrets rotate`.

    \b
    Examples:
      testbed credentials rotate ada                until 90 days from now
      testbed credentials rotate ada --purpose ci --expires never --out ci.conf
    """
    from provision.credentials import ensure, labels
    from provision.credentials.keys import today
    from provision.errors import ApiError

    testbed, console = load(spec), make_console(stderr=as_json)
    labels.check_purpose(purpose)
    until = labels.expiry(expires, today())
    path = (out or Path(f"clearml-{user}-{purpose}.conf")).absolute()
    with at_work(testbed, "credentials-rotate", console, vault_password_file) as (session, found, secrets):
        label = labels.Label(session.testbed.name, found.user_named(user), purpose, today(), until)
        _refuse_another(path, found, label, replaced=True)
        paper = Paper(session.testbed, secrets, path)
        url = session.testbed.server.url("api")

        def prove(key: KeyPair) -> None:
            if not ensure.works(url, key):
                raise ApiError(f"{url}: does not take the key that it has issued", "Look at the server's log.")

        issued = found.replace(label, paper.write, prove)
    _tell(console, testbed, paper, issued, as_json=as_json)


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
        keys = found.of(found.user_named(user)) if user else found.all()
    report = reports.KeysReport(testbed=testbed.name, keys=[key.report(today()) for key in keys])
    if as_json:
        show_json(report)
    else:
        show_keys(make_console(), report.keys)


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
        keys, left = _chosen(found, what, purpose)
        report = reports.RevokeReport(
            testbed=testbed.name,
            revoked=[key.report(today()) for key in keys],
            left=[key.report(today()) for key in left],
            tokens="ended" if now or testbed.server.backend == "lite" else "live on",
        )
        if keys and not as_json:
            show_keys(console, report.revoked)
        if signs:
            running = len(rotation.running(testbed, secrets))
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
            bring_up(session, prove=False)
    if as_json:
        show_json(report)
        return
    told = f"Revoked {len(keys)} keys." if keys or left else f"{what} has no key."
    console.print(told, soft_wrap=True, markup=False)
    if left:
        console.print(
            "These stay: by their labels, services or another testbed work with them. "
            "To revoke one, name it by its access key.",
            soft_wrap=True,
        )
        show_keys(console, report.left)
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


class Paper:
    """The clearml.conf of one key: its text once it is issued, and its file, with the CA beside it."""

    def __init__(self, testbed: Testbed, secrets: Secrets, path: Path) -> None:
        from provision import inventory, tls
        from provision.credentials.conf import ca_name

        self.path, self.text = path, ""
        self._former = inventory.former_files_urls(testbed.server, secrets.files_urls)
        self._testbed, self._authority = testbed, tls.authority(testbed, secrets)
        self.ca_file = path.with_name(ca_name(testbed)) if self._authority else None

    def _keep(self, key: KeyPair) -> None:
        from provision.credentials.conf import render

        self.text = render(self._testbed, key, self._former, with_ca=self.ca_file is not None)

    def show(self, key: KeyPair) -> None:
        """Print it, and write no file."""
        self._keep(key)
        click.echo(self.text, nl=False)  # flushed, so who is killed from here on has shown it

    def write(self, key: KeyPair) -> None:
        """Write it to its file (0600 from the first byte)."""
        from provision.paths import write_atomic

        self._keep(key)
        try:
            if self.ca_file is not None:
                write_atomic(self.ca_file, self._authority.encode())
            write_atomic(self.path, self.text.encode())
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written: {error.strerror}",
                "Name a file in a folder that you may write to, with --out. No key was issued.",
            ) from None


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


def _chosen(found: Keys, what: str, purpose: str | None) -> tuple[list[Key], list[Key]]:
    """Return the key that `what` names, or those of the user that it names, and which of the user's stay.

    Raises `InputError` where it names none.
    """
    if not what.isupper():
        theirs = [key for key in found.of_anybody(what) if purpose in (None, key.purpose)]
        go = [key for key in theirs if found.is_revocable(key)]
        return go, [key for key in theirs if key not in go]
    named = [key for key in found.all() if key.access_key == what]
    if not named:
        raise InputError(f"no user has a key {what}", "`testbed credentials list` has all of them.")
    for key in named:
        found.check_revocable(key)
    return named, []


def _refuse_another(path: Path, found: Keys, label: Label, *, replaced: bool = False) -> None:
    """Raise `InputError` where `path` is a file that is not of an earlier command for the same user and purpose."""
    from provision.credentials.conf import parse_key
    from provision.credentials.keys import today

    if not path.exists():
        return
    key = parse_key(path.read_text(encoding="utf-8", errors="replace"))
    theirs = {
        each.access_key
        for each in found.of(label.user)
        if each.purpose == label.purpose and (replaced or each.state(today()) != "good")
    }
    if key is None or key.access_key not in theirs:
        raise InputError(f"{path}: is there already, and is left alone", "Move it away, or name another with --out.")


def _tell(console: Console, testbed: Testbed, paper: Paper, issued: Issued, *, as_json: bool) -> None:
    from provision import reports

    label = issued.label
    report = reports.IssueReport(
        testbed=testbed.name,
        user=label.user,
        purpose=label.purpose,
        access_key=issued.key.access_key,
        expires=str(label.expires) if label.expires else None,
        file=str(paper.path),
        ca_file=str(paper.ca_file) if paper.ca_file else None,
        revoked=issued.revoked,
    )
    if as_json:
        show_json(report)
        return
    until = f"until {report.expires}" if report.expires else "without an end"
    console.print(
        f"Issued key {report.access_key} of {report.user} for {report.purpose}, {until}.", soft_wrap=True, markup=False
    )
    console.print(
        f"It is in {report.file}, which only you can read; there it belongs into ~/clearml.conf",
        soft_wrap=True,
        markup=False,
    )
    if report.ca_file:
        console.print(f"With it goes {report.ca_file}, into the same home.", soft_wrap=True, markup=False)
