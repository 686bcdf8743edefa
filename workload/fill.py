"""Fill an InfluxDB with synthetic telemetry, and keep it filled."""

from __future__ import annotations

import math
from typing import Iterator

import numpy as np

from workload.errors import SourceError
from workload.generator import DAY, FIELDS, LABEL, Reports, generate
from workload.influx import InfluxDB

NS = 1_000_000_000


def line_protocol(reports: Reports, measurement: str) -> Iterator[str]:
    """One line a report, times in s. A value that the report lacks is left out."""
    name = measurement.replace(",", "\\,").replace(" ", "\\ ")
    starts = [f"{name},cell=cell-{cell:02d},ue=ue-{ue:04d} " for cell, ue in zip(reports.cell, reports.ue)]
    ends = [f"{LABEL}={label}i {time}" for label, time in zip(reports.label, reports.time)]
    columns = [_column(field, decimals, reports.fields[field]) for field, (decimals, _) in FIELDS.items()]
    return map("".join, zip(starts, *columns, ends))


def _column(name: str, decimals: int, values: np.ndarray) -> list[str]:
    suffix = "" if decimals else "i"
    return [
        "" if value != value else f"{name}={value if decimals else int(value)}{suffix},"
        for value in np.round(values, decimals).tolist()
    ]


def fill(
    database: InfluxDB, points: int, days: int, seed: int, period: int, now: int, only_missing: bool, dry: bool = False
) -> dict[str, int]:
    """Write `points` reports over the `days` before `now` (s since the epoch), or only what of them is missing.

    Enough is: a newest point that is less than a day old, and that many points in the `days` before it. A source of
    somebody else's is refused. `dry`: nothing is written.

    Returns written (or what would be), points (in those days) and newest (s since the epoch).
    """
    if database.source.external:
        raise SourceError(f"InfluxDB at {database.source.url} is an external source: it is only ever read")
    begin, end, due, first_ue = now - days * DAY, now, points, 0
    newest = database.newest() // NS if only_missing else 0
    if newest > now - DAY:
        due = max(points - _count(database, newest, days), 0)
        # More UEs beside those that are there: a point of the same UE and time would take the place of one
        begin, end, first_ue = newest - days * DAY, newest, _next_ue(database)
    elif newest > begin:
        due = max(points - _count(database, now, days), math.ceil(points * (now - newest) / (days * DAY)))
        begin = newest
    written = due if dry else 0
    if due and not dry:
        chunks = generate(begin, end, due, seed, period, first_ue)
        written = database.write(
            line for reports in chunks for line in line_protocol(reports, database.source.measurement)
        )
        newest = database.newest() // NS
    return {"written": written, "points": _count(database, newest, days), "newest": newest}


def _count(database: InfluxDB, end: int, days: int) -> int:
    return database.count(LABEL, (end - days * DAY) * NS, end * NS)


def _next_ue(database: InfluxDB) -> int:
    numbers = [int(value[3:]) for value in database.tag_values("ue") if value.startswith("ue-") and value[3:].isdigit()]
    return max(numbers, default=-1) + 1
