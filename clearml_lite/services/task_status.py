"""tasks.*: life cycle: queued, running, ended, published, archived, reset, deleted; one at a time or many."""

from typing import Any

from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import ApiError, validation_error
from clearml_lite.query import Query, now
from clearml_lite.services import queues
from clearml_lite.services.entities import (
    ARCHIVED,
    active_duration,
    change_stamp,
    checked_name,
    for_each,
    require,
    retag,
)
from clearml_lite.services.event_queries import delete_events, image_urls
from clearml_lite.services.projects import touch
from clearml_lite.services.tasks import empty_contents, without_results
from clearml_lite.storage import Document, Transaction

# From which status a task comes into another one without force; from itself always.
BEFORE = {
    "queued": {"created", "stopped", "failed", "completed"},
    "in_progress": {"created", "queued", "stopped", "failed", "completed"},
    "stopped": {"created", "queued", "in_progress", "failed", "closed"},
    "failed": {"created", "queued", "in_progress", "stopped", "closed"},
    "completed": {"created", "in_progress", "stopped", "closed", "failed"},
    "closed": {"created", "queued", "in_progress", "stopped", "failed", "completed"},
    "created": {"queued", "in_progress", "stopped", "failed", "closed", "completed"},
    "published": {"completed", "stopped", "closed", "failed", "publishing"},
}
# Fields of a run, gone after a reset.
_OF_A_RUN = (
    "started", "completed", "published", "active_duration", "last_worker", "last_worker_report", "enqueue_status",
)  # fmt: skip


@endpoint("tasks.enqueue", writes=True)
def enqueue(call: Call) -> Document:
    """Puts a task into a queue (by ID, or by name, and then made if need be; without either the default one)."""
    queue = wanted_queue(call)
    answer = {"queued": 1} | enqueue_task(call, queue, call.data["task"])
    return answer | _watched(call, queue)


@endpoint("tasks.enqueue_many", writes=True)
def enqueue_many(call: Call) -> Document:
    """Puts tasks into a queue; `validate_tasks`: only those whose input models are there."""
    queue = wanted_queue(call)

    def act(identifier: str) -> Document:
        if call.data.get("validate_tasks"):
            for entry in require(call, "tasks", identifier)["models"]["input"]:
                require(call, "models", entry["model"])
        return {"queued": True} | enqueue_task(call, queue, identifier)

    return for_each(call, call.data["ids"], act) | _watched(call, queue)


@endpoint("tasks.dequeue", writes=True)
def dequeue(call: Call) -> Document:
    """Takes a task out of its queue; it gets its status from before, or the one that is asked for."""
    return {"dequeued": 1} | _dequeue(call, call.data["task"])


@endpoint("tasks.dequeue_many", writes=True)
def dequeue_many(call: Call) -> Document:
    """Takes tasks out of their queues."""
    return for_each(call, call.data["ids"], lambda identifier: {"dequeued": True} | _dequeue(call, identifier))


@endpoint("tasks.started", writes=True)
def started(call: Call) -> Document:
    """A task runs."""
    task = require(call, "tasks", call.data["task"])
    also = {} if task.get("started") and task["status"] == "in_progress" else {"started": now()}
    return {"started": 1, "updated": 1, "fields": _change_status(call, task, "in_progress", also=also)}


@endpoint("tasks.ping", writes=True)
def ping(call: Call) -> Document:
    """A task still runs."""
    task = require(call, "tasks", call.data["task"])
    call.transaction.put("tasks", task | {"last_update": now()} | active_duration(task))
    return {}


@endpoint("tasks.stop", writes=True)
def stop(call: Call) -> Document:
    """Asks the worker that runs the task to stop it; a task that no worker runs has stopped at once."""
    return _stop(call, call.data["task"])


@endpoint("tasks.stop_many", writes=True)
def stop_many(call: Call) -> Document:
    """Stops tasks."""
    return for_each(call, call.data["ids"], lambda identifier: _stop(call, identifier))


@endpoint("tasks.stopped", writes=True)
def stopped(call: Call) -> Document:
    """A task has stopped."""
    return {"updated": 1, "fields": _ended(call, "stopped")}


