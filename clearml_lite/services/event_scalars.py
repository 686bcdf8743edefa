"""events.*: scalars as curves, raw points and single values, vectors; one task or many."""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from clearml_lite.dispatch import Call, endpoint
from clearml_lite.encoding import decode
from clearml_lite.errors import validation_error
from clearml_lite.migrations import SINGLE_VALUE_ITERATION
from clearml_lite.query import new_scroll_id, scroll_offset
from clearml_lite.services.entities import require
from clearml_lite.services.event_batch import SCALAR, VECTOR
from clearml_lite.services.event_queries import LARGEST_TOTAL, collection, of_metrics, of_type, owner
from clearml_lite.storage import Document, Transaction

DEFAULT_SAMPLES = 6000
DEFAULT_POINTS, MOST_POINTS = 10_000, 200_000
MOST_TASKS = 100
_RECENT = 100


@endpoint("events.scalar_metrics_iter_histogram")
def scalar_metrics_iter_histogram(call: Call) -> Document:
    """Scalars by iteration or time, averaged into at most `samples` points a variant (0: every point)."""
    task = owner(call, call.data["task"])
    metrics: Document = {}
    for metric, variant, x, y in _curves(call, task, call.data.get("metrics") or ()):
        metrics.setdefault(metric, {})[variant] = {"name": variant, "x": x, "y": y}
    return metrics


@endpoint("events.multi_task_scalar_metrics_iter_histogram")
def multi_task_scalar_metrics_iter_histogram(call: Call) -> Document:
    """Scalars of up to 100 tasks side by side: by metric, variant and task."""
    if len(call.data["tasks"]) > MOST_TASKS:
        raise validation_error("tasks", f"must have at most {MOST_TASKS} items!")
    metrics: Document = {}
    for task in dict.fromkeys(call.data["tasks"]):
        name = require(call, collection(call), task)["name"]
        for metric, variant, x, y in _curves(call, task, ()):
            metrics.setdefault(metric, {}).setdefault(variant, {})[task] = {"name": name, "x": x, "y": y}
    return metrics


@endpoint("events.scalar_metrics_iter_raw")
def scalar_metrics_iter_raw(call: Call) -> Document:
    """Every point of a metric's variants, batch by batch."""
    task = owner(call, call.data["task"])
    key = call.data.get("key") or "iter"
    limit = min(max(call.data.get("batch_size") or DEFAULT_POINTS, 1), MOST_POINTS)
    offset = scroll_offset(call.data.get("scroll_id"))
    condition, params = _of_series(task, [call.data["metric"]])
    rows = call.transaction.execute(
        f"""SELECT variant, {_column(key)}, value FROM {_POINTS} AND {condition}
            ORDER BY metric, variant, iter, scalars.rowid LIMIT ? OFFSET ?""",  # noqa: S608
        (*params, limit, offset),
    ).fetchall()
    variants: Document = {}
    for variant, moment, value in rows:
        curve = variants.setdefault(variant, {"name": variant, "x": [], "y": []})
        curve["x"].append(moment)
        curve["y"].append(value)
    for curve in variants.values():
        curve["x"] = _moments(key, curve["x"])
    total = None
    if call.data.get("count_total"):
        (total,) = call.transaction.execute(
            f"SELECT count(*) FROM {_POINTS} AND {condition}",  # noqa: S608
            params,
        ).fetchone()
    scroll = new_scroll_id(offset + len(rows))
    return {"variants": variants, "returned": len(rows), "total": total, "scroll_id": scroll}


@endpoint("events.get_scalar_metric_data")
def get_scalar_metric_data(call: Call) -> Document:
    """The scalar events of a metric, batch by batch."""
    if not call.data.get("task"):
        raise validation_error("task", "field is required!")
    task = owner(call, call.data["task"])
    offset = scroll_offset(call.data.get("scroll_id"))
    total, events = scalar_events(call.transaction, task, True, 500, offset, call.data.get("metric"))
    scroll = None if call.data.get("no_scroll") else new_scroll_id(offset + len(events))
    return {"events": events, "returned": len(events), "total": total, "scroll_id": scroll}


@endpoint("events.get_scalar_metrics_and_variants")
def get_scalar_metrics_and_variants(call: Call) -> Document:
    """The variants of each scalar metric of a task."""
    metrics: dict[str, list[str]] = {}
    for _, metric, variant in series_of(call.transaction, owner(call, call.data["task"])):
        metrics.setdefault(metric, []).append(variant)
    return {"metrics": metrics}


@endpoint("events.get_task_latest_scalar_values")
def get_task_latest_scalar_values(call: Call) -> Document:
    """The last value of each scalar, and the mean of its last 100."""
    metrics: dict[str, list[Document]] = {}
    for series, metric, variant in series_of(call.transaction, owner(call, call.data["task"])):
        rows = call.transaction.execute(
            """SELECT value, timestamp FROM scalars WHERE series = ? AND iter != ?
               ORDER BY iter DESC, timestamp DESC, rowid DESC LIMIT ?""",
            (series, SINGLE_VALUE_ITERATION, _RECENT),
        ).fetchall()
        if rows:
            mean = sum(value for value, _ in rows) / len(rows)
            last = {"name": variant, "last_value": rows[0][0], "last_100_value": mean, "last_timestamp": rows[0][1]}
            metrics.setdefault(metric, []).append(last)
    return {"metrics": [{"name": name, "variants": variants} for name, variants in metrics.items()]}


