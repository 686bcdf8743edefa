"""The tables of the database, and how older ones become these. Needs nothing but Python: the toolkit reads it, too."""

import re
from collections.abc import Sequence

SINGLE_VALUE_ITERATION = -(2**31)  # the iteration of a value that has none
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


# How many tasks wait in a queue, and the sum of the milliseconds since 1970 at which they were put there: counted as
# they come and go, for a queue may be long, and every change of it notes both.
_ADDED = "CAST(round((julianday({}.added) - 2440587.5) * 86400000) AS INTEGER)"
_COUNT = """INSERT INTO queue_totals VALUES ({row}.queue, {sign}1, {sign}{added}) ON CONFLICT (queue)
    DO UPDATE SET length = length + excluded.length, added = added + excluded.added; """


def _third_migration() -> str:
    comes = _COUNT.format(row="new", sign="", added=_ADDED.format("new"))
    goes = _COUNT.format(row="old", sign="-", added=_ADDED.format("old"))
    events = {"INSERT": comes, "DELETE": goes, "UPDATE": goes + comes}
    return ";\n".join(
        [
            "CREATE TABLE queue_totals (queue TEXT PRIMARY KEY, length INTEGER NOT NULL, added INTEGER NOT NULL)",
            f"""INSERT INTO queue_totals SELECT queue, count(*), sum({_ADDED.format("queue_entries")})
                FROM queue_entries GROUP BY queue""",  # noqa: S608
            *(
                f"CREATE TRIGGER queue_entries_{event.lower()} AFTER {event} ON queue_entries BEGIN {counted} END"
                for event, counted in events.items()
            ),
        ]
    )


# Points come in any order of iterations, and with the iteration in the index each would change another page of it:
# a batch is written side by side, and the few who read in the order of iterations sort.
_POINTS_AS_THEY_COME = f"""
DROP INDEX scalars_series;
CREATE INDEX scalars_series ON scalars (series);
CREATE INDEX scalars_single ON scalars (series) WHERE iter = {SINGLE_VALUE_ITERATION}
"""


MIGRATIONS = (_first_migration(), _second_migration(), _third_migration(), _POINTS_AS_THEY_COME.strip())
