"""One window of a measurement -> one file of a dataset, with constant memory and with its types."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import re
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from workload.columns import TAG, Column
from workload.errors import DiskError, SourceError
from workload.influx import Answer, InfluxDB
from workload.registered import sha256
from workload.statistics import Figures, added, figures
from workload.windows import SECOND, Window

FORMATS = ("parquet", "csv")
TYPES = {
    "float": pa.float64(),
    "integer": pa.int64(),
    "unsigned": pa.uint64(),
    "string": pa.string(),
    "boolean": pa.bool_(),
    TAG: pa.string(),
}
BLOCK = 1 << 18  # bytes of an answer that are worked on at once; Arrow may read up to 32 ahead
TEXT_BLOCK = 1 << 20  # the same where there are strings, as a row has to fit
ROWS = 1 << 14  # in a row group of Parquet
OWN = ["\0name", "\0tags"]  # InfluxDB's own columns, before `time`

pa.set_memory_pool(pa.system_memory_pool())  # the others keep what was freed


@dataclass(frozen=True)
class Part:
    """What was read of a window. Without rows there is no file; first and newest are times in ns since the epoch."""

    start: int
    end: int
    rows: int = 0
    file: str = ""
    sha256: str = ""
    first: int = 0
    newest: int = 0
    columns: dict[str, Figures] = field(default_factory=dict)


def read_part(
    database: InfluxDB,
    columns: Sequence[Column],
    window: Window,
    folder: Path,
    kind: str,
    told: Callable[[int], None],
) -> Part:
    """Read a window into a file of the folder, or find it there as an earlier run left it.

    kind: of FORMATS. `told` is called with the number of rows of each piece; what it raises ends the work. A file is
    there whole, with a file `.json` beside it, or not at all. Raises SourceError, DiskError.
    """
    file = folder / f"{stamp(window.start)}-{stamp(window.end)}.{kind}"
    done = _found(database, columns, window, file)
    if done:
        told(done.rows)
        return done
    half = file.with_name(f"{file.name}.half")
    try:
        part = _read(database, columns, window, half, kind, told)
        if part.rows:
            part = Part(**{**asdict(part), "file": file.name})
            half.replace(file)
        half.write_text(json.dumps(asdict(part)))
        half.replace(_beside(file))
    except OSError as error:
        raise DiskError(_disk(error, folder)) from error
    finally:
        with contextlib.suppress(OSError):
            half.unlink()
    return part


def head(file: Path, rows: int) -> pa.Table:
    """The first rows of a part."""
    if file.suffix == ".parquet":
        batch = next(pa.parquet.ParquetFile(file).iter_batches(rows))
        return pa.Table.from_batches([batch])
    with pa.csv.open_csv(file, pa.csv.ReadOptions(block_size=TEXT_BLOCK)) as reader:
        return pa.Table.from_batches([reader.read_next_batch().slice(0, rows)])


def texts(column: pa.ChunkedArray) -> list[str]:
    """The values as people read them; "" for what is missing."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ns"))  # Python has no ns
    return [value or "" for value in column.cast(pa.string()).to_pylist()]


