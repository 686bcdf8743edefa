"""The data folder: what lies where in it, and who may write there."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from clearml_lite.errors import ConfigError, DataError

DATABASE = "clearml.sqlite"
FILES = "files"
ARRIVING = "arriving"  # uploads that are not whole yet
RESTORING = "restoring"  # what of a backup is not in its place yet


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds the data folder, so that nobody else writes there.

    Raises:
        ConfigError: a server holds it already, or a restore.
    """
    with (folder / "lock").open("w") as lock:
        if os.geteuid() == 0:  # the server's own user must be able to hold it, too
            owner = folder.stat()
            os.fchown(lock.fileno(), owner.st_uid, owner.st_gid)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"data_dir {folder}: is in use by another clearml-lite") from error
        yield


def require_whole(folder: Path) -> None:
    """Refuses a folder in which a restore was cut off.

    Raises:
        DataError: there is a part of a backup, and no database.
    """
    if (folder / RESTORING).exists() and not (folder / DATABASE).exists():
        raise DataError(
            f"data_dir {folder}: a restore was cut off here: run clearml-lite restore again, "
            f"or remove {folder / RESTORING}"
        )


def forget_restore(folder: Path) -> None:
    """Removes what marks a restore, where there is a database: that comes last, so the restore had it all in place."""
    if (folder / DATABASE).exists():
        shutil.rmtree(folder / RESTORING, ignore_errors=True)
