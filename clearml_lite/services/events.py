"""events.*: console log, scalars, plots, debug images."""

import hashlib
import json
import math
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import ApiError
from clearml_lite.query import now
from clearml_lite.services.entities import active_duration, require
from clearml_lite.storage import Document, Transaction

SCALAR, LOG, PLOT, IMAGE, VECTOR = (
    "training_stats_scalar",
    "log",
    "plot",
    "training_debug_image",
    "training_stats_vector",
)
TYPES = (SCALAR, LOG, PLOT, IMAGE, VECTOR)
# Reported anew for the same metric, variant and iteration, these replace what was there.
REPLACED = (PLOT, IMAGE)
SINGLE_VALUE_ITERATION = -(2**31)
DEFAULT_SAMPLES = 6000
LOCKED_STATUS = "published"


@endpoint("events.add_batch", writes=True, takes_lines=True)
def add_batch(call: Call) -> Document:
    """Events, one JSON object a line; good ones are kept even when others are not."""
    events = [
        _parsed(number, line)
        for number, line in enumerate(call.body.decode("utf-8", "replace").rstrip("\n").split("\n"), 1)
    ]
    batch = _Batch(call.transaction, call.worker)
    for event in events:
        batch.add(event)
    batch.save()
    added, errors = len(events) - sum(batch.errors.values()), sum(batch.errors.values())
    if not added:
        raise ApiError(400, 131, "Events not added", **batch.errors)
    return {"added": added, "errors": errors, "errors_info": batch.errors}


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
    tasks = []
    for identifier in call.data["tasks"]:
        task = call.transaction.get(_collection(call), identifier)
        values = [
            {"metric": metric, "variant": variant, "value": value, "timestamp": timestamp}
            for series, metric, variant in _series(call.transaction, identifier)
            for value, timestamp in call.transaction.execute(
                "SELECT value, timestamp FROM scalars WHERE series = ? AND iter = ? ORDER BY timestamp DESC, rowid DESC LIMIT 1",
                (series, SINGLE_VALUE_ITERATION),
            )
        ]
        if task and values:
            tasks.append({"task": identifier, "task_name": task["name"], "values": values})
    return {"tasks": tasks}


@endpoint("events.get_task_log")
def get_task_log(call: Call) -> Document:
    """Console lines around a moment: `navigate_earlier` from it backwards, else forwards; without one from the end or the start."""
    task = _owner(call, call.data["task"])
    earlier = call.data.get("navigate_earlier", True)
    moment = call.data.get("from_timestamp")
    where, params = "task = ? AND type = ?", [task, LOG]
    (total,) = call.transaction.execute(f"SELECT count(*) FROM events WHERE {where}", params).fetchone()  # noqa: S608
    if moment is not None:
        where += f" AND timestamp {'<' if earlier else '>'} ?"
        params.append(moment)
    direction = "DESC" if earlier else "ASC"
    limit = call.data.get("batch_size") or 100
    rows = call.transaction.execute(
        f"SELECT doc FROM events WHERE {where} ORDER BY timestamp {direction}, id {direction} LIMIT ?",  # noqa: S608
        (*params, limit),
    )
    events = [json.loads(row[0]) for row in rows]
    wanted = call.data.get("order") or "desc"
    if (wanted == "asc") == earlier:
        events.reverse()
    return {"events": events, "returned": len(events), "total": total}


@endpoint("events.get_task_events")
def get_task_events(call: Call) -> Document:
    """Events of a task by type, in the order of time, batch by batch."""
    task = _owner(call, call.data["task"])
    kind = call.data.get("event_type")
    limit = call.data.get("batch_size") or 500
    offset = _offset(call.data.get("scroll_id"))
    direction = "ASC" if call.data.get("order") == "asc" else "DESC"
    if kind == SCALAR:
        total, events = _scalar_events(call.transaction, task, direction, limit, offset)
    else:
        where, params = ("task = ? AND type = ?", [task, kind]) if kind else ("task = ?", [task])
        (total,) = call.transaction.execute(f"SELECT count(*) FROM events WHERE {where}", params).fetchone()  # noqa: S608
        rows = call.transaction.execute(
            f"SELECT doc FROM events WHERE {where} ORDER BY timestamp {direction}, id {direction} LIMIT ? OFFSET ?",  # noqa: S608
            (*params, limit, offset),
        )
        events = [json.loads(row[0]) for row in rows]
    return {"events": events, "returned": len(events), "total": total, "scroll_id": f"offset-{offset + len(events)}"}


