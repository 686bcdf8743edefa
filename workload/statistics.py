"""Figures of columns that are read piece by piece: each piece has its own, and they add up."""

from __future__ import annotations

import math
from typing import Any, Mapping

import pyarrow as pa
import pyarrow.compute as pc

Figures = Mapping[str, Any]
HEADER = ("column", "type", "values", "missing", "mean", "std", "min", "max")


def figures(values: pa.ChunkedArray) -> Figures:
    """`count` of the values; of numbers and booleans also `mean` and `squares` (the sum of squared distances from it);

    of numbers `min` and `max`. Raises ValueError where a value is not finite.
    """
    found: dict[str, Any] = {"count": len(values) - values.null_count}
    kind = values.type
    if not found["count"] or not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return found
    numbers = (
        values.cast(pa.int8()).cast(pa.float64())
        if pa.types.is_boolean(kind)
        else values.cast(pa.float64(), safe=False)
    )
    found["mean"] = pc.mean(numbers).as_py()
    if not math.isfinite(found["mean"]) and not pc.all(pc.is_finite(numbers)).as_py():
        raise ValueError("NaN or an infinite value")
    found["squares"] = pc.variance(numbers).as_py() * found["count"]
    if not pa.types.is_boolean(kind):
        ends = pc.min_max(values).as_py()
        found.update(min=ends["min"], max=ends["max"])
    return found


def added(one: Figures, other: Figures) -> Figures:
    """The figures of both pieces together."""
    if not one.get("count") or not other.get("count"):
        return other if other.get("count") else one
    count = one["count"] + other["count"]
    both: dict[str, Any] = {"count": count}
    if "mean" in one:
        apart = other["mean"] - one["mean"]
        both["mean"] = one["mean"] + apart * other["count"] / count
        both["squares"] = one["squares"] + other["squares"] + apart * apart * one["count"] * other["count"] / count
    if "min" in one:
        both.update(min=min(one["min"], other["min"]), max=max(one["max"], other["max"]))
    return both


def row(name: str, kind: str, found: Figures, rows: int) -> list[str]:
    """A line of the table under HEADER; `rows`: of the whole, with those that lack a value."""
    std = math.sqrt(max(found["squares"], 0) / found["count"]) if "squares" in found else None
    numbers = (found.get("mean"), std, found.get("min"), found.get("max"))
    return [name, kind, str(found["count"]), str(rows - found["count"]), *map(_short, numbers)]


def _short(value: Any) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"
