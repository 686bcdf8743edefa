"""The command `clearml-lite`."""

import argparse
import getpass
import logging
import os
import sys
from pathlib import Path

from clearml_lite import __version__, accounts, backup
from clearml_lite.check import check
from clearml_lite.config import load
from clearml_lite.errors import ConfigError, DataError


def main() -> int:
    """Runs the command.

    Returns:
        0 when all went well; 1 when data or a backup are not as they should be; 2 when the configuration or an argument
        cannot be used.
    """
    arguments = _parser().parse_args()
    os.umask(0o077)  # all that it writes is its own
    try:
        return int(arguments.run(arguments) or 0)
    except (ConfigError, DataError) as error:
        print(f"clearml-lite: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"clearml-lite: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, EOFError):  # Ctrl-C, or Ctrl-D where a password is asked for
        print(file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clearml-lite", description="An embedded server for the ClearML SDK and agent."
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument("--config", type=Path, required=True, metavar="FILE", help="configuration, YAML")

    def verb(name: str, run: object, explained: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=explained, description=explained, parents=[config])
        added.set_defaults(run=run)
        return added

    verb("serve", _serve, "serve the API, the files and the web pages until SIGTERM")
    made = verb("backup", _backup, "write database and files into one archive, while the server runs")
    made.add_argument("archive", type=Path, metavar="ARCHIVE", help="the file to write (tar); it must not be there yet")
    brought = verb("restore", _restore, "bring an archive back into an empty data folder")
    brought.add_argument("archive", type=Path, metavar="ARCHIVE", help="what clearml-lite backup has written")
    verb("check", _check, "read database and files, and tell what is wrong with them")
    users = verbs.add_parser(
        "user", help="the users of the configuration", description="The users of the configuration."
    )
    actions = users.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, run, explained in (
        ("list", _list_users, "list the users"),
        ("add", _add_user, "add a user; the password is asked for, or read from standard input"),
        ("remove", _remove_user, "remove a user, whose keys end with the next start of the server"),
        ("password", _change_password, "change a password, which is asked for, or read from standard input"),
    ):
        action = actions.add_parser(name, help=explained, description=explained, parents=[config])
        action.set_defaults(run=run)
        if name != "list":
            action.add_argument("username", metavar="USERNAME")
        if name == "add":
            action.add_argument("--name", default="", help="the name that others see (default: the username)")
    return parser


def _serve(arguments: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    config = load(arguments.config)
    from clearml_lite.server import serve  # after the configuration, so that a wrong one is told at once

    serve(config)


def _backup(arguments: argparse.Namespace) -> None:
    written = backup.back_up(load(arguments.config).data_dir, arguments.archive)
    size = arguments.archive.stat().st_size
    print(f"{arguments.archive}: the database and {len(written.hashes) - 1} files, {size} bytes, read again and whole")


def _restore(arguments: argparse.Namespace) -> None:
    config = load(arguments.config)
    restored = backup.restore(arguments.archive, config.data_dir)
    print(f"{config.data_dir}: the database and {len(restored.hashes) - 1} files as of {restored.made}")
    print("Start the server. Keys that were revoked since then work again: revoke them anew.")


def _check(arguments: argparse.Namespace) -> int:
    config = load(arguments.config)
    found = check(config)
    if found.counts:
        print(f"{config.data_dir}: {', '.join(f'{number} {name}' for name, number in found.counts.items())}")
    for problem in found.problems:
        print(f"✗ {problem.what}\n  → {problem.remedy}")
    print(f"{len(found.problems)} problems" if found.problems else "No problem found.")
    return 1 if found.problems else 0


def _list_users(arguments: argparse.Namespace) -> None:
    for user in load(arguments.config).users:
        print(f"{user.username}\t{user.name}")


def _add_user(arguments: argparse.Namespace) -> None:
    accounts.add(arguments.config, arguments.username, arguments.name, _new_password())
    _told(f"{arguments.username} is added")


def _remove_user(arguments: argparse.Namespace) -> None:
    accounts.remove(arguments.config, arguments.username)
    _told(f"{arguments.username} is removed")


def _change_password(arguments: argparse.Namespace) -> None:
    accounts.set_password(arguments.config, arguments.username, _new_password())
    _told(f"{arguments.username} has another password")


def _told(done: str) -> None:
    print(f"{done}. A server that runs goes by it when it is started again.")


def _new_password() -> str:
    """A password that is typed twice, or the first line of standard input."""
    try:
        if not sys.stdin.isatty():
            return sys.stdin.buffer.readline().decode().rstrip("\r\n")
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise ConfigError("the two passwords differ; nothing was changed")
    except UnicodeDecodeError as error:
        raise ConfigError("the password is not UTF-8: type another, or convert it; nothing was changed") from error
    return password