@endpoint("events.get_task_plots")
def get_task_plots(call: Call) -> Document:
    """The plots of the last `iters` iterations of every metric and variant."""
    task = _owner(call, call.data["task"])
    plots = _last_iterations(call.transaction, task, PLOT, call.data.get("iters") or 1, None)
    metrics = {item["metric"]: item.get("variants") for item in call.data.get("metrics") or []}
    if metrics:
        plots = [
            plot
            for plot in plots
            if plot["metric"] in metrics and plot["variant"] in (metrics[plot["metric"]] or [plot["variant"]])
        ]
    scroll = None if call.data.get("no_scroll") else f"offset-{len(plots)}"
    if _offset(call.data.get("scroll_id")):
        plots = []
    return {"plots": plots, "returned": len(plots), "total": len(plots), "scroll_id": scroll}


@endpoint("events.debug_images")
def debug_images(call: Call) -> Document:
    """Debug images of the last `iters` iterations of the metrics asked for; a second call with the scroll ID goes further back."""
    offset = _offset(call.data.get("scroll_id"))
    iterations = call.data.get("iters") or 1
    metrics = []
    for item in call.data["metrics"]:
        task = _owner(call, item["task"])
        images = _last_iterations(call.transaction, task, IMAGE, offset + iterations, item.get("metric"))
        if variants := item.get("variants"):
            images = [image for image in images if image["variant"] in variants]
        by_iteration: dict[int, list[Document]] = {}
        for image in images:
            by_iteration.setdefault(image["iter"], []).append(image)
        shown = sorted(by_iteration, reverse=True)[offset:]
        metrics.append(
            {"task": task, "iterations": [{"iter": number, "events": by_iteration[number]} for number in shown]}
        )
    return {"metrics": metrics, "scroll_id": f"offset-{offset + iterations}"}


def delete_events(transaction: Transaction, task: str) -> None:
    """Removes all events of a task or model."""
    transaction.execute("DELETE FROM scalars WHERE series IN (SELECT id FROM series WHERE task = ?)", (task,))
    transaction.execute("DELETE FROM series WHERE task = ?", (task,))
    transaction.execute("DELETE FROM events WHERE task = ?", (task,))


