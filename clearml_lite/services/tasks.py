"""tasks.*: tasks themselves; what belongs to them is in task_contents.py, their life in task_status.py."""

import json

from clearml_lite.auth import COMPANY
from clearml_lite.bodies import Body, lines
from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import ApiError, validation_error
from clearml_lite.query import now
from clearml_lite.schema import Validator, request_schema
from clearml_lite.services.entities import (
    change_stamp,
    checked_name,
    given,
    named,
    new_id,
    require,
    set_public,
    within,
)
from clearml_lite.services.entities import get_all as get_all_entities
from clearml_lite.services.entities import get_all_ex as get_all_entities_ex
from clearml_lite.services.projects import moved, project_named, target_project, touch
from clearml_lite.storage import Document

_EXECUTION: Document = {"test_split": 0, "parameters": {}, "model_desc": {}, "model_labels": {}, "artifacts": []}
_SCRIPT: Document = {"binary": "python", "repository": "", "entry_point": "", "requirements": {}}
_MODELS: Document = {"input": [], "output": []}
_RUNS_WITH = ("script", "execution", "container", "hyperparams", "configuration")
_EDITABLE = ("name", "tags", "system_tags", "type", "comment", "parent", "project", "models", "runtime", *_RUNS_WITH)
# Changes of these are no progress of the task: `last_update` stays.
_DESCRIPTIVE = {"name", "tags", "system_tags", "comment", "project"}
_SHARED = "shared"
_UPDATE = Validator(request_schema("tasks.update"))


@endpoint("tasks.create", writes=True)
def create(call: Call) -> Document:
    """A task."""
    task = _new(call, call.data["name"], call.data["type"]) | _contents(call, {})
    call.transaction.put("tasks", task)
    touch(call, task.get("project"))
    return {"id": task["id"]}


@endpoint("tasks.validate")
def validate(call: Call) -> Document:
    """Whether a task could be made like this."""
    _new(call, call.data["name"], call.data["type"])
    _contents(call, {})
    return {}


@endpoint("tasks.get_by_id")
def get_by_id(call: Call) -> Document:
    """A task."""
    return {"task": require(call, "tasks", call.data["task"])}


@endpoint("tasks.get_all")
def get_all(call: Call) -> Document:
    """Tasks by name, project, type, status, tags, …"""
    return get_all_entities(call, "tasks")


@endpoint("tasks.get_all_ex", schema=request_schema("tasks.get_all"))
def get_all_ex(call: Call) -> Document:
    """As get_all, with project, user, parent and queue written out as ID and name."""

    def complete(task: Document) -> Document:
        if queue := task["execution"].get("queue"):
            task["execution"] = task["execution"] | {"queue": named(call, "queues", queue)}
        return task

    return get_all_entities_ex(call, "tasks", complete)


@endpoint("tasks.get_types")
def get_types(call: Call) -> Document:
    """The types of tasks in projects and all below them."""
    return {"types": within(call).values(call.transaction, "tasks", "type")}


@endpoint("tasks.edit", writes=True)
def edit(call: Call) -> Document:
    """Changes a task; after it has started only by force."""
    task = editable(call)
    fields = _contents(call, task)
    if not fields:
        return {"updated": 0, "fields": {}}
    fields |= change_stamp(call, update=not fields.keys() <= _DESCRIPTIVE)
    call.transaction.put("tasks", task | fields)
    if "project" in fields:
        touch(call, fields["project"])
    return {"updated": 1, "fields": fields}


@endpoint("tasks.update", writes=True)
def update(call: Call) -> Document:
    """Changes what describes a task, whatever its status."""
    return _update(call, call.data)


def _updates(body: Body) -> list[Document]:
    updates = []
    for number, line in enumerate(lines(body), 1):
        try:
            updates.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise validation_error(f"line {number}", "is not JSON") from error
        _UPDATE.check(updates[-1])
    return updates


@endpoint("tasks.update_batch", writes=True, lines=_updates)
def update_batch(call: Call) -> Document:
    """Updates of tasks, one JSON object a line; all of them or none."""
    return {"updated": sum(_update(call, update)["updated"] for update in call.lines)}


@endpoint("tasks.move", writes=True)
def move(call: Call) -> Document:
    """Moves tasks to a project by ID or name, which is made if need be; null is the root."""
    project = target_project(call)
    for identifier in call.data["ids"]:
        task = require(call, "tasks", identifier)
        call.transaction.put("tasks", moved(task, project) | change_stamp(call, update=False))
        touch(call, task.get("project"))
    touch(call, project)
    return {"project_id": project}


