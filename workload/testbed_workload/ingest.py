"""InfluxDB -> ClearML Dataset: the whole window first, then child versions that carry only what is new."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import logging
import re
import shutil
import signal
import socket
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Iterator

from testbed_workload.errors import ServerError, SourceError, reason
from testbed_workload.generator import DAY
from testbed_workload.influx import Export, InfluxDB
from testbed_workload.server import login

LOG = logging.getLogger(__name__)

NS = 1_000_000_000
RECORD = "ingest"  # the artifact in which a version says what it was made of
WORK = Path("~/.cache/testbed-workload")


@dataclass(frozen=True)
class Version:
    """A finished version of the dataset; `rows` is what this run added: 0 when there was nothing new."""

    id: str
    version: str
    rows: int
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
        parent = _latest(project, name)
        start = (now - days * DAY) * NS
        if parent:
            record = _record(parent, database)
            start = max(start, record["newest"] + 1)
        part = folder / "part.csv"
        with part.open("wb") as out:
            export = database.export(start, now * NS, out)
        if export.rows:
            LOG.info("%d rows from %s to %s", export.rows, _stamp(export.first), _stamp(export.newest))
            file = part.rename(folder / f"{_stamp(export.first)}-{_stamp(export.newest)}.csv")
            return _publish(file, export, database, project, name, parent)
        if not parent:
            raise SourceError(
                f"no points of {database.source.measurement!r} in the last {days} days at {database.source.url}:"
                " check the source, or ask for more --days"
            )
        LOG.info("Nothing new since %s: dataset %s stays as it is", _stamp(record["newest"]), parent.id)
        return Version(parent.id, parent.version or "", 0, record["newest"], _url(parent))


def _publish(file: Path, export: Export, database: InfluxDB, project: str, name: str, parent: Any) -> Version:
    from clearml import Dataset

    try:
        dataset = Dataset.create(
            dataset_name=name,
            dataset_project=project,
            dataset_tags=[_mark()],
            parent_datasets=[parent] if parent else None,
        )
        dataset.add_files(file)
        dataset.set_metadata(
            {
                "source": database.source.url,
                "measurement": database.source.measurement,
                "rows": export.rows,
                "first": export.first,
                "newest": export.newest,
            },
            RECORD,
            ui_visible=False,
        )
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
    return Version(dataset.id, dataset.version or "", export.rows, export.newest, _url(dataset))


def _latest(project: str, name: str) -> Any:
    """The newest finished version, or None."""
    from clearml import Dataset

    versions = Dataset.list_datasets(
        dataset_project=project, partial_name=f"^{re.escape(name)}$", recursive_project_search=False
    )
    if not versions:
        return None
    return Dataset.get(dataset_project=project, dataset_name=name, only_completed=True)


def _record(parent: Any, database: InfluxDB) -> dict[str, Any]:
    """What the parent was made of. Raises ServerError when that is something else than would be added."""
    record = parent.get_metadata(RECORD)
    if not record:
        raise ServerError(
            f"dataset {parent.project}/{parent.name} {parent.version} ({parent.id}) was not made by ingest:"
            " choose another --dataset"
        )
    if record["measurement"] != database.source.measurement:
        raise ServerError(
            f"dataset {parent.project}/{parent.name} holds measurement {record['measurement']!r},"
            f" not {database.source.measurement!r}: choose another --dataset"
        )
    return dict(record)


def _delete_unfinished(project: str, name: str) -> None:
    from clearml import Task

    left = Task.query_tasks(
        project_name=f"{project}/.datasets/{name}",
        tags=[_mark()],
        task_filter={
            "status": ["created", "in_progress", "stopped", "failed"],
            "search_hidden": True,
            "_allow_extra_fields_": True,
        },
    )
    for task_id in left:
        LOG.info("Deleting unfinished version %s", task_id)
        Task.get_task(task_id).delete(raise_on_error=True)


def _url(dataset: Any) -> str:
    from clearml import Task

    return str(Task.get_task(dataset.id).get_output_log_web_page())


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
