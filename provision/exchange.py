"""A testbed's secrets in one encrypted file: for a second administrator, or as a backup.

The file is an Ansible Vault of its own with a passphrase of its own, so that `ansible-vault view` opens it, too. The
password of the administrator's own vault is not in it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import ValidationError

from provision.errors import SecretsError
from provision.paths import write_atomic
from provision.secrets import Secret, Secrets, Vault, decrypt, encrypt, plain

SHORTEST_PASSPHRASE = 12


class Exported(Secret):
    """What the file holds; `exported` is a time in ISO 8601, UTC."""

    testbed: str
    exported: str
    secrets: Secrets


@dataclass(frozen=True)
class Imported:
    """What an import did with the vault, and where the one that it replaced is kept."""

    result: Literal["new", "same", "replaced"]
    kept: Path | None = None


def refuse_weak(passphrase: str) -> None:
    """Raise `SecretsError` for a passphrase that is too short to protect a file that travels."""
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise SecretsError(
            f"the passphrase has {len(passphrase)} characters; it must have at least {SHORTEST_PASSPHRASE}",
            "Take a longer one, such as five random words; give it to your colleague by another way than the file.",
        )


def write(path: Path, testbed: str, secrets: Secrets, passphrase: str) -> None:
    """Write `secrets` to `path` (0600), atomically. Raises `SecretsError`."""
    refuse_weak(passphrase)
    if secrets.changing:
        raise SecretsError(
            f"a {secrets.changing} of the testbed was begun and has not ended, so its secrets are still changing",
            "Let `testbed up` complete it, then export.",
        )
    if not secrets.id:  # else each administrator's `up` would give them another one
        raise SecretsError("these secrets were made by an earlier version", "Run `testbed up` once, then export.")
    found = {
        "testbed": testbed,
        "exported": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "secrets": plain(secrets),
    }
    data = encrypt(yaml.safe_dump(found, sort_keys=False), passphrase.encode())
    try:
        write_atomic(path, data)
    except OSError as error:
        raise SecretsError(
            f"{path}: cannot be written: {error.strerror}", "Name a file in a folder that you may write to."
        ) from None


def read(path: Path, testbed: str, passphrase: str) -> Exported:
    """Return what is in `path`. Raises `SecretsError` where it is damaged, or of another testbed than `testbed`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SecretsError(f"{path}: cannot be read: {error.strerror}", "Name a file of `secrets export`.") from None
    if not data.startswith(b"$ANSIBLE_VAULT;"):
        raise SecretsError(f"{path}: is no file of `secrets export`", "Ask for a new one.")
    found = decrypt(data, passphrase.encode())
    if found is None:
        raise SecretsError(
            f"{path}: the passphrase does not open it, or the file is damaged",
            "Try the passphrase again; if it is right, ask for a new file.",
        )
    try:
        exported = Exported.model_validate(found)
    except ValidationError:
        raise SecretsError(
            f"{path}: holds no secrets of a testbed, or those of another version", "Ask for a new file."
        ) from None
    if exported.testbed != testbed:
        raise SecretsError(
            f"{path}: holds the secrets of testbed {exported.testbed}, and this is testbed {testbed}",
            f"Name the spec of testbed {exported.testbed} with --spec.",
        )
    return exported


def take(vault: Vault, secrets: Secrets, *, replace: bool) -> Imported:
    """Put imported `secrets` into `vault`; with `replace`, others that are there are kept beside it.

    Raises `SecretsError` where there are others and `replace` is not said.
    """
    try:
        here = vault.load()
    except SecretsError as error:
        what, kind = f"there is a vault that cannot be opened ({error.message})", "unreadable"
    else:
        if here is None:
            vault.save(secrets)
            return Imported("new")
        if here == secrets:
            return Imported("same")
        what, kind = f"there are other secrets of this testbed already (id {here.id})", "replaced"
    if not replace:
        raise SecretsError(
            f"{vault.path}: {what}",
            "Nothing was changed. Take those of the file with --replace: the vault is kept beside under another name.",
        )
    vault.check_password()
    kept = vault.move_aside(kind)
    vault.save(secrets)
    return Imported("replaced", kept)
