"""What a migration changes is kept as it was, so that there is a way back to the version that has written it."""

import contextlib
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clearml_lite import kept, server
from clearml_lite import storage as storage_module
from clearml_lite.config import Config
from clearml_lite.errors import DataError
from clearml_lite.migrations import MIGRATIONS
from clearml_lite.storage import Storage

NOW = len(MIGRATIONS)


def _written(path: Path, version: int, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Writes a project with the clearml-lite whose data are of `version`, and ends as it does when it is killed."""
    with monkeypatch.context() as then:
        then.setattr(storage_module, "MIGRATIONS", MIGRATIONS[:version])
        with contextlib.closing(Storage(path)) as storage, storage.write() as transaction:
            transaction.put("projects", {"id": "1", "name": name})


def _version(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _stopped(**_: Any) -> None:
    raise KeyboardInterrupt


def test_a_server_that_migrates_its_data_has_kept_them_and_the_older_one_takes_them_again(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "older"
    data.mkdir()
    _written(data / "clearml.sqlite", NOW - 1, monkeypatch, "of then")
    monkeypatch.setattr(server.asyncio, "Runner", _stopped)
    with pytest.raises(KeyboardInterrupt):
        server.serve(replace(config, data_dir=data, api_port=0, files_port=0, web_port=0))
    assert _version(data / "clearml.sqlite") == NOW
    copy = data / f"clearml.sqlite.version-{NOW - 1}"
    assert _version(copy) == NOW - 1
    assert copy.stat().st_mode & 0o777 == 0o600
    # the way back, as docs/operations.md has it
    for leftover in data.glob("clearml.sqlite-*"):
        leftover.unlink()
    copy.rename(data / "clearml.sqlite")
    monkeypatch.setattr(storage_module, "MIGRATIONS", MIGRATIONS[: NOW - 1])
    with contextlib.closing(Storage(data / "clearml.sqlite")) as older, older.read() as transaction:
        assert transaction.get("projects", "1") == {"id": "1", "name": "of then"}


def test_what_is_in_the_log_of_writes_is_in_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clearml.sqlite"
    _written(path, NOW - 1, monkeypatch, "first")
    with contextlib.closing(sqlite3.connect(path)) as another:  # who has it open keeps the log from being emptied
        another.execute("SELECT count(*) FROM projects").fetchone()
        _written(path, NOW - 1, monkeypatch, "second")
        assert (tmp_path / "clearml.sqlite-wal").stat().st_size
        copy = kept.keep_older(path)
    assert copy
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT json_extract(doc, '$.name') FROM projects").fetchall() == [("second",)]


def test_only_the_last_one_stays_and_what_a_killed_one_left_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clearml.sqlite"
    _written(path, NOW - 1, monkeypatch, "first")
    for name in ("version-1", f"version-{NOW - 1}.part"):
        (tmp_path / f"clearml.sqlite.{name}").write_text("of before")
    assert kept.keep_older(path) == tmp_path / f"clearml.sqlite.version-{NOW - 1}"
    assert [each.name for each in tmp_path.glob("*.version-*")] == [f"clearml.sqlite.version-{NOW - 1}"]


@pytest.mark.parametrize("version", [0, NOW, NOW + 1])
def test_what_is_new_or_of_now_is_not_copied(tmp_path: Path, version: int) -> None:
    path = tmp_path / "clearml.sqlite"
    assert kept.keep_older(path) is None
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("CREATE TABLE any (x)")
    assert kept.keep_older(path) is None
    assert [each.name for each in tmp_path.iterdir()] == ["clearml.sqlite"]


def test_without_room_for_it_nothing_is_migrated(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clearml.sqlite"
    _written(path, NOW - 1, monkeypatch, "first")
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="a copy of it is kept before it is changed: .* are needed, 0 are free"):
        server.serve(replace(config, api_port=0, files_port=0, web_port=0))
    assert _version(path) == NOW - 1
