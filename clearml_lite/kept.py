"""The database as an older version left it: what a migration changes is kept beside, for there is no other way back."""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from clearml_lite.errors import DataError
from clearml_lite.migrations import MIGRATIONS

SPARE_BYTES = 50_000_000  # what a migration itself may take


def keep_older(database: Path) -> Path | None:
    """Copies a database that this version is about to migrate; copies of before go.

    The copy is `NAME.version-N`, with the version of its data, and is there when it is whole. Returns its path,
    if there is one.

    Raises:
        DataError: there is no room for it; nothing has changed.
    """
    if not database.exists():
        return None
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as older:
        (version,) = older.execute("PRAGMA user_version").fetchone()
        if not 0 < version < len(MIGRATIONS):
            return None
        earlier = [path for path in database.parent.glob(f"{database.name}.version-*") if path.is_file()]
        needed, free = database.stat().st_size + SPARE_BYTES, shutil.disk_usage(database.parent).free
        if free < needed:
            raise DataError(
                f"{database}: is of an older clearml-lite (data of version {version}, here {len(MIGRATIONS)}), and a "
                f"copy of it is kept before it is changed: {needed >> 20} MiB are needed, {free >> 20} are free"
            )
        kept = database.with_name(f"{database.name}.version-{version}")
        unfinished = kept.with_name(f"{kept.name}.part")
        unfinished.unlink(missing_ok=True)  # of one that was killed
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with contextlib.closing(sqlite3.connect(unfinished)) as copy:
            older.backup(copy)
        unfinished.rename(kept)
    for path in earlier:
        if path != kept:
            path.unlink(missing_ok=True)
    return kept
