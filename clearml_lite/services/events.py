"""events.*: taking events, the console log, events as they are, removal."""

import contextlib
import json
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from clearml_lite.bodies import Body, lines
from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import ApiError
from clearml_lite.query import new_scroll_id, scroll_offset
from clearml_lite.services.entities import require
from clearml_lite.services.event_batch import LOG, SCALAR, EventBatch
from clearml_lite.services.event_queries import (
    LARGEST_TOTAL,
    collection,
    count,
    delete_events,
    of_type,
    owner,
    select,
    unlocked,
)
from clearml_lite.services.event_scalars import scalar_events, series_of
from clearml_lite.storage import Document

PARSED_AT_ONCE = 1024 * 1024
LINE_FORMAT = "{asctime} {worker} {level} {msg}"
# NaN and the like, which are no JSON, count as missing values.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)


@endpoint("events.add", writes=True)
def add(call: Call) -> Document:
    """One event."""
    batch = EventBatch(call.transaction, call.worker)
    batch.add(dict(call.data))
    return _saved(batch)


def _events(body: Body) -> Iterable[Document]:
    """The events of a small batch before the transaction begins; of a large one as they are taken, one by one."""
    events = (_parsed(number, line) for number, line in enumerate(lines(body), 1))
    return events if len(body) > PARSED_AT_ONCE else list(events)


@endpoint("events.add_batch", writes=True, lines=_events)
def add_batch(call: Call) -> Document:
    """Events, one JSON object a line; good ones are kept even when others are not."""
    batch = EventBatch(call.transaction, call.worker)
    for event in call.lines:
        batch.add(event)
    return _saved(batch)


@endpoint("events.delete_for_task", writes=True)
def delete_for_task(call: Call) -> Document:
    """Removes all events of a task; of a published one only with `allow_locked`."""
    return {"deleted": bool(delete_events(call.transaction, unlocked(call, "tasks", call.data["task"])))}


@endpoint("events.delete_for_model", writes=True)
def delete_for_model(call: Call) -> Document:
    """Removes all events of a model; of a published one only with `allow_locked`."""
    return {"deleted": bool(delete_events(call.transaction, unlocked(call, "models", call.data["model"])))}


@endpoint("events.clear_task_log", writes=True)
def clear_task_log(call: Call) -> Document:
    """Removes console lines that are older than `threshold_sec`; without it all of them."""
    task = unlocked(call, "tasks", call.data["task"])
    before = int((time.time() - (call.data.get("threshold_sec") or 0)) * 1000)
    condition, params = of_type(task, LOG)
    if call.data.get("threshold_sec"):
        condition, params = f"{condition} AND timestamp < ?", (*params, before)
    return {"deleted": call.transaction.execute(f"DELETE FROM events WHERE {condition}", params).rowcount}  # noqa: S608


@endpoint("events.clear_scroll")
def clear_scroll(call: Call) -> Document:
    """Nothing: a scroll ID holds all that there is of a scroll."""
    return {}


@endpoint("events.get_task_metrics")
def get_task_metrics(call: Call) -> Document:
    """The metrics of which tasks have events, of one type or of all."""
    kind = call.data.get("event_type")
    answer = []
    for task in dict.fromkeys(call.data["tasks"]):
        require(call, collection(call), task)
        metrics: set[str] = set()
        if kind in (None, SCALAR):
            metrics |= {metric for _, metric, _ in series_of(call.transaction, task)}
        if kind != SCALAR:
            condition, params = of_type(task, kind)
            rows = call.transaction.execute(f"SELECT DISTINCT metric FROM events WHERE {condition}", params)  # noqa: S608
            metrics |= {metric for (metric,) in rows if metric}
        answer.append({"task": task, "metrics": sorted(metrics)})
    return {"metrics": answer}


