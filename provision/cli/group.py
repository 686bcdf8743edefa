"""The command itself: what all verbs share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from provision import stopping
from provision.cli import streams
from provision.errors import DeclinedError, Exit, SecretsError, TestbedError

if TYPE_CHECKING:
    from rich.console import Console

    from provision.spec import Testbed

# What takes long to import is imported by the verb that needs it, so that `--help` and `version` answer at once.

# Without a terminal nothing is wrapped: a script reads whole lines.
WIDTH_OF_A_LOG = 10_000
# keys of click's `context.meta`
AS_JSON, DEBUG, PASSPHRASE = "provision.json", "provision.debug", "provision.passphrase"
PASSPHRASE_VARIABLE = "TESTBED_PASSPHRASE"  # noqa: S105 (the name of a variable)


def _note_debug(context: click.Context, _parameter: click.Parameter, given: bool) -> None:
    context.meta[DEBUG] = given or context.meta.get(DEBUG, False)


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_note_debug,
    help="Show a traceback, too, when something goes wrong.",
)


class Verb(click.Command):
    """A verb; takes --debug, as the command itself does."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not self.context_settings.get("ignore_unknown_options"):  # else all options are somebody else's
            debug_option(self)


class Verbs(click.Group):
    """A group of verbs."""

    command_class = Verb
    group_class = type


class _Main(Verbs):
    """Prints an error as one message and its remedy, and as JSON for scripts; a traceback only under --debug."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        if sys.stdout is sys.__stdout__:  # not while a test has put another in its place
            streams.prepare()
        return super().main(*arguments, **options)

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        context.meta[AS_JSON] = "--json" in arguments  # also where the rest of the line is wrong
        return super().parse_args(context, arguments)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except click.UsageError as error:
            if context.meta[AS_JSON]:
                _print_json(error.format_message(), "", error.exit_code)
            raise
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except TestbedError as error:
            _fail(context, error.message, error.remedy, error.exit_code)
        except (OSError, subprocess.CalledProcessError) as error:
            _fail(context, str(error), "Mend that (space, owner, mode) and run the same command again.", Exit.FAILED)
        except KeyboardInterrupt:
            click.echo(err=True)  # the terminal shows ^C
            again = "Run the same command again to go on."
            _fail(context, f"stopped {stopping.reason()}", again, stopping.exit_code())
        except Exception as error:
            what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            _fail(
                context, f"a mistake in testbed itself: {what}", "--debug shows where; please report it.", Exit.FAILED
            )


def _fail(context: click.Context, message: str, remedy: str, code: int) -> None:
    if context.meta.get(DEBUG):
        click.echo(traceback.format_exc(), err=True, nl=False)
    click.echo(f"testbed: {message}", err=True)
    if remedy:
        click.echo(f"  {remedy}", err=True)
    if context.meta[AS_JSON]:
        _print_json(message, remedy, code)
    context.exit(code)


def _print_json(message: str, remedy: str, code: int) -> None:
    # spelt out here, for `provision.reports` takes long to import; a test compares the two
    click.echo(json.dumps({"error": {"message": message, "remedy": remedy, "exit_code": int(code)}}, indent=2))


def _exit_codes() -> str:
    return "\n".join(["\b", "Exit codes:", *(f"  {code:<5}{code.meaning.replace('`', '')}" for code in Exit)])


@click.group(
    cls=_Main,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=_exit_codes(),
)
@debug_option
@click.pass_context
def main(context: click.Context) -> None:
    """Bring up a ClearML testbed from one file, hand out credentials, and prove that it works.

    \b
    A first testbed on this machine:   testbed up
    One of your own:                   testbed init, edit testbed.yaml, testbed up
    How it is:                         testbed status
    For a script:                      testbed status --json
    """
    stopping.listen()
    os.umask(0o077)  # nothing that the toolkit writes is for others to read
    os.environ["LC_ALL"] = "C.UTF-8"  # there on every machine; programs refuse a locale that is not
    context.meta[PASSPHRASE] = os.environ.pop(PASSPHRASE_VARIABLE, None)  # no child process inherits it
    # Ansible's and the linters' programs are beside this Python
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


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
check_option = click.option("--check", is_flag=True, help="Only list what would change; change nothing.")
verbose_option = click.option("-v", "--verbose", count=True, help="More of Ansible's words in the log; up to -vvv.")
passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"File with the passphrase of the exported file. Default: {PASSPHRASE_VARIABLE}, else it is asked for.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout, for scripts; progress is on stderr."
)


parallel_option = click.option(
    "--parallel",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="With provider openstack: so many calls of the cloud at a time.",
)
break_lock_option = click.option(
    "--break-lock", is_flag=True, help="Go ahead although another administrator's command works on the testbed."
)


def make_console(stderr: bool = False) -> Console:
    from provision.console import PeopleConsole

    # the stream of now: while checks run, pytest has others in its place
    stream = sys.stderr if stderr else sys.stdout
    return PeopleConsole(file=stream, highlight=False, width=None if stream.isatty() else WIDTH_OF_A_LOG)


def load(spec: Path | None) -> Testbed:
    from provision import spec as specs

    testbed = specs.load(spec)
    if testbed.server.ca_file is not None:
        from provision import forward

        forward.trust(testbed.name, specs.certificates(testbed.server.ca_file, "server.ca_file"))
    return testbed


def read_passphrase(file: Path | None, *, twice: bool) -> str:
    """Return the passphrase of an encrypted file: of `file`, else of the environment, else asked for.

    Raises `SecretsError`.
    """
    given: str | None = click.get_current_context().meta[PASSPHRASE]
    if file is not None:
        try:
            given = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SecretsError(f"{file}: the passphrase cannot be read: {error}", "Name a text file.") from None
    if given is None:
        if not sys.stdin.isatty():
            raise SecretsError(
                "there is no terminal to ask for the passphrase on",
                f"Give it with --passphrase-file or {PASSPHRASE_VARIABLE}.",
            )
        asked: str = click.prompt("Passphrase of the file", hide_input=True, confirmation_prompt=twice, err=True)
        given = asked
    return given.strip()  # as ansible-vault does


def confirm_by_name(what: str, name: str, yes: bool) -> None:
    """Have `name` typed on the terminal, unless `yes`. Raises `DeclinedError`."""
    if not yes and sys.stdin.isatty():
        try:
            typed = click.prompt(f"{what} Type {name} to go ahead", default="", show_default=False, err=True)
        except click.Abort:
            click.echo(err=True)
            typed = ""
        if typed != name:
            raise DeclinedError(f"that was not {name}, so nothing was changed")
        return
    confirm(what, yes)


def confirm(question: str, yes: bool) -> None:
    """Ask on the terminal, unless `yes`. Raises `DeclinedError`."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise DeclinedError("there is no terminal to ask on, so nothing was changed", "Say --yes to go ahead.")
    try:
        agreed = click.confirm(question, err=True)  # stdout may be somebody's JSON
    except click.Abort:  # Ctrl-C and Ctrl-D are an answer, too
        click.echo(err=True)
        agreed = False
    if not agreed:
        raise DeclinedError("you did not agree, so nothing was changed")
