"""What services of entities (projects, tasks, models, queues) share."""

import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from clearml_lite.auth import COMPANY
from clearml_lite.dispatch import Call
from clearml_lite.errors import ApiError, invalid_id
from clearml_lite.query import Query, compile_filters, find, now
from clearml_lite.storage import Document

SHORTEST_NAME = 3
_INVALID_ID = {"tasks": 101, "models": 201, "projects": 401, "queues": 701}


def new_id() -> str:
    """An entity's ID."""
    return uuid.uuid4().hex


def require(call: Call, collection: str, identifier: str) -> Document:
    """The entity with this ID.

    Raises:
        ApiError: 400 with the subcode of the collection.
    """
    document = call.transaction.get(collection, identifier)
    if document is None:
        if collection == "tasks":
            raise ApiError(400, 101, "Invalid task id", ids=f"({identifier})")
        raise invalid_id(_INVALID_ID[collection], collection.removesuffix("s"), identifier, COMPANY)
    return document


def checked_name(name: str) -> str:
    """The name without blanks around it.

    Raises:
        ApiError: 400/800 when it is too short.
    """
    name = name.strip()
    if len(name) < SHORTEST_NAME:
        raise ApiError(
            400, 800, "Data validation error", field="name", reason=f"{name!r} has less than {SHORTEST_NAME} characters"
        )
    return name


def given(data: Mapping[str, Any], names: Iterable[str]) -> Document:
    """The fields that a request sets; tags sorted and each once."""
    fields = {name: data[name] for name in names if data.get(name) is not None}
    for name in ("tags", "system_tags"):
        if name in fields:
            fields[name] = sorted(set(fields[name]))
    return fields


def change_stamp(call: Call, *, update: bool = True) -> Document:
    """Who changed an entity and when; `update` is off for changes that are no progress of it."""
    moment = now()
    stamp: Document = {"last_change": moment, "last_changed_by": call.identity.user}
    return stamp | {"last_update": moment} if update else stamp


def get_all(
    call: Call,
    collection: str,
    query: Query | None = None,
    complete: Callable[[Document], Document] = lambda document: document,
) -> Document:
    """A get_all answer; `complete` adds to a document what is not stored in it."""
    documents, scroll_id = find(call.transaction, collection, call.data, query or filters(call), complete)
    return {collection: documents} | ({"scroll_id": scroll_id} if scroll_id else {})


def filters(call: Call) -> Query:
    """The conditions of a get_all request; hidden entities only when they are asked for."""
    query = compile_filters(call.data, list(call.endpoint.validator.properties))
    if not call.data.get("search_hidden") and not call.data.get("id"):
        query.one_of("system_tags", ["-hidden"])
    return query


def metadata_items(items: Iterable[Mapping[str, Any]]) -> Document:
    """Metadata by key."""
    return {item["key"]: dict(item) for item in items if item.get("key")}


def active_duration(task: Document) -> Document:
    """Seconds that a running task has run; nothing for whatever does not run."""
    if task.get("status") != "in_progress" or not task.get("started"):
        return {}
    return {"active_duration": int((datetime.now(UTC) - datetime.fromisoformat(task["started"])).total_seconds())}
