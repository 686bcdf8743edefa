"""Backups: the database and all files in one archive, made while the server runs, and brought back.

An archive is a tar file: the database, the files, and at its end a manifest with their SHA-256. Without a manifest
it is not whole.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote

from clearml_lite import __version__
from clearml_lite.errors import DataError
from clearml_lite.folder import DATABASE, FILES, RESTORING, alone_in, forget_restore
from clearml_lite.migrations import MIGRATIONS

MANIFEST = "manifest.json"
CHUNK = 1 << 20
# SQLite's words for a file that cannot be written: its folder, disk or limit
UNWRITABLE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
LARGEST_MANIFEST = 1 << 30


@dataclass(frozen=True)
class Backup:
    """What an archive holds."""

    version: str
    data_version: int
    made: str
    hashes: dict[str, str]


class _Hashing:
    """A file that is read once, and hashed meanwhile."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self._hash.update(chunk)
        return chunk

    def digest(self) -> str:
        return self._hash.hexdigest()


def back_up(data_dir: Path, archive: Path) -> Backup:
    """Writes an archive of the data folder; a server may run and write there.

    The database is of one moment. Files are as they are after it: none is half there, one that a client deletes
    meanwhile may be missing.

    Args:
        archive: the file to write, which is there when it is whole and has been read again.

    Raises:
        DataError: there are no data or they are damaged, or the archive cannot be written or is there already.
    """
    if not (data_dir / DATABASE).is_file():
        raise DataError(f"data_dir {data_dir}: has no database: nothing to back up")
    if archive.exists():
        raise DataError(f"{archive}: is there already: name another file")
    unfinished, copy = (archive.with_name(f"{archive.name}.{part}") for part in ("part", "database"))
    try:
        for leftover in (unfinished, copy):  # of one that was killed
            leftover.unlink(missing_ok=True)
        _new_file(copy).close()
        _copy_database(data_dir / DATABASE, copy)
        backup = _write(unfinished, copy, data_dir / FILES)
        for _ in _verified(unfinished, backup):
            pass
        unfinished.rename(archive)
        _sync(archive.parent)
    except OSError as error:
        raise DataError(f"{error.filename or archive}: the backup cannot be written: {error.strerror}") from error
    except tarfile.TarError as error:
        raise DataError(f"{unfinished}: did not come out as it was written ({error}): try another disk") from error
    finally:
        for path in (unfinished, copy):
            with contextlib.suppress(OSError):
                path.unlink()
    return backup


def restore(archive: Path, data_dir: Path) -> Backup:
    """Brings an archive back into a data folder that has no data; what was cut off can be run again.

    Raises:
        DataError: the archive is damaged, no backup or of a newer version, or there are data; nothing has changed.
        ConfigError: a server uses the folder.
    """
    backup = read(archive)
    if backup.data_version > len(MIGRATIONS):
        raise DataError(
            f"{archive}: is of clearml-lite {backup.version}, which is newer than this one ({__version__}): "
            "install that version, or a later one, and restore with it"
        )
    try:
        if os.geteuid() == 0 and not data_dir.exists():  # root's folder is of no use to a server that is another user's
            made = f"install -d -m 0700 -o USER {data_dir}"
            raise DataError(f"data_dir {data_dir}: is not there: make it for the user that the server runs as: {made}")
        data_dir.mkdir(parents=True, exist_ok=True)
        with alone_in(data_dir):
            _require_replaceable(data_dir / FILES)
            _require_empty(data_dir)
            arriving = data_dir / RESTORING
            if not arriving.exists():
                arriving.mkdir()
            shutil.rmtree(arriving / "content", ignore_errors=True)
            try:
                _unpack(archive, backup, arriving / "content")
            except BaseException:
                _remove_unless_begun(arriving, data_dir)
                raise
            _put_in_place(arriving, data_dir)
    except OSError as error:
        raise DataError(f"{error.filename or data_dir}: cannot be restored to: {error.strerror}") from error
    return backup


def read(archive: Path) -> Backup:
    """What an archive says of itself.

    Raises:
        DataError: it cannot be read, or is no whole backup.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            last = tar.getmembers()[-1]
            content = tar.extractfile(last) if last.name == MANIFEST and last.size <= LARGEST_MANIFEST else None
            if content is None:
                raise _damaged(archive, "its end is missing")
            fields = json.load(content)
            hashes = {str(name): str(digest) for name, digest in fields["hashes"].items()}
            return Backup(str(fields["version"]), int(fields["data_version"]), str(fields["made"]), hashes)
    except OSError as error:
        raise DataError(f"{archive}: cannot be read: {error.strerror}") from error
    except (tarfile.TarError, IndexError) as error:
        raise _damaged(archive, str(error)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(archive, "its manifest is none") from error


def database_problem(path: Path) -> str:
    """What SQLite finds wrong with a database; empty for nothing."""
    try:
        with contextlib.closing(reading(path)) as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(5)")]
    except sqlite3.Error as error:
        return str(error)
    return "" if found == ["ok"] else "; ".join(found)


def reading(path: Path) -> sqlite3.Connection:
    """A database that is only read."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=30)


def _copy_database(source: Path, target: Path) -> None:
    try:
        with contextlib.closing(reading(source)) as original, contextlib.closing(sqlite3.connect(target)) as copy:
            original.backup(copy)  # in one step: as it was at one moment, while others go on writing
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in UNWRITABLE and not database_problem(source):
            remedy = "make room there, or name a file on another disk"
            raise DataError(f"{target}: the backup cannot be written: {error}: {remedy}") from error
        raise DataError(f"{source}: cannot be read: {error}; clearml-lite check tells more") from error
    if problem := database_problem(target):
        raise DataError(f"{source}: is damaged ({problem}): restore an earlier backup")


