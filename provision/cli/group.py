"""The command itself: what all verbs share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from provision.errors import TestbedError

if TYPE_CHECKING:
    from rich.console import Console

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


def make_console(stderr: bool = False) -> Console:
    from rich.console import Console

    # the stream of now: while checks run, pytest has others in its place
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, width=None if stream.isatty() else WIDTH_OF_A_LOG)


def load(spec: Path | None) -> Testbed:
    from provision import spec as specs

    return specs.load(spec)


def confirm(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise TestbedError("there is no terminal to ask on, so nothing was changed", "Say --yes to go ahead.")
    if not click.confirm(question):
        click.echo("Nothing was changed.")
        raise SystemExit(EXIT_ABORTED)
