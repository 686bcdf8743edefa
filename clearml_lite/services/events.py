"""events.*: console log, scalars, plots, debug images."""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import ApiError
from clearml_lite.query import new_scroll_id, scroll_offset
from clearml_lite.services.entities import require
from clearml_lite.services.event_batch import IMAGE, LOG, PLOT, SCALAR, EventBatch
from clearml_lite.storage import Document, Transaction

SINGLE_VALUE_ITERATION = -(2**31)
DEFAULT_SAMPLES = 6000
# NaN and the like, which are no JSON, count as missing values.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


@endpoint("events.add_batch", writes=True, takes_lines=True)
def add_batch(call: Call) -> Document:
    """Events, one JSON object a line; good ones are kept even when others are not."""
    batch = EventBatch(call.transaction, call.worker)
    for number, line in enumerate(call.body.decode("utf-8", "replace").removesuffix("\n").split("\n"), 1):
        batch.add(_parsed(number, line))
    batch.save()
    if not batch.added:
        raise ApiError(400, 131, "Events not added", **batch.errors)
    return {"added": batch.added, "errors": sum(batch.errors.values()), "errors_info": batch.errors}


@endpoint("events.scalar_metrics_iter_histogram")
def scalar_metrics_iter_histogram(call: Call) -> Document:
    """Scalars by iteration or time, averaged into at most `samples` points a variant."""
    task = _owner(call, call.data["task"])
    key = call.data.get("key") or "iter"
    samples = max(call.data.get("samples") or DEFAULT_SAMPLES, 1)
    metrics: Document = {}
    for series, metric, variant in _series(call.transaction, task):
        x, y = _sampled(call.transaction, series, key, samples)
        if x:
            metrics.setdefault(metric, {})[variant] = {"name": variant, "x": x, "y": y}
    return metrics


@endpoint("events.get_task_single_value_metrics")
def get_task_single_value_metrics(call: Call) -> Document:
    """The latest of each value that has no iteration."""
    latest = (
        "SELECT value, timestamp FROM scalars WHERE series = ? AND iter = ? ORDER BY timestamp DESC, rowid DESC LIMIT 1"
    )
    tasks = []
    for identifier in call.data["tasks"]:
        task = call.transaction.get(_collection(call), identifier)
        values = [
            {"metric": metric, "variant": variant, "value": value, "timestamp": timestamp}
            for series, metric, variant in _series(call.transaction, identifier)
            for value, timestamp in call.transaction.execute(latest, (series, SINGLE_VALUE_ITERATION))
        ]
        if task and values:
            tasks.append({"task": identifier, "task_name": task["name"], "values": values})
    return {"tasks": tasks}


@endpoint("events.get_task_log")
def get_task_log(call: Call) -> Document:
    """Console lines before `from_timestamp` (`navigate_earlier`) or after it; without it the last or the first ones."""
    task = _owner(call, call.data["task"])
    earlier = call.data.get("navigate_earlier", True)
    condition, params = _of_type(task, LOG)
    total = _count(call.transaction, condition, params)
    if (moment := call.data.get("from_timestamp")) is not None:
        condition += f" AND timestamp {'<' if earlier else '>'} ?"
        params = (*params, moment)
    events = _events(call.transaction, condition, params, not earlier, call.data.get("batch_size") or 100)
    if (call.data.get("order") == "asc") == earlier:
        events.reverse()
    return {"events": events, "returned": len(events), "total": total}


@endpoint("events.get_task_events")
def get_task_events(call: Call) -> Document:
    """Events of a task by type, in the order of time, batch by batch."""
    task = _owner(call, call.data["task"])
    kind = call.data.get("event_type")
    ascending = call.data.get("order") == "asc"
    limit = call.data.get("batch_size") or 500
    offset = scroll_offset(call.data.get("scroll_id"))
    if kind == SCALAR:
        total, events = _scalar_events(call.transaction, task, ascending, limit, offset)
    else:
        condition, params = _of_type(task, kind)
        total = _count(call.transaction, condition, params)
        events = _events(call.transaction, condition, params, ascending, limit, offset)
    scroll_id = new_scroll_id(offset + len(events))
    return {"events": events, "returned": len(events), "total": total, "scroll_id": scroll_id}


@endpoint("events.get_task_plots")
def get_task_plots(call: Call) -> Document:
    """The plots of the last `iters` iterations of every metric and variant, all in the first answer of a scroll."""
    task = _owner(call, call.data["task"])
    plots = []
    if not scroll_offset(call.data.get("scroll_id")):
        for item in call.data.get("metrics") or [{}]:
            plots += _last_iterations(call.transaction, task, PLOT, call.data.get("iters") or 1, item)
    scroll_id = None if call.data.get("no_scroll") else new_scroll_id(max(len(plots), 1))
    return {"plots": plots, "returned": len(plots), "total": len(plots), "scroll_id": scroll_id}


