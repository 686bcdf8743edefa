"""tasks.*: life cycle, contents, queues."""

from collections.abc import Iterable
from typing import Any

from clearml_lite.auth import COMPANY
from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import ApiError
from clearml_lite.query import now
from clearml_lite.services import queues
from clearml_lite.services.entities import active_duration, change_stamp, checked_name, given, new_id, require
from clearml_lite.services.entities import get_all as get_all_entities
from clearml_lite.services.events import delete_events
from clearml_lite.services.projects import touch
from clearml_lite.storage import Document

_EXECUTION: Document = {"test_split": 0, "parameters": {}, "model_desc": {}, "model_labels": {}, "artifacts": []}
_SCRIPT: Document = {"binary": "python", "repository": "", "entry_point": "", "requirements": {}}
_MODELS: Document = {"input": [], "output": []}
_RUNS_WITH = ("script", "execution", "container", "hyperparams", "configuration")
_EDITABLE = ("name", "tags", "system_tags", "type", "comment", "parent", "project", "models", "runtime", *_RUNS_WITH)
# Changes of these are no progress of the task: `last_update` stays.
_DESCRIPTIVE = {"name", "tags", "system_tags", "comment", "project"}
# From which status a task comes into another one without force; from itself always.
_BEFORE = {
    "queued": {"created", "stopped", "failed", "completed"},
    "in_progress": {"created", "queued", "stopped", "failed", "completed"},
    "stopped": {"created", "queued", "in_progress", "failed", "closed"},
    "failed": {"created", "queued", "in_progress", "stopped", "closed"},
    "completed": {"created", "in_progress", "stopped", "closed", "failed"},
    "created": {"queued", "in_progress", "stopped", "failed", "closed", "completed"},
    "published": {"completed", "stopped", "closed", "failed", "publishing"},
}


@endpoint("tasks.create", writes=True)
def create(call: Call) -> Document:
    """A task."""
    task = _new(call, call.data["name"], call.data["type"]) | _contents(call, {})
    call.transaction.put("tasks", task)
    touch(call, task.get("project"))
    return {"id": task["id"]}


@endpoint("tasks.get_by_id")
def get_by_id(call: Call) -> Document:
    """A task."""
    return {"task": require(call, "tasks", call.data["task"])}


@endpoint("tasks.get_all")
def get_all(call: Call) -> Document:
    """Tasks by name, project, type, status, tags, …"""
    return get_all_entities(call, "tasks")


@endpoint("tasks.edit", writes=True)
def edit(call: Call) -> Document:
    """Changes a task; after it has started only by force."""
    task = _editable(call)
    fields = _contents(call, task)
    if not fields:
        return {"updated": 0, "fields": {}}
    fields |= change_stamp(call, update=not fields.keys() <= _DESCRIPTIVE)
    call.transaction.put("tasks", task | fields)
    if "project" in fields:
        touch(call, fields["project"])
    return {"updated": 1, "fields": fields}


@endpoint("tasks.set_requirements", writes=True)
def set_requirements(call: Call) -> Document:
    """The packages that a task needs."""
    task = require(call, "tasks", call.data["task"])
    _save(call, task, {"script": task["script"] | {"requirements": call.data["requirements"]}})
    return {"updated": 1, "fields": {}}


@endpoint("tasks.get_hyper_params")
def get_hyper_params(call: Call) -> Document:
    """Hyper-parameters of tasks, as lists."""
    found = [task for identifier in call.data["tasks"] if (task := call.transaction.get("tasks", identifier))]
    return {
        "params": [
            {
                "task": task["id"],
                "hyperparams": [item for section in task["hyperparams"].values() for item in section.values()],
            }
            for task in found
        ]
    }


@endpoint("tasks.edit_hyper_params", writes=True)
def edit_hyper_params(call: Call) -> Document:
    """Adds hyper-parameters; `replace_hyperparams`: those of the `section`, `all` or `none` are removed before."""
    task = require(call, "tasks", call.data["task"])
    items = call.data["hyperparams"]
    # What users call properties of a task may change at any time.
    if any(item.get("section") != "properties" for item in items):
        _require_editable(call, task)
    replace = call.data.get("replace_hyperparams") or "none"
    kept = {} if replace == "all" else dict(task["hyperparams"])
    if replace == "section":
        kept = {name: section for name, section in kept.items() if name not in {item.get("section") for item in items}}
    for item in items:
        section = item.get("section") or "General"
        kept[section] = kept.get(section, {}) | {item.get("name") or "": item}
    _save(call, task, {"hyperparams": kept})
    return {"updated": 1}


