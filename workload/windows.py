"""Which stretches of time are read: all times in ns since the epoch, from a start up to but without an end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Iterable, Mapping

SECOND = 1_000_000_000
DAY = 86_400 * SECOND
# Each is a multiple of the one before, so a wide window is a number of narrow ones
WIDTHS = [SECOND * n for n in (1, 10, 60, 600, 3600, 21_600, 86_400, 864_000, 8_640_000, 86_400_000)]
MOST_WINDOWS = 1000
ROWS = 500_000  # in a window at most, where points do not lie closer than a second allows


@dataclass(frozen=True)
class Window:
    """A stretch of time, and for how many of its points InfluxDB counted a value of each field."""

    start: int
    end: int
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Of the field that most points have: there are about as many rows."""
        return max(self.counts.values(), default=0)


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


def cut(start: int, end: int, oldest: int, counts: Mapping[int, Mapping[str, int]], narrow: int) -> list[Window]:
    """Windows from the oldest point to the end, whose bounds stay the same while the start and the end move.

    counts: values of each field, by the start of each stretch of the width `narrow`. A window is a day at most, or
    `narrow`, and less where it would hold too many rows.
    """
    for width in reversed([width for width in WIDTHS if narrow <= width <= max(DAY, narrow)]):
        sums: dict[int, dict[str, int]] = {}
        for at, found in counts.items():
            sum_of = sums.setdefault(at - at % width, {})
            for name, count in found.items():
                sum_of[name] = sum_of.get(name, 0) + count
        if max((count for sum_of in sums.values() for count in sum_of.values()), default=0) <= ROWS:
            break
    begin = oldest - oldest % width
    bounds = [max(start, begin), *range(begin + width, end, width), end]
    return [Window(low, high, sums.get(low - low % width, {})) for low, high in zip(bounds, bounds[1:])]
