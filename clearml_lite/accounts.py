"""The users of a configuration file, changed in it; all else in the file stays as it is written."""

import base64
import os
import tempfile
from pathlib import Path
from typing import Any

import bcrypt
import yaml

from clearml_lite.config import FixedUser, load
from clearml_lite.errors import ConfigError

SHORTEST_PASSWORD = 8
LONGEST_PASSWORD = 72  # bytes; bcrypt reads no further


def password_hash(password: str) -> str:
    """What the file holds of a password.

    Raises:
        ConfigError: it is too short or too long.
    """
    encoded = password.encode()
    if len(password) < SHORTEST_PASSWORD or len(encoded) > LONGEST_PASSWORD or "\0" in password:
        raise ConfigError(f"a password has from {SHORTEST_PASSWORD} characters to {LONGEST_PASSWORD} bytes")
    return base64.b64encode(bcrypt.hashpw(encoded, bcrypt.gensalt())).decode()


def add(path: Path, username: str, name: str, password: str) -> None:
    """Adds a user to the file.

    Raises:
        ConfigError: the file cannot be used or written, the user is there, or the password cannot be taken.
    """
    users = load(path).users
    if not username.strip() or username != username.strip() or ":" in username:
        raise ConfigError(f"{username!r} is no username: it has a character that is no blank, and no colon")
    if username in (user.username for user in users):
        raise ConfigError(
            f"{path}: there is a user {username!r} already: clearml-lite user password changes the password"
        )
    _save(path, (*users, FixedUser(username, name or username, password_hash(password))))


def remove(path: Path, username: str) -> None:
    """Takes a user out of the file.

    Raises:
        ConfigError: the file cannot be used or written, or there is no such user.
    """
    users = load(path).users
    _require(path, users, username)
    _save(path, tuple(user for user in users if user.username != username))


def set_password(path: Path, username: str, password: str) -> None:
    """Gives a user of the file another password.

    Raises:
        ConfigError: the file cannot be used or written, there is no such user, or the password cannot be taken.
    """
    users = load(path).users
    _require(path, users, username)
    hashed = password_hash(password)
    changed = (FixedUser(user.username, user.name, hashed) if user.username == username else user for user in users)
    _save(path, tuple(changed))


def _require(path: Path, users: tuple[FixedUser, ...], username: str) -> None:
    if username not in (user.username for user in users):
        known = ", ".join(user.username for user in users) or "nobody"
        raise ConfigError(f"{path}: there is no user {username!r}; there are: {known}")


def _save(path: Path, users: tuple[FixedUser, ...]) -> None:
    entries = [{"username": user.username, "name": user.name, "password_hash": user.password_hash} for user in users]
    try:
        _replace(path, _with_users(path.read_text(encoding="utf-8"), entries))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _with_users(text: str, entries: list[dict[str, str]]) -> str:
    """The text of a configuration with another list of users."""
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    key, value = next(pair for pair in root.value if pair[0].value == "users")
    if root.flow_style:  # all of it in braces
        written = yaml.safe_dump({"users": entries}, default_flow_style=True, width=10**6, allow_unicode=True).strip()[
            1:-1
        ]
        return text[: key.start_mark.index] + written + text[value.end_mark.index :]
    written = yaml.safe_dump({"users": entries}, sort_keys=False, allow_unicode=True)
    rest = text[_end(value) :].partition("\n")[2]
    return text[: key.start_mark.index] + written + rest


def _end(node: Any) -> int:
    """Where a value ends; a block says that it ends where the next one begins, after the comments between."""
    if node.value and isinstance(node.value, list) and not node.flow_style:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _replace(path: Path, text: str) -> None:
    """Writes a file in one step, with the owner and the mode that it had."""
    path = path.resolve()
    before = path.stat()
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if os.geteuid() == 0:
                os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fchmod(descriptor, before.st_mode & 0o777)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        load(Path(temporary))
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