@endpoint("tasks.delete_hyper_params", writes=True)
def delete_hyper_params(call: Call) -> Document:
    """Removes hyper-parameters; one without a name stands for its section."""
    task = _editable(call)
    kept = {section: dict(items) for section, items in task["hyperparams"].items()}
    for item in call.data["hyperparams"]:
        section = item.get("section") or ""
        if item.get("name") is None:
            kept.pop(section, None)
        else:
            kept.get(section, {}).pop(item["name"], None)
    _save(call, task, {"hyperparams": {section: items for section, items in kept.items() if items}})
    return {"deleted": 1}


@endpoint("tasks.add_or_update_artifacts", writes=True)
def add_or_update_artifacts(call: Call) -> Document:
    """Artifacts, each replacing the one with its key and mode."""
    task = _editable(call, also=("in_progress",))
    artifacts = {_artifact_key(artifact): artifact for artifact in task["execution"]["artifacts"]}
    for artifact in call.data["artifacts"]:
        artifact = {"mode": "output"} | artifact | {"display_data": sorted(artifact.get("display_data") or [])}
        artifacts[_artifact_key(artifact)] = artifact
    _save_execution(call, task, {"artifacts": [artifacts[key] for key in sorted(artifacts)]})
    return {"updated": 1}


@endpoint("tasks.delete_artifacts", writes=True)
def delete_artifacts(call: Call) -> Document:
    """Removes artifacts from a task; files are the client's business."""
    task = _editable(call, also=("in_progress",))
    gone = {_artifact_key(artifact) for artifact in call.data["artifacts"]}
    _save_execution(
        call, task, {"artifacts": [kept for kept in task["execution"]["artifacts"] if _artifact_key(kept) not in gone]}
    )
    return {"deleted": 1}


@endpoint("tasks.add_or_update_model", writes=True)
def add_or_update_model(call: Call) -> Document:
    """Names one of a task's input or output models."""
    task = require(call, "tasks", call.data["task"])
    model = require(call, "models", call.data["model"])
    kind = call.data["type"]
    others = [entry for entry in task["models"][kind] if entry["name"] != call.data["name"]]
    entry = {"name": call.data["name"], "model": model["id"], "updated": now()}
    _save(
        call, task, {"models": task["models"] | {kind: [*others, entry]}} | _iteration(task, call.data.get("iteration"))
    )
    return {"updated": 1}


@endpoint("tasks.clone", writes=True)
def clone(call: Call) -> Document:
    """A new draft from a task: what it runs with, none of what it made."""
    source = require(call, "tasks", call.data["task"])
    data = call.data
    task = _new(call, data.get("new_task_name") or f"Clone of {source['name']}", source["type"])
    copied = ("comment", "project", "tags", *_RUNS_WITH)
    task |= {name: source[name] for name in copied if name in source}
    task["parent"] = data.get("new_task_parent") or source.get("parent") or source["id"]
    task |= _without_results(source)
    overridable = ("comment", "tags", "system_tags", "project", "hyperparams", "configuration", "container")
    task |= given({name: data.get(f"new_task_{name}") for name in overridable}, overridable)
    if isinstance(data.get("execution_overrides"), dict):
        task["execution"] = _completed(task["execution"], data["execution_overrides"])
    if task.get("project"):
        require(call, "projects", task["project"])
    call.transaction.put("tasks", task)
    touch(call, task.get("project"))
    return {"id": task["id"]}


@endpoint("tasks.reset", writes=True)
def reset(call: Call) -> Document:
    """Makes a draft of a task again: its results go."""
    task = require(call, "tasks", call.data["task"])
    dequeued = _dequeued(call, task)
    deleted_models = _delete_output_models(call, task) if call.data.get("delete_output_models", True) else 0
    delete_events(call.transaction, task["id"])
    for name in (
        "started",
        "completed",
        "published",
        "active_duration",
        "last_worker",
        "last_worker_report",
        "enqueue_status",
    ):
        task.pop(name, None)
    task |= _without_results(task)
    if call.data.get("clear_all"):
        task |= {
            "hyperparams": {},
            "configuration": {},
            "script": dict(_SCRIPT),
            "execution": dict(_EXECUTION),
            "models": dict(_MODELS),
        }
    reason = {
        "status_reason": call.data.get("status_reason") or "reset",
        "status_message": call.data.get("status_message") or "reset",
    }
    fields = _change_status(call, task, "created", reason)
    return {
        "updated": 1,
        "fields": fields,
        "deleted_models": deleted_models,
        "dequeued": dequeued,
        "events": {},
        "urls": {},
    }


