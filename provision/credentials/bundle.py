"""Bundles: what a user starts with, in one archive that only the user can open.

The archive is a `.tar.gz`, made in memory and encrypted before it is written: to an age or SSH key or a passphrase in
the format of age (https://age-encryption.org/v1), to an OpenPGP key by gpg(1). Both refuse an archive that was altered.
"""

from __future__ import annotations

import gzip
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.errors import InputError

# how names of files with a user's public key end, in a folder of them
KEY_FILES = (".pub", ".age", ".asc", ".gpg", ".txt")
NAMED_BY = 8  # so many characters of its access key are in a bundle's name
_ARMOR = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
_PRIVATE = ("AGE-SECRET-KEY-", "PRIVATE KEY")
_SSH = ("ssh-ed25519", "ssh-rsa")
_REMEDY = (
    "Ask the user for an age key (age1…), the line of an SSH key of type ssh-ed25519 or ssh-rsa, or what "
    "`gpg --armor --export` prints."
)


@dataclass(frozen=True)
class Lock:
    """What a bundle is locked with. `ending`: of its file's name; `key`: what opens it, in words; `command`: how."""

    seal: Callable[[bytes], bytes]
    ending: str
    key: str
    command: str


def for_passphrase(passphrase: str) -> Lock:
    """Return a lock that a passphrase opens."""
    import pyrage

    return Lock(lambda data: bytes(pyrage.passphrase.encrypt(data, passphrase)), "age", "the passphrase", "age -d")


def for_key_file(path: Path) -> Lock:
    """Return a lock that the owner of the public key in a file can open. Raises `InputError`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the public key cannot be read: {error.strerror}", _REMEDY) from None
    return for_key(data, str(path))


def for_key(data: bytes, where: str) -> Lock:
    """Return a lock that the owner of a public key can open: of age or SSH (some of them, a line each), or OpenPGP's.

    Raises `InputError`, which says `where` the key is from and never shows it.
    """
    import pyrage

    text = data.decode("utf-8", errors="replace")
    if any(word in text for word in _PRIVATE) or "PGP PRIVATE" in text:
        raise InputError(
            f"{where}: holds a private key",
            "Take the public one; whoever sent the private one should make a new pair, for others have seen it.",
        )
    if _ARMOR in text or data[:1] >= b"\x80":
        return _for_openpgp(data, where)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise InputError(f"{where}: holds no public key", _REMEDY)
    recipients = [_recipient(line, where) for line in lines]
    kind = "SSH" if lines[0].startswith(_SSH) else "age"
    file = "~/.ssh/id_ed25519" if lines[0].startswith(_SSH[0]) else "~/.ssh/id_rsa" if kind == "SSH" else "KEY"
    return Lock(
        lambda data: bytes(pyrage.encrypt(data, recipients)), "age", f"the user's {kind} key", f"age -d -i {file}"
    )


def for_ssh_keys(lines: Sequence[str], where: str) -> Lock | None:
    """Return a lock that the owner of SSH keys can open, with those of `lines` that can do it; None: none can."""
    able = [line for line in lines if line.startswith(_SSH)]
    return for_key("\n".join(able).encode(), where) if able else None


def _recipient(line: str, where: str) -> Any:
    import pyrage

    try:
        if line.startswith("age1"):
            return pyrage.x25519.Recipient.from_str(line)
        if line.startswith(_SSH):
            return pyrage.ssh.Recipient.from_str(line)
    except pyrage.RecipientError:
        raise InputError(f"{where}: holds a public key that is cut off, mistyped or too short", _REMEDY) from None
    raise InputError(f"{where}: holds no public key that a bundle can be encrypted to", _REMEDY)


def _for_openpgp(data: bytes, where: str) -> Lock:
    if shutil.which("gpg") is None:
        raise InputError(f"{where}: is an OpenPGP key, and gpg is not installed here", "Install gnupg, or take age.")
    with tempfile.TemporaryDirectory() as home:
        shown = _gpg(Path(home), "--with-colons", "--import-options", "show-only", "--import", given=data)
    keys = [line.split(":") for line in shown.stdout.decode(errors="replace").splitlines() if line.startswith("pub:")]
    if len(keys) != 1:
        found = "holds no OpenPGP key that gpg can read" if not keys else f"holds {len(keys)} OpenPGP keys"
        raise InputError(f"{where}: {found}", "Give what `gpg --armor --export ADDRESS` prints, of one key.")
    [key] = keys
    if key[1] in "er" or "E" not in key[11]:  # in gpg's list of what the key as a whole can do
        what = {"e": "has expired", "r": "is revoked"}.get(key[1], "cannot be encrypted to")
        raise InputError(f"{where}: the OpenPGP key {key[4]} {what}", "Ask the user for one that is in use.")

    def seal(plain: bytes) -> bytes:
        with tempfile.TemporaryDirectory() as home:  # holds the public key alone; no keyring of anybody's is asked
            file = Path(home, "recipient")
            file.write_bytes(data)
            to = ("--trust-model", "always", "--recipient-file", str(file))
            done = _gpg(Path(home), *to, "--compress-algo", "none", "--output", "-", "--encrypt", given=plain)
        if done.returncode or not done.stdout:
            said = done.stderr.decode(errors="replace").strip()
            raise InputError(f"{where}: gpg does not encrypt to it: {said}", _REMEDY)
        return done.stdout

    return Lock(seal, "gpg", f"the user's OpenPGP key {key[4]}", "gpg -d")


def _gpg(home: Path, *words: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
    # no options, keys or agent of whoever runs this; the plain text goes through a pipe
    alone = ["gpg", "--homedir", str(home), "--no-options", "--batch", "--no-tty", "--quiet", "--no-autostart"]
    return subprocess.run([*alone, *words], input=given, capture_output=True, check=False)


def file_name(user: str, purpose: str, access_key: str, ending: str) -> str:
    """Return the name of the bundle with a key; it has the beginning of the access key, by which it is told again."""
    begins = re.sub(r"[^A-Za-z0-9]", "_", access_key)[:NAMED_BY]
    return f"clearml-{user}-{purpose}-{begins}.tar.gz.{ending}"


def find(folder: Path, user: str, purpose: str, access_key: str) -> list[Path]:
    """Return the bundles with a key that are in `folder`."""
    return [path for end in ("age", "gpg") if (path := folder / file_name(user, purpose, access_key, end)).exists()]


def pack(folder: str, files: Mapping[str, str]) -> bytes:
    """Return `files`, texts by name, as a .tar.gz; they are in `folder` there, each for its owner only."""
    archive = io.BytesIO()
    with gzip.GzipFile(fileobj=archive, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(entry)
        for name, text in files.items():
            data = text.encode()
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode = len(data), 0o600
            tar.addfile(entry, io.BytesIO(data))
    return archive.getvalue()