@endpoint("tasks.failed", writes=True)
def failed(call: Call) -> Document:
    """A task has failed."""
    return {"updated": 1, "fields": _ended(call, "failed")}


@endpoint("tasks.close", writes=True)
def close(call: Call) -> Document:
    """A task is closed: it has ended, whatever came out."""
    return {"updated": 1, "fields": _ended(call, "closed")}


@endpoint("tasks.completed", writes=True)
def completed(call: Call) -> Document:
    """A task has done its work; `publish` publishes it too."""
    fields = _ended(call, "completed")
    published = 0
    if call.data.get("publish"):
        fields |= publish_task(call, require(call, "tasks", call.data["task"]))
        published = 1
    return {"updated": 1, "published": published, "fields": fields}


@endpoint("tasks.publish", writes=True)
def publish(call: Call) -> Document:
    """Publishes a task and, unless told otherwise, its output models."""
    task = require(call, "tasks", call.data["task"])
    return {"updated": 1, "fields": publish_task(call, task, force=bool(call.data.get("force")))}


@endpoint("tasks.publish_many", writes=True)
def publish_many(call: Call) -> Document:
    """Publishes tasks."""

    def act(identifier: str) -> Document:
        task = require(call, "tasks", identifier)
        return {"updated": 1, "fields": publish_task(call, task, force=bool(call.data.get("force")))}

    return for_each(call, call.data["ids"], act)


@endpoint("tasks.archive", writes=True)
def archive(call: Call) -> Document:
    """Puts tasks out of sight."""
    for identifier in call.data["tasks"]:
        _archive(call, identifier)
    return {"archived": len(call.data["tasks"])}


@endpoint("tasks.archive_many", writes=True)
def archive_many(call: Call) -> Document:
    """Puts tasks out of sight; those that wait in a queue are taken out of it."""
    return for_each(call, call.data["ids"], lambda identifier: _archive(call, identifier))


@endpoint("tasks.unarchive_many", writes=True)
def unarchive_many(call: Call) -> Document:
    """Brings archived tasks back."""
    return retag(call, "tasks", archived=False)


@endpoint("tasks.reset", writes=True)
def reset(call: Call) -> Document:
    """Makes a draft of a task again: its results go."""
    return {"urls": {}, "events": {}} | _reset(call, call.data["task"])


@endpoint("tasks.reset_many", writes=True)
def reset_many(call: Call) -> Document:
    """Makes drafts of tasks again."""

    def act(identifier: str) -> Document:
        done = _reset(call, identifier)
        return done | {"dequeued": bool(done["dequeued"])}

    return for_each(call, call.data["ids"], act)


@endpoint("tasks.delete", writes=True)
def delete(call: Call) -> Document:
    """Removes a task with its events and unpublished output models; one that is no draft only by force."""
    return {"urls": None} | delete_task(call, require(call, "tasks", call.data["task"]))


@endpoint("tasks.delete_many", writes=True)
def delete_many(call: Call) -> Document:
    """Removes tasks."""
    return for_each(call, call.data["ids"], lambda identifier: delete_task(call, require(call, "tasks", identifier)))


def publish_task(call: Call, task: Document, force: bool = False) -> Document:
    """Publishes a task and its output models; the fields that changed."""
    if call.data.get("publish_model", True):
        for entry in task["models"]["output"]:
            model = call.transaction.get("models", entry["model"])
            if model and not model["ready"]:
                call.transaction.put("models", model | {"ready": True} | change_stamp(call))
    return _change_status(call, task, "published", also={"published": now(), "output": task["output"]}, force=force)


