"""A batch of events on its way into the storage, with what it changes on tasks and models."""

import hashlib
import json
import math
import time
from collections import Counter
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from clearml_lite.query import now
from clearml_lite.services.entities import active_duration
from clearml_lite.storage import Document, Transaction

SCALAR, LOG, PLOT, IMAGE, VECTOR = (
    "training_stats_scalar",
    "log",
    "plot",
    "training_debug_image",
    "training_stats_vector",
)
TYPES = frozenset({SCALAR, LOG, PLOT, IMAGE, VECTOR})
# Reported anew for the same metric, variant and iteration, these replace what was there.
REPLACED = frozenset({PLOT, IMAGE})
LARGEST_INTEGER = 2**62
LATEST_MILLISECOND = 253402300799999  # of the year 9999

_INSERT_SCALAR = "INSERT INTO scalars (series, iter, timestamp, value, worker) VALUES (?, ?, ?, ?, ?)"
_INSERT_EVENT = "INSERT INTO events (task, type, metric, variant, iter, timestamp, doc) VALUES (?, ?, ?, ?, ?, ?, ?)"
_DELETE_EVENT = "DELETE FROM events WHERE task = ? AND type = ? AND metric = ? AND variant = ? AND iter IS ?"


class EventBatch:
    """Takes events one by one; `save` completes what they change.

    Args:
        transaction: where they are written.
        worker: who sends them, for events that do not say.

    Attributes:
        added: how many were taken.
        errors: how many were not, by reason.
    """

    def __init__(self, transaction: Transaction, worker: str) -> None:
        self.added = 0
        self.errors: Counter[str] = Counter()
        self._transaction = transaction
        self._worker = worker
        self._received = int(time.time() * 1000)
        self._owners: dict[tuple[str, str], Document | None] = {}
        self._touched: dict[tuple[str, str], Document] = {}
        self._statistics: dict[str, Document] = {}
        self._series: dict[tuple[str, str, str], int] = {}
        self._scalars: list[tuple[int, int, int, float, str]] = []

    def add(self, event: Document) -> None:
        """Takes an event, or counts why not."""
        if problem := _malformed(event):
            self.errors[problem] += 1
            return
        key = ("models" if event.get("model_event") else "tasks", event["task"])
        owner = self._owner(key)
        if owner is None:
            self.errors[f"Invalid {key[0].removesuffix('s')} id"] += 1
            return
        if owner.get("status") == "published" and not event.get("allow_locked"):
            self.errors["Task is published"] += 1
            return
        event.pop("allow_locked", None)
        timestamp = event.get("timestamp")
        event["timestamp"] = self._received if timestamp is None else int(timestamp)
        if event.get("iter") is not None:
            event["iter"] = int(event["iter"])
        event["metric"] = event.get("metric") or ""
        event["variant"] = event.get("variant") or ""
        if event["type"] == SCALAR:
            self._add_scalar(owner, event)
        else:
            self._add_document(event)
        owner["last_iteration"] = max(owner["last_iteration"], event.get("iter") or 0)
        self._note_statistics(event)
        self._touched[key] = owner
        self.added += 1

    def save(self) -> None:
        """Writes scalars, and what changed on tasks and models."""
        self._transaction.executemany(_INSERT_SCALAR, self._scalars)
        stamp = {"last_update": now(), "last_change": now()}
        for (collection, identifier), owner in self._touched.items():
            # As on the official server these are the statistics of the last batch only.
            statistics = {"metric_stats": self._statistics[identifier]} if collection == "tasks" else {}
            self._transaction.put(collection, owner | stamp | statistics | active_duration(owner))

    def _owner(self, key: tuple[str, str]) -> Document | None:
        if key not in self._owners:
            self._owners[key] = self._transaction.get(*key)
        return self._owners[key]

    def _add_scalar(self, owner: Document, event: Document) -> None:
        metric, variant, value = event["metric"], event["variant"], float(event["value"])
        series = self._series_of((event["task"], metric, variant))
        worker = str(event.get("worker") or self._worker)
        self._scalars.append((series, event.get("iter") or 0, event["timestamp"], value, worker))
        last = owner["last_metrics"].setdefault(hashed(metric), {})
        last[hashed(variant)] = _last_metric(last.get(hashed(variant)), metric, variant, value)

    def _series_of(self, key: tuple[str, str, str]) -> int:
        if key not in self._series:
            self._transaction.execute("INSERT OR IGNORE INTO series (task, metric, variant) VALUES (?, ?, ?)", key)
            (self._series[key],) = self._transaction.execute(
                "SELECT id FROM series WHERE task = ? AND metric = ? AND variant = ?", key
            ).fetchone()
        return self._series[key]

    def _add_document(self, event: Document) -> None:
        received = datetime.fromtimestamp(self._received / 1000, UTC).isoformat(timespec="milliseconds")
        document: Document = {"worker": self._worker, **event, "@timestamp": received.replace("+00:00", "Z")}
        if event["type"] == PLOT:
            document["plot_len"] = len(event.get("plot_str") or "")
        series = (event["task"], event["type"], event["metric"], event["variant"], event.get("iter"))
        if event["type"] in REPLACED:
            self._transaction.execute(_DELETE_EVENT, series)
        text = json.dumps(document, separators=(",", ":"))
        self._transaction.execute(_INSERT_EVENT, (*series, event["timestamp"], text))

    def _note_statistics(self, event: Document) -> None:
        metric = event["metric"]
        statistics = self._statistics.setdefault(event["task"], {})
        of_metric: Document = statistics.setdefault(hashed(metric), {"metric": metric, "event_stats_by_type": {}})
        of_type = of_metric["event_stats_by_type"].setdefault(event["type"], {"last_update": 0})
        of_type["last_update"] = max(of_type["last_update"], event["timestamp"])


def _malformed(event: Document) -> str | None:
    """What is wrong with an event, whomever it belongs to."""
    if not isinstance(event.get("type"), str) or event["type"] not in TYPES:
        return "Invalid event type"
    if not isinstance(event.get("task"), str):
        return "Event must have a task"
    if not _fits_integer(event.get("iter")) or not _is_moment(event.get("timestamp")):
        return "Invalid iteration or timestamp"
    if any(not isinstance(event.get(name) or "", str) for name in ("metric", "variant", "plot_str")):
        return "Invalid metric, variant or plot"
    if event["type"] == SCALAR and not _is_finite(event.get("value")):
        return "Invalid scalar value"
    return None


def _fits_integer(value: Any) -> bool:
    """Whether this is nothing or a number that, cut to an integer, SQLite can keep."""
    return value is None or (isinstance(value, int | float) and abs(value) <= LARGEST_INTEGER)


def _is_moment(value: Any) -> bool:
    """Whether this is nothing or a time in milliseconds."""
    return value is None or (isinstance(value, int | float) and 0 <= value <= LATEST_MILLISECOND)


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _last_metric(previous: Document | None, metric: str, variant: str, value: float) -> Document:
    if previous is None:
        names = ("value", "min_value", "max_value", "first_value", "mean_value")
        first: Document = dict.fromkeys(names, value)
        return {"metric": metric, "variant": variant, "count": 1} | first
    count = previous["count"] + 1
    return previous | {
        "value": value,
        "min_value": min(previous["min_value"], value),
        "max_value": max(previous["max_value"], value),
        "mean_value": previous["mean_value"] + (value - previous["mean_value"]) / count,
        "count": count,
    }


@lru_cache(maxsize=4096)
def hashed(text: str) -> str:
    """The name of a metric or variant as the key of a task's last metrics."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
