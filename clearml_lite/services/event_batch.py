"""A batch of events on its way into the storage, with what it changes on tasks and models."""

import hashlib
import math
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain
from typing import Any

from clearml_lite.encoding import encode
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

_ROW = "(?, ?, ?, ?, ?)"
_INSERT_SCALAR = f"INSERT INTO scalars (series, iter, timestamp, value, worker) VALUES {_ROW}"  # noqa: S608
# So many at once: other threads may run between two steps of SQLite, and each row by itself is a step.
_ROWS = 100
_MOST_HELD = 10_000
_INSERT_SCALARS = _INSERT_SCALAR + f", {_ROW}" * (_ROWS - 1)
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
        self._by_type: dict[tuple[str, str, str], Document] = {}
        self._curves: dict[tuple[str, str, str], _Curve] = {}
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
        given, iteration = event.get("timestamp"), event.get("iter")
        timestamp = self._received if given is None else int(given)
        iteration = None if iteration is None else int(iteration)
        metric, variant = event.get("metric") or "", event.get("variant") or ""
        if event["type"] == SCALAR:
            self._add_scalar(owner, (event["task"], metric, variant), iteration or 0, timestamp, event)
        else:
            event.pop("allow_locked", None)
            event |= {"timestamp": timestamp, "metric": metric, "variant": variant}
            if iteration is not None:
                event["iter"] = iteration
            self._add_document(event)
        if iteration is not None and iteration > owner["last_iteration"]:
            owner["last_iteration"] = iteration
        statistics = self._statistics_of(event["task"], metric, event["type"])
        if timestamp > statistics["last_update"]:
            statistics["last_update"] = timestamp
        self._touched[key] = owner
        self.added += 1

    def save(self) -> None:
        """Writes scalars, and what changed on tasks and models."""
        self._insert_scalars()
        stamp = {"last_update": now(), "last_change": now()}
        for (collection, identifier), owner in self._touched.items():
            # As on the official server these are the statistics of the last batch only.
            statistics = {"metric_stats": self._statistics[identifier]} if collection == "tasks" else {}
            self._transaction.put(collection, owner | stamp | statistics | active_duration(owner))

    def _insert_scalars(self) -> None:
        rest = len(self._scalars) % _ROWS
        self._transaction.executemany(_INSERT_SCALAR, self._scalars[:rest])
        for first in range(rest, len(self._scalars), _ROWS):
            rows = self._scalars[first : first + _ROWS]
            self._transaction.execute(_INSERT_SCALARS, list(chain.from_iterable(rows)))
        self._scalars.clear()

    def _owner(self, key: tuple[str, str]) -> Document | None:
        if key not in self._owners:
            self._owners[key] = self._transaction.get(*key)
        return self._owners[key]

    def _add_scalar(
        self, owner: Document, key: tuple[str, str, str], iteration: int, timestamp: int, event: Document
    ) -> None:
        value = float(event["value"])
        curve = self._curves.get(key) or self._curve(owner, key)
        self._scalars.append((curve.series, iteration, timestamp, value, str(event.get("worker") or self._worker)))
        if len(self._scalars) >= _MOST_HELD:
            self._insert_scalars()
        last = curve.last
        if not last["count"]:
            last["first_value"] = value
        last["count"] += 1
        last["value"] = value
        if value < last["min_value"]:
            last["min_value"] = value
        if value > last["max_value"]:
            last["max_value"] = value
        # divided one by one: the difference of two values may be too large for a number
        last["mean_value"] += value / last["count"] - last["mean_value"] / last["count"]

    def _curve(self, owner: Document, key: tuple[str, str, str]) -> "_Curve":
        """The curve with this task, metric and variant, which may be new."""
        _, metric, variant = key
        self._transaction.execute("INSERT OR IGNORE INTO series (task, metric, variant) VALUES (?, ?, ?)", key)
        (series,) = self._transaction.execute(
            "SELECT id FROM series WHERE task = ? AND metric = ? AND variant = ?", key
        ).fetchone()
        variants = owner["last_metrics"].setdefault(hashed(metric), {})
        self._curves[key] = _Curve(series, variants.setdefault(hashed(variant), _no_value(metric, variant)))
        return self._curves[key]

    def _add_document(self, event: Document) -> None:
        received = datetime.fromtimestamp(self._received / 1000, UTC).isoformat(timespec="milliseconds")
        document: Document = {"worker": self._worker, **event, "@timestamp": received.replace("+00:00", "Z")}
        if event["type"] == PLOT:
            document["plot_len"] = len(event.get("plot_str") or "")
        series = (event["task"], event["type"], event["metric"], event["variant"], event.get("iter"))
        if event["type"] in REPLACED:
            self._transaction.execute(_DELETE_EVENT, series)
        text = encode(document)
        self._transaction.execute(_INSERT_EVENT, (*series, event["timestamp"], text))

    def _statistics_of(self, task: str, metric: str, kind: str) -> Document:
        """What is told of a metric's events of one type."""
        key = (task, metric, kind)
        if key not in self._by_type:
            new: Document = {"metric": metric, "event_stats_by_type": {}}
            of_metric = self._statistics.setdefault(task, {}).setdefault(hashed(metric), new)
            self._by_type[key] = of_metric["event_stats_by_type"].setdefault(kind, {"last_update": 0})
        return self._by_type[key]


@dataclass(slots=True)
class _Curve:
    """A series of scalars, and what its task holds of their last, least and greatest."""

    series: int
    last: Document


def _malformed(event: Document) -> str | None:
    """What is wrong with an event, whomever it belongs to."""
    get = event.get
    kind, value = get("type"), get("value")
    if not isinstance(kind, str) or kind not in TYPES:
        return "Invalid event type"
    if not isinstance(get("task"), str):
        return "Event must have a task"
    if not _fits_integer(get("iter")) or not _is_moment(get("timestamp")):
        return "Invalid iteration or timestamp"
    if not (_is_text(get("metric")) and _is_text(get("variant")) and _is_text(get("plot_str"))):
        return "Invalid metric, variant or plot"
    if kind == SCALAR and not _is_finite(value):
        return "Invalid scalar value"
    return None


def _is_text(value: Any) -> bool:
    return not value or isinstance(value, str)


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


def _no_value(metric: str, variant: str) -> Document:
    """What a task holds of a curve before its first point."""
    return {
        "metric": metric, "variant": variant, "count": 0,
        "value": 0.0, "min_value": math.inf, "max_value": -math.inf, "first_value": None, "mean_value": 0.0,
    }  # fmt: skip


@lru_cache(maxsize=4096)
def hashed(text: str) -> str:
    """The name of a metric or variant as the key of a task's last metrics."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
