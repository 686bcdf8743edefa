"""models.*"""

from clearml_lite.auth import COMPANY
from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import ApiError, validation_error
from clearml_lite.query import Query, now
from clearml_lite.schema import request_schema
from clearml_lite.services.entities import (
    change_stamp,
    checked_name,
    edited_metadata,
    for_each,
    given,
    metadata_items,
    new_id,
    require,
    retag,
    set_public,
    within,
)
from clearml_lite.services.entities import get_all as get_all_entities
from clearml_lite.services.entities import get_all_ex as get_all_entities_ex
from clearml_lite.services.event_queries import delete_events
from clearml_lite.services.projects import moved, target_project, touch
from clearml_lite.services.task_status import BEFORE, publish_task, used_as_input
from clearml_lite.storage import Document

_EDITABLE = (
    "comment", "tags", "system_tags", "task", "parent", "uri", "project", "framework", "design", "labels", "ready",
)  # fmt: skip
_UPDATABLE = ("comment", "tags", "system_tags", "task", "project", "ready", "created", "ui_cache")


@endpoint("models.create", writes=True)
def create(call: Call) -> Document:
    """A model."""
    model = _new(call, call.data["name"]) | _checked_fields(call, _EDITABLE)
    if call.data.get("public"):
        model["company"] = ""
    call.transaction.put("models", model)
    touch(call, model.get("project"))
    return {"id": model["id"], "created": True}


@endpoint("models.get_by_id")
def get_by_id(call: Call) -> Document:
    """A model."""
    return {"model": require(call, "models", call.data["model"])}


@endpoint("models.get_by_task_id")
def get_by_task_id(call: Call) -> Document:
    """The last output model of a task."""
    if not call.data.get("task"):
        raise validation_error("task", "field is required!")
    outputs = require(call, "tasks", call.data["task"])["models"]["output"]
    return {"model": call.transaction.get("models", outputs[-1]["model"]) if outputs else None}


@endpoint("models.get_all")
def get_all(call: Call) -> Document:
    """Models by name, task, project, tags, URI, …"""
    return get_all_entities(call, "models")


@endpoint("models.get_all_ex", schema=request_schema("models.get_all"))
def get_all_ex(call: Call) -> Document:
    """As get_all, with project, task, user and parent written out as ID and name."""
    return get_all_entities_ex(call, "models")


@endpoint("models.get_frameworks")
def get_frameworks(call: Call) -> Document:
    """The frameworks of models in projects and all below them."""
    return {"frameworks": within(call).values(call.transaction, "models", "framework")}


@endpoint("models.edit", writes=True)
def edit(call: Call) -> Document:
    """Changes a model."""
    return _changed(call, _EDITABLE)


@endpoint("models.update", writes=True)
def update(call: Call) -> Document:
    """Changes what describes a model."""
    return _changed(call, _UPDATABLE)


@endpoint("models.update_for_task", writes=True)
def update_for_task(call: Call) -> Document:
    """Gives a task an output model: by its URI, made when the task has none there, or another one by its ID."""
    task = require(call, "tasks", call.data["task"])
    uri, override = call.data.get("uri"), call.data.get("override_model_id")
    if bool(uri) == bool(override):
        raise validation_error("uri", "exactly one of uri and override_model_id is required!")
    existing = (
        require(call, "models", override) if override else call.transaction.first("models", task=task["id"], uri=uri)
    )
    fields = given(call.data, ("comment", "tags", "system_tags"))
    if call.data.get("name"):
        fields["name"] = checked_name(call.data["name"])
    model = existing or _new(call, fields.get("name") or task["name"])
    if existing is None:
        fields |= {"uri": uri, "task": task["id"]} | given(task, ("project",))
    call.transaction.put("models", model | fields | change_stamp(call))
    outputs = [entry for entry in task["models"]["output"] if entry["model"] != model["id"]]
    entry = {"name": fields.get("name") or model["name"], "model": model["id"], "updated": now()}
    reached = {"last_iteration": max(task["last_iteration"], call.data.get("iteration") or 0)}
    models = {"models": task["models"] | {"output": [*outputs, entry]}}
    call.transaction.put("tasks", task | models | reached | change_stamp(call))
    return {"id": model["id"], "created": existing is None, "updated": int(existing is not None), "fields": fields}


@endpoint("models.set_ready", writes=True)
def set_ready(call: Call) -> Document:
    """Publishes a model and, unless told otherwise, its task, if that has ended."""
    return {"fields": {}} | _publish(call, call.data["model"], call.data.get("publish_task", True))


@endpoint("models.publish_many", writes=True)
def publish_many(call: Call) -> Document:
    """Publishes models and, unless told otherwise, their tasks."""

    def act(identifier: str) -> Document:
        return _publish(call, identifier, call.data.get("publish_tasks", True)) | {"updated": True}

    return for_each(call, call.data["ids"], act)


@endpoint("models.delete", writes=True)
def delete(call: Call) -> Document:
    """Removes a model; one that (or whose task) is published, or a task's input, only by force. Its file stays."""
    return delete_model(call, require(call, "models", call.data["model"]))


