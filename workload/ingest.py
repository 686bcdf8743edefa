"""InfluxDB -> ClearML Dataset: the whole window first, then child versions that carry only what is new.

python -m workload.ingest --help
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import logging
import queue
import shutil
import sys
import threading
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Sequence

from workload.columns import TAG, Column, choose
from workload.errors import DiskError, ServerError, SourceError, reason
from workload.generator import DAY
from workload.influx import InfluxDB
from workload.parts import FORMATS, Part, head, lacking, read_part, stamp, texts
from workload.server import login
from workload.statistics import HEADER, added, row
from workload.unfinished import alone, clean_up, delete_unfinished, mark, orderly_end, versions
from workload.windows import Window, cut, grain, missing

LOG = logging.getLogger(__name__)

NS = 1_000_000_000
RECORD = "ingest"  # the artifact in which a version says what it was made of
AT_ONCE = 2  # windows
PROGRESS = 5.0  # s between two lines of progress
GRACE = 10.0  # s for what reads, to end when it is stopped: InfluxDB may say nothing for longer
PREVIEW = 10  # rows
MMAP_THRESHOLD, ARENA_MAX = -3, -8  # of glibc's malloc.h
STALE = 7 * DAY  # s after which what a run left behind is nothing to go on with


@dataclass(frozen=True)
class Wanted:
    """What is read, and the dataset that it goes to. Times are in ns since the epoch, the end is not of the window.

    fields, tags: None for all there are. at_once: windows that are read at the same time.
    """

    project: str
    dataset: str
    start: int
    end: int
    fields: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    format: str = FORMATS[0]
    at_once: int = AT_ONCE


@dataclass(frozen=True)
class Version:
    """A finished version of the dataset: `rows` with those of its parents, `new_rows` what this run added."""

    id: str
    version: str
    rows: int
    new_rows: int
    newest: int  # ns since the epoch
    url: str


def last_days(days: int, now: int) -> tuple[int, int]:
    """Start and end of the window up to and with `now` (s since the epoch)."""
    return (now - days * DAY) * NS, now * NS + 1


def ingest(database: InfluxDB, wanted: Wanted) -> Version:
    """Make a version of the dataset that has all of the window, without what its parent has.

    A version is either finished or not there: one that fails is deleted, and one that a killed run of the same user on
    the same machine left behind is deleted by the next. Windows that were read whole stay on disk, and the next run
    goes on from there. Raises SourceError, ServerError, DiskError.
    """
    give_back()
    with alone() as base, orderly_end():
        database.check()
        columns = choose(database.fields(), database.tags(), wanted.fields, wanted.tags)
        login()
        delete_unfinished(wanted.project, wanted.dataset)
        parent, record = _parent(wanted, database.source.measurement, columns)
        parts = [Part(**part) for part in record["windows"]]
        folder = _folder(base, database, wanted, columns)
        read = read_new(database, columns, wanted, parts, folder)
        if any(part.rows for part in read):
            version = _publish(folder, database, wanted, columns, parent, record, parts, read)
            shutil.rmtree(folder)
            return version
        if not parent:
            raise SourceError(
                f"no points of {database.source.measurement!r} from {stamp(wanted.start)} to {stamp(wanted.end)} at"
                f" {database.source.url}: check the source, or ask for more --days"
            )
        LOG.info("Nothing new since %s: dataset %s stays as it is", stamp(record["newest"]), parent.id)
        return _version(parent, {**record, "new_rows": 0})


def read_new(
    database: InfluxDB, columns: Sequence[Column], wanted: Wanted, parts: Sequence[Part], folder: Path
) -> list[Part]:
    """Read what `parts` lack of the window into files of the folder; also windows of theirs that have grown since.

    The parts that are new or take the place of an old one, in order of time. Raises SourceError, DiskError.
    """
    parts = [part for part in parts if _covers(part)]
    windows = _grown(database, columns, wanted, parts)
    covered = [(part.start, part.end) for part in parts]
    for start, end in missing(wanted.start, wanted.end, covered):
        oldest = database.end_point(columns, start, end, newest=False)
        newest = oldest and database.end_point(columns, start, end, newest=True)
        if not oldest or not newest:
            continue
        # Points that come late are looked for behind the newest one, not behind the end of the window
        end = newest["time"] + 1
        narrow = grain(oldest["time"], end)
        # One field is enough to cut by
        sample = [next(column for column in columns if column.kind != TAG and newest[column.name] is not None)]
        windows += cut(start, end, oldest["time"], database.counts(sample, start, end, narrow), narrow)
    _tidy(folder, windows, wanted.format)
    return sorted(_read_all(database, columns, wanted, windows, folder), key=lambda part: part.start)


def _covers(part: Part) -> bool:
    """Whether the part says that its stretch was read. One without rows does not: what comes late may be there by now.

    One from 0 on stands for all of an earlier version.
    """
    return bool(part.rows) or not part.start


def _grown(database: InfluxDB, columns: Sequence[Column], wanted: Wanted, parts: Sequence[Part]) -> list[Window]:
    """Windows that were read before and have more values by now: points that came late, or out of order."""
    windows = []
    for part in parts:
        if wanted.start <= part.start and part.end <= wanted.end:
            counts = database.totals(columns, part.start, part.end)
            if lacking(part, columns, counts):
                LOG.info("New points from %s to %s: it is read again", stamp(part.start), stamp(part.end))
                windows.append(Window(part.start, part.end, counts))
    return windows


def _read_all(
    database: InfluxDB, columns: Sequence[Column], wanted: Wanted, windows: Sequence[Window], folder: Path
) -> list[Part]:
    progress = _Progress(sum(window.count for window in windows))
    todo: queue.SimpleQueue[Window] = queue.SimpleQueue()
    done: queue.SimpleQueue[Part | BaseException] = queue.SimpleQueue()
    for window in windows:
        todo.put(window)

    def work() -> None:
        try:
            while True:
                done.put(read_part(database, columns, todo.get_nowait(), folder, wanted.format, progress.add))
        except queue.Empty:
            return
        except BaseException as error:
            done.put(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(wanted.at_once)]
    parts: list[Part] = []
    try:
        for thread in threads:
            thread.start()
        while len(parts) < len(windows):
            with contextlib.suppress(queue.Empty):
                result = done.get(timeout=1)
                if isinstance(result, (SourceError, DiskError)):
                    raise type(result)(
                        f"{result}; run this again, and it goes on from the {len(parts)} of {len(windows)} windows"
                        f" that are whole ({progress.rows} rows were read)"
                    ) from result
                if isinstance(result, BaseException):
                    raise result
                parts.append(result)
            progress.say()
    finally:
        progress.stopped = True
        for thread in threads:
            thread.join(GRACE)
    return parts


class _Stopped(Exception):
    """Another window failed."""


class _Progress:
    """Rows that were read, of about how many: shared by the threads that read."""

    def __init__(self, expected: int) -> None:
        self.rows = 0
        self.stopped = False
        self._expected = expected
        self._began = self._said = time.monotonic()
        self._lock = threading.Lock()

    def add(self, rows: int) -> None:
        if self.stopped:
            raise _Stopped
        with self._lock:
            self.rows += rows

    def say(self) -> None:
        now = time.monotonic()
        if now - self._said >= PROGRESS:
            self._said = now
            LOG.info(progress(self.rows, self._expected, now - self._began))


def progress(rows: int, expected: int, seconds: float) -> str:
    """A line for people. `expected`: InfluxDB's count of one field, so there may be a few more."""
    speed = rows / seconds if seconds else 0
    left = f", {max(expected - rows, 0) / speed:.0f} s left" if speed and rows < expected else ""
    return f"{rows} of about {max(rows, expected)} rows, {speed:.0f} rows/s{left}"