class _Batch:
    """Events on their way into the storage, with what they change on their tasks."""

    def __init__(self, transaction: Transaction, worker: str) -> None:
        self.errors: dict[str, int] = {}
        self._transaction = transaction
        self._worker = worker
        self._received = int(time.time() * 1000)
        self._statistics: dict[str, Document] = {}
        self._owners: dict[tuple[str, str], Document | None] = {}
        self._series: dict[tuple[str, str, str], int] = {}
        self._scalars: list[tuple[int, int, int, float | None, str, int]] = []

    def add(self, event: Document) -> None:
        """Takes an event, or counts why not."""
        if problem := self._problem(event):
            self.errors[problem] = self.errors.get(problem, 0) + 1
            return
        owner = self._owner(event)
        event = {name: value for name, value in event.items() if name != "allow_locked"}
        event["timestamp"] = int(event.get("timestamp") or self._received)
        event["metric"] = event.get("metric") or ""
        event["variant"] = event.get("variant") or ""
        if event["type"] == SCALAR:
            self._add_scalar(event)
        else:
            self._add_document(event)
        self._note(owner, event)

    def save(self) -> None:
        """Writes scalars and what changed on tasks and models."""
        self._transaction.executemany("INSERT INTO scalars VALUES (?, ?, ?, ?, ?, ?)", self._scalars)
        moment = now()
        for (collection, _), owner in self._owners.items():
            if owner is not None and owner.pop("_changed", False):
                owner |= {"last_update": moment, "last_change": moment} | active_duration(owner)
                if collection == "tasks":
                    owner["metric_stats"] = self._statistics[owner["id"]]
                self._transaction.put(collection, owner)

    def _problem(self, event: Document) -> str | None:
        if event.get("type") not in TYPES:
            return "Invalid event type"
        if not isinstance(event.get("task"), str):
            return "Event must have a 'task' field"
        if not isinstance(event.get("iter", 0) or 0, int) or not isinstance(event.get("timestamp") or 0, int | float):
            return "Invalid iteration or timestamp"
        if not all(isinstance(event.get(name) or "", str) for name in ("metric", "variant")):
            return "Invalid metric or variant"
        if event["type"] == SCALAR and _number(event.get("value")) is None:
            return "Invalid scalar value"
        owner = self._owner(event)
        if owner is None:
            return "Invalid task id" if not event.get("model_event") else "Invalid model id"
        if owner.get("status") == LOCKED_STATUS and not event.get("allow_locked"):
            return "Task is published"
        return None

    def _owner(self, event: Document) -> Document | None:
        collection = "models" if event.get("model_event") else "tasks"
        key = (collection, event["task"])
        if key not in self._owners:
            self._owners[key] = self._transaction.get(*key)
        return self._owners[key]

    def _series_of(self, key: tuple[str, str, str]) -> int:
        if key not in self._series:
            self._transaction.execute("INSERT OR IGNORE INTO series (task, metric, variant) VALUES (?, ?, ?)", key)
            (self._series[key],) = self._transaction.execute(
                "SELECT id FROM series WHERE task = ? AND metric = ? AND variant = ?", key
            ).fetchone()
        return self._series[key]

    def _add_scalar(self, event: Document) -> None:
        series = self._series_of((event["task"], event["metric"], event["variant"]))
        value = _number(event["value"])
        worker = event.get("worker") or self._worker
        self._scalars.append(
            (series, event.get("iter") or 0, event["timestamp"], _stored(value), worker, self._received)
        )

    def _add_document(self, event: Document) -> None:
        received = (
            datetime.fromtimestamp(self._received / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        )
        event = {"worker": self._worker} | event | {"@timestamp": received}
        if event["type"] == PLOT:
            event["plot_len"] = len(event.get("plot_str") or "")
        if event["type"] in REPLACED:
            self._transaction.execute(
                "DELETE FROM events WHERE task = ? AND type = ? AND metric = ? AND variant = ? AND iter IS ?",
                (event["task"], event["type"], event["metric"], event["variant"], event.get("iter")),
            )
        self._transaction.execute(
            "INSERT INTO events (task, type, timestamp, iter, metric, variant, doc) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                event["task"], event["type"], event["timestamp"], event.get("iter"), event["metric"], event["variant"],
                json.dumps(event, separators=(",", ":")),
            ),
        )  # fmt: skip

    def _note(self, owner: Document | None, event: Document) -> None:
        """Brings last iteration and metrics of the owner up to date, and its statistics, which are those of the last batch."""
        if owner is None:
            return
        owner["_changed"] = True
        iteration = event.get("iter") or 0
        if iteration > owner.get("last_iteration", 0):
            owner["last_iteration"] = iteration
        if event["type"] == SCALAR:
            metric, variant = event["metric"], event["variant"]
            last = owner.setdefault("last_metrics", {}).setdefault(_md5(metric), {})
            last[_md5(variant)] = _last_metric(
                last.get(_md5(variant)), metric, variant, _number(event["value"]), iteration
            )
        stats = self._statistics.setdefault(owner["id"], {}).setdefault(_md5(event["metric"]), {})
        by_type = stats.setdefault("event_stats_by_type", {})
        latest = by_type.get(event["type"], {}).get("last_update", 0)
        stats |= {"metric": event["metric"]}
        by_type[event["type"]] = {"last_update": max(latest, event["timestamp"])}