@endpoint("events.debug_images")
def debug_images(call: Call) -> Document:
    """Debug images of the last `iters` iterations of the metrics asked for; with the scroll ID those before."""
    offset = scroll_offset(call.data.get("scroll_id"))
    reach = offset + (call.data.get("iters") or 1)
    metrics = []
    for item in call.data["metrics"]:
        task = _owner(call, item["task"])
        by_iteration: dict[int, list[Document]] = {}
        for image in _last_iterations(call.transaction, task, IMAGE, reach, item):
            by_iteration.setdefault(image.get("iter", 0), []).append(image)
        shown = sorted(by_iteration, reverse=True)[offset:reach]
        iterations = [{"iter": number, "events": by_iteration[number]} for number in shown]
        metrics.append({"task": task, "iterations": iterations})
    return {"metrics": metrics, "scroll_id": new_scroll_id(reach)}


def delete_events(transaction: Transaction, task: str) -> None:
    """Removes all events of a task or model."""
    transaction.execute("DELETE FROM scalars WHERE series IN (SELECT id FROM series WHERE task = ?)", (task,))
    transaction.execute("DELETE FROM series WHERE task = ?", (task,))
    transaction.execute("DELETE FROM events WHERE task = ?", (task,))


def image_urls(transaction: Transaction, task: str) -> list[str]:
    """Where a task's debug images are."""
    rows = transaction.execute(
        "SELECT DISTINCT json_extract(doc, '$.url') AS url FROM events WHERE task = ? AND type = ? ORDER BY url",
        (task, IMAGE),
    )
    return [url for (url,) in rows if url]


def _parsed(number: int, line: str) -> Document:
    try:
        event = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, 131, "Events not added", reason=f"line {number} is not JSON") from error
    if not isinstance(event, dict):
        raise ApiError(400, 131, "Events not added", reason=f"line {number} is not an object")
    return event


def _collection(call: Call) -> str:
    return "models" if call.data.get("model_events") else "tasks"


def _owner(call: Call, identifier: str) -> str:
    require(call, _collection(call), identifier)
    return identifier


def _series(transaction: Transaction, task: str) -> list[tuple[int, str, str]]:
    return transaction.execute(
        "SELECT id, metric, variant FROM series WHERE task = ? ORDER BY metric, variant", (task,)
    ).fetchall()


def _sampled(transaction: Transaction, series: int, key: str, samples: int) -> tuple[list[Any], list[float]]:
    column = "iter" if key == "iter" else "timestamp"
    of_series = (series, SINGLE_VALUE_ITERATION)
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
    moments = [row[0] for row in rows]
    if key == "iso_time":
        moments = [datetime.fromtimestamp(moment / 1000, UTC).isoformat() for moment in moments]
    return moments, [row[1] for row in rows]


def _of_type(task: str, kind: str | None) -> tuple[str, tuple[Any, ...]]:
    return ("task = ? AND type = ?", (task, kind)) if kind else ("task = ?", (task,))


def _count(transaction: Transaction, condition: str, params: Sequence[Any]) -> int:
    (count,) = transaction.execute(f"SELECT count(*) FROM events WHERE {condition}", params).fetchone()  # noqa: S608
    return int(count)


def _events(
    transaction: Transaction, condition: str, params: Sequence[Any], ascending: bool, limit: int, offset: int = 0
) -> list[Document]:
    direction = "ASC" if ascending else "DESC"
    rows = transaction.execute(
        f"""SELECT doc FROM events WHERE {condition}
            ORDER BY timestamp {direction}, id {direction} LIMIT ? OFFSET ?""",  # noqa: S608
        (*params, limit, offset),
    )
    return [json.loads(row[0]) for row in rows]


def _scalar_events(
    transaction: Transaction, task: str, ascending: bool, limit: int, offset: int
) -> tuple[int, list[Document]]:
    joined = "scalars JOIN series ON series.id = scalars.series WHERE task = ?"
    (total,) = transaction.execute(f"SELECT count(*) FROM {joined}", (task,)).fetchone()  # noqa: S608
    direction = "ASC" if ascending else "DESC"
    rows = transaction.execute(
        f"""SELECT timestamp, iter, metric, variant, value, worker FROM {joined}
            ORDER BY timestamp {direction}, scalars.rowid {direction} LIMIT ? OFFSET ?""",  # noqa: S608
        (task, limit, offset),
    )
    names = ("timestamp", "iter", "metric", "variant", "value", "worker")
    return total, [{"type": SCALAR, "task": task} | dict(zip(names, row, strict=True)) for row in rows]


def _last_iterations(transaction: Transaction, task: str, kind: str, count: int, item: Document) -> list[Document]:
    """Events of the last `count` iterations of each metric and variant; `item` may name one metric and variants."""
    condition, params = _of_type(task, kind)
    if item.get("metric"):
        condition += " AND metric = ?"
        params = (*params, item["metric"])
    rows = transaction.execute(
        f"""SELECT doc FROM (
                SELECT doc, metric, variant, iter,
                    dense_rank() OVER (PARTITION BY metric, variant ORDER BY iter DESC) AS age
                FROM events WHERE {condition})
            WHERE age <= ? ORDER BY metric, variant, iter DESC""",  # noqa: S608
        (*params, count),
    )
    events = [json.loads(row[0]) for row in rows]
    variants = item.get("variants")
    return [event for event in events if not variants or event["variant"] in variants]