@endpoint("tasks.make_public", writes=True)
def make_public(call: Call) -> Document:
    """Makes tasks public."""
    return set_public(call, "tasks", public=True)


@endpoint("tasks.make_private", writes=True)
def make_private(call: Call) -> Document:
    """Makes tasks the company's again."""
    return set_public(call, "tasks", public=False)


@endpoint("tasks.share", writes=True)
def share(call: Call) -> Document:
    """Marks tasks as shared, or takes the mark off; who is not logged in sees nothing either way."""
    changed = 0
    for identifier in call.data.get("tasks") or ():
        task = require(call, "tasks", identifier)
        tags = set(task["system_tags"]) - {_SHARED} | ({_SHARED} if call.data.get("share", True) else set())
        if tags != set(task["system_tags"]):
            call.transaction.put("tasks", task | {"system_tags": sorted(tags)} | change_stamp(call, update=False))
            changed += 1
    return {"changed": changed}


@endpoint("tasks.clone", writes=True)
def clone(call: Call) -> Document:
    """A new draft from a task: what it runs with, none of what it made."""
    data = call.data
    task = clone_task(call, require(call, "tasks", data["task"]), data)
    answer: Document = {"id": task["id"]}
    if data.get("new_project_name") and not data.get("new_task_project"):
        project = project_named(call, data["new_project_name"])
        task["project"] = project["id"]
        answer["new_project"] = {"id": project["id"], "name": project["name"]}
    if task.get("project"):
        require(call, "projects", task["project"])
    if (models := data.get("new_task_input_models")) is not None:
        for model in models:
            require(call, "models", model["model"])
        task["models"] = task["models"] | {"input": models}
    call.transaction.put("tasks", task)
    touch(call, task.get("project"))
    return answer


def clone_task(call: Call, source: Document, data: Document) -> Document:
    """A clone, not stored yet; `data` has the parameters of a clone request."""
    task = _new(call, data.get("new_task_name") or source["name"], source["type"])
    copied = ("comment", "project", "tags", *_RUNS_WITH)
    task |= {name: source[name] for name in copied if name in source}
    task["parent"] = data.get("new_task_parent") or source.get("parent") or source["id"]
    task |= without_results(source)
    overridable = ("comment", "tags", "system_tags", "project", "hyperparams", "configuration", "container")
    task |= given({name: data.get(f"new_task_{name}") for name in overridable}, overridable)
    if isinstance(data.get("execution_overrides"), dict):
        task["execution"] = _completed(task["execution"], data["execution_overrides"])
    return task


def empty_contents() -> Document:
    """What a task runs with, when nothing is said."""
    return {
        "hyperparams": {},
        "configuration": {},
        "script": dict(_SCRIPT),
        "execution": dict(_EXECUTION),
        "models": dict(_MODELS),
    }


def without_results(task: Document) -> Document:
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


def editable(call: Call) -> Document:
    """The request's task, if it may be changed."""
    task = require(call, "tasks", call.data["task"])
    require_editable(call, task)
    return task


def require_editable(call: Call, task: Document) -> None:
    """Raises ApiError 400/110 when the task is no draft, unless forced."""
    if not call.data.get("force") and task["status"] != "created":
        raise ApiError(
            400,
            110,
            "Invalid task status (use force=true to change a task that is no draft)",
            id=task["id"],
            status=task["status"],
        )


def save(call: Call, task: Document, fields: Document) -> None:
    """Stores a task with changed fields."""
    call.transaction.put("tasks", task | fields | change_stamp(call))


def _new(call: Call, name: str, kind: str) -> Document:
    task: Document = {"id": new_id(), "company": COMPANY, "user": call.identity.user, "name": checked_name(name)}
    task |= {"type": kind, "status": "created", "comment": "", "report_assets": [], "tags": [], "system_tags": []}
    task |= {"output": {}, "container": {}} | empty_contents() | change_stamp(call) | {"created": now()}
    return task | without_results(task)


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


def _update(call: Call, data: Document) -> Document:
    task = require(call, "tasks", data["task"])
    fields = given(data, ("name", "tags", "system_tags", "comment", "project", "created"))
    if "name" in fields:
        fields["name"] = checked_name(fields["name"])
    if fields.get("project"):
        require(call, "projects", fields["project"])
    if data.get("output__error") is not None:
        fields["output"] = task["output"] | {"error": data["output__error"]}
    if not fields:
        return {"updated": 0, "fields": {}}
    call.transaction.put("tasks", task | fields | change_stamp(call))
    return {"updated": 1, "fields": fields}


def _completed(defaults: Document, fields: Document) -> Document:
    return defaults | {name: value for name, value in fields.items() if value is not None}