def _write(archive: Path, database: Path, files: Path) -> Backup:
    with contextlib.closing(reading(database)) as connection:
        (data_version,) = connection.execute("PRAGMA user_version").fetchone()
    hashes: dict[str, str] = {}
    with _new_file(archive) as output, tarfile.open(fileobj=output, mode="w") as tar:
        hashes[DATABASE] = _add(tar, database, DATABASE)
        for path in _regular_files(files):
            name = f"{FILES}/{path.relative_to(files).as_posix()}"
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                hashes[name] = _add(tar, path, name)
        backup = Backup(__version__, data_version, datetime.now(UTC).isoformat(timespec="seconds"), hashes)
        text = json.dumps(vars(backup)).encode()
        tar.addfile(_member(MANIFEST, len(text)), BytesIO(text))
        tar.close()
        output.flush()
        os.fsync(output.fileno())
    return backup


def _new_file(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _regular_files(folder: Path) -> Iterator[Path]:
    """All files below a folder that are no links, by name."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _add(tar: tarfile.TarFile, path: Path, name: str) -> str:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        hashing = _Hashing(file)
        tar.addfile(_member(name, status.st_size, int(status.st_mtime)), hashing)
        return hashing.digest()


def _member(name: str, size: int, modified: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = size, modified, 0o600
    return member


def _verified(archive: Path, backup: Backup, into: Path | None = None) -> Iterator[str]:
    """Reads an archive through, and tells the name of each member; written to a folder where one is given.

    Raises:
        DataError: a member is damaged, missing or not in the manifest.
    """
    missing = dict(backup.hashes)
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            if member.name == MANIFEST:
                continue
            content = tar.extractfile(member) if member.isreg() and _is_ours(member.name) else None
            if content is None or member.name not in missing:
                raise _damaged(archive, f"{member.name} does not belong there")
            hashing = _Hashing(content)
            if into is None:
                while hashing.read(CHUNK):
                    pass
            else:
                _store(hashing, into / member.name, member.mtime)
            if hashing.digest() != missing.pop(member.name):
                raise _damaged(archive, f"{member.name} has changed")
            yield member.name
    if missing:
        raise _damaged(archive, f"{min(missing)} is missing")


def _is_ours(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name == DATABASE or (len(parts) > 1 and parts[0] == FILES and ".." not in parts)


def _store(content: _Hashing, path: Path, modified: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _new_file(path) as file:
        while chunk := content.read(CHUNK):
            file.write(chunk)
    os.utime(path, (modified, modified))


def _unpack(archive: Path, backup: Backup, into: Path) -> None:
    (into / FILES).mkdir(parents=True)
    try:
        for _ in _verified(archive, backup, into):
            pass
    except tarfile.TarError as error:
        raise _damaged(archive, str(error)) from error
    if problem := database_problem(into / DATABASE):
        raise _damaged(archive, problem)


def _require_replaceable(files: Path) -> None:
    """Another folder comes in its place, which a mount point or a link does not let happen."""
    if files.is_symlink() or _is_mounted(files):
        what, remedy = ("a link", "remove the link") if files.is_symlink() else ("a mount point", "unmount it")
        raise DataError(
            f"{files}: is {what}, and a restore puts a folder there: {remedy}, restore, then move what is in the "
            "folder to where it was and put that back; nothing was changed"
        )


def _is_mounted(path: Path) -> bool:
    """Whether something is mounted there; also a folder of the same disk, which os.path.ismount does not see."""
    escaped = str(path.resolve()).translate({ord(sign): f"\\{ord(sign):03o}" for sign in " \t\n\\"})
    mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return any(line.split(" ")[4] == escaped for line in mounts.split("\n") if line)


def _require_empty(data_dir: Path) -> None:
    """Data are a database, or files that are not from a restore that was cut off."""
    forget_restore(data_dir)
    files = data_dir / FILES
    has_files = files.is_dir() and any(files.iterdir()) and not (data_dir / RESTORING).exists()
    there = [DATABASE] * (data_dir / DATABASE).exists() + [FILES] * has_files
    if there:
        data = " and ".join(there)
        raise DataError(f"data_dir {data_dir}: holds data already ({data}): move them away first; nothing was changed")


def _remove_unless_begun(arriving: Path, data_dir: Path) -> None:
    """Removes what was unpacked; what marks files of a restore that was cut off before stays with them."""
    shutil.rmtree(arriving / "content", ignore_errors=True)
    files = data_dir / FILES
    if not (files.is_dir() and any(files.iterdir())):
        arriving.rmdir()


def _put_in_place(arriving: Path, data_dir: Path) -> None:
    """Files first, the database last: whoever has a database has it all."""
    content = arriving / "content"
    _give_to_owner_of(data_dir, content)
    os.sync()
    shutil.rmtree(data_dir / FILES, ignore_errors=True)
    for leftover in (f"{DATABASE}-wal", f"{DATABASE}-shm"):  # they would be taken for this database's
        (data_dir / leftover).unlink(missing_ok=True)
    (content / FILES).rename(data_dir / FILES)
    _sync(data_dir)
    (content / DATABASE).rename(data_dir / DATABASE)
    _sync(data_dir)
    shutil.rmtree(arriving)


def _give_to_owner_of(folder: Path, content: Path) -> None:
    """Run by root, it leaves files that the server's own user can use."""
    owner = folder.stat()
    if os.geteuid() == 0 and (owner.st_uid, owner.st_gid) != (0, 0):
        for path in (content, *content.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damaged(archive: Path, what: Any) -> DataError:
    return DataError(f"{archive}: is no whole backup ({what}): take another one; nothing was changed")