def _publish(
    folder: Path,
    database: InfluxDB,
    wanted: Wanted,
    columns: Sequence[Column],
    parent: Any,
    before: dict[str, Any],
    parts: Sequence[Part],
    read: Sequence[Part],
) -> Version:
    from clearml import Dataset

    old = {(part.start, part.end): part for part in parts}
    record = lineage(database, wanted, columns, before, parts, read)
    try:
        dataset = Dataset.create(
            dataset_name=wanted.dataset,
            dataset_project=wanted.project,
            dataset_tags=[mark()],
            parent_datasets=[parent] if parent else None,
            description=f"{record['query']}\n{record['rows']} rows, {record['new_rows']} of them new",
        )
        for part in read:
            was = old.get((part.start, part.end))
            if was and was.file and was.file != part.file:
                dataset.remove_files(was.file)
            if part.file:
                dataset.add_files(folder / part.file)
        dataset.set_metadata(record, RECORD, ui_visible=False)
        _show(dataset.get_logger(), folder, columns, record)
        # Parquet is compressed already
        compression = zipfile.ZIP_STORED if wanted.format == "parquet" else zipfile.ZIP_DEFLATED
        dataset.upload(show_progress=False, compression=compression, preview=False)
        dataset.finalize()
    except Exception as error:
        raise ServerError(
            f"could not make a version of dataset {wanted.project}/{wanted.dataset} ({reason(error)}):"
            f" {clean_up(wanted.project, wanted.dataset)}; check the ClearML file server, its disk and this machine's,"
            " then run this again: what was read of InfluxDB is kept"
        ) from error
    except BaseException:
        LOG.info("Stopped: %s", clean_up(wanted.project, wanted.dataset))
        raise
    return _version(dataset, record)


