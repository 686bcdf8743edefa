"""A backup as a folder of files: what is in it, whether it is whole, and whether it can be restored here.

manifest.json   what it is a backup of: names, versions, sizes
data.tar        the server's data, and the checksum of each file at its end
files.sha256    the same checksums
secrets.yml     the vault as it is; its password is not in the backup
keys.yml        the keys that the hosts hold, encrypted with the same password
testbed.yaml    what was wanted of the testbed
SHA256SUMS      checksums of these files, for `sha256sum --check`, too
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from provision.errors import TestbedError
from provision.paths import make_private, write_atomic
from provision.spec_server import in_words
from provision.volume_on_host import CHUNK, SUMS, Hashing, line_of, read_line

FORMAT = 2
MANIFEST, DATA, FILES = "manifest.json", "data.tar", "files.sha256"
SECRETS, KEYS, SPEC = "secrets.yml", "keys.yml", "testbed.yaml"
PARTS = (MANIFEST, DATA, FILES, SECRETS, KEYS, SPEC)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
PARTIAL = ".partial"
ANOTHER = "Take another backup; nothing was changed."
# bytes done and bytes in all
Tell = Callable[[int, int], None]


class BackupError(TestbedError):
    """A backup cannot be made, or cannot be used."""


class Manifest(BaseModel):
    """What a backup is of.

    `id`: of the testbed's secrets. `made`: ISO 8601, UTC. `toolkit`: the version that made it. `server`: that of the
    server; `data_version`: of its data, where it counts these apart. `bytes` and `files`: of the data. `downtime`:
    seconds that the server did not answer. `elsewhere`: stores that were existing clusters, whose data are not in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    testbed: str
    id: str
    made: str
    toolkit: str
    backend: str
    server: str
    data_version: int | None
    bytes: int
    files: int
    downtime: float
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True)
class Here:
    """What a backup is restored to: the testbed, and the newest server that this toolkit would run there.

    `elsewhere`: the stores that testbed.yaml names as existing clusters.
    """

    testbed: str
    backend: str
    server: str
    data_version: int | None
    elsewhere: tuple[str, ...] = ()


def refuse_unfit(manifest: Manifest, here: Here) -> None:
    """Raise `BackupError` unless a backup can be restored here. Pure."""
    if manifest.testbed != here.testbed:
        raise BackupError(
            f"the backup is of testbed {manifest.testbed}, and this is testbed {here.testbed}",
            f"Name the spec of testbed {manifest.testbed} with --spec; nothing was changed.",
        )
    if manifest.backend != here.backend:
        raise BackupError(
            f"the backup is of a server with backend {manifest.backend}, and testbed.yaml says {here.backend}",
            f"Set server.backend to {manifest.backend}; nothing was changed.",
        )
    if manifest.backend == "docker" and manifest.server != here.server:
        raise BackupError(
            f"the backup is of server {manifest.server}, and testbed.yaml says {here.server}",
            f"Set server.version to {manifest.server}, restore, then upgrade; nothing was changed.",
        )
    if {*manifest.elsewhere} != {*here.elsewhere}:
        then, now = (in_words(stores) or "no store" for stores in (manifest.elsewhere, here.elsewhere))
        raise BackupError(
            f"the backup is of a server with {then} elsewhere, and testbed.yaml names {now} under server.stores",
            "Name the same stores there as then, for what was elsewhere is not in the backup; nothing was changed.",
        )
    newer = numbers(manifest.server) > numbers(here.server) or (manifest.data_version or 0) > (here.data_version or 0)
    if newer:
        data = "" if manifest.data_version is None else f", data version {manifest.data_version}"
        raise BackupError(
            f"the backup is of server {manifest.server}{data}, which is newer than what is here: {here.server}",
            "Take a toolkit that is as new; nothing was changed.",
        )


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with, for comparison. Pure."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def default_name(testbed: str, moment: float) -> str:
    """Return the name of a backup made at `moment`, in seconds since 1970. Pure."""
    return f"{testbed}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(moment))}"


def refuse_name(name: str) -> None:
    """Raise `BackupError` for a name that is no name of a folder. Pure."""
    if not NAME.fullmatch(name):
        raise BackupError(f"{name!r} is no name for a backup", "Use letters, digits, dot, underscore and dash.")


