"""The verbs: parse, call, print."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from provision import __version__
from provision.errors import TestbedError

if TYPE_CHECKING:
    from rich.console import Console

    from provision.smoke.plugin import Check
    from provision.spec import Testbed

# What takes long to import is imported by the verb that needs it, so that `--help` and `version` answer at once.

EXIT_UNHEALTHY = 1
EXIT_ABORTED = 3
WIDTH_OF_A_LOG = 160


class _Group(click.Group):
    """Prints a `TestbedError` as one message and its remedy; a traceback only under --debug."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except TestbedError as error:
            if context.params.get("debug"):
                raise
            click.echo(f"testbed: {error.message}", err=True)
            if error.remedy:
                click.echo(f"  {error.remedy}", err=True)
            context.exit(error.exit_code)
        except (OSError, subprocess.CalledProcessError) as error:
            if context.params.get("debug"):
                raise
            click.echo(f"testbed: {error}", err=True)
            click.echo("  Mend that (space, owner, mode) and run the same command again; --debug shows more.", err=True)
            context.exit(EXIT_UNHEALTHY)
        except KeyboardInterrupt:
            click.echo("\ntestbed: stopped; run the same command again to go on", err=True)
            context.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
def main(debug: bool) -> None:
    """Bring up a ClearML testbed from one file, hand out credentials, and prove that it works.

    \b
    A first testbed on this machine:   testbed up
    One of your own:                   testbed init, edit testbed.yaml, testbed up
    """
    os.umask(0o077)  # nothing that the toolkit writes is for others to read
    # Ansible's and the linters' programs are beside this Python
    os.environ["LC_ALL"] = "C.UTF-8"  # there on every machine; programs refuse a locale that is not
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    del debug  # read by _Group


spec_option = click.option(
    "--spec",
    type=click.Path(path_type=Path),
    help="The testbed's file. Default: testbed.yaml here, else the built-in testbed on this machine.",
)
vault_option = click.option(
    "--vault-password-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="File with the password of the testbed's vault. Default: TESTBED_VAULT_PASSWORD, else a generated file.",
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    # the stream of now: while checks run, pytest has others in its place
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else WIDTH_OF_A_LOG)


def _load(spec: Path | None) -> Testbed:
    from provision import spec as specs

    return specs.load(spec)


def _confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise TestbedError("there is no terminal to ask on, so nothing was changed", "Say --yes to go ahead.")
    if not click.confirm(question):
        click.echo("Nothing was changed.")
        raise SystemExit(EXIT_ABORTED)


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

    testbed, console = _load(spec), _console()
    console.print(f"Testbed [bold]{testbed.name}[/] on this machine:")
    for line in deploy.describe(testbed):
        console.print(f"  - {line}", soft_wrap=True, markup=False)
    _confirm("Go ahead?", yes)
    need_root()
    with open_session(testbed, "up", console, vault_password_file) as session:
        wanted = testbed.model_dump_json()
        proven = session.proven.exists() and session.proven.read_text(encoding="utf-8") == wanted
        session.proven.unlink(missing_ok=True)  # until the checks at the end: a run that is killed has proven nothing
        outcome = deploy.up(session)
        checks = _check(session, "quick" if proven and not (outcome.changed or outcome.issued or prove) else "full")
        _show_checks(console, checks, session.log)
        if any(check.result == "failed" for check in checks):
            raise SystemExit(EXIT_UNHEALTHY)
        session.proven.write_text(wanted, encoding="utf-8")
        _show_where(console, testbed, session.log)


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

    testbed = _load(spec)
    need_root()
    console = _console(stderr=as_json)
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
            _show_checks(console, checks, session.log)
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

    testbed = _load(spec)
    need_root()
    console = _console()
    with open_session(testbed, "status", console, vault_password_file, changes=False) as session:
        found = states.collect(session)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _show_status(console, found)
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

    testbed, console = _load(spec), _console()
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
    _confirm("Remove it?", yes)
    need_root()
    with open_session(testbed, "down", console, vault_password_file) as session:
        deploy.down(session, purge=purge)
    if purge:
        shutil.rmtree(config_dir(testbed.name), ignore_errors=True)
        shutil.rmtree(state_dir(testbed.name))
    console.print("Removed." if purge else "Removed. `testbed up` brings it back with its data.")


