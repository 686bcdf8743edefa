"""Which stretches of time are read: all times in ns since the epoch, from a start up to but without an end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Mapping

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
# Each is a multiple of the one before, so a wide window is a number of narrow ones
WIDTHS = [SECOND * n for n in (1, 10, 60, 600, 3600, 21_600, 86_400, 864_000, 8_640_000, 86_400_000)]
MOST_WINDOWS = 1000
ROWS = 500_000  # in a window at most, where points do not lie closer than a second allows


@dataclass(frozen=True)
class Window:
    """A stretch of time, and for how many of its points InfluxDB counted a value of the field `counted`."""

    start: int
    end: int
    counted: str = ""
    count: int = 0


def missing(start: int, end: int, covered: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of start to end is in none of the stretches that are covered, in order."""
    gaps = []
    for low, high in sorted(covered):
        if low >= end:
            break
        if low > start:
            gaps.append((start, low))
        start = max(start, high)
    return gaps + ([(start, end)] if start < end else [])


def grain(start: int, end: int) -> int:
    """The width in which points are counted first."""
    return next((width for width in WIDTHS if (end - start) // width < MOST_WINDOWS), WIDTHS[-1])


def cut(start: int, end: int, oldest: int, counted: str, counts: Mapping[int, int], narrow: int) -> list[Window]:
    """Windows from the oldest point to the end, whose bounds stay the same while the start and the end move.

    counts: points by the start of each stretch of the width `narrow`. A window is a day at most, or `narrow`, and less
    where it would hold too many rows.
    """
    for width in reversed([width for width in WIDTHS if narrow <= width <= max(DAY, narrow)]):
        sums: dict[int, int] = {}
        for at, count in counts.items():
            sums[at - at % width] = sums.get(at - at % width, 0) + count
        if max(sums.values(), default=0) <= ROWS:
            break
    begin = oldest - oldest % width
    bounds = [max(start, begin), *range(begin + width, end, width), end]
    return [Window(low, high, counted, sums.get(low - low % width, 0)) for low, high in zip(bounds, bounds[1:])]
