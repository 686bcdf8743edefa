"""Backups, what refuses to be restored, and what a check finds."""

import io
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clearml_lite import backup, folder, server
from clearml_lite.check import check
from clearml_lite.config import Config
from clearml_lite.errors import ConfigError, DataError
from clearml_lite.migrations import MIGRATIONS
from clearml_lite.storage import Storage


@pytest.fixture
def data(config: Config, storage: Storage) -> Path:
    """The data folder of a server that runs: a task with an artifact."""
    file = config.data_dir / "files" / "a" / "model ü.bin"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    artifact = {"key": "m", "mode": "output", "uri": "http://files/a/model ü.bin", "content_size": 7}
    with storage.write() as transaction:
        transaction.put("tasks", {"id": "t1", "name": "first", "execution": {"artifacts": [artifact]}})
    return config.data_dir


@pytest.fixture
def archive(data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "backup.tar"
    backup.back_up(data, path)
    (tmp_path / "elsewhere").mkdir()
    return path


def tasks(data: Path) -> list[str]:
    with closing(sqlite3.connect(data / "clearml.sqlite")) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM tasks ORDER BY id")]


def rewritten(archive: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> None:
    """Makes another archive of what `change` makes of each member."""
    with tarfile.open(archive) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(archive, "w") as tar:
        for name, content in members:
            for new_name, new_content in change(name, content):
                info = tarfile.TarInfo(new_name)
                info.size = len(new_content)
                tar.addfile(info, io.BytesIO(new_content))


def test_what_was_backed_up_comes_back(archive: Path, storage: Storage, tmp_path: Path) -> None:
    with storage.write() as transaction:
        transaction.put("tasks", {"id": "t2", "name": "later"})
    target = tmp_path / "elsewhere"
    backup.restore(archive, target)
    assert tasks(target) == ["t1"]
    assert (target / "files" / "a" / "model ü.bin").read_bytes() == b"weights"
    assert sorted(path.name for path in target.iterdir()) == ["clearml.sqlite", "files", "lock"]
    with closing(Storage(target / "clearml.sqlite")) as restored, restored.write() as transaction:
        transaction.put("tasks", {"id": "t3", "name": "works on"})


def test_a_backup_is_private_and_overwrites_nothing(data: Path, archive: Path) -> None:
    assert archive.stat().st_mode & 0o777 == 0o600
    before = archive.read_bytes()
    with pytest.raises(DataError, match="is there already: name another file"):
        backup.back_up(data, archive)
    assert archive.read_bytes() == before


def test_what_a_killed_backup_left_is_replaced(data: Path, tmp_path: Path) -> None:
    for leftover in ("b.tar.part", "b.tar.database"):
        (tmp_path / leftover).write_bytes(b"half")
    backup.back_up(data, tmp_path / "b.tar")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("b.")] == ["b.tar"]


def test_a_link_is_no_file_of_the_server(data: Path, tmp_path: Path) -> None:
    (data / "files" / "link").symlink_to("/etc/passwd")
    (data / "files" / "folder").symlink_to("/etc")
    written = backup.back_up(data, tmp_path / "b.tar")
    assert sorted(written.hashes) == ["clearml.sqlite", "files/a/model ü.bin"]


def test_a_damaged_database_is_not_backed_up(data: Path, storage: Storage, tmp_path: Path) -> None:
    storage.close()
    database = data / "clearml.sqlite"
    content = bytearray(database.read_bytes())
    content[8192:] = os.urandom(len(content) - 8192)
    database.write_bytes(content)
    with pytest.raises(DataError, match=r"clearml\.sqlite: (is damaged|cannot be read)"):
        backup.back_up(data, tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()


def test_without_data_there_is_nothing_to_back_up(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to back up"):
        backup.back_up(tmp_path / "empty", tmp_path / "b.tar")


def test_where_nothing_can_be_written_that_is_told(data: Path) -> None:
    with pytest.raises(DataError, match="the backup cannot be written: No such file or directory"):
        backup.back_up(data, data / "nowhere" / "b.tar")


def test_where_the_disk_is_full_the_database_is_not_blamed(data: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(DataError, match=r"b\.tar\.database: the backup cannot be written: .*: make room"):
            backup.back_up(data, tmp_path / "b.tar")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.glob("b.tar*"))


def test_an_archive_that_was_cut_off_is_refused_at_every_length(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    target = tmp_path / "elsewhere"
    for length in (0, 1, 511, 512, 10_000, len(whole) // 2, len(whole) - 10240):
        archive.write_bytes(whole[:length])
        with pytest.raises(DataError, match="is no whole backup"):
            backup.restore(archive, target)
        assert {path.name for path in target.iterdir()} <= {"lock"}


@pytest.mark.parametrize("damaged", ["clearml.sqlite", "files/a/model ü.bin"])
def test_a_changed_byte_is_noticed(archive: Path, tmp_path: Path, damaged: str) -> None:
    rewritten(archive, lambda name, content: [(name, content[:-1] + b"\x01" if name == damaged else content)])
    with pytest.raises(DataError, match=f"{damaged} has changed"):
        backup.restore(archive, tmp_path / "elsewhere")
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["lock"]


def test_a_missing_file_is_noticed(archive: Path, tmp_path: Path) -> None:
    rewritten(archive, lambda name, content: [] if name.startswith("files/") else [(name, content)])
    with pytest.raises(DataError, match=r"files/a/model ü\.bin is missing"):
        backup.restore(archive, tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["files/../../evil", "/etc/evil", "evil", "files"])
def test_nothing_is_unpacked_that_does_not_belong_there(archive: Path, tmp_path: Path, name: str) -> None:
    def add(member: str, content: bytes) -> list[tuple[str, bytes]]:
        if member != backup.MANIFEST:
            return [(member, content)]
        manifest = json.loads(content)
        manifest["hashes"][name] = "0"
        return [(name, b"evil"), (member, json.dumps(manifest).encode())]

    rewritten(archive, add)
    with pytest.raises(DataError, match="does not belong there"):
        backup.restore(archive, tmp_path / "elsewhere")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"{}", b'{"version": 1, "data_version": "x", "made": 1, "hashes": {}}']
)
def test_what_has_no_manifest_is_no_backup(archive: Path, tmp_path: Path, manifest: bytes) -> None:
    rewritten(archive, lambda name, content: [(name, manifest if name == backup.MANIFEST else content)])
    with pytest.raises(DataError, match="is no whole backup"):
        backup.restore(archive, tmp_path / "elsewhere")


def test_a_backup_of_a_newer_version_is_refused(archive: Path, tmp_path: Path) -> None:
    def newer(name: str, content: bytes) -> list[tuple[str, bytes]]:
        if name != backup.MANIFEST:
            return [(name, content)]
        changed = json.loads(content) | {"version": "9.0", "data_version": len(MIGRATIONS) + 1}
        return [(name, json.dumps(changed).encode())]

    rewritten(archive, newer)
    with pytest.raises(
        DataError, match=r"is of clearml-lite 9\.0, which is newer than this one .* install that version"
    ):
        backup.restore(archive, tmp_path / "elsewhere")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_data_of_a_newer_version_are_left_alone(data: Path, storage: Storage) -> None:
    storage.close()
    with closing(sqlite3.connect(data / "clearml.sqlite")) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(DataError, match="was written by a newer clearml-lite"):
        Storage(data / "clearml.sqlite")


def test_a_restore_changes_no_data_that_are_there(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "one" / "files").mkdir(parents=True)
    (tmp_path / "one" / "files" / "mine").write_bytes(b"mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "clearml.sqlite").write_bytes(b"mine")
    for there in ("one", "other"):
        with pytest.raises(DataError, match="holds data already .* nothing was changed"):
            backup.restore(archive, tmp_path / there)
    assert (tmp_path / "one" / "files" / "mine").read_bytes() == b"mine"
    assert (tmp_path / "other" / "clearml.sqlite").read_bytes() == b"mine"


def test_a_restore_needs_the_folder_alone(archive: Path, tmp_path: Path) -> None:
    target = tmp_path / "used"
    target.mkdir()
    with folder.alone_in(target), pytest.raises(ConfigError, match="is in use by another clearml-lite"):
        backup.restore(archive, target)


def test_root_makes_no_data_folder_that_the_server_could_not_use(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "new" / "data"
    monkeypatch.setattr(backup.os, "geteuid", lambda: 0)
    with pytest.raises(DataError, match=f"is not there: .*: install -d -m 0700 -o USER {target}$"):
        backup.restore(archive, target)
    assert not target.parent.exists()
    monkeypatch.setattr(backup.os, "geteuid", lambda: 1000)
    backup.restore(archive, target)
    assert tasks(target) == ["t1"]


def test_a_link_to_another_disk_is_not_replaced(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    target = tmp_path / "elsewhere"
    (target / "files").symlink_to(tmp_path / "disk")
    with pytest.raises(DataError, match="files: is a link, .*: remove the link, restore, .* nothing was changed"):
        backup.restore(archive, target)
    assert (target / "files").is_symlink()
    assert sorted(path.name for path in target.iterdir()) == ["files", "lock"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a folder, in a namespace of its own")
def test_a_mount_point_is_not_replaced(archive: Path, tmp_path: Path) -> None:
    target = tmp_path / "a folder"
    (target / "files").mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    script = """
import subprocess, sys
from pathlib import Path
from clearml_lite import backup
archive, target, disk = map(Path, sys.argv[1:])
subprocess.run(["mount", "--bind", disk, target / "files"], check=True)
backup.restore(archive, target)
"""
    command = ["unshare", "--mount", sys.executable, "-c", script, str(archive), str(target), str(tmp_path / "disk")]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=120, check=False
    )
    assert "files: is a mount point, and a restore puts a folder there: unmount it, restore" in done.stderr
    assert sorted(path.name for path in target.iterdir()) == ["files", "lock"]


@pytest.mark.parametrize("renames", [0, 1])
def test_a_restore_that_was_cut_off_is_told_and_runs_again(
    archive: Path, tmp_path: Path, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rename, done = tmp_path / "elsewhere", Path.rename, []

    def killed(path: Path, to: Path) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        backup.restore(archive, target)
    monkeypatch.undo()
    with pytest.raises(DataError, match="a restore was cut off here: run clearml-lite restore again"):
        folder.require_whole(target)
    backup.restore(archive, target)
    folder.require_whole(target)
    assert tasks(target) == ["t1"]
    assert (target / "files" / "a" / "model ü.bin").read_bytes() == b"weights"


@pytest.mark.parametrize("started", [False, True], ids=["not started since", "started since"])
def test_what_marks_a_restore_goes_when_its_database_is_there(
    archive: Path, config: Config, tmp_path: Path, started: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, rmtree = tmp_path / "elsewhere", backup.shutil.rmtree

    def killed(path: Path, **options: Any) -> None:
        if path.name == folder.RESTORING:
            raise KeyboardInterrupt
        rmtree(path, **options)

    monkeypatch.setattr(backup.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        backup.restore(archive, target)
    monkeypatch.undo()
    assert (target / folder.RESTORING).exists()
    if started:
        monkeypatch.setattr(server.asyncio, "Runner", _stopped)
        with pytest.raises(KeyboardInterrupt):
            server.serve(replace(config, data_dir=target, api_port=0, files_port=0, web_port=0))
    else:
        with pytest.raises(DataError, match=r"holds data already \(clearml\.sqlite and files\)"):
            backup.restore(archive, target)
    assert not (target / folder.RESTORING).exists()
    (target / "clearml.sqlite").unlink()
    with pytest.raises(DataError, match=r"holds data already \(files\)"):
        backup.restore(archive, target)
    assert (target / "files" / "a" / "model ü.bin").read_bytes() == b"weights"


def _stopped(**_: Any) -> None:
    raise KeyboardInterrupt


def test_a_check_finds_nothing_wrong_with_sound_data(config: Config, data: Path) -> None:
    found = check(config)
    assert found.problems == []
    assert (found.counts["tasks"], found.counts["files"]) == (1, 1)


@pytest.mark.parametrize(
    ("change", "told", "remedy"),
    [
        (lambda file, _: file.unlink(), "is not there", "upload it again or bring it back from a backup"),
        (lambda file, _: file.write_bytes(b"torn"), "has 4 bytes, not 7", "take it from a backup"),
        (
            lambda _, database: database.execute("UPDATE tasks SET doc = json_set(doc, '$.id', 'other')"),
            "tasks t1: is no document",
            "restore a backup",
        ),
        (
            lambda _, database: _without_indexes(database).execute("UPDATE tasks SET doc = substr(doc, 2)"),
            "tasks t1: is no document",
            "restore a backup",
        ),
        (
            lambda _, database: _without_indexes(database).execute("INSERT INTO models (id, doc) VALUES ('m1', '{')"),
            "models m1: is no document",
            "restore a backup",
        ),
        (
            lambda _, database: database.execute(
                "INSERT INTO queue_entries (queue, task, added) VALUES ('q', 'x', '2026-01-01T00:00:00+00:00')"
            ),
            "a queue holds task x, which is not there",
            "queues.remove_task",
        ),
        (
            lambda _, database: database.execute("INSERT INTO scalars VALUES (7, 1, 1, 1, '')"),
            "1 scalars belong to no task",
            "restore a backup",
        ),
    ],
)
def test_a_check_tells_what_is_wrong_and_what_to_do(
    config: Config, data: Path, change: Callable[[Path, Any], Any], told: str, remedy: str
) -> None:
    with closing(sqlite3.connect(data / "clearml.sqlite", isolation_level=None)) as database:
        change(data / "files" / "a" / "model ü.bin", database)
    (problem,) = check(config).problems
    assert told in problem.what
    assert remedy in problem.remedy


def _without_indexes(database: sqlite3.Connection) -> sqlite3.Connection:
    """With them, what is no JSON can only come from damage."""
    made = database.execute("SELECT type, name FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql NOTNULL")
    for kind, name in made.fetchall():
        database.execute(f"DROP {kind} {name}")
    return database


def test_a_check_names_the_document_that_is_damaged(config: Config, data: Path, storage: Storage) -> None:
    storage.close()
    database = data / "clearml.sqlite"
    content = database.read_bytes()
    assert b'"name":"first"' in content
    database.write_bytes(content.replace(b'"name":"first"', b'"name"="first"'))
    whole, document = check(config).problems
    assert whole.what == f"{database}: malformed JSON"
    assert document.what == "tasks t1: is no document"


def test_a_check_tells_a_damaged_database(config: Config, data: Path, storage: Storage) -> None:
    storage.close()
    content = bytearray((data / "clearml.sqlite").read_bytes())
    content[8192:] = os.urandom(len(content) - 8192)
    (data / "clearml.sqlite").write_bytes(content)
    (problem,) = check(config).problems
    assert "stop the server and restore a backup" in problem.remedy


def test_a_check_that_cannot_read_on_says_what_to_do(config: Config, data: Path, storage: Storage) -> None:
    storage.close()
    with closing(sqlite3.connect(data / "clearml.sqlite")) as database:
        database.execute("DROP TABLE queue_entries")
    with pytest.raises(DataError, match="cannot be read: .*: stop the server and restore a backup"):
        check(config)


def test_a_check_looks_at_files_of_this_server_only(config: Config, data: Path) -> None:
    assert check(replace(config, urls=replace(config.urls, files="http://other"))).counts["files"] == 0


def test_a_check_without_data_says_so(config: Config, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no database"):
        check(replace(config, data_dir=tmp_path / "none"))
