"""Fill an InfluxDB with synthetic telemetry, and keep it filled."""

from __future__ import annotations

import math
from typing import Iterator

import numpy as np

from testbed_workload.errors import SourceError
from testbed_workload.generator import DAY, FIELDS, LABEL, Reports, generate
from testbed_workload.influx import InfluxDB

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


def fill(database: InfluxDB, points: int, days: int, seed: int, period: int, now: int, only_missing: bool) -> dict[str, int]:
    """Write `points` reports over the `days` before `now` (s since the epoch), or only what of them is missing.

    Enough is: that many points in those days, the newest less than a day old. A source of somebody else's is refused.
    Returns written, points (in those days) and newest (s since the epoch).
    """
    if database.source.external:
        raise SourceError(f"InfluxDB at {database.source.url} is an external source: it is only ever read")
    start = now - days * DAY
    todo = (start, points, 0)
    if only_missing:
        newest = database.newest() // NS
        missing = points - database.count(LABEL, start * NS, now * NS)
        if newest > now - DAY:
            # Recent but too few: more UEs beside those that are there, as a point of the same UE and time would replace one
            todo = (start, max(missing, 0), _next_ue(database))
        elif newest > start:
            due = math.ceil(points * (now - newest) / (days * DAY))
            todo = (newest, max(missing, due), 0)
    begin, due, first_ue = todo
    written = 0
    if due:
        chunks = generate(begin, now, due, seed, period, first_ue)
        written = database.write(
            line for reports in chunks for line in line_protocol(reports, database.source.measurement)
        )
    return {
        "written": written,
        "points": database.count(LABEL, start * NS, now * NS),
        "newest": database.newest() // NS,
    }


def _next_ue(database: InfluxDB) -> int:
    numbers = [int(value[3:]) for value in database.tag_values("ue") if value.startswith("ue-") and value[3:].isdigit()]
    return max(numbers, default=-1) + 1
