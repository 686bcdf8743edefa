"""The verbs of a testbed that runs for years: backup, restore, upgrade, logs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli.deployment import all_well, bring_up
from provision.cli.group import (
    break_lock_option,
    confirm,
    json_option,
    load,
    main,
    make_console,
    spec_option,
    vault_option,
    verbose_option,
    yes_option,
)
from provision.cli.output import show_checks, show_json, show_rows
from provision.errors import Exit

if TYPE_CHECKING:
    from provision.archive import Manifest
    from provision.backup import Opened
    from provision.reports import UpReport
    from provision.session import Session


@main.command()
@spec_option
@vault_option
@yes_option
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the backup. Default: ~/.local/share/testbed/NAME/backups.",
)
@click.option("--name", help="Name of the backup. Default: the testbed's, and the time (UTC).")
@break_lock_option
@json_option
@verbose_option
def backup(
    spec: Path | None,
    vault_password_file: Path | None,
    yes: bool,
    to: Path | None,
    name: str | None,
    break_lock: bool,
    as_json: bool,
    verbose: int,
) -> None:
    """Back up the server's data and the testbed's secrets to this machine.

    The server is stopped meanwhile, and started again whatever happens; how long it was away is told. Tasks that run
    wait for it. The backup is a folder: the data as a tar archive, the vault as it is (encrypted), checksums of every
    file. It is read back, and gets its name when it is whole.

    The vault's password is not in the backup, and without it no backup opens: keep it elsewhere.

    \b
    Examples:
      testbed backup                              says what it will do, and asks
      testbed backup --yes --to /mnt/backups      every night
      testbed backup --yes --json | jq -r .backup
    """
    import time

    from provision import archive, reports
    from provision import backup as backups
    from provision.paths import backups_dir
    from provision.session import need_root, open_session
    from provision.spec_server import in_words

    testbed, console = load(spec), make_console(stderr=as_json)
    backups.refuse_another_server(testbed)
    folder = (to or backups_dir(testbed.name)).expanduser().absolute()
    name = name or archive.default_name(testbed.name, time.time())
    archive.refuse_name(name)
    console.print(f"Backup of testbed [bold]{testbed.name}[/] to {folder / name}.", soft_wrap=True)
    console.print("The server stops while its data are read, and starts again; tasks that run wait for it.")
    elsewhere = in_words(testbed.server.stores.elsewhere)
    if elsewhere:
        console.print(
            f"[bold]Not in it: what is in {elsewhere}[/], which server.stores has elsewhere. Back that up there, "
            "at the same time and while no task runs: neither backup is whole without the other.",
            soft_wrap=True,
        )
    confirm("Go ahead?", yes)
    need_root(testbed)
    with open_session(
        testbed,
        "backup",
        console,
        vault_password_file,
        verbosity=verbose,
        stages=backups.BACKUP,
        break_lock=break_lock,
    ) as session:
        made = backups.make(session, testbed, folder, name)
        source, log = session.vault.password_source, str(session.log)
    found = made.manifest
    if as_json:
        show_json(
            reports.BackupReport(
                testbed=testbed.name,
                backup=str(made.folder),
                made=found.made,
                backend=found.backend,
                server=found.server,
                bytes=found.bytes,
                files=found.files,
                downtime=found.downtime,
                elsewhere=list(found.elsewhere),
                log=log,
            )
        )
        return
    console.print(
        f"Wrote {made.folder}: {found.files} files, {backups.size_of(found.bytes)}; "
        f"the server was away for {found.downtime:.1f} s.",
        soft_wrap=True,
        markup=False,
    )
    console.print(f"Not in it: the vault's password, from {source}. Keep that elsewhere.", soft_wrap=True, markup=False)
    if elsewhere:
        console.print(f"Nor what is in {elsewhere}.", soft_wrap=True, markup=False)


@dataclass(frozen=True)
class PutBack:
    """What a restore did: the testbed as it is up now, files compared while it ran, the vault that was replaced.

    `data`: the folder, on the server's host, of the data that were replaced, where checks failed; else they are gone.
    """

    up: UpReport
    compared: int
    kept: Path | None
    data: str | None


def put_back(session: Session, folder: Path, manifest: Manifest, opened: Opened) -> PutBack:
    """Put a backup, which was read and found fit, in place, and bring the testbed up. Raises `TestbedError`."""
    from provision import backup as backups
    from provision import deploy

    compared = 0
    place, kept = backups.bring(session, folder, manifest, opened)

    def compare() -> None:
        nonlocal compared
        compared = backups.compare(session, folder, place)

    up = bring_up(session, prove=True, proven=compare)
    if up.healthy:
        deploy.forget_replaced(session)
    return PutBack(up, compared, kept, None if up.healthy else f"{place['path']}.before")


@main.command()
@spec_option
@vault_option
@click.option(
    "--backup-password-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with the password that the vault had when the backup was made. Default: that of the vault here.",
)
@yes_option
@break_lock_option
@json_option
@verbose_option
@click.argument("backup", metavar="BACKUP")
def restore(
    spec: Path | None,
    vault_password_file: Path | None,
    backup_password_file: Path | None,
    yes: bool,
    break_lock: bool,
    as_json: bool,
    verbose: int,
    backup: str,
) -> None:
    """Put the data and the secrets of BACKUP in place, on the same host or a new one, and bring the testbed up.

    BACKUP is a folder that `backup` wrote, or its name. It is read first: one that is cut off, altered, newer than
    what is here, or another testbed's is refused, and nothing is changed. What is on the server now is kept beside
    until the testbed runs with the backup. Keys and passwords of then work again; those made since do not.

    \b
    Examples:
      testbed restore local-20261122-140000       says what it replaces, and asks
      testbed restore /mnt/backups/lab --yes
      testbed restore lab --backup-password-file old-password      after `down --purge`
    """
    from provision import archive, deploy, reports
    from provision import backup as backups
    from provision.console import stage
    from provision.session import need_root, open_session
    from provision.smoke import STAGE
    from provision.spec_server import in_words

    testbed, console = load(spec), make_console(stderr=as_json)
    backups.refuse_another_server(testbed)
    folder = backups.find(testbed.name, backup).absolute()
    with stage(console, "Read the backup") as current:
        found = archive.read(
            folder,
            lambda done, whole: current.step(f"{backups.size_of(done)} of {backups.size_of(whole)}"),
        )
        archive.refuse_unfit(found, backups.here(testbed))
        current.result = f"{found.files} files, {backups.size_of(found.bytes)}"
    elsewhere = in_words(found.elsewhere)
    console.print(f"Backup of testbed [bold]{testbed.name}[/], made {found.made}. Restoring it:", soft_wrap=True)
    for line in (
        f"replaces all data of the server on {deploy.where(testbed)}; what came since is lost",
        *([f"leaves {elsewhere} as it is; put there what it held at {found.made}, before this"] if elsewhere else []),
        "replaces the secrets: keys and passwords of then work again, and those made since do not",
        "stops the server; running tasks fail, so let them end first",
    ):
        console.print(f"  - {line}", soft_wrap=True, markup=False)
    confirm("Restore it?", yes)
    need_root(testbed)
    with open_session(
        testbed,
        "restore",
        console,
        vault_password_file,
        verbosity=verbose,
        stages=(*backups.RESTORE, *deploy.stages(testbed), STAGE),
        break_lock=break_lock,
    ) as session:
        opened = backups.open_secrets(folder, session.vault, testbed, backup_password_file)
        done = put_back(session, folder, found, opened)
    up, kept = done.up, done.kept
    if done.data:
        console.print(
            f"Checks failed, so the data of before stay on the server's host, in {done.data}. The next command that "
            "changes the testbed removes them: move them away to keep them.",
            soft_wrap=True,
            markup=False,
        )
    if as_json:
        show_json(
            reports.RestoreReport(
                testbed=testbed.name,
                healthy=up.healthy,
                backup=str(folder),
                made=found.made,
                files=found.files,
                compared=done.compared,
                kept=str(kept) if kept else None,
                elsewhere=list(found.elsewhere),
                checks=up.checks,
                log=up.log,
            )
        )
    else:
        show_checks(console, up.checks, up.log)
        console.print(f"Restored {found.files} files of {found.made}.", soft_wrap=True, markup=False)
        if elsewhere:
            console.print(f"Not restored, for it was not in the backup: {elsewhere}.", soft_wrap=True, markup=False)
        if kept:
            console.print(f"The secrets of until now are kept in {kept}", soft_wrap=True, markup=False)
    if not all_well(up.checks):
        raise SystemExit(Exit.FAILED)


@main.command()
@spec_option
@vault_option
@yes_option
@click.option("--server", required=True, metavar="X.Y.Z", help="The version of the official server to go to.")
@click.option(
    "--stores-backed-up",
    is_flag=True,
    help="The stores that `server.stores` has elsewhere were backed up there; needed where there are any.",
)
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the backup. Default: ~/.local/share/testbed/NAME/backups.",
)
@break_lock_option
@json_option
@verbose_option
def upgrade(
    spec: Path | None,
    vault_password_file: Path | None,
    yes: bool,
    server: str,
    stores_backed_up: bool,
    to: Path | None,
    break_lock: bool,
    as_json: bool,
    verbose: int,
) -> None:
    """Take the official server to another version: back up, start the new images, and check the testbed.

    The version must be known to this toolkit, and be one hop away: never an older one, and none that skips a version
    at which stores migrate. Where the new server does not come up well, the backup is restored with the images of
    before, and testbed.yaml has the old version again.

    \b
    Examples:
      testbed upgrade --server 2.4.0              says what it will do, and asks
      testbed upgrade --server 2.4.0 --to /mnt/backups --yes
      testbed upgrade --server 2.4.0 --stores-backed-up      where MongoDB, Elasticsearch or Redis are elsewhere
    """
    from provision import backup as backups
    from provision import deploy, reports, upgrade_begun
    from provision import spec as specs
    from provision import upgrade as upgrades
    from provision.paths import backups_dir
    from provision.session import need_root, open_session
    from provision.smoke import STAGE
    from provision.spec_edit import with_version
    from provision.spec_server import in_words

    console = make_console(stderr=as_json)
    path = spec or Path(specs.DEFAULT_FILE)
    testbed = specs.parse(specs.read(path), str(path))  # not the built-in one: there is a file to change
    backups.refuse_another_server(testbed)
    current = upgrades.check(testbed, server, stores_backed_up=stores_backed_up)
    elsewhere = in_words(testbed.server.stores.elsewhere)
    former = upgrade_begun.find(testbed.name)
    folder = (to or backups_dir(testbed.name)).expanduser().absolute()

    def write(version: str) -> None:
        text = specs.read(path)
        after = with_version(text, str(path), version)
        if after != text:
            specs.replace(path, text, after)

    with_version(specs.read(path), str(path), server)  # before anything is begun
    console.print(f"Upgrade of testbed [bold]{testbed.name}[/] from server {current} to {server}:", soft_wrap=True)
    for line in (
        *(
            [
                f"it was begun before: where {server} has the data already, no other backup is made, and to go back "
                f"loses what came after {upgrades.day_of(former)}"
            ]
            if former
            else []
        ),
        f"fetches the images of {server}, and removes those of {current} in the end",
        f"makes a backup below {folder}, for which the server stops",
        f"starts the images of {server}, which migrate the data, and checks the testbed",
        "goes back to the backup and the images of now where that fails"
        + (f"; what it changed in {elsewhere} stays, and is yours to restore" if elsewhere else ""),
        "tasks that run wait for the server, or fail; let them end first: testbed drain --wait",
    ):
        console.print(f"  - {line}", soft_wrap=True, markup=False)
    confirm("Upgrade it?", yes)
    need_root(testbed)
    with open_session(
        testbed,
        "upgrade",
        console,
        vault_password_file,
        verbosity=verbose,
        stages=("Look at the data", *backups.BACKUP, *deploy.stages(testbed), STAGE),
        break_lock=break_lock,
    ) as session:
        up, made = upgrades.run(session, current, server, folder, write, bring_up)
    if as_json:
        show_json(
            reports.UpgradeReport(
                testbed=testbed.name,
                healthy=up.healthy,
                before=current,
                server=server,
                backup=str(made),
                elsewhere=list(testbed.server.stores.elsewhere),
                checks=up.checks,
                log=up.log,
            )
        )
        return
    show_checks(console, up.checks, up.log)
    console.print(f"The server is {server} now. The backup of {current} is {made}.", soft_wrap=True, markup=False)


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
