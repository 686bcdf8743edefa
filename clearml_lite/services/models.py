"""models.*"""

from collections.abc import Callable

from clearml_lite.auth import COMPANY
from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import ApiError
from clearml_lite.query import now
from clearml_lite.services.entities import change_stamp, checked_name, given, metadata_items, new_id, require
from clearml_lite.services.entities import get_all as get_all_entities
from clearml_lite.services.events import delete_events
from clearml_lite.services.projects import touch
from clearml_lite.services.task_status import publish_task
from clearml_lite.storage import Document

_EDITABLE = (
    "comment",
    "tags",
    "system_tags",
    "task",
    "parent",
    "uri",
    "project",
    "framework",
    "design",
    "labels",
    "ready",
)


@endpoint("models.create", writes=True)
def create(call: Call) -> Document:
    """A model."""
    name = checked_name(call.data["name"])
    model: Document = {"id": new_id(), "company": COMPANY, "user": call.identity.user, "name": name}
    model |= {"uri": "", "tags": [], "system_tags": [], "design": {}, "labels": {}, "metadata": {}, "ready": False}
    model |= change_stamp(call) | {"created": now(), "last_iteration": 0, "last_metrics": {}}
    model |= _checked_fields(call)
    call.transaction.put("models", model)
    touch(call, model.get("project"))
    return {"id": model["id"], "created": True}


@endpoint("models.get_by_id")
def get_by_id(call: Call) -> Document:
    """A model."""
    return {"model": require(call, "models", call.data["model"])}


@endpoint("models.get_all")
def get_all(call: Call) -> Document:
    """Models by name, task, project, tags, URI, …"""
    return get_all_entities(call, "models")


@endpoint("models.edit", writes=True)
def edit(call: Call) -> Document:
    """Changes a model."""
    model = require(call, "models", call.data["model"])
    fields = _checked_fields(call)
    if call.data.get("name"):
        fields["name"] = checked_name(call.data["name"])
    fields |= change_stamp(call)
    call.transaction.put("models", model | fields)
    return {"updated": 1, "fields": fields | ({"ui_cache": {}} if "project" in fields else {})}


@endpoint("models.set_ready", writes=True)
def set_ready(call: Call) -> Document:
    """Publishes a model, and its task when that is asked for."""
    model = require(call, "models", call.data["model"])
    if model["ready"]:
        raise ApiError(400, 12, "Model is published already", id=model["id"])
    call.transaction.put("models", model | {"ready": True} | change_stamp(call))
    answer: Document = {"updated": 1, "fields": {}}
    task = call.transaction.get("tasks", model.get("task") or "")
    if call.data.get("publish_task") and task and task["status"] != "published":
        fields = publish_task(call, task, force=bool(call.data.get("force_publish_task")))
        answer["published_task"] = {"id": task["id"], "data": {"updated": 1, "fields": fields}}
    return answer


@endpoint("models.delete", writes=True)
def delete(call: Call) -> Document:
    """Removes a model; a published one only by force. Its file is the client's business."""
    model = require(call, "models", call.data["model"])
    if model["ready"] and not call.data.get("force"):
        raise ApiError(400, 12, "Model is published (use force=true to delete it)", id=model["id"])
    call.transaction.delete("models", [model["id"]])
    delete_events(call.transaction, model["id"])
    return {"deleted": True, "url": model["uri"]}


@endpoint("models.archive_many", writes=True)
def archive_many(call: Call) -> Document:
    """Puts models out of sight."""
    return _retag(call, lambda tags: tags | {"archived"})


@endpoint("models.unarchive_many", writes=True)
def unarchive_many(call: Call) -> Document:
    """Brings archived models back."""
    return _retag(call, lambda tags: tags - {"archived"})


@endpoint("models.add_or_update_metadata", writes=True)
def add_or_update_metadata(call: Call) -> Document:
    """Adds metadata by key, or replaces all of it."""
    model = require(call, "models", call.data["model"])
    kept = {} if call.data.get("replace_metadata") else model["metadata"]
    metadata = kept | metadata_items(call.data["metadata"])
    call.transaction.put("models", model | {"metadata": metadata} | change_stamp(call))
    return {"updated": 1}


def _retag(call: Call, change: Callable[[set[str]], set[str]]) -> Document:
    succeeded: list[Document] = []
    failed: list[Document] = []
    for identifier in call.data["ids"]:
        if model := call.transaction.get("models", identifier):
            tags = sorted(change(set(model["system_tags"])))
            call.transaction.put("models", model | {"system_tags": tags} | change_stamp(call))
            succeeded.append({"id": identifier, "archived": "archived" in tags})
        else:
            failed.append({"id": identifier, "error": {"codes": [400, 201], "msg": "Invalid model id", "data": {}}})
    return {"succeeded": succeeded, "failed": failed}


def _checked_fields(call: Call) -> Document:
    fields = given(call.data, _EDITABLE)
    if "project" in fields:
        require(call, "projects", fields["project"])
    if isinstance(metadata := call.data.get("metadata"), list):
        fields["metadata"] = metadata_items(metadata)
    return fields