def delete_task(call: Call, task: Document, *, force: bool = False) -> Document:
    """Removes a task with all that belongs to it alone.

    Raises:
        ApiError: 400/123 when it is no draft, unless forced.
    """
    if task["status"] != "created" and not (force or call.data.get("force")):
        raise ApiError(
            400,
            123,
            "Task cannot be deleted (use force=true to delete a task that is not a draft)",
            id=task["id"],
            status=task["status"],
        )
    _dequeued(call, task)
    answer: Document = {"deleted": True} | _drop_results(call, task)
    children = call.transaction.all("tasks", parent=task["id"])
    for child in children:
        call.transaction.put("tasks", {name: value for name, value in child.items() if name != "parent"})
    kept_models = call.transaction.all("models", task=task["id"])
    for model in kept_models:
        call.transaction.put("models", {name: value for name, value in model.items() if name != "task"})
    call.transaction.delete("tasks", [task["id"]])
    touch(call, task.get("project"))
    return answer | {"updated_children": len(children), "updated_models": len(kept_models)}


def enqueue_task(call: Call, queue: Document, identifier: str) -> Document:
    """Puts a task into a queue; what changed.

    Raises:
        ApiError: 400/706 when it waits in one already, 400/110 when its status forbids it.
    """
    task = require(call, "tasks", identifier)
    if task["status"] == "queued":
        raise ApiError(400, 706, "Task already queued", task=task["id"])
    previous = task["status"]
    task["execution"] = task["execution"] | {"queue": queue["id"]}
    task["system_tags"] = [tag for tag in task["system_tags"] if tag != "development"]
    fields = _change_status(call, task, "queued", also={"enqueue_status": previous})
    queues.put_in(call, queue, task["id"])
    return {"updated": 1, "fields": fields | {"execution.queue": queue["id"]}}


def _watched(call: Call, queue: Document) -> Document:
    if not call.data.get("verify_watched_queue"):
        return {}
    return {"queue_watched": any(queue["id"] in worker["queues"] for worker in call.transaction.all("workers"))}


def _dequeue(call: Call, identifier: str) -> Document:
    task = require(call, "tasks", identifier)
    status = call.data.get("new_status") or task.get("enqueue_status") or "created"
    # an agent has set the task running before it asks for this
    if task["status"] != "queued" and task["status"] != call.data.get("new_status"):
        raise _bad_change(task, status)
    queues.take_out(call, task["id"])
    if status not in BEFORE:
        raise validation_error("new_status", f"{status!r} is not a status")
    return {"updated": 1, "fields": _change_status(call, task, status, also={"enqueue_status": None}, force=True)}


def _stop(call: Call, identifier: str) -> Document:
    task = require(call, "tasks", identifier)
    if task["status"] == "in_progress" and "development" not in task["system_tags"] and not call.data.get("force"):
        fields = _change_status(call, task, "in_progress", {"status_message": "stopping"})
    else:
        _dequeued(call, task)
        fields = _change_status(call, task, "stopped", {"status_message": f"Stopped by {call.identity.name}"})
    return {"updated": 1, "fields": fields}


def _archive(call: Call, identifier: str) -> Document:
    task = require(call, "tasks", identifier)
    if task["status"] == "queued":
        _dequeue(call, identifier)
        task = require(call, "tasks", identifier)
    fields = {"system_tags": sorted({*task["system_tags"], ARCHIVED})}
    fields |= {name: call.data[name] for name in ("status_reason", "status_message") if call.data.get(name)}
    call.transaction.put("tasks", task | fields | change_stamp(call))
    return {"archived": True}


def _reset(call: Call, identifier: str) -> Document:
    task = require(call, "tasks", identifier)
    dequeued = _dequeued(call, task)
    dropped = _drop_results(call, task)
    task = {name: value for name, value in task.items() if name not in _OF_A_RUN}
    task |= without_results(task)
    if call.data.get("clear_all"):
        task |= empty_contents()
    reason = {
        "status_reason": call.data.get("status_reason") or "reset",
        "status_message": call.data.get("status_message") or "reset",
    }
    fields = _change_status(call, task, "created", reason)
    return {"updated": 1, "fields": fields, "dequeued": dequeued} | dropped


def _drop_results(call: Call, task: Document) -> Document:
    """Deletes what a task made, the models by `delete_output_models`; counts, and the files' URLs when asked for."""
    uris: list[str] = []
    count = 0
    if call.data.get("delete_output_models", True):
        uris, count = _delete_output_models(call, task)
    urls: Document = {}
    if call.data.get("return_file_urls"):
        urls = {"urls": {"model_urls": uris} | file_urls(call, task)}
    delete_events(call.transaction, task["id"])
    return {"deleted_models": count} | urls


