"""What the endpoints of events share: whose events, in which order, from where on."""

import base64
import binascii
import json
from collections.abc import Iterable, Sequence
from typing import Any

from clearml_lite.dispatch import Call
from clearml_lite.encoding import decode, encode
from clearml_lite.errors import ApiError, validation_error
from clearml_lite.services.entities import require
from clearml_lite.services.event_batch import IMAGE
from clearml_lite.storage import Document, Transaction

# The official server counts no further.
LARGEST_TOTAL = 10_000
_STATE = "state-"


def collection(call: Call) -> str:
    """Whose events the request is about."""
    return "models" if call.data.get("model_events") else "tasks"


def owner(call: Call, identifier: str) -> str:
    """The ID of a task or model that is there.

    Raises:
        ApiError: 400/101 or 400/201.
    """
    require(call, collection(call), identifier)
    return identifier


def unlocked(call: Call, kind: str, identifier: str) -> str:
    """The ID of a task or model whose events may be removed.

    Raises:
        ApiError: 400 when it is not there; 400/12 when it is published and the request does not allow that.
    """
    document = require(call, kind, identifier)
    if (document.get("status") == "published" or document.get("ready")) and not call.data.get("allow_locked"):
        raise ApiError(400, 12, "Events are locked by publishing (use allow_locked=true to remove them)", id=identifier)
    return identifier


def of_type(task: str, kind: str | None) -> tuple[str, tuple[Any, ...]]:
    """The SQL condition for a task's events."""
    return ("task = ? AND type = ?", (task, kind)) if kind else ("task = ?", (task,))


def of_metrics(items: Iterable[Document]) -> tuple[str, list[str]]:
    """The SQL condition for metrics and variants that a request names; without any it holds for all."""
    conditions: list[str] = []
    params: list[str] = []
    for item in items:
        metric, variants = item.get("metric"), item.get("variants") or []
        terms = ["metric = ?"] if metric else []
        terms += [f"variant IN ({', '.join('?' * len(variants))})"] if variants else []
        conditions.append(f"({' AND '.join(terms) or '1'})")
        params += [*([metric] if metric else []), *variants]
    return " OR ".join(conditions) or "1", params


def count(transaction: Transaction, condition: str, params: Sequence[Any]) -> int:
    """How many events there are, as far as it is counted."""
    (number,) = transaction.execute(
        f"SELECT count(*) FROM (SELECT 1 FROM events WHERE {condition} LIMIT {LARGEST_TOTAL})",  # noqa: S608
        params,
    ).fetchone()
    return int(number)


def select(
    transaction: Transaction, condition: str, params: Sequence[Any], order: str, limit: int = -1, offset: int = 0
) -> list[Document]:
    """Events in an order."""
    rows = transaction.execute(
        f"SELECT doc FROM events WHERE {condition} ORDER BY {order} LIMIT ? OFFSET ?",  # noqa: S608
        (*params, limit, offset),
    )
    return [decode(row[0]) for row in rows]


def image_urls(transaction: Transaction, task: str) -> list[str]:
    """Where a task's debug images are."""
    rows = transaction.execute(
        "SELECT DISTINCT json_extract(doc, '$.url') AS url FROM events WHERE task = ? AND type = ? ORDER BY url",
        (task, IMAGE),
    )
    return [url for (url,) in rows if url]


def delete_events(transaction: Transaction, task: str) -> int:
    """Removes all events of a task or model, and tells how many there were."""
    of_task = "series IN (SELECT id FROM series WHERE task = ?)"
    scalars = transaction.execute(f"DELETE FROM scalars WHERE {of_task}", (task,)).rowcount  # noqa: S608
    transaction.execute("DELETE FROM series WHERE task = ?", (task,))
    return scalars + transaction.execute("DELETE FROM events WHERE task = ?", (task,)).rowcount


def scroll_state(call: Call) -> Document:
    """What the request's scroll ID holds; nothing without one, or when a refresh is asked for.

    Raises:
        ApiError: 400/12 when it is none of this server's.
    """
    text = call.data.get("scroll_id")
    if not text or call.data.get("refresh"):
        return {}
    try:
        state = json.loads(base64.urlsafe_b64decode(text.removeprefix(_STATE)))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise validation_error("scroll_id", f"{text!r} was not given by this server") from error
    if not isinstance(state, dict) or not text.startswith(_STATE):
        raise validation_error("scroll_id", f"{text!r} was not given by this server")
    return state


def scroll_id(state: Document) -> str:
    """A scroll ID that holds this."""
    return _STATE + base64.urlsafe_b64encode(encode(state).encode()).decode()