def stamp(ns: int) -> str:
    """Sorts as text in order of time."""
    seconds = datetime.fromtimestamp(ns // SECOND, timezone.utc).strftime("%Y%m%dT%H%M%S")
    return f"{seconds}.{ns % SECOND:09d}Z" if ns % SECOND else f"{seconds}Z"


def lacking(part: Part, columns: Sequence[Column], counts: Mapping[str, int]) -> str:
    """The first field of which the part has fewer values than InfluxDB counted, or ""."""
    return next((c.name for c in columns if held(part, c) < counts.get(c.name, 0)), "")


def held(part: Part, column: Column) -> int:
    """The number of values that the part has of a field; of strings it has at most as many as it has rows.

    InfluxDB counts empty strings, and in its CSV they look as if they were missing.
    """
    if column.name not in part.columns:
        return 0
    return part.rows if column.kind == "string" else int(part.columns[column.name].get("count", 0))


def _found(database: InfluxDB, columns: Sequence[Column], window: Window, file: Path) -> Part | None:
    """The part as an earlier run left it: whole (a power cut may have left less), unless InfluxDB has more by now."""
    try:
        part = Part(**json.loads(_beside(file).read_text()))
        if part.rows and sha256(file) != part.sha256:
            return None
    except (OSError, ValueError, TypeError):
        return None
    return None if lacking(part, columns, database.totals(columns, window.start, window.end)) else part


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _read(
    database: InfluxDB, columns: Sequence[Column], window: Window, out: Path, kind: str, told: Callable[[int], None]
) -> Part:
    schema = pa.schema(
        [pa.field("time", pa.timestamp("ns", "UTC"))] + [pa.field(c.name, TYPES[c.kind]) for c in columns]
    )
    rows, first, newest = 0, 0, 0
    found: dict[str, Figures] = {column.name: {"count": 0} for column in columns}
    with database.answer(columns, window.start, window.end) as answer, _Hashed(out) as file:
        with contextlib.ExitStack() as stack:
            write = None
            for table in _tables(answer, columns):
                if write is None:  # a file is begun when there is something to write
                    write = stack.enter_context(_writer(file, schema, kind, columns))
                for column in columns:
                    try:
                        piece = figures(table[column.name])
                    except ValueError as error:
                        raise SourceError(
                            f"field {column.name!r} holds {error} between {_iso(window.start)} and {_iso(window.end)}:"
                            " leave it out of --fields, or mend it at the source"
                        ) from error
                    found[column.name] = added(found[column.name], piece)
                first = first or table["time"][0].as_py()
                newest = table["time"][-1].as_py()
                write(table)
                rows += len(table)
                told(len(table))
        return Part(window.start, window.end, rows, "", file.digest() if rows else "", first, newest, found)


def _tables(answer: Answer, columns: Sequence[Column]) -> Iterator[pa.Table]:
    """Pieces of about ROWS rows; `time` in ns as an integer."""
    names = ["time", *(column.name for column in columns)]
    types = {"time": pa.int64(), **{column.name: TYPES[column.kind] for column in columns}}
    has_text = any(column.kind == "string" for column in columns)
    block = TEXT_BLOCK if has_text else BLOCK
    batches, rows = [], 0
    first = answer.read(block)
    if not first:
        return
    try:
        reader = pa.csv.open_csv(
            pa.PythonFile(_Joined(first, answer), mode="r"),
            # one thread: it parses faster than InfluxDB sends
            pa.csv.ReadOptions(use_threads=False, block_size=block, column_names=OWN + names, skip_rows=1),
            pa.csv.ParseOptions(newlines_in_values=has_text),
            pa.csv.ConvertOptions(
                column_types=types, include_columns=names, null_values=[""], strings_can_be_null=True
            ),
        )
        for batch in reader:
            batches.append(batch)
            rows += len(batch)
            if rows >= ROWS:
                yield pa.Table.from_batches(batches)
                batches, rows = [], 0
    except pa.ArrowInvalid as error:
        raise answer.unreadable(_why(str(error), names)) from error
    if rows:
        yield pa.Table.from_batches(batches)


@contextlib.contextmanager
def _writer(
    file: io.BufferedWriter, schema: pa.Schema, kind: str, columns: Sequence[Column]
) -> Iterator[Callable[[pa.Table], None]]:
    """A function that writes a piece of _tables: the last one is written when the block is left."""
    if kind == "csv":
        csv_schema = schema.set(0, pa.field("time", pa.int64()))
        options = pa.csv.WriteOptions(quoting_style="needed")
        with pa.csv.CSVWriter(file, csv_schema, write_options=options) as csv:
            yield csv.write_table
        return
    repeated = [column.name for column in columns if pa.types.is_string(TYPES[column.kind])]
    with pa.parquet.ParquetWriter(file, schema, compression="zstd", use_dictionary=repeated) as parquet:
        time = schema.field("time")
        yield lambda table: parquet.write_table(table.set_column(0, time, table["time"].cast(time.type)))


class _Hashed(io.BufferedWriter):
    """A new file, and the SHA-256 of what is written to it, from its start to its end."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(str(path), "wb"), BLOCK)
        self._hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return super().write(data)

    def digest(self) -> str:
        return self._hash.hexdigest()


class _Joined:
    """A file of what was read already, and then the rest."""

    closed = False

    def __init__(self, first: bytes, rest: Answer) -> None:
        self._first = first
        self._rest = rest

    def read(self, size: int) -> bytes:
        if self._first:
            block, self._first = self._first[:size], self._first[size:]
            return block
        return self._rest.read(size)

    def close(self) -> None:
        pass


def _why(said: str, names: Sequence[str]) -> str:
    """Arrow's words, with the name of the column that it numbers."""

    def name(match: Any) -> str:
        number = int(match[1]) - len(OWN)
        return f"column {names[number]!r}" if 0 <= number < len(names) else str(match[0])

    return re.sub(r"In CSV column #(\d+)", name, said.splitlines()[0])


def _disk(error: OSError, folder: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space is left in {folder}: free some"
    return f"cannot write in {folder} ({error.strerror or error})"


def _iso(ns: int) -> str:
    return datetime.fromtimestamp(ns // SECOND, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
