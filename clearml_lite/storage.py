"""All of the server's data: SQLite, in write-ahead mode, with migrations.

Entities are JSON documents in one table a collection, queried through expression indexes; events are rows of their own.
`synchronous=FULL` syncs the log at every commit, so that what was acknowledged survives a kill and a power cut.
"""

import json
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

Document = dict[str, Any]

_FIELD_PART = re.compile(r"[^\"'\\\x00]*")

_DOCUMENTS = ("users", "projects", "tasks", "models", "queues", "workers")
_INDEXED = {
    "projects": ("name", "parent"),
    "tasks": ("project", "parent", "name", "status"),
    "models": ("project", "task", "uri", "name"),
    "queues": ("name",),
}
_TABLES = """
CREATE TABLE credentials (access_key TEXT PRIMARY KEY, user TEXT NOT NULL, secret_hash TEXT NOT NULL, label TEXT,
    last_used TEXT, last_used_from TEXT, created TEXT NOT NULL);
CREATE INDEX credentials_user ON credentials (user);
CREATE TABLE revoked_sessions (session TEXT PRIMARY KEY, expires INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE queue_entries (position INTEGER PRIMARY KEY, queue TEXT NOT NULL, task TEXT NOT NULL, added TEXT NOT NULL);
CREATE INDEX queue_entries_queue ON queue_entries (queue, position);
CREATE INDEX queue_entries_task ON queue_entries (task);
CREATE TABLE series (id INTEGER PRIMARY KEY, task TEXT NOT NULL, metric TEXT NOT NULL, variant TEXT NOT NULL,
    UNIQUE (task, metric, variant));
CREATE TABLE scalars (series INTEGER NOT NULL, iter INTEGER NOT NULL, timestamp INTEGER NOT NULL, value REAL NOT NULL,
    worker TEXT NOT NULL);
CREATE INDEX scalars_series ON scalars (series, iter);
CREATE TABLE events (id INTEGER PRIMARY KEY, task TEXT NOT NULL, type TEXT NOT NULL, timestamp INTEGER NOT NULL,
    iter INTEGER, metric TEXT NOT NULL, variant TEXT NOT NULL, doc TEXT NOT NULL);
CREATE INDEX events_task ON events (task, type, timestamp);
CREATE INDEX events_series ON events (task, type, metric, variant, iter);
CREATE TABLE worker_stats (worker TEXT NOT NULL, timestamp INTEGER NOT NULL, metric TEXT NOT NULL,
    variant TEXT NOT NULL, value REAL NOT NULL);
CREATE INDEX worker_stats_worker ON worker_stats (worker, timestamp);
CREATE INDEX worker_stats_timestamp ON worker_stats (timestamp)
"""


def json_path(parts: Sequence[str]) -> str:
    """The names that lead to a field of a document, as a path of SQLite's JSON functions.

    Raises:
        ValueError: a name has a quote, a backslash or a null character.
    """
    if not all(_FIELD_PART.fullmatch(part) for part in parts):
        raise ValueError(f"{'.'.join(parts)!r} is not the name of a field")
    names = (part if part.isascii() and part.isidentifier() else f'"{part}"' for part in parts)
    return f"$.{'.'.join(names)}"


def path_expression(field: str) -> str:
    """SQL for a dotted field of a document.

    Raises:
        ValueError: a name in it has a quote, a backslash or a null character.
    """
    return f"json_extract(doc, '{json_path(field.split('.'))}')"


def _first_migration() -> str:
    columns = "seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, doc TEXT NOT NULL"
    documents = [f"CREATE TABLE {name} ({columns})" for name in _DOCUMENTS]
    indexes = [
        f"CREATE INDEX {table}_{field} ON {table} ({path_expression(field)})"
        for table, fields in _INDEXED.items()
        for field in fields
    ]
    return ";\n".join([*documents, *indexes, _TABLES])


_HISTORY = """
CREATE TABLE queue_metrics (queue TEXT NOT NULL, timestamp INTEGER NOT NULL, length INTEGER NOT NULL,
    waiting REAL NOT NULL);
CREATE INDEX queue_metrics_queue ON queue_metrics (queue, timestamp);
CREATE INDEX queue_metrics_timestamp ON queue_metrics (timestamp);
CREATE TABLE worker_activity (worker TEXT NOT NULL, timestamp INTEGER NOT NULL, works INTEGER NOT NULL);
CREATE INDEX worker_activity_timestamp ON worker_activity (timestamp)
"""


def _second_migration() -> str:
    project, last_update = path_expression("project"), path_expression("last_update")
    return ";\n".join(
        [
            f"CREATE INDEX tasks_project_last_update ON tasks ({project}, {last_update})",
            f"CREATE INDEX tasks_last_update ON tasks ({last_update})",
            _HISTORY.strip(),
        ]
    )


MIGRATIONS = (_first_migration(), _second_migration())


class Transaction:
    """One consistent view of the data; changes are there after the block that made it ends without an error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany

    def get(self, collection: str, identifier: str) -> Document | None:
        """The document with this ID."""
        row = self.execute(f"SELECT doc FROM {collection} WHERE id = ?", (identifier,)).fetchone()  # noqa: S608
        return json.loads(row[0]) if row else None

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
        return [json.loads(row[0]) for row in rows]

    def put(self, collection: str, document: Mapping[str, Any]) -> None:
        """Adds a document, or replaces the one with its ID."""
        self.execute(
            f"INSERT INTO {collection} (id, doc) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET doc = excluded.doc",  # noqa: S608
            (document["id"], json.dumps(document, separators=(",", ":"))),
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


class Storage:
    """The database file. Readers run side by side, writers one after the other.

    Args:
        path: the file; made when it is not there, migrated when it is older.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._writer = threading.Lock()
        self._connections: list[sqlite3.Connection] = []
        self._migrate()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """A transaction that only reads."""
        connection = self._connection()
        connection.execute("BEGIN")
        try:
            yield Transaction(connection)
        finally:
            connection.execute("ROLLBACK")

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """A transaction that is on disk when the block has ended, and is undone by an error."""
        connection = self._connection()
        with self._writer:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield Transaction(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Closes the file; no transaction may be open."""
        for connection in self._connections:
            connection.close()

    def _connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, isolation_level=None, timeout=30, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.create_function("regexp", 2, _regexp, deterministic=True)
            connection.create_function("as_number", 1, _as_number, deterministic=True)
            self._local.connection = connection
            self._connections.append(connection)
        return connection

    def _migrate(self) -> None:
        with self.write() as transaction:
            (version,) = transaction.execute("PRAGMA user_version").fetchone()
            for migration in MIGRATIONS[version:]:
                for statement in migration.split(";\n"):
                    transaction.execute(statement)
            transaction.execute(f"PRAGMA user_version = {max(version, len(MIGRATIONS))}")


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _regexp(pattern: str, value: object) -> bool:
    return value is not None and _compiled(pattern).search(str(value)) is not None


def _as_number(value: Any) -> Any:
    """A text that is a number as that number, whatever else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