@endpoint("tasks.delete", writes=True)
def delete(call: Call) -> Document:
    """Removes a task with its events and unpublished output models; one that is no draft only by force."""
    task = require(call, "tasks", call.data["task"])
    if task["status"] != "created" and not call.data.get("force"):
        raise ApiError(
            400,
            123,
            "Task cannot be deleted (use force=true to delete a task that is not a draft)",
            id=task["id"],
            status=task["status"],
        )
    _dequeued(call, task)
    deleted_models = _delete_output_models(call, task)
    children = call.transaction.all("tasks", parent=task["id"])
    for child in children:
        call.transaction.put("tasks", {name: value for name, value in child.items() if name != "parent"})
    kept_models = call.transaction.all("models", task=task["id"])
    for model in kept_models:
        call.transaction.put("models", {name: value for name, value in model.items() if name != "task"})
    delete_events(call.transaction, task["id"])
    call.transaction.delete("tasks", [task["id"]])
    touch(call, task.get("project"))
    counts = {"updated_children": len(children), "updated_models": len(kept_models), "deleted_models": deleted_models}
    return {"deleted": True, "urls": None} | counts


@endpoint("tasks.enqueue", writes=True)
def enqueue(call: Call) -> Document:
    """Puts a task into a queue (by ID or name; without either the default one)."""
    task = require(call, "tasks", call.data["task"])
    if task["status"] == "queued":
        raise ApiError(400, 706, "Task already queued", task=task["id"])
    queue = _queue(call)
    previous = task["status"]
    task["execution"] = task["execution"] | {"queue": queue["id"]}
    task["system_tags"] = [tag for tag in task["system_tags"] if tag != "development"]
    fields = _change_status(call, task, "queued", also={"enqueue_status": previous})
    queues.put_in(call, queue, task["id"])
    answer = {"queued": 1, "updated": 1, "fields": fields | {"execution.queue": queue["id"]}}
    if call.data.get("verify_watched_queue"):
        answer["queue_watched"] = any(queue["id"] in worker["queues"] for worker in call.transaction.all("workers"))
    return answer


@endpoint("tasks.dequeue", writes=True)
def dequeue(call: Call) -> Document:
    """Takes a task out of its queue; it gets its status from before, or the one that is asked for."""
    task = require(call, "tasks", call.data["task"])
    queues.take_out(call, task["id"])
    status = (
        call.data.get("new_status")
        or task.get("enqueue_status")
        or ("created" if task["status"] == "queued" else task["status"])
    )
    if status not in _BEFORE:
        raise ApiError(400, 12, f"Validation error (error for field 'new_status'. {status!r} is not a status)")
    fields = _change_status(call, task, status, also={"enqueue_status": None}, force=True)
    return {"dequeued": 1, "updated": 1, "fields": fields}


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
    task = require(call, "tasks", call.data["task"])
    if task["status"] == "in_progress" and "development" not in task["system_tags"] and not call.data.get("force"):
        fields = _change_status(call, task, "in_progress", {"status_message": "stopping"})
    else:
        _dequeued(call, task)
        fields = _change_status(call, task, "stopped", {"status_message": f"Stopped by {call.identity.name}"})
    return {"updated": 1, "fields": fields}


@endpoint("tasks.stopped", writes=True)
def stopped(call: Call) -> Document:
    """A task has stopped."""
    return {"updated": 1, "fields": _ended(call, "stopped")}


@endpoint("tasks.failed", writes=True)
def failed(call: Call) -> Document:
    """A task has failed."""
    return {"updated": 1, "fields": _ended(call, "failed")}


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


def publish_task(call: Call, task: Document, force: bool = False) -> Document:
    """Publishes a task and its output models; the fields that changed."""
    if call.data.get("publish_model", True):
        for entry in task["models"]["output"]:
            model = call.transaction.get("models", entry["model"])
            if model and not model["ready"]:
                call.transaction.put("models", model | {"ready": True} | change_stamp(call))
    return _change_status(call, task, "published", also={"published": now(), "output": task["output"]}, force=force)


def _new(call: Call, name: str, kind: str) -> Document:
    task: Document = {"id": new_id(), "company": COMPANY, "user": call.identity.user, "name": checked_name(name)}
    task |= {"type": kind, "status": "created", "comment": "", "report_assets": [], "tags": [], "system_tags": []}
    task |= {"script": dict(_SCRIPT), "execution": dict(_EXECUTION), "models": dict(_MODELS), "output": {}}
    task |= {"hyperparams": {}, "configuration": {}, "container": {}} | change_stamp(call) | {"created": now()}
    return task | _without_results(task)