@endpoint("events.get_task_log")
def get_task_log(call: Call) -> Document:
    """Console lines before `from_timestamp` (`navigate_earlier`) or after it; without it the last or the first ones."""
    task = owner(call, call.data["task"])
    earlier = call.data.get("navigate_earlier", True)
    condition, params = of_type(task, LOG)
    total = count(call.transaction, condition, params)
    if (moment := call.data.get("from_timestamp")) is not None:
        condition += f" AND timestamp {'<' if earlier else '>'} ?"
        params = (*params, moment)
    events = select(call.transaction, condition, params, _by_time(not earlier), call.data.get("batch_size") or 100)
    if (call.data.get("order") == "asc") == earlier:
        events.reverse()
    return {"events": events, "returned": len(events), "total": total}


@endpoint("events.download_task_log")
def download_task_log(call: Call) -> Document:
    """The whole console log as a file: lines of text in `line_format`, or JSON (`line_type`)."""
    task = owner(call, call.data["task"])
    condition, params = of_type(task, LOG)
    events = select(call.transaction, condition, params, _by_time(True))
    if call.data.get("line_type") == "json":
        lines = [json.dumps(_log_fields(event)) for event in events]
    else:
        wanted = call.data.get("line_format") or LINE_FORMAT
        lines = [_formatted(wanted, _log_fields(event)) for event in events]
    call.attachment = (f"task_{task}.log", "".join(f"{line}\n" for line in lines))
    return {}


@endpoint("events.get_task_events")
def get_task_events(call: Call) -> Document:
    """Events of a task by type, in the order of time, batch by batch."""
    task = owner(call, call.data["task"])
    kind = call.data.get("event_type")
    ascending = call.data.get("order") != "desc"
    limit = call.data.get("batch_size") or 500
    offset = scroll_offset(call.data.get("scroll_id"))
    total, events = 0, []
    if kind != SCALAR:
        # Of all types together, those before the batch may be scalars, too.
        first, reach = (offset, limit) if kind else (0, offset + limit)
        condition, params = of_type(task, kind)
        total = count(call.transaction, condition, params)
        events = select(call.transaction, condition, params, _by_time(ascending), reach, first)
    if kind == SCALAR:
        total, events = scalar_events(call.transaction, task, ascending, limit, offset)
    elif kind is None:
        more, scalars = scalar_events(call.transaction, task, ascending, offset + limit, 0)
        events = sorted([*events, *scalars], key=lambda event: event["timestamp"], reverse=not ascending)
        events = events[offset : offset + limit]
        total = min(total + more, LARGEST_TOTAL)
    scroll_id = new_scroll_id(offset + len(events))
    return {"events": events, "returned": len(events), "total": total, "scroll_id": scroll_id}


def _saved(batch: EventBatch) -> Document:
    batch.save()
    if not batch.added:
        raise ApiError(400, 131, "Events not added", **batch.errors)
    return {"added": batch.added, "errors": sum(batch.errors.values()), "errors_info": batch.errors}


def _by_time(ascending: bool) -> str:
    direction = "ASC" if ascending else "DESC"
    return f"timestamp {direction}, id {direction}"


def _log_fields(event: Document) -> Document:
    moment = datetime.fromtimestamp(event["timestamp"] / 1000, UTC).isoformat(timespec="milliseconds")
    fields = {name: event.get(name) or "" for name in ("worker", "level", "msg")}
    return {"asctime": moment.removesuffix("+00:00")} | fields


def _formatted(wanted: str, fields: Document) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: str(fields.get(match[1], match[0])), wanted)


def _decoded(line: str) -> object:
    with contextlib.suppress(ValueError):
        event, end = _DECODER.raw_decode(line)  # faster: it looks for no blanks around
        if end == len(line):
            return event
    return _DECODER.decode(line)


def _parsed(number: int, line: str) -> Document:
    try:
        event = _decoded(line)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, 131, "Events not added", reason=f"line {number} is not JSON") from error
    if not isinstance(event, dict):
        raise ApiError(400, 131, "Events not added", reason=f"line {number} is not an object")
    return event
