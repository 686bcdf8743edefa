"""All of the server's data: SQLite, in write-ahead mode, with migrations.

Entities are JSON documents in one table a collection, queried through expression indexes; events are rows of their own.
`synchronous=FULL` syncs the log at every commit, so that what was acknowledged survives a kill and a power cut.
"""

import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clearml_lite.encoding import decode, encode
from clearml_lite.errors import DataError
from clearml_lite.migrations import MIGRATIONS, json_path, path_expression
from clearml_lite.patterns import Matcher

Document = dict[str, Any]


class Transaction:
    """One consistent view of the data; changes are there after the block that made it ends without an error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany

    def get(self, collection: str, identifier: str) -> Document | None:
        """The document with this ID."""
        row = self.execute(f"SELECT doc FROM {collection} WHERE id = ?", (identifier,)).fetchone()  # noqa: S608
        return decode(row[0]) if row else None

    def first(self, collection: str, **equal: Any) -> Document | None:
        """The oldest document whose fields have these values."""
        return next(iter(self.all(collection, **equal)), None)

    def all(self, collection: str, **equal: Any) -> list[Document]:
        """Documents whose fields have these values, oldest first."""
        where = " AND ".join(f"{path_expression(field)} = ?" for field in equal) or "1"
        return self.select(collection, where, list(equal.values()))

    def select(
        self,
        collection: str,
        where: str,
        params: Sequence[Any],
        order: str = "seq",
        limit: int = -1,
        offset: int = 0,
    ) -> list[Document]:
        """Documents that meet an SQL condition (see query.py); `limit` -1 is none."""
        rows = self.execute(
            f"SELECT doc FROM {collection} WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?",  # noqa: S608
            (*params, limit, offset),
        )
        return [decode(row[0]) for row in rows]

    def put(self, collection: str, document: Mapping[str, Any]) -> None:
        """Adds a document, or replaces the one with its ID."""
        self.execute(
            f"INSERT INTO {collection} (id, doc) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET doc = excluded.doc",  # noqa: S608
            (document["id"], encode(document)),
        )

    def values(self, collection: str, path: Sequence[str], where: str, params: Sequence[Any]) -> list[Any]:
        """What a field holds in the documents that meet an SQL condition, each value once, sorted; a list's items."""
        rows = self.execute(
            f"""SELECT DISTINCT found.value FROM (SELECT doc FROM {collection} WHERE {where}) AS one,
                    json_each(one.doc, ?) AS found
                WHERE found.value IS NOT NULL ORDER BY found.value""",  # noqa: S608
            (*params, json_path(path)),
        )
        return [row[0] for row in rows]

    def pairs(
        self, collection: str, path: Sequence[str], where: str, params: Sequence[Any], *, keys: bool = False
    ) -> list[tuple[str, str | None]]:
        """The names of an object's members in the documents that meet an SQL condition, each once, sorted.

        Args:
            keys: with the names of the members' own members.
        """
        inner = ", json_each(member.value) AS own" if keys else ""
        rows = self.execute(
            f"""SELECT DISTINCT member.key, {"own.key" if keys else "NULL"}
                FROM (SELECT doc FROM {collection} WHERE {where}) AS one, json_each(one.doc, ?) AS member{inner}
                ORDER BY 1, 2""",  # noqa: S608
            (*params, json_path(path)),
        )
        return rows.fetchall()

    def count(self, collection: str, where: str, params: Sequence[Any]) -> int:
        """How many documents meet an SQL condition."""
        (number,) = self.execute(f"SELECT count(*) FROM {collection} WHERE {where}", params).fetchone()  # noqa: S608
        return int(number)

    @contextmanager
    def undone_by_error(self) -> Iterator[None]:
        """A part of the transaction that leaves nothing behind when it fails."""
        self.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            self.execute("ROLLBACK TO part")
            raise
        finally:
            self.execute("RELEASE part")

    def delete(self, collection: str, identifiers: Iterable[str]) -> None:
        """Removes documents; an ID that is not there is passed over."""
        self.executemany(f"DELETE FROM {collection} WHERE id = ?", [(identifier,) for identifier in identifiers])  # noqa: S608