def file_urls(call: Call, task: Document) -> dict[str, list[str]]:
    """Where a task's artifacts and debug images are."""
    artifacts = [artifact for artifact in task["execution"]["artifacts"] if artifact.get("mode") != "input"]
    return {
        "event_urls": image_urls(call.transaction, task["id"]),
        "artifact_urls": sorted({artifact["uri"] for artifact in artifacts if artifact.get("uri")}),
    }


def _delete_output_models(call: Call, task: Document) -> tuple[list[str], int]:
    """Deletes a task's output models, but those that are published or another task's input: URIs and count."""
    models = [model for entry in task["models"]["output"] if (model := call.transaction.get("models", entry["model"]))]
    drafts = [
        model
        for model in models
        if not model["ready"] and model.get("task") == task["id"] and not _used_elsewhere(call, task, model["id"])
    ]
    for model in drafts:
        delete_events(call.transaction, model["id"])
    call.transaction.delete("models", [model["id"] for model in drafts])
    return sorted({model["uri"] for model in drafts if model["uri"]}), len(drafts)


def used_as_input(transaction: Transaction, model: str, by: Query) -> bool:
    """Whether a model is the input of a task that meets these conditions."""
    by.add("instr(doc, ?)", model)  # cheaper than to parse every document
    by.add(
        """EXISTS (SELECT 1 FROM json_each(doc, '$.models.input') AS entry
                   WHERE json_extract(entry.value, '$.model') = ?)""",
        model,
    )
    return bool(by.run(transaction, "tasks", limit=1))


def _used_elsewhere(call: Call, task: Document, model: str) -> bool:
    others = Query()
    others.add("id != ?", task["id"])
    return used_as_input(call.transaction, model, others)


def wanted_queue(call: Call) -> Document:
    """The queue that a request names by ID or name, or the default one."""
    identifier, name = call.data.get("queue"), call.data.get("queue_name")
    if identifier and name:
        raise validation_error("queue_name", "cannot be used together with queue!")
    if identifier:
        return require(call, "queues", identifier)
    if name:
        return call.transaction.first("queues", name=name) or queues.make(call, checked_name(name))
    return queues.default_queue(call)


def _dequeued(call: Call, task: Document) -> Document:
    removed = queues.take_out(call, task["id"])
    return {"removed": removed} if removed else {}


def _ended(call: Call, status: str) -> Document:
    task = require(call, "tasks", call.data["task"])
    _dequeued(call, task)
    return _change_status(call, task, status, also={"completed": now()})


def _bad_change(task: Document, status: str) -> ApiError:
    return ApiError(400, 110, "Invalid status change", id=task["id"], current_status=task["status"], new_status=status)


def _change_status(
    call: Call,
    task: Document,
    status: str,
    reason: dict[str, str] | None = None,
    also: dict[str, Any] | None = None,
    force: bool = False,
) -> Document:
    """Gives a task another status, by the rules unless forced, and saves it.

    Args:
        reason: status_reason and status_message where they are not the request's.
        also: fields that change along.

    Returns:
        the fields that changed.

    Raises:
        ApiError: 400/110 when this status does not follow on the present one.
    """
    present = task["status"]
    if not (force or call.data.get("force")) and status != present and present not in BEFORE[status]:
        raise _bad_change(task, status)
    stamp = change_stamp(call)
    fields = {
        "status": status,
        "status_reason": call.data.get("status_reason") or "",
        "status_message": call.data.get("status_message") or "",
        "status_changed": stamp["last_change"],
    }
    fields |= (reason or {}) | stamp | (also or {})
    task = task | fields
    if present == "in_progress" != status:
        task |= active_duration(task | {"status": present})
    if status != "queued":
        task.pop("enqueue_status", None)
    call.transaction.put("tasks", task)
    touch(call, task.get("project"))
    return fields