def lineage(
    database: InfluxDB,
    wanted: Wanted,
    columns: Sequence[Column],
    before: dict[str, Any],
    parts: Sequence[Part],
    read: Sequence[Part],
) -> dict[str, Any]:
    """What a version was made of. `sha256` is over those of its files, in order of time; so equal data, equal hash."""
    windows = {(part.start, part.end): part for part in [*parts, *read]}
    filled = sorted((part for part in windows.values() if part.rows), key=lambda part: part.start)
    rows = before["rows"] - sum(part.rows for part in parts) + sum(part.rows for part in filled)
    return {
        "source": database.source.url,
        "database": database.source.database,
        "measurement": database.source.measurement,
        "query": database.query(columns, wanted.start, wanted.end),
        "columns": {column.name: column.kind for column in columns},
        "start": wanted.start,
        "end": wanted.end,
        "rows": rows,
        "new_rows": rows - before["rows"],
        "first": filled[0].first,
        "newest": filled[-1].newest,
        "sha256": hashlib.sha256("".join(part.sha256 for part in filled).encode()).hexdigest(),
        "windows": [asdict(part) for _, part in sorted(windows.items()) if _covers(part)],
    }


def _show(logger: Any, folder: Path, columns: Sequence[Column], record: dict[str, Any]) -> None:
    """Tables of the version's page: the first of its new rows, and the figures of all."""
    file = next(path for path in sorted(folder.iterdir()) if path.suffix[1:] in FORMATS)
    preview = head(file, PREVIEW)
    lines = zip(*(texts(column) for column in preview.columns))
    logger.report_table("Preview", file.name, table_plot=[preview.column_names, *map(list, lines)])
    figures = []
    for column in columns:
        found: Any = {"count": 0}
        for part in record["windows"]:
            found = added(found, part["columns"].get(column.name, {"count": 0}))
        figures.append(row(column.name, column.kind, found, record["rows"]))
    logger.report_table("Statistics", "all rows", table_plot=[list(HEADER), *figures])
    for name in ("rows", "new_rows"):
        logger.report_single_value(name, record[name])


def _parent(wanted: Wanted, measurement: str, columns: Sequence[Column]) -> tuple[Any, dict[str, Any]]:
    """The newest finished version, or None; and what it was made of.

    Raises ServerError when it cannot be read, or holds something else than would be added.
    """
    from clearml import Dataset

    project, name = wanted.project, wanted.dataset
    if not versions(project, name, ["completed", "published"]):
        return None, {"newest": 0, "rows": 0, "windows": []}
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
    for column in columns:
        kind = record.get("columns", {}).get(column.name, column.kind)
        if kind != column.kind:
            raise ServerError(
                f"dataset {project}/{name} holds {column.name!r} as {kind}, and InfluxDB has it as {column.kind}:"
                " choose another --dataset, or leave it out of --fields"
            )
    if "windows" not in record:  # of a version before windows were recorded
        record["windows"] = [asdict(Part(0, record["newest"] + 1))]
    return parent, record


def _version(dataset: Any, record: dict[str, Any]) -> Version:
    from clearml import Task

    url = str(Task.get_task(dataset.id).get_output_log_web_page())
    return Version(dataset.id, dataset.version or "", record["rows"], record["new_rows"], record["newest"], url)


def _folder(base: Path, database: InfluxDB, wanted: Wanted, columns: Sequence[Column]) -> Path:
    """Where parts of this dataset from this source are, should an earlier run have left some."""
    source = database.source
    names = [f"{column.name}::{column.kind}" for column in columns]
    key = json.dumps([source.url, source.database, source.measurement, names, wanted.project, wanted.dataset])
    folder = base / hashlib.sha256(key.encode()).hexdigest()[:16]
    try:
        for left in base.iterdir():
            if left != folder and left.is_dir() and left.stat().st_mtime < time.time() - STALE:
                shutil.rmtree(left)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot write in {base} ({error.strerror}): check its owner and its disk") from error
    return folder


def _tidy(folder: Path, windows: Sequence[Window], kind: str) -> None:
    """Delete what is of no window: what was half made, and what was read with other bounds."""
    names = [f"{stamp(window.start)}-{stamp(window.end)}.{kind}" for window in windows]
    kept = {*names, *(f"{name}.json" for name in names)}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()


def give_back() -> None:
    """Have glibc give freed memory back at once: pieces of some MiB come and go, and it would keep tens of MiB."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MMAP_THRESHOLD, 1 << 17)
        mallopt(ARENA_MAX, 1)


if __name__ == "__main__":
    from workload.cli import main

    raise SystemExit(main(["ingest", *sys.argv[1:]]))