class _Group:
    """Transactions that are committed together."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.error: BaseException | None = None  # which has undone all of it


class Storage:
    """The database file. Readers run side by side, writers one after the other.

    Writers that wait for each other are committed together, with one wait for the disk; none of them is told so before.

    Args:
        path: the file; made when it is not there, migrated when it is older.

    Raises:
        DataError: a newer version has written the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connections: list[sqlite3.Connection] = []
        self._reader = threading.local()
        self._writer, self._matcher = self._connected()
        self._writing = threading.Lock()
        self._arriving: deque[None] = deque()  # a place for each writer that waits for `_writing`
        self._group: _Group | None = None  # what `_writer` has not committed yet
        self._migrate()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A transaction that only reads.

        Raises:
            ApiError: a regular expression took too long.
        """
        if not hasattr(self._reader, "connection"):
            self._reader.connection, self._reader.matcher = self._connected()
        connection, matcher = self._reader.connection, self._reader.matcher
        matcher.reset()
        connection.execute("BEGIN")
        try:
            yield Transaction(connection)
            matcher.require_time()
        finally:
            connection.execute("ROLLBACK")

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction that is on disk when the block has ended, and is undone by an error.

        Raises:
            ApiError: a regular expression took too long.
        """
        self._arriving.append(None)
        with self._writing:
            self._arriving.pop()
            with self._in_group() as group:
                self._matcher.reset()
                yield Transaction(self._writer)
                self._matcher.require_time()
        group.ended.wait()
        if group.error:
            raise group.error

    def close(self) -> None:
        """Closes the file; no transaction may be open."""
        for connection in self._connections:
            connection.close()

    @contextmanager
    def _in_group(self) -> Iterator[_Group]:
        """A part of the group's transaction that an error undoes; the last of those who wait commits all of it."""
        if first := self._group is None:
            self._writer.execute("BEGIN IMMEDIATE")
            self._group = _Group()
        group = self._group
        try:
            if not first:
                self._writer.execute("SAVEPOINT member")
            yield group
            if not first:
                self._writer.execute("RELEASE member")
        except BaseException as error:
            if first or not self._undo_member():
                self._undo(error)
            raise
        finally:
            if self._group and not self._arriving:
                self._commit()

    def _undo_member(self) -> bool:
        """Undoes what came after the savepoint; SQLite may have undone all by itself, as when the disk is full."""
        try:
            self._writer.execute("ROLLBACK TO member")
            self._writer.execute("RELEASE member")
        except sqlite3.Error:
            return False
        return True

    def _undo(self, error: BaseException) -> None:
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")
        self._end(error)

    def _commit(self) -> None:
        try:
            self._writer.execute("COMMIT")
        except BaseException as error:
            self._undo(error)
        else:
            self._end()

    def _end(self, error: BaseException | None = None) -> None:
        group, self._group = self._group, None
        if group:
            group.error = error
            group.ended.set()

    def _connected(self) -> tuple[sqlite3.Connection, Matcher]:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=30, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        matcher = Matcher()
        connection.create_function("regexp", 2, matcher.search, deterministic=True)
        connection.create_function("as_number", 1, _as_number, deterministic=True)
        self._connections.append(connection)
        return connection, matcher

    def _migrate(self) -> None:
        with self.write() as transaction:
            (version,) = transaction.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise DataError(
                    f"{self._path}: was written by a newer clearml-lite (data of version {version}, this one knows "
                    f"{len(MIGRATIONS)}): install that one again, or restore a backup of this one"
                )
            for migration in MIGRATIONS[version:]:
                for statement in migration.split(";\n"):
                    transaction.execute(statement)
            transaction.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _as_number(value: Any) -> Any:
    """A text that is a number as that number, whatever else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
