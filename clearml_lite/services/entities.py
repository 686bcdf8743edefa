"""What services of entities (projects, tasks, models, queues) share."""

import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from clearml_lite.auth import COMPANY, COMPANY_NAME
from clearml_lite.dispatch import Call
from clearml_lite.errors import ApiError, invalid_id
from clearml_lite.query import Query, compile_filters, find, now
from clearml_lite.storage import Document, Transaction

SHORTEST_NAME = 3
ARCHIVED = "archived"
_INVALID_ID = {"tasks": 101, "models": 201, "projects": 401, "queues": 701}
# Fields that hold the ID of an entity: what get_all_ex shows with its name.
_REFERENCES = {"user": "users", "project": "projects", "parent": "tasks", "task": "tasks"}


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


def get_all_ex(
    call: Call, collection: str, complete: Callable[[Document], Document] = lambda document: document
) -> Document:
    """As get_all, with the entities that a document names written out as ID and name."""
    return get_all(call, collection, complete=lambda document: expanded(call, complete(document)))


def filters(call: Call) -> Query:
    """The conditions of a get_all request; hidden entities only when they are asked for."""
    data = call.data
    if data.get("include_subprojects") and data.get("project"):
        data = data | {"project": tree(call.transaction, data["project"])}
    query = compile_filters(data, list(call.endpoint.validator.properties))
    if not data.get("search_hidden") and not data.get("id"):
        query.one_of("system_tags", ["-hidden"])
    if data.get("allow_public") is False:
        query.equal("company", COMPANY)
    return query


def tree(transaction: Transaction, projects: Iterable[str]) -> list[str]:
    """IDs of projects and of all below them."""
    found = list(dict.fromkeys(projects))
    for project in found:  # grows while it is walked
        found += [child["id"] for child in transaction.all("projects", parent=project) if child["id"] not in found]
    return found


def within(call: Call, *, subprojects: bool = True) -> Query:
    """The condition to be in one of the request's `project` or `projects`; all are meant where it names none."""
    query = Query()
    projects = [call.data["project"]] if call.data.get("project") else call.data.get("projects")
    if projects:
        query.one_of("project", tree(call.transaction, projects) if subprojects else projects)
    return query


def expanded(call: Call, document: Document) -> Document:
    """The document with the entities that it names written out as ID and name."""
    written: Document = {}
    for field, collection in _REFERENCES.items():
        if not document.get(field):
            continue
        if field == "parent" and "basename" in document:
            collection = "projects"
        elif field == "parent" and "uri" in document:
            collection = "models"
        written[field] = named(call, collection, document[field])
    if "company" in document:
        written["company"] = {"id": document["company"], "name": COMPANY_NAME if document["company"] else ""}
    return document | written


def named(call: Call, collection: str, identifier: str) -> Document:
    """An entity as ID and name."""
    found = call.transaction.get(collection, identifier)
    return {"id": identifier, "name": found["name"]} if found else {"id": identifier}


def for_each(call: Call, identifiers: Iterable[str], act: Callable[[str], Document]) -> Document:
    """The answer of a `*_many` request: what was done for each ID, and why not where it failed.

    Args:
        act: does it for one ID and tells what it did; what it changed is undone when it fails.
    """
    succeeded: list[Document] = []
    failed: list[Document] = []
    for identifier in identifiers:
        try:
            with call.transaction.undone_by_error():
                succeeded.append({"id": identifier} | act(identifier))
        except ApiError as error:
            data = {name: str(value) for name, value in error.details.items()}
            codes = [error.code, error.subcode]
            failed.append({"id": identifier, "error": {"codes": codes, "msg": error.message, "data": data}})
    return {"succeeded": succeeded, "failed": failed}


def retag(call: Call, collection: str, *, archived: bool) -> Document:
    """The answer of `archive_many` and `unarchive_many`."""

    def act(identifier: str) -> Document:
        document = require(call, collection, identifier)
        tags = set(document["system_tags"]) - {ARCHIVED} | ({ARCHIVED} if archived else set())
        call.transaction.put(collection, document | {"system_tags": sorted(tags)} | change_stamp(call))
        return {"archived" if archived else "unarchived": True}

    return for_each(call, call.data["ids"], act)


def set_public(call: Call, collection: str, *, public: bool) -> Document:
    """The answer of `make_public` and `make_private`: public entities belong to no company."""
    wanted = "" if public else COMPANY
    updated = 0
    for identifier in call.data.get("ids") or ():
        document = require(call, collection, identifier)
        if document["company"] != wanted:
            call.transaction.put(collection, document | {"company": wanted})
            updated += 1
    return {"updated": updated}


def edited_metadata(call: Call, document: Document) -> Document:
    """Metadata after an `add_or_update_metadata` request."""
    kept = {} if call.data.get("replace_metadata") else document["metadata"]
    return kept | metadata_items(call.data["metadata"])


def tags_of(call: Call, collections: Iterable[str], wanted: Query) -> Document:
    """The answer of a request for tags, which may narrow down by other tags (`filter`)."""
    for name, values in (call.data.get("filter") or {}).items():
        if name in ("tags", "system_tags") and values:
            wanted.one_of(name, values)
    names = ("tags", "system_tags") if call.data.get("include_system") else ("tags",)
    return {
        name: sorted({tag for kind in collections for tag in wanted.values(call.transaction, kind, name)})
        for name in names
    }


def metadata_items(items: Iterable[Mapping[str, Any]]) -> Document:
    """Metadata by key."""
    return {item["key"]: dict(item) for item in items if item.get("key")}


def active_duration(task: Document) -> Document:
    """Seconds that a running task has run; nothing for whatever does not run."""
    if task.get("status") != "in_progress" or not task.get("started"):
        return {}
    return {"active_duration": int((datetime.now(UTC) - datetime.fromisoformat(task["started"])).total_seconds())}
