"""The verb that checks a clearml.conf: credentials verify."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli.credentials import at_work, credentials
from provision.cli.group import json_option, load, make_console, spec_option, vault_option
from provision.cli.output import printable, show_json
from provision.errors import Exit, InputError

if TYPE_CHECKING:
    from rich.console import Console
    from testinfra.host import Host

    from provision.credentials.verify import Way
    from provision.reports import ConfCheck, VerifiedConf, VerifyReport

CONF_VARIABLE = "CLEARML_CONFIG_FILE"  # the SDK's


@credentials.command("verify")
@click.argument("what", metavar="[FILE|USER]", required=False)
@spec_option
@vault_option
@json_option
def verify(what: str | None, spec: Path | None, vault_password_file: Path | None, as_json: bool) -> None:
    """Check that a clearml.conf works: FILE, or what USER has on the testbed's hosts; else ~/clearml.conf.

    It checks what `clearml-init` does, and more: mode, settings, every URL, certificates, login, clock, a file that is
    uploaded and read back, and the SDK of the python3 on PATH; each failure with what to do. FILE may be of any ClearML
    server, and needs no testbed. What has a slash, ends in .conf or is a file here is a FILE.

    Exit code 0 only if no check failed.

    \b
    Examples:
      testbed credentials verify                            ~/clearml.conf, as the SDK finds it
      testbed credentials verify clearml-ada-laptop.conf
      testbed credentials verify ada --json
    """
    from provision import reports

    console = make_console(stderr=as_json)
    if what is None or "/" in what or what.endswith(".conf") or Path(what).is_file():
        path = Path(what or os.environ.get(CONF_VARIABLE) or "~/clearml.conf")
        try:
            path = path.expanduser()
        except RuntimeError:
            raise InputError(f"{path}: there is no such home", "Name a clearml.conf by its whole path.") from None
        confs = [_of_file(path)]
    else:
        confs = _of_user(what, spec, vault_password_file, console)
    healthy = all(check.result != "failed" for conf in confs for check in conf.checks)
    report = reports.VerifyReport(healthy=healthy, confs=confs)
    if as_json:
        show_json(report)
    else:
        _show(make_console(), report)
    if not healthy:
        raise SystemExit(Exit.FAILED)


def _of_file(path: Path) -> VerifiedConf:
    from provision import reports
    from provision.credentials import verify as verifying

    try:
        checks = [*verifying.check_file(path)]
        conf = verifying.read(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}", "Name a clearml.conf, or a user of the testbed.") from None
    try:
        way = verifying.direct(conf)
    except OSError:  # no file, or one without certificates
        way = None
    checks += [*verifying.check(conf, way), verifying.check_sdk(conf, path, _python())]
    return reports.VerifiedConf(file=str(path), host=None, checks=checks)


def _python() -> str | None:
    """Return the python3 that is on PATH for the person: the command itself has put its own before it."""
    own = str(Path(sys.executable).parent)
    path = [folder for folder in os.environ.get("PATH", os.defpath).split(os.pathsep) if folder != own]
    environment = os.environ.get("VIRTUAL_ENV")
    return shutil.which("python3", path=os.pathsep.join([f"{environment}/bin", *path] if environment else path))


def _of_user(user: str, spec: Path | None, vault_password_file: Path | None, console: Console) -> list[VerifiedConf]:
    from provision import forward, inventory, reports
    from provision.credentials import verify as verifying
    from provision.hosts import connect

    testbed, confs = load(spec), []
    with at_work(testbed, "credentials-verify", console, vault_password_file, changes=False) as (session, keys, _):
        keys.user_named(user)
        way = verifying.Way(forward.connect, lambda: forward.client(timeout=verifying.TIMEOUT_S), forward.trusted())
        for name in inventory.hosts(session.inventory, "clients"):
            with session.stage(f"Check the clearml.conf on {name}") as current:
                checks = _on_host(connect(session.inventory_file, name), user, way)
                current.result = f"{len(checks)} checks"
            confs.append(reports.VerifiedConf(file=f"~{user}/clearml.conf", host=name, checks=checks))
    return confs


def _on_host(host: Host, user: str, way: Way) -> list[ConfCheck]:
    """Return the checks of the user's clearml.conf on a host. Nothing that is the user's runs there."""
    from provision import reports
    from provision.credentials import verify as verifying

    # no link or pipe, which a user may put there
    held = host.run("find ~%s/clearml.conf -maxdepth 0 -type f -size -64k -exec cat {} +", user).stdout
    if not held:
        return [reports.ConfCheck(name="file", result="failed", message="it is not there", remedy="testbed up")]
    conf = verifying.read(held)
    checks = [*verifying.check(conf, way)]
    listed = host.run("ls -d ~%s/clearml-venv/lib/python3.*/site-packages/clearml-[0-9]*.dist-info", user).stdout
    for folder in listed.split()[:1]:
        version = folder.rpartition("/clearml-")[2].removesuffix(".dist-info")
        checks.append(verifying.judge_sdk(conf, {"version": version}))
    return checks


def _show(console: Console, report: VerifyReport) -> None:
    from rich.markup import escape

    marks = {"passed": "[green]✓[/]", "failed": "[bold red]✗[/]", "skipped": "-"}
    for conf in report.confs:
        console.print(f"{conf.file} on {conf.host}" if conf.host else conf.file, markup=False, soft_wrap=True)
        for check in conf.checks:
            console.print(f"  {marks[check.result]} {check.name}: {escape(printable(check.message))}", soft_wrap=True)
            if check.remedy:
                console.print(f"      {escape(check.remedy)}", soft_wrap=True)
    failed = sum(check.result == "failed" for conf in report.confs for check in conf.checks)
    console.print(f"{failed} checks failed." if failed else "It works.")
