"""InfluxDB -> ClearML Dataset: the whole window first, then child versions that carry only what is new."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import logging
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterator

from workload.errors import ServerError, SourceError, reason
from workload.generator import DAY
from workload.influx import InfluxDB
from workload.server import login

LOG = logging.getLogger(__name__)

NS = 1_000_000_000
RECORD = "ingest"  # the artifact in which a version says what it was made of
WORK = Path("~/.cache/testbed-workload")


@dataclass(frozen=True)
class Version:
    """A finished version of the dataset: `rows` with those of its parents, `new_rows` what this run added."""

    id: str
    version: str
    rows: int
    new_rows: int
    newest: int  # ns since the epoch
    url: str


def ingest(database: InfluxDB, days: int, project: str, name: str, now: int) -> Version:
    """Make a version of the dataset from the `days` before `now` (s since the epoch), without what its parent has.

    A version is either finished or not there: one that fails is deleted, and one that a killed run of the same user on
    the same machine left behind is deleted by the next. Raises SourceError or ServerError.
    """
    with _alone() as folder, _orderly_end():
        database.check()
        login()
        _delete_unfinished(project, name)
        parent, record = _parent(project, name, database.source.measurement)
        part = folder / "part.csv"
        with part.open("wb") as out:
            export = database.export(max((now - days * DAY) * NS, record["newest"] + 1), now * NS, out)
        if export.rows:
            LOG.info("%d rows from %s to %s", export.rows, _stamp(export.first), _stamp(export.newest))
            file = part.rename(folder / f"{_stamp(export.first)}-{_stamp(export.newest)}.csv")
            record = {
                "source": database.source.url,
                "measurement": database.source.measurement,
                "rows": record["rows"] + export.rows,
                "new_rows": export.rows,
                "first": export.first,
                "newest": export.newest,
            }
            return _publish(file, record, project, name, parent)
        if not parent:
            raise SourceError(
                f"no points of {database.source.measurement!r} in the last {days} days at {database.source.url}:"
                " check the source, or ask for more --days"
            )
        LOG.info("Nothing new since %s: dataset %s stays as it is", _stamp(record["newest"]), parent.id)
        return _version(parent, {**record, "new_rows": 0})


def _publish(file: Path, record: dict[str, Any], project: str, name: str, parent: Any) -> Version:
    from clearml import Dataset

    try:
        dataset = Dataset.create(
            dataset_name=name,
            dataset_project=project,
            dataset_tags=[_mark()],
            parent_datasets=[parent] if parent else None,
        )
        dataset.add_files(file)
        dataset.set_metadata(record, RECORD, ui_visible=False)
        dataset.upload(show_progress=False)
        dataset.finalize()
    except Exception as error:
        _delete_unfinished(project, name)
        raise ServerError(
            f"could not make a version of dataset {project}/{name} ({reason(error)}): nothing is left of it;"
            " check the ClearML file server and its disk, then run this again"
        ) from error
    except BaseException:
        _delete_unfinished(project, name)
        raise
    return _version(dataset, record)


def _parent(project: str, name: str, measurement: str) -> tuple[Any, dict[str, Any]]:
    """The newest finished version, or None; and what it was made of.

    Raises ServerError when it cannot be read, or holds something else than would be added.
    """
    from clearml import Dataset

    if not _tasks(project, name, ["completed", "published"]):
        return None, {"newest": 0, "rows": 0}
    try:
        parent = Dataset.get(dataset_project=project, dataset_name=name, only_completed=True)
        record = parent.get_metadata(RECORD)
    except Exception as error:  # the SDK raises what its storage raises
        raise ServerError(
            f"cannot read dataset {project}/{name} ({reason(error)}): check the ClearML file server"
        ) from error
    if not record:
        raise ServerError(
            f"dataset {project}/{name} {parent.version} ({parent.id}) was not made by ingest: choose another --dataset"
        )
    if record["measurement"] != measurement:
        raise ServerError(
            f"dataset {project}/{name} holds measurement {record['measurement']!r}, not {measurement!r}:"
            " choose another --dataset"
        )
    return parent, record


def _delete_unfinished(project: str, name: str) -> None:
    from clearml import Task

    for task_id in _tasks(project, name, ["created", "in_progress", "stopped", "failed"], [_mark()]):
        LOG.info("Deleting unfinished version %s", task_id)
        Task.get_task(task_id).delete(raise_on_error=True)


def _tasks(project: str, name: str, status: list[str], tags: list[str] | None = None) -> list[str]:
    """IDs of the dataset's versions (each is a task of a hidden project) in one of these states."""
    from clearml import Task

    task_filter = {"status": status, "search_hidden": True, "_allow_extra_fields_": True}
    found = Task.query_tasks(project_name=f"{project}/.datasets/{name}", tags=tags, task_filter=task_filter)
    return [str(task_id) for task_id in found]


def _version(dataset: Any, record: dict[str, Any]) -> Version:
    from clearml import Task

    url = str(Task.get_task(dataset.id).get_output_log_web_page())
    return Version(dataset.id, dataset.version or "", record["rows"], record["new_rows"], record["newest"], url)


def _mark() -> str:
    return f"ingest by {getpass.getuser()}@{socket.gethostname()}"


def _stamp(ns: int) -> str:
    """Sorts as text in order of time."""
    return datetime.fromtimestamp(ns // NS, timezone.utc).strftime("%Y%m%dT%H%M%SZ")


@contextlib.contextmanager
def _alone() -> Iterator[Path]:
    """An empty folder, and no other ingest of this user on this machine: so what is unfinished is nobody's work."""
    base = WORK.expanduser()
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (base / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            LOG.info("Waiting for another ingest of yours to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        folder = base / "ingest"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


@contextlib.contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: what is half made is deleted first."""

    def end(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