@main.command()
@click.option(
    "--spec",
    type=click.Path(path_type=Path),
    default=Path("testbed.yaml"),
    show_default=True,
    help="The file to write.",
)
def init(spec: Path) -> None:
    """Write a commented testbed.yaml."""
    from provision import spec as specs

    specs.write_example(spec)
    click.echo(f"Wrote {spec}. Edit it, then: testbed up" + ("" if spec == Path("testbed.yaml") else f" --spec {spec}"))


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("pytest_arguments", nargs=-1, type=click.UNPROCESSED)
def test(pytest_arguments: tuple[str, ...]) -> None:
    """Run the project's own tests: lint, types, unit and integration tests, and the checks of this machine's testbed.

    Arguments go to pytest and choose its tests, such as `testbed test tests/unit -k spec`.
    """
    from provision import selftest

    raise SystemExit(selftest.run(list(pytest_arguments)))


@main.command()
def version() -> None:
    """Print the toolkit's version."""
    click.echo(f"testbed {__version__}")


def _check(session: Any, level: Any) -> list[Check]:
    from provision.smoke.run import run

    return run(session, level)


def _show_checks(console: Console, checks: list[Check], log: Path) -> None:
    from provision.smoke.run import table

    console.print()
    console.print(table(checks))
    for check in checks:
        if check.result == "failed":
            console.print(f"\n[bold red]✗ {check.name}[/]")
            console.print(check.message, markup=False)
    failed = sum(check.result == "failed" for check in checks)
    console.print(f"\n{len(checks) - failed} of {len(checks)} checks passed. Log: {log}", soft_wrap=True)


def _show_where(console: Console, testbed: Testbed, log: Path) -> None:
    console.print(f"\nTestbed [bold]{testbed.name}[/] is up.")
    for name, what in (("web", "Web"), ("api", "API"), ("files", "Files")):
        console.print(f"  {what:<10} {testbed.server.url(name)}", soft_wrap=True, markup=False)  # type: ignore[arg-type]
    console.print(f"  {'InfluxDB':<10} {testbed.telemetry.url}", soft_wrap=True, markup=False)
    for user in testbed.users:
        console.print(
            f"  {'User':<10} {user.name}: ~{user.name}/clearml.conf, ~{user.name}/clearml-venv",
            soft_wrap=True,
            markup=False,
        )
    console.print("Next: testbed status, testbed smoke, testbed down")


def _show_status(console: Console, found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from provision.status import age

    def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
        table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
        console.print()

    show(
        "Services",
        ["Host", "Service", "State"],
        [[s["host"], s["name"], "running" if s["running"] else "stopped"] for s in found["services"]],
    )
    show(
        "Versions",
        ["Program", "Version"],
        [[name, version or "not installed"] for name, version in found["versions"].items()],
    )
    show(
        "Workers",
        ["Worker", "Queues", "Task", "Last report"],
        [[w["name"], ", ".join(w["queues"]), w["task"] or "idle", age(w["last_report"])] for w in found["workers"]],
    )
    show("Queues", ["Queue", "Waiting"], [[queue["name"], str(queue["waiting"])] for queue in found["queues"]])
    show(
        "Disk",
        ["Host", "Path", "Free"],
        [[d["host"], d["path"], f"{d['free'] / 1e9:.0f} of {d['size'] / 1e9:.0f} GB"] for d in found["disk"]],
    )
    for problem in found["problems"]:
        console.print(f"[bold red]✗[/] {escape(problem)}")
    if found["healthy"]:
        console.print("[green]✓[/] All is well.")
