"""The verbs of users: list, apply, remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli.credentials import at_work
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
from provision.cli.output import OTHERS, printable, show_difference, show_json, show_keys, show_rows
from provision.errors import Exit, InputError

if TYPE_CHECKING:
    from rich.console import Console

    from provision.reports import UsersReport
    from provision.session import Session
    from provision.spec import Testbed


@main.group()
def users() -> None:
    """Add users to the testbed, see whom its server has, and remove users."""


@users.command("list")
@spec_option
@vault_option
@json_option
def list_(spec: Path | None, vault_password_file: Path | None, as_json: bool) -> None:
    """List the users, whether the server has them, how many keys they have, and when one was last used.

    Who is not in testbed.yaml any more and whom the server still has is listed, too. Exit code 0 only if the server has
    those in testbed.yaml and nobody who has left.

    \b
    Examples:
      testbed users list
      testbed users list --json
    """
    from provision import reports
    from provision.credentials import people

    testbed, console = load(spec), make_console(stderr=as_json)
    with at_work(testbed, "users-list", console, vault_password_file, changes=False) as (session, keys, secrets):
        report = reports.UsersReport(testbed=testbed.name, users=people.standing(session.testbed, secrets, keys))
    if as_json:
        show_json(report)
    else:
        _show(make_console(), report)
    if any(user.state != "ready" for user in report.users):
        raise SystemExit(Exit.FAILED)


@users.command("apply")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@spec_option
@vault_option
@yes_option
@json_option
def apply(file: Path | None, spec: Path | None, vault_password_file: Path | None, yes: bool, as_json: bool) -> None:
    """Give the testbed the users that testbed.yaml has, with those in FILE, a CSV, added to it.

    The columns of FILE are `name` and, where it is wanted, `full_name`; one for `testbed onboard` may have more. Who is
    in testbed.yaml already stays as there. Its comments stay.

    The server gets a fixed user for each, with a generated password of which it has the bcrypt hash alone, and
    restarts; tasks that run wait for it. Hosts get an account and a clearml.conf for each, as by `testbed up`. Then it
    is read back that only users get in, and that each does. On a server that somebody else runs no users can be made:
    who is not there is named and not added.

    \b
    Examples:
      testbed users apply                  what testbed.yaml says
      testbed users apply class.csv --yes
    """
    from provision import reports
    from provision import spec as specs
    from provision.credentials import people
    from provision.credentials.keys import opened
    from provision.machines import resolved
    from provision.spec_edit import with_users

    console = make_console(stderr=as_json)
    testbed = load(spec)
    path = spec or Path(specs.DEFAULT_FILE)
    persons = people.read(file) if file else []
    before = specs.read(path) if file else ""  # not the built-in one: there is a file to change
    there = {user.name for user in testbed.users}
    new = [person for person in persons if person.name not in there]
    refused: list[str] = []

    def changed() -> tuple[str, Testbed]:
        text = with_users(before, str(path), [person.entry for person in new])
        return text, specs.parse(text, str(path)) if file else testbed

    after, wanted = changed()  # before anything is begun
    with at_work(testbed, "users-apply", console, vault_password_file) as (session, _, secrets):
        if testbed.server.is_external:
            console.print(f"{testbed.server.url('api')} is somebody else's: users are not made there.", soft_wrap=True)
            refused = people.unknown_there(wanted)
            new = [person for person in new if person.name not in refused]
            after, wanted = changed()
        if after != before:
            show_difference(console, path, before, after)
        if not testbed.server.is_external:
            console.print("The server restarts if it does not have all of them yet; tasks that run wait for it.")
        confirm(f"Apply the {len(wanted.users)} users?", yes)
        if after != before:
            specs.replace(path, before, after)
        session.go_on_with(resolved(wanted, session.machines))
        _bring_up(session)
        secrets = session.vault.load() or secrets
        if not testbed.server.is_external:
            with session.stage("Read the users back") as current:
                people.prove(session.testbed, secrets)
                current.result = f"{len(wanted.users)} users log in, and nobody else"
        with opened(session.testbed, secrets) as keys:  # of those who are users now
            standing = people.standing(session.testbed, secrets, keys)
    report = reports.UsersReport(
        testbed=testbed.name, users=standing, added=[person.name for person in new], refused=refused
    )
    if as_json:
        show_json(report)
    else:
        _show(console, report)
    if refused:
        raise SystemExit(Exit.FAILED)


@users.command("remove")
@click.argument("names", metavar="USER...", nargs=-1, required=True)
@spec_option
@vault_option
@yes_option
@json_option
def remove(
    names: tuple[str, ...], spec: Path | None, vault_password_file: Path | None, yes: bool, as_json: bool
) -> None:
    """Remove users: nothing of theirs works any more, and their tasks, models and data stay.

    Their keys are revoked, they are taken out of testbed.yaml, the server restarts without them, and their SSH keys are
    taken out of their accounts on the hosts; accounts and homes stay there. On the official server tokens outlive their
    users, so what signs tokens is replaced: everybody is logged out, and agents, tasks and SDKs log in again by
    themselves. It says how many tasks run, and wants the testbed's name typed.

    On a server that somebody else runs, the keys that this testbed issued are revoked; the user stays there.

    \b
    Examples:
      testbed users remove ada
      testbed users remove ada grace --yes
    """
    from provision import reports, rotation
    from provision import spec as specs
    from provision.credentials import people
    from provision.credentials.keys import today
    from provision.machines import resolved
    from provision.spec_edit import without_users

    console = make_console(stderr=as_json)
    path = spec or Path(specs.DEFAULT_FILE)
    before = specs.read(path)  # not the built-in one: there is a file to change
    testbed = load(path)
    gone = list(dict.fromkeys(names))
    if {user.name for user in testbed.users} <= {*gone}:
        raise InputError(
            f"{path}: would have no users left, and a testbed has one at least",
            "Add another first (`testbed users apply FILE.csv`), or remove the testbed: `testbed down`.",
        )
    after = without_users(before, str(path), gone)
    wanted = specs.parse(after, str(path))
    external = testbed.server.is_external
    signs = testbed.server.backend == "docker"
    with at_work(testbed, "users-remove", console, vault_password_file) as (session, keys, secrets):
        revoked = [key for name in gone for key in people.keys_to_revoke(session.testbed, secrets, keys, name)]
        if after != before:
            show_difference(console, path, before, after)
        if revoked:
            show_keys(console, [key.report(today()) for key in revoked])
        named, question = ", ".join(gone), f"Remove {', '.join(gone)}, with {len(revoked)} keys?"
        if external:
            console.print(f"{testbed.server.url('api')} is somebody else's: {named} stays there.", soft_wrap=True)
        elif signs:
            running = len(rotation.running(session.testbed, secrets))
            console.print(
                f"Everybody is logged out; the server restarts. {running} tasks run, and log in again by themselves.",
                soft_wrap=True,
            )
        else:
            console.print("The server restarts; tasks that run wait for it.")
        if signs:
            confirm_by_name(question, testbed.name, yes)
        else:
            confirm(question, yes)
        specs.check_unchanged(path, before)  # while nothing is done
        for key in revoked:
            keys.revoke(key)
        if after != before:
            specs.replace(path, before, after)
        session.go_on_with(resolved(wanted, session.machines))
        passwords = {name: secrets.users[name] for name in gone if name in secrets.users}
        if signs:
            session.vault.rotate(session.testbed, "tokens")
        _bring_up(session)
        if not external:
            with session.stage("Read back that they are gone") as current:
                people.prove_gone(session.testbed, gone, passwords)
                current.result = f"{named} cannot log in"
        if passwords:  # who comes again gets another
            now = session.vault.load() or secrets
            left = {name: secret for name, secret in now.users.items() if name not in gone}
            session.vault.save(now.model_copy(update={"users": left}))
    report = reports.RemovedReport(
        testbed=testbed.name,
        removed=gone,
        revoked=[key.report(today()) for key in revoked],
        login="stays" if external else "ended",
    )
    if as_json:
        show_json(report)
        return
    console.print(
        f"Removed {named}, with {len(revoked)} keys. Their tasks stay, and so do their accounts on the hosts.",
        soft_wrap=True,
        markup=False,
    )
    if signs:
        console.print(OTHERS)


def _bring_up(session: Session) -> None:
    """Bring the testbed up to date without its checks; where that changes it, the next `up` proves it anew."""
    from provision import deploy
    from provision.paths import write_private

    was = session.proven.read_bytes() if session.proven.exists() else None
    session.proven.unlink(missing_ok=True)  # who is killed has proven nothing
    outcome = deploy.up(session)
    if was is not None and not (outcome.changed or outcome.issued):
        write_private(session.proven, was)


def _show(console: Console, report: UsersReport) -> None:
    from rich.text import Text

    from provision.credentials.people import STATES

    show_rows(
        console,
        "",
        ["User", "Name", "Keys", "Last used", "State"],
        [
            [
                Text(printable(user.name)),
                Text(printable(user.full_name or "")),
                Text(str(user.keys)),
                Text((user.last_used or "never").removesuffix("Z").replace("T", " ")),
                Text(user.state),
            ]
            for user in report.users
        ],
        right=["Keys"],
    )
    for state in dict.fromkeys(user.state for user in report.users if user.state != "ready"):
        console.print(f"{state}: {STATES[state]}", soft_wrap=True, markup=False)
    if report.refused:
        console.print(
            f"Not added, as the server does not have them: {', '.join(report.refused)}. Ask who runs it to make them "
            "(username or name as in the CSV), and run this again.",
            soft_wrap=True,
            markup=False,
        )