def _without_results(task: Document) -> Document:
    """The fields that hold a task's results, without them."""
    execution = {name: value for name, value in task["execution"].items() if name != "queue"}
    execution["artifacts"] = [artifact for artifact in execution["artifacts"] if artifact.get("mode") == "input"]
    return {
        "execution": execution,
        "models": task["models"] | {"output": []},
        "output": {name: value for name, value in task["output"].items() if name == "destination"},
        "last_iteration": 0,
        "last_metrics": {},
        "unique_metrics": [],
        "metric_stats": {},
        "runtime": {},
    }


def _contents(call: Call, task: Document) -> Document:
    """The fields that a create or edit request sets."""
    fields = given(call.data, _EDITABLE)
    if "name" in fields:
        fields["name"] = checked_name(fields["name"])
    if "script" in fields:
        fields["script"] = _completed(_SCRIPT, fields["script"])
    if "execution" in fields:
        queue = task.get("execution", {}).get("queue")
        fields["execution"] = _completed(_EXECUTION | ({"queue": queue} if queue else {}), fields["execution"])
    if "models" in fields:
        fields["models"] = _completed(_MODELS, fields["models"])
    if call.data.get("output_dest"):
        fields["output"] = task.get("output", {}) | {"destination": call.data["output_dest"]}
    for collection, name in (("projects", "project"), ("tasks", "parent")):
        if fields.get(name):
            require(call, collection, fields[name])
        elif name in fields:
            del fields[name]
    return fields


def _completed(defaults: Document, fields: Document) -> Document:
    return defaults | {name: value for name, value in fields.items() if value is not None}


def _editable(call: Call, also: Iterable[str] = ()) -> Document:
    task = require(call, "tasks", call.data["task"])
    _require_editable(call, task, also)
    return task


def _require_editable(call: Call, task: Document, also: Iterable[str] = ()) -> None:
    if not call.data.get("force") and task["status"] not in ("created", *also):
        raise ApiError(
            400,
            110,
            "Invalid task status (use force=true to change a task that is no draft)",
            id=task["id"],
            status=task["status"],
        )


def _save(call: Call, task: Document, fields: Document) -> None:
    call.transaction.put("tasks", task | fields | change_stamp(call))


def _save_execution(call: Call, task: Document, fields: Document) -> None:
    _save(call, task, {"execution": task["execution"] | fields})


def _artifact_key(artifact: Document) -> tuple[str, str]:
    return artifact["key"], artifact.get("mode") or "output"


def _iteration(task: Document, iteration: int | None) -> Document:
    return {"last_iteration": max(task["last_iteration"], iteration)} if iteration is not None else {}


def _queue(call: Call) -> Document:
    if identifier := call.data.get("queue"):
        return require(call, "queues", identifier)
    if name := call.data.get("queue_name"):
        if queue := call.transaction.first("queues", name=name):
            return queue
        raise ApiError(400, 701, "Invalid queue id", name=name, company=COMPANY)
    return queues.default_queue(call)


def _dequeued(call: Call, task: Document) -> Document:
    removed = queues.take_out(call, task["id"])
    return {"removed": removed} if removed else {}


def _delete_output_models(call: Call, task: Document) -> int:
    """Deletes a task's output models; the published ones stay."""
    models = [model for entry in task["models"]["output"] if (model := call.transaction.get("models", entry["model"]))]
    drafts = [model["id"] for model in models if not model["ready"] and model.get("task") == task["id"]]
    call.transaction.delete("models", drafts)
    return len(drafts)


def _ended(call: Call, status: str) -> Document:
    task = require(call, "tasks", call.data["task"])
    _dequeued(call, task)
    return _change_status(call, task, status, also={"completed": now()})


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
    if not (force or call.data.get("force")) and status != present and present not in _BEFORE[status]:
        raise ApiError(400, 110, "Invalid status change", id=task["id"], current_status=present, new_status=status)
    stamp = change_stamp(call)
    fields = {
        "status": status,
        "status_reason": call.data.get("status_reason") or "",
        "status_message": call.data.get("status_message") or "",
        "status_changed": stamp["last_change"],
    }
    fields |= (reason or {}) | stamp | (also or {})
    task = task | fields
    if status != "queued":
        task.pop("enqueue_status", None)
    call.transaction.put("tasks", task)
    touch(call, task.get("project"))
    return fields
