"""Transactions and migrations."""

import sqlite3
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from clearml_lite import storage as storage_module
from clearml_lite.storage import Storage


def test_an_error_undoes_all_of_a_transaction(storage: Storage) -> None:
    def fail() -> None:
        with storage.write() as transaction:
            transaction.put("tasks", {"id": "1"})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with storage.read() as transaction:
        assert transaction.get("tasks", "1") is None


def test_readers_see_one_moment(storage: Storage) -> None:
    def write() -> None:
        with storage.write() as transaction:
            transaction.put("tasks", {"id": "1"})

    with storage.read() as transaction:
        assert transaction.get("tasks", "1") is None
        writer = threading.Thread(target=write)
        writer.start()
        writer.join()
        assert transaction.get("tasks", "1") is None
    with storage.read() as transaction:
        assert transaction.get("tasks", "1") == {"id": "1"}


def test_writers_lose_no_update(storage: Storage) -> None:
    with storage.write() as transaction:
        transaction.put("tasks", {"id": "1", "count": 0})

    def count() -> None:
        for _ in range(25):
            with storage.write() as transaction:
                task = transaction.get("tasks", "1") or {}
                transaction.put("tasks", task | {"count": task["count"] + 1})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with storage.read() as transaction:
        assert transaction.get("tasks", "1") == {"id": "1", "count": 100}


def in_threads(*acts: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=act) for act in acts]
    for thread in threads:
        thread.start()
    return threads


def put_side_by_side(storage: Storage, *documents: dict[str, str]) -> list[str]:
    """Puts each in a transaction of its own, all of which wait for one that is open; IDs of those that failed."""
    failed: list[str] = []

    def put(document: dict[str, str]) -> None:
        try:
            with storage.write() as transaction:
                transaction.put("tasks", document)
                if document["name"] == "wrong":
                    raise RuntimeError
        except (RuntimeError, sqlite3.Error):
            failed.append(document["id"])

    def put_first() -> None:
        with storage.write() as transaction:
            transaction.put("tasks", {"id": "first"})
            threads.extend(in_threads(*(partial(put, document) for document in documents)))
            while len(storage._arriving) < len(documents):
                time.sleep(0.001)

    threads: list[threading.Thread] = []
    try:
        put_first()
    except sqlite3.Error:
        failed.append("first")
    for thread in threads:
        thread.join()
    return sorted(failed)


def identifiers(storage: Storage) -> set[str]:
    with storage.read() as transaction:
        return {task["id"] for task in transaction.all("tasks")}


def test_writers_that_wait_for_each_other_are_committed_together(storage: Storage) -> None:
    statements: list[str] = []
    storage._writer.set_trace_callback(statements.append)
    assert not put_side_by_side(storage, *({"id": f"{number}", "name": "right"} for number in range(4)))
    assert statements.count("COMMIT") == 1
    assert identifiers(storage) == {"first", "0", "1", "2", "3"}


def test_an_error_undoes_no_transaction_but_its_own(storage: Storage) -> None:
    names = ("right", "wrong", "right", "wrong")
    documents = [{"id": f"{number}", "name": name} for number, name in enumerate(names)]
    assert put_side_by_side(storage, *documents) == ["1", "3"]
    assert identifiers(storage) == {"first", "0", "2"}


def test_all_that_were_to_be_committed_together_are_told_when_that_fails(storage: Storage) -> None:
    for statement in (
        "PRAGMA foreign_keys = ON",
        "CREATE TABLE one (id TEXT PRIMARY KEY)",
        "CREATE TABLE refers (id TEXT REFERENCES one DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER breaks AFTER INSERT ON tasks WHEN new.id = '1' BEGIN INSERT INTO refers VALUES ('none'); END",
    ):
        storage._writer.execute(statement)
    documents = [{"id": f"{number}", "name": "right"} for number in range(3)]
    assert put_side_by_side(storage, *documents) == ["0", "1", "2", "first"]
    assert identifiers(storage) == set()
    assert not put_side_by_side(storage, {"id": "2", "name": "right"})
    assert identifiers(storage) == {"first", "2"}


def test_a_commit_waits_for_the_disk(storage: Storage) -> None:
    for opened in (storage.read, storage.write):
        with opened() as transaction:
            assert transaction.execute("PRAGMA synchronous").fetchone() == (2,)
            assert transaction.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_older_file_is_migrated_and_a_failed_migration_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "older.sqlite"
    Storage(path).close()
    older = storage_module.MIGRATIONS
    newer = (*older, "CREATE TABLE added (x);\nINSERT INTO added VALUES (1)")
    monkeypatch.setattr(storage_module, "MIGRATIONS", (*older, "CREATE TABLE added (x);\nnonsense"))
    with pytest.raises(sqlite3.OperationalError):
        Storage(path)
    monkeypatch.setattr(storage_module, "MIGRATIONS", newer)
    Storage(path).close()
    Storage(path).close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM added").fetchone() == (1,)
        assert connection.execute("PRAGMA user_version").fetchone() == (len(newer),)


def test_what_waits_in_queues_is_counted_as_it_comes_and_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "older.sqlite"
    now = storage_module.MIGRATIONS
    insert = "INSERT INTO queue_entries (queue, task, added) VALUES (?, ?, ?)"
    monkeypatch.setattr(storage_module, "MIGRATIONS", now[:2])  # of before
    older = Storage(path)
    with older.write() as transaction:
        for number in range(3):
            transaction.execute(insert, ("q", f"t{number}", f"1970-01-01T00:00:0{number}.250000+00:00"))
    older.close()
    monkeypatch.setattr(storage_module, "MIGRATIONS", now)
    storage = Storage(path)

    def totals() -> list[tuple[str, int, int]]:
        with storage.read() as transaction:
            return transaction.execute("SELECT queue, length, added FROM queue_totals ORDER BY queue").fetchall()

    assert totals() == [("q", 3, 3750)]
    with storage.write() as transaction:
        transaction.execute(insert, ("other", "t9", "1970-01-01T00:00:01+00:00"))
        transaction.execute("DELETE FROM queue_entries WHERE task = 't1'")
        transaction.execute("UPDATE queue_entries SET added = '1970-01-01T00:00:05+00:00' WHERE task = 't0'")
    assert totals() == [("other", 1, 1000), ("q", 2, 7250)]
    storage.close()


def test_field_names_cannot_break_out(storage: Storage) -> None:
    for name in ("a'b", 'a"b', "a\\b"):
        with pytest.raises(ValueError, match="is not the name of a field"):
            storage_module.path_expression(name)
    with storage.write() as transaction:
        transaction.put("tasks", {"id": "1", "odd name": {"a-b": 1}, "": 2})
        assert transaction.all("tasks", **{"odd name.a-b": 1})
        assert transaction.all("tasks", **{"": 2})