@contextmanager
def begun(folder: Path, testbed: str, name: str) -> Iterator[Path]:
    """Yield a private folder that is renamed to `name` below `folder` when the block has ended well, and else goes.

    What a killed backup of this testbed left below `folder` is removed. Raises `BackupError` where the name is taken.
    """
    final = folder / name
    if final.exists():
        raise BackupError(f"{final}: exists already", "Give another --name.")
    if not folder.exists():
        make_private(folder)
    for left in folder.glob(f".{testbed}.*{PARTIAL}"):
        shutil.rmtree(left, ignore_errors=True)
    partial = folder / f".{testbed}.{name}{PARTIAL}"
    partial.mkdir(mode=0o700)
    try:
        yield partial
        partial.rename(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_sums(folder: Path, known: dict[str, str]) -> None:
    """Write `SHA256SUMS` of the parts; of some the checksums are `known` from writing them."""
    lines = [line_of(known.get(name) or digest(folder / name), name) for name in PARTS]
    write_atomic(folder / SUMS, b"".join(lines))


def digest(path: Path, tell: Callable[[int], None] = lambda _bytes: None) -> str:
    """Return the SHA-256 of a file."""
    found, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            found.update(chunk)
            tell(done := done + len(chunk))
    return found.hexdigest()


def read(folder: Path, tell: Tell = lambda _done, _all: None) -> Manifest:
    """Return the manifest of a backup all of whose parts are as they were written. Raises `BackupError`."""
    if not (folder / MANIFEST).is_file():
        raise BackupError(f"{folder}: is no backup: it has no {MANIFEST}", "Name the folder that `backup` wrote.")
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
        newer = int(found["format"]) > FORMAT
    except (ValueError, KeyError, TypeError):
        raise BackupError(f"{folder / MANIFEST}: is damaged", ANOTHER) from None
    if newer:
        raise BackupError(
            f"{folder}: was made by a newer toolkit ({found.get('toolkit')})", "Take that one; nothing was changed."
        )
    sums = _sums(folder)
    for name in PARTS:
        path = folder / name
        if not path.is_file():
            raise BackupError(f"{path}: is missing", ANOTHER)
        size = path.stat().st_size
        if digest(path, lambda done, size=size: tell(done, size)) != sums[name]:  # type: ignore[misc]
            raise BackupError(
                f"{path}: is cut off or altered: its checksum is another than when it was written", ANOTHER
            )
    try:
        return Manifest.model_validate(found)
    except ValidationError:
        raise BackupError(f"{folder / MANIFEST}: is damaged", ANOTHER) from None


def _sums(folder: Path) -> dict[str, str]:
    path = folder / SUMS
    try:
        with path.open("rb") as file:
            found = {name: each for each, name in map(read_line, file)}
    except (OSError, ValueError):
        found = {}
    if {*found} != {*PARTS}:
        raise BackupError(f"{path}: is missing or damaged", ANOTHER)
    return found


def inspect(archive: Path, sums: Path, tell: Tell = lambda _done, _all: None) -> tuple[str, int]:
    """Read an archive as it is on disk, and write the checksums of its files to `sums`.

    Returns its SHA-256 and how many files it has. Memory does not grow with it. Raises `BackupError` where the
    checksums at its end, which the host wrote, are others.
    """
    size, count, told = archive.stat().st_size, 0, None
    with archive.open("rb") as file, tempfile.TemporaryFile() as found:
        whole = Hashing(file)
        try:
            with tarfile.open(fileobj=whole, mode="r|") as tar:  # type: ignore[call-overload]
                for entry in tar:
                    if entry.name == SUMS:
                        told = _same(tar.extractfile(entry), found)
                    elif entry.isreg():
                        found.write(line_of(_digest_of(tar.extractfile(entry)), entry.name))
                        count += 1
                        tell(file.tell(), size)
                    tar.members = []
        except (tarfile.TarError, EOFError) as error:
            raise BackupError(f"{archive}: is cut off: {error}", "Make the backup again.") from None
        while whole.read(CHUNK):  # its padding
            pass
        if not told:
            raise BackupError(
                f"{archive}: differs from what the host read: its checksums are "
                + ("missing" if told is None else "others"),
                "Check the disk here, then make the backup again.",
            )
        found.seek(0)
        with sums.open("wb") as out:
            shutil.copyfileobj(found, out)
    return whole.digest.hexdigest(), count


def _digest_of(stream: IO[bytes] | None) -> str:
    found = hashlib.sha256()
    if stream is not None:
        for chunk in iter(lambda: stream.read(CHUNK), b""):
            found.update(chunk)
    return found.hexdigest()


def _same(told: IO[bytes] | None, found: IO[bytes]) -> bool:
    """Tell whether two streams hold the same; the second one is read from its beginning, and left at its end."""
    found.seek(0)
    while told is not None:
        chunk = told.read(CHUNK)
        if chunk != found.read(len(chunk) or 1):
            return False
        if not chunk:
            return True
    return False


def short_id(folder: Path) -> str:
    """Return what a host calls a backup while it is restored; other content has another one."""
    with suppress(OSError):
        return digest(folder / SUMS)[:12]
    return ""
