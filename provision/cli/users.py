"""The verbs of many users: onboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli.credentials import at_work, expires_option, purpose_option
from provision.cli.group import json_option, load, main, make_console, spec_option, vault_option
from provision.cli.output import show_json
from provision.cli.paper import Bundle, Paper
from provision.errors import InputError

if TYPE_CHECKING:
    from provision.credentials.labels import Label
    from provision.credentials.onboarding import Outlet, Person


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("class"),
    show_default=True,
    help="Folder for the clearml.conf files or bundles, and the summary; only you can read it.",
)
@click.option("--bundle", is_flag=True, help="Write a bundle for each, which only that user can open.")
@click.option(
    "--keys",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="With --bundle: folder of public keys, NAME.pub, .asc, .gpg, .age or .txt, for rows without one.",
)
@purpose_option
@expires_option
@spec_option
@vault_option
@json_option
def onboard(
    file: Path,
    out: Path,
    bundle: bool,
    keys: Path | None,
    purpose: str,
    expires: str,
    spec: Path | None,
    vault_password_file: Path | None,
    as_json: bool,
) -> None:
    """Issue keys for a whole class: for everybody in FILE, a CSV, a clearml.conf in one folder.

    The first line of FILE has the columns: `name`, and `full_name`, `purpose`, `expires` where they are wanted. All in
    it must be `users` of testbed.yaml. Run it again after it was stopped or killed, or with more people in FILE: who
    has a key for the purpose keeps it. `summary.csv` in the folder says who has which, and holds no secret.

    With --bundle each gets an archive instead, encrypted to the public key in the column `public_key`, else in a file
    of --keys, else to the user's ssh_keys in testbed.yaml: it may go by mail.

    \b
    Examples:
      testbed onboard class.csv
      testbed onboard class.csv --out ./autumn --purpose workshop --expires 2027-02-01
      testbed onboard class.csv --bundle --keys ./public-keys
    """
    from provision import reports
    from provision.credentials import onboarding
    from provision.paths import make_private

    testbed, console = load(spec), make_console(stderr=as_json)
    if keys and not bundle:
        raise click.UsageError("--keys goes with --bundle")
    if keys and not keys.is_dir():
        raise InputError(f"{keys}: is no folder", "--keys names the folder with the users' public keys.")
    people = onboarding.read(file, testbed, purpose, expires, bundles=bundle, keys=keys)
    folder = out.absolute()
    with at_work(testbed, "onboard", console, vault_password_file) as (session, found, secrets):
        make_private(folder)
        ca_file = None if bundle else Paper(session.testbed, secrets, folder / onboarding.SHEET).ca_file

        def outlet(person: Person, label: Label) -> Outlet:
            if person.lock is not None:
                return Bundle(session, secrets, folder, label, person.lock)
            return Paper(session.testbed, secrets, folder / person.conf)

        with session.stage(f"Issue keys for {len(people)} users") as stage:
            done = onboarding.onboard(
                found,
                testbed.name,
                people,
                folder,
                outlet,
                lambda count: stage.step(f"{count} of {len(people)}"),
            )
            counts = {state: sum(each.state == state for each in done) for state in ("issued", "there", "elsewhere")}
            stage.result = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        onboarding.write_sheet(folder / onboarding.SHEET, done)
    report = reports.OnboardReport(
        testbed=testbed.name,
        sheet=str(folder / onboarding.SHEET),
        ca_file=str(ca_file) if ca_file else None,
        users=done,
    )
    if as_json:
        show_json(report)
        return
    console.print(f"Who has which key: {report.sheet}", soft_wrap=True, markup=False)
    if counts["elsewhere"]:
        names = ", ".join(each.name for each in done if each.state == "elsewhere")
        console.print(f"The files of {names} are not in this folder: whoever issued them has them.", soft_wrap=True)