@endpoint("events.get_task_single_value_metrics")
def get_task_single_value_metrics(call: Call) -> Document:
    """The latest of each value that has no iteration."""
    latest = f"""SELECT value, timestamp FROM scalars WHERE series = ? AND iter = {SINGLE_VALUE_ITERATION}
        ORDER BY timestamp DESC, rowid DESC LIMIT 1"""  # noqa: S608
    tasks = []
    for identifier in call.data["tasks"]:
        task = call.transaction.get(collection(call), identifier)
        values = [
            {"metric": metric, "variant": variant, "value": value, "timestamp": timestamp}
            for series, metric, variant in series_of(call.transaction, identifier)
            for value, timestamp in call.transaction.execute(latest, (series,))
        ]
        if task and values:
            tasks.append({"task": identifier, "task_name": task["name"], "values": values})
    return {"tasks": tasks}


@endpoint("events.get_vector_metrics_and_variants")
def get_vector_metrics_and_variants(call: Call) -> Document:
    """The variants of each vector metric of a task."""
    condition, params = of_type(owner(call, call.data["task"]), VECTOR)
    rows = call.transaction.execute(
        f"SELECT DISTINCT metric, variant FROM events WHERE {condition} ORDER BY metric, variant",  # noqa: S608
        params,
    )
    metrics: dict[str, list[str]] = {}
    for metric, variant in rows:
        metrics.setdefault(metric, []).append(variant)
    return {"metrics": [{"metric": metric, "variants": variants} for metric, variants in metrics.items()]}


@endpoint("events.vector_metrics_iter_histogram")
def vector_metrics_iter_histogram(call: Call) -> Document:
    """The vectors of a metric and variant by iteration."""
    metric, variant = call.data["metric"], call.data["variant"]
    condition, params = of_type(owner(call, call.data["task"]), VECTOR)
    rows = call.transaction.execute(
        f"SELECT iter, doc FROM events WHERE {condition} AND metric = ? AND variant = ? ORDER BY iter, id",  # noqa: S608
        (*params, metric, variant),
    ).fetchall()
    vectors = [decode(doc).get("values") or [] for _, doc in rows]
    return {"metric": metric, "variant": variant, "iterations": [row[0] for row in rows], "vectors": vectors}


def series_of(transaction: Transaction, task: str, items: Iterable[Document] = ()) -> list[tuple[int, str, str]]:
    """A task's scalar series as (key, metric, variant), all or those that the request names."""
    condition, params = of_metrics(items)
    return transaction.execute(
        f"SELECT id, metric, variant FROM series WHERE task = ? AND ({condition}) ORDER BY metric, variant",  # noqa: S608
        (task, *params),
    ).fetchall()


def scalar_events(
    transaction: Transaction, task: str, ascending: bool, limit: int, offset: int, metric: str | None = None
) -> tuple[int, list[Document]]:
    """A task's scalars as events, in the order of time, and how many there are as far as it is counted."""
    joined = "scalars JOIN series ON series.id = scalars.series WHERE task = ?" + (" AND metric = ?" if metric else "")
    params = (task, metric) if metric else (task,)
    (total,) = transaction.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM {joined} LIMIT {LARGEST_TOTAL})",  # noqa: S608
        params,
    ).fetchone()
    direction = "ASC" if ascending else "DESC"
    rows = transaction.execute(
        f"""SELECT timestamp, iter, metric, variant, value, worker FROM {joined}
            ORDER BY timestamp {direction}, scalars.rowid {direction} LIMIT ? OFFSET ?""",  # noqa: S608
        (*params, limit, offset),
    )
    names = ("timestamp", "iter", "metric", "variant", "value", "worker")
    return total, [{"type": SCALAR, "task": task} | dict(zip(names, row, strict=True)) for row in rows]


_POINTS = f"scalars JOIN series ON series.id = scalars.series WHERE iter != {SINGLE_VALUE_ITERATION}"


def _of_series(task: str, items: Iterable[Document]) -> tuple[str, list[Any]]:
    condition, params = of_metrics(items)
    return f"task = ? AND ({condition})", [task, *params]


def _column(key: str) -> str:
    return "iter" if key == "iter" else "timestamp"


def _moments(key: str, values: Sequence[int]) -> Sequence[Any]:
    if key != "iso_time":
        return values
    return [datetime.fromtimestamp(value / 1000, UTC).isoformat() for value in values]


def _curves(call: Call, task: str, items: Iterable[Document]) -> Iterable[tuple[str, str, Sequence[Any], list[float]]]:
    """(metric, variant, x, y) of each series that has points."""
    key = call.data.get("key") or "iter"
    samples = call.data.get("samples", DEFAULT_SAMPLES)
    for series, metric, variant in series_of(call.transaction, task, items):
        x, y = _sampled(call.transaction, series, _column(key), samples)
        if x:
            yield metric, variant, _moments(key, x), y


def _sampled(transaction: Transaction, series: int, column: str, samples: int) -> tuple[list[int], list[float]]:
    of_series = (series, SINGLE_VALUE_ITERATION)
    if samples <= 0:
        rows = transaction.execute(
            f"SELECT {column}, value FROM scalars WHERE series = ? AND iter != ? ORDER BY {column}, rowid",  # noqa: S608
            of_series,
        ).fetchall()
        return [row[0] for row in rows], [row[1] for row in rows]
    low, high = transaction.execute(
        f"SELECT min({column}), max({column}) FROM scalars WHERE series = ? AND iter != ?",  # noqa: S608
        of_series,
    ).fetchone()
    if low is None:
        return [], []
    interval = math.ceil((high - low + 1) / samples)
    rows = transaction.execute(
        f"""SELECT min({column}), avg(value) FROM scalars WHERE series = ? AND iter != ?
            GROUP BY ({column} - ?) / ? ORDER BY 1""",  # noqa: S608
        (*of_series, low, interval),
    ).fetchall()
    return [row[0] for row in rows], [row[1] for row in rows]