@endpoint("models.delete_many", writes=True)
def delete_many(call: Call) -> Document:
    """Removes models."""
    return for_each(call, call.data["ids"], lambda identifier: delete_model(call, require(call, "models", identifier)))


@endpoint("models.archive_many", writes=True)
def archive_many(call: Call) -> Document:
    """Puts models out of sight."""
    return retag(call, "models", archived=True)


@endpoint("models.unarchive_many", writes=True)
def unarchive_many(call: Call) -> Document:
    """Brings archived models back."""
    return retag(call, "models", archived=False)


@endpoint("models.move", writes=True)
def move(call: Call) -> Document:
    """Moves models to a project by ID or name, which is made if need be; null is the root."""
    project = target_project(call)
    for identifier in call.data["ids"]:
        model = require(call, "models", identifier)
        call.transaction.put("models", moved(model, project) | change_stamp(call, update=False))
        touch(call, model.get("project"))
    touch(call, project)
    return {"project_id": project}


@endpoint("models.make_public", writes=True)
def make_public(call: Call) -> Document:
    """Makes models public."""
    return set_public(call, "models", public=True)


@endpoint("models.make_private", writes=True)
def make_private(call: Call) -> Document:
    """Makes models the company's again."""
    return set_public(call, "models", public=False)


@endpoint("models.add_or_update_metadata", writes=True)
def add_or_update_metadata(call: Call) -> Document:
    """Adds metadata by key, or replaces all of it."""
    model = require(call, "models", call.data["model"])
    call.transaction.put("models", model | {"metadata": edited_metadata(call, model)} | change_stamp(call))
    return {"updated": 1}


@endpoint("models.delete_metadata", writes=True)
def delete_metadata(call: Call) -> Document:
    """Removes metadata by key."""
    model = require(call, "models", call.data["model"])
    kept = {key: item for key, item in model["metadata"].items() if key not in call.data["keys"]}
    call.transaction.put("models", model | {"metadata": kept} | change_stamp(call))
    return {"updated": 1}


def delete_model(call: Call, model: Document, *, force: bool = False) -> Document:
    """Removes a model with its events.

    Raises:
        ApiError: 400/12 when it or its task is published, or it is a task's input, unless forced.
    """
    if not (force or call.data.get("force")):
        if model["ready"]:
            raise ApiError(400, 12, "Model is published (use force=true to delete it)", id=model["id"])
        task = call.transaction.get("tasks", model.get("task") or "")
        if task and task["status"] == "published":
            raise ApiError(400, 12, "Model's task is published (use force=true to delete it)", id=model["id"])
        if used_as_input(call.transaction, model["id"], Query()):
            raise ApiError(400, 12, "Model is a task's input (use force=true to delete it)", id=model["id"])
    call.transaction.delete("models", [model["id"]])
    delete_events(call.transaction, model["id"])
    touch(call, model.get("project"))
    return {"deleted": True, "url": model["uri"]}


def _new(call: Call, name: str) -> Document:
    model: Document = {"id": new_id(), "company": COMPANY, "user": call.identity.user, "name": checked_name(name)}
    model |= {"uri": "", "tags": [], "system_tags": [], "design": {}, "labels": {}, "metadata": {}, "ready": False}
    return model | change_stamp(call) | {"created": now(), "last_iteration": 0, "last_metrics": {}}


def _changed(call: Call, names: tuple[str, ...]) -> Document:
    model = require(call, "models", call.data["model"])
    fields = _checked_fields(call, names)
    if call.data.get("name"):
        fields["name"] = checked_name(call.data["name"])
    fields |= change_stamp(call)
    call.transaction.put("models", model | fields)
    iteration = call.data.get("iteration")
    if iteration and (task := call.transaction.get("tasks", fields.get("task") or model.get("task") or "")):
        reached = {"last_iteration": max(task["last_iteration"], iteration)}
        call.transaction.put("tasks", task | reached | change_stamp(call))
    return {"updated": 1, "fields": fields | ({"ui_cache": {}} if "project" in fields else {})}


def _publish(call: Call, identifier: str, with_task: bool) -> Document:
    model = require(call, "models", identifier)
    if model["ready"]:
        raise ApiError(400, 12, "Model is published already", id=model["id"])
    call.transaction.put("models", model | {"ready": True} | change_stamp(call))
    answer: Document = {"updated": 1}
    task = call.transaction.get("tasks", model.get("task") or "")
    force = bool(call.data.get("force_publish_task"))
    if with_task and task and task["status"] != "published" and (force or task["status"] in BEFORE["published"]):
        fields = publish_task(call, task, force=force)
        answer["published_task"] = {"id": task["id"], "data": {"updated": 1, "fields": fields}}
    return answer


def _checked_fields(call: Call, names: tuple[str, ...]) -> Document:
    fields = given(call.data, names)
    if fields.get("project"):
        require(call, "projects", fields["project"])
    if isinstance(metadata := call.data.get("metadata"), list):
        fields["metadata"] = metadata_items(metadata)
    return fields