def _last_metric(previous: Document | None, metric: str, variant: str, value: Any, iteration: int) -> Document:
    shown = _stored(value)
    if previous is None:
        return {
            "metric": metric, "variant": variant, "value": shown, "min_value": shown, "max_value": shown, "first_value": shown,
            "count": 1, "mean_value": shown,
        }  # fmt: skip
    result = previous | {"value": shown, "count": previous["count"] + 1}
    if shown is not None:
        for name, better in (("min_value", min), ("max_value", max)):
            known = previous[name]
            result[name] = shown if known is None else better(known, shown)
        mean = previous["mean_value"]
        result["mean_value"] = shown if mean is None else mean + (shown - mean) / result["count"]
    return result


def _parsed(number: int, line: str) -> Document:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise ApiError(400, 131, "Events not added", reason=f"line {number} is not JSON") from error
    if not isinstance(event, dict):
        raise ApiError(400, 131, "Events not added", reason=f"line {number} is not an object")
    return event


def _number(value: Any) -> float | None:
    """A scalar's value; the SDK sends what JSON has no number for as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _stored(value: float | None) -> float | None:
    """What is no finite number is kept as null."""
    return value if value is not None and math.isfinite(value) else None


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _collection(call: Call) -> str:
    return "models" if call.data.get("model_events") else "tasks"


def _owner(call: Call, identifier: str) -> str:
    require(call, _collection(call), identifier)
    return identifier


def _offset(scroll_id: str | None) -> int:
    number = (scroll_id or "offset-0").removeprefix("offset-")
    return int(number) if number.isdecimal() else 0


def _series(transaction: Transaction, task: str) -> Iterable[tuple[int, str, str]]:
    return transaction.execute(
        "SELECT id, metric, variant FROM series WHERE task = ? ORDER BY metric, variant", (task,)
    ).fetchall()


def _sampled(transaction: Transaction, series: int, key: str, samples: int) -> tuple[list[Any], list[Any]]:
    column = "iter" if key == "iter" else "timestamp"
    low, high = transaction.execute(
        f"SELECT min({column}), max({column}) FROM scalars WHERE series = ? AND iter != ?",  # noqa: S608
        (series, SINGLE_VALUE_ITERATION),
    ).fetchone()
    if low is None:
        return [], []
    interval = max(math.ceil((high - low + 1) / samples), 1)
    rows = transaction.execute(
        f"""SELECT min({column}), avg(value) FROM scalars WHERE series = ? AND iter != ?
            GROUP BY ({column} - ?) / ? ORDER BY 1""",  # noqa: S608
        (series, SINGLE_VALUE_ITERATION, low, interval),
    ).fetchall()
    moments = [row[0] for row in rows]
    if key == "iso_time":
        moments = [datetime.fromtimestamp(moment / 1000, UTC).isoformat() for moment in moments]
    return moments, [row[1] for row in rows]


def _scalar_events(
    transaction: Transaction, task: str, direction: str, limit: int, offset: int
) -> tuple[int, list[Document]]:
    (total,) = transaction.execute(
        "SELECT count(*) FROM scalars JOIN series ON series.id = scalars.series WHERE task = ?", (task,)
    ).fetchone()
    rows = transaction.execute(
        f"""SELECT timestamp, iter, metric, variant, value, worker FROM scalars JOIN series ON series.id = scalars.series
            WHERE task = ? ORDER BY timestamp {direction}, scalars.rowid {direction} LIMIT ? OFFSET ?""",  # noqa: S608
        (task, limit, offset),
    )
    names = ("timestamp", "iter", "metric", "variant", "value", "worker")
    return total, [{"type": SCALAR, "task": task} | dict(zip(names, row, strict=True)) for row in rows]


def _last_iterations(transaction: Transaction, task: str, kind: str, count: int, metric: str | None) -> list[Document]:
    """Events of the last `count` iterations of each metric and variant, newest iteration first."""
    condition, params = ("AND metric = ?", [metric]) if metric is not None else ("", [])
    rows = transaction.execute(
        f"""SELECT doc FROM (
                SELECT doc, metric, variant, iter, dense_rank() OVER (PARTITION BY metric, variant ORDER BY iter DESC) AS age
                FROM events WHERE task = ? AND type = ? {condition})
            WHERE age <= ? ORDER BY metric, variant, iter DESC""",  # noqa: S608
        (task, kind, *params, count),
    )
    return [json.loads(row[0]) for row in rows]
