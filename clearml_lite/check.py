"""Whether the data are sound: the database, what refers to what in it, and the files that it names."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from clearml_lite.backup import database_problem, reading
from clearml_lite.config import Config
from clearml_lite.errors import DataError
from clearml_lite.folder import DATABASE, FILES, require_whole
from clearml_lite.migrations import MIGRATIONS

_COUNTED = ("users", "projects", "tasks", "models", "queues")
_RESTORE = "restore a backup (clearml-lite restore)"


@dataclass(frozen=True)
class Problem:
    """What is wrong, and what to do."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Found:
    """What a check has seen."""

    counts: dict[str, int]
    problems: list[Problem]


def check(config: Config) -> Found:
    """Reads database and files; a server may run meanwhile. Nothing is changed.

    Raises:
        DataError: there are no data.
    """
    path = config.data_dir / DATABASE
    require_whole(config.data_dir)
    if not path.is_file():
        raise DataError(f"data_dir {config.data_dir}: has no database: has the server run with this configuration?")
    if problem := database_problem(path):
        whole = Problem(f"{path}: {problem}", f"stop the server and {_RESTORE}")
        return Found({}, [whole, *_broken_documents_of_damaged(path)])
    try:
        with contextlib.closing(reading(path)) as connection:
            connection.execute("BEGIN")  # one moment, whatever the server does
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                remedy = "install the version that wrote it"
                return Found({}, [Problem(f"{path}: was written by a newer clearml-lite", remedy)])
            counts = {name: _count(connection, name) for name in _COUNTED}
            problems = [*_broken_documents(connection), *_dangling(connection)]
            files, missing = _files(connection, config)
    except sqlite3.Error as error:
        raise DataError(f"{path}: cannot be read: {error}: stop the server and {_RESTORE}") from error
    return Found(counts | {"files": files}, [*problems, *missing])


def _count(connection: sqlite3.Connection, table: str) -> int:
    (number,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608
    return int(number)


def _broken_documents(connection: sqlite3.Connection) -> Iterator[Problem]:
    for table in _COUNTED:
        broken = connection.execute(
            f"SELECT id FROM {table} WHERE NOT json_valid(doc) OR json_extract(doc, '$.id') IS NOT id"  # noqa: S608
        )
        for (identifier,) in broken:
            yield Problem(f"{table} {identifier}: is no document", f"stop the server and {_RESTORE}")


def _broken_documents_of_damaged(path: Path) -> Iterator[Problem]:
    """As far as the database can be read."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(reading(path)) as connection:
        yield from _broken_documents(connection)


def _dangling(connection: sqlite3.Connection) -> Iterator[Problem]:
    """Entries of queues and points of curves whose task is gone: harmless, and a sign that a rule was broken."""
    for (task,) in connection.execute("SELECT task FROM queue_entries WHERE task NOT IN (SELECT id FROM tasks)"):
        yield Problem(f"a queue holds task {task}, which is not there", "take it out: queues.remove_task")
    lost = "SELECT count(*) FROM scalars WHERE series NOT IN (SELECT id FROM series)"
    (points,) = connection.execute(lost).fetchone()
    if points:
        yield Problem(f"{points} scalars belong to no task", f"nothing is lost that is shown; else {_RESTORE}")


def _files(connection: sqlite3.Connection, config: Config) -> tuple[int, list[Problem]]:
    """How many files of this server tasks and models name, and those that are not as they should be."""
    root, prefix = config.data_dir / FILES, f"{config.urls.files}/"
    seen, problems = 0, []
    for holder, uri, size in _named_files(connection):
        if not uri.startswith(prefix):
            continue
        seen += 1
        name = uri.removeprefix(prefix).lstrip("/")
        path = next((path for path in (root / name, root / unquote(name)) if _size(path) is not None), root / name)
        actual, where = _size(path), f"{path} ({holder})"
        if actual is None:
            remedy = "upload it again or bring it back from a backup; deleted on purpose, it is all right"
            problems.append(Problem(f"{where}: is not there", remedy))
        elif size and actual != size:
            problems.append(
                Problem(f"{where}: has {actual} bytes, not {size}", "upload it again, or take it from a backup")
            )
    return seen, problems


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except (OSError, ValueError):  # such as a name that is too long
        return None


def _named_files(connection: sqlite3.Connection) -> Iterator[tuple[str, str, int | None]]:
    """(who, URI, bytes) of artifacts and models; bytes where they are known. What is no document is told elsewhere."""
    of_tasks = "SELECT id, json_extract(doc, '$.execution.artifacts') FROM tasks WHERE json_valid(doc)"
    for identifier, text in connection.execute(of_tasks):
        artifacts: list[dict[str, Any]] = json.loads(text) if text else []
        for artifact in artifacts:
            if isinstance(uri := artifact.get("uri"), str):
                yield f"artifact {artifact.get('key')} of task {identifier}", uri, artifact.get("content_size")
    of_models = "SELECT id, json_extract(doc, '$.uri') FROM models WHERE json_valid(doc)"
    for identifier, uri in connection.execute(of_models):
        if isinstance(uri, str):
            yield f"model {identifier}", uri, None
