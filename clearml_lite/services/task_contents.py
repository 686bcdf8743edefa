"""tasks.*: hyper-parameters, configuration, artifacts, models, requirements of a task."""

from clearml_lite.dispatch import Call, endpoint
from clearml_lite.query import now
from clearml_lite.services.entities import require
from clearml_lite.services.tasks import editable, require_editable, save
from clearml_lite.storage import Document


@endpoint("tasks.set_requirements", writes=True)
def set_requirements(call: Call) -> Document:
    """The packages that a task needs."""
    task = require(call, "tasks", call.data["task"])
    save(call, task, {"script": task["script"] | {"requirements": call.data["requirements"]}})
    return {"updated": 1, "fields": {}}


@endpoint("tasks.get_hyper_params")
def get_hyper_params(call: Call) -> Document:
    """Hyper-parameters of tasks, as lists."""
    return {
        "params": [
            {
                "task": task["id"],
                "hyperparams": [item for section in task["hyperparams"].values() for item in section.values()],
            }
            for task in _existing(call)
        ]
    }


@endpoint("tasks.edit_hyper_params", writes=True)
def edit_hyper_params(call: Call) -> Document:
    """Adds hyper-parameters; `replace_hyperparams`: those of the `section`, `all` or `none` are removed before."""
    task = require(call, "tasks", call.data["task"])
    items = call.data["hyperparams"]
    # What users call properties of a task may change at any time.
    if any(item.get("section") != "properties" for item in items):
        require_editable(call, task)
    replace = call.data.get("replace_hyperparams") or "none"
    kept = {} if replace == "all" else dict(task["hyperparams"])
    if replace == "section":
        kept = {name: section for name, section in kept.items() if name not in {item.get("section") for item in items}}
    for item in items:
        section = item.get("section") or "General"
        kept[section] = kept.get(section, {}) | {item.get("name") or "": item}
    save(call, task, {"hyperparams": kept})
    return {"updated": 1}


@endpoint("tasks.delete_hyper_params", writes=True)
def delete_hyper_params(call: Call) -> Document:
    """Removes hyper-parameters; one without a name stands for its section."""
    task = editable(call)
    kept = {section: dict(items) for section, items in task["hyperparams"].items()}
    for item in call.data["hyperparams"]:
        section = item.get("section") or ""
        if not item.get("name"):
            kept.pop(section, None)
        else:
            kept.get(section, {}).pop(item["name"], None)
    save(call, task, {"hyperparams": {section: items for section, items in kept.items() if items}})
    return {"deleted": 1}


@endpoint("tasks.get_configurations")
def get_configurations(call: Call) -> Document:
    """Configuration objects of tasks, as lists; `names`: these only."""
    names = call.data.get("names")
    return {
        "configurations": [
            {
                "task": task["id"],
                "configuration": [
                    item for name, item in sorted(task["configuration"].items()) if not names or name in names
                ],
            }
            for task in _existing(call)
        ]
    }


@endpoint("tasks.get_configuration_names")
def get_configuration_names(call: Call) -> Document:
    """Names of tasks' configuration objects by task; those without a value only with `skip_empty` off."""
    skip_empty = call.data.get("skip_empty", True)
    return {
        "configurations": {
            task["id"]: {
                "task": task["id"],
                "names": sorted(
                    name for name, item in task["configuration"].items() if item.get("value") or not skip_empty
                ),
            }
            for task in _existing(call)
        }
    }


@endpoint("tasks.edit_configuration", writes=True)
def edit_configuration(call: Call) -> Document:
    """Adds configuration objects, each replacing the one with its name; `replace_configuration`: all of them."""
    task = editable(call)
    kept = {} if call.data.get("replace_configuration") else task["configuration"]
    items = {item["name"]: item for item in call.data["configuration"] if item.get("name")}
    save(call, task, {"configuration": kept | items})
    return {"updated": 1}


@endpoint("tasks.delete_configuration", writes=True)
def delete_configuration(call: Call) -> Document:
    """Removes configuration objects by name."""
    task = editable(call)
    gone = set(call.data["configuration"])
    save(call, task, {"configuration": {key: item for key, item in task["configuration"].items() if key not in gone}})
    return {"deleted": 1}


@endpoint("tasks.add_or_update_artifacts", writes=True)
def add_or_update_artifacts(call: Call) -> Document:
    """Artifacts, each replacing the one with its key and mode."""
    task = editable(call)
    artifacts = {_artifact_key(artifact): artifact for artifact in task["execution"]["artifacts"]}
    for artifact in call.data["artifacts"]:
        artifact = {"mode": "output"} | artifact | {"display_data": sorted(artifact.get("display_data") or [])}
        artifacts[_artifact_key(artifact)] = artifact
    _save_execution(call, task, {"artifacts": [artifacts[key] for key in sorted(artifacts)]})
    return {"updated": 1}


@endpoint("tasks.delete_artifacts", writes=True)
def delete_artifacts(call: Call) -> Document:
    """Removes artifacts from a task; files are the client's business."""
    task = editable(call)
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
    save(
        call, task, {"models": task["models"] | {kind: [*others, entry]}} | _iteration(task, call.data.get("iteration"))
    )
    return {"updated": 1}


@endpoint("tasks.delete_models", writes=True)
def delete_models(call: Call) -> Document:
    """Takes models off a task by type and name; the models themselves stay."""
    task = require(call, "tasks", call.data["task"])
    gone = {(item["type"], item["name"]) for item in call.data["models"]}
    kept = {
        kind: [entry for entry in task["models"][kind] if (kind, entry["name"]) not in gone]
        for kind in ("input", "output")
    }
    save(call, task, {"models": task["models"] | kept})
    return {"updated": 1}


def _existing(call: Call) -> list[Document]:
    """The tasks of the request that are there."""
    found = (call.transaction.get("tasks", identifier) for identifier in call.data["tasks"])
    return [task for task in found if task]


def _save_execution(call: Call, task: Document, fields: Document) -> None:
    save(call, task, {"execution": task["execution"] | fields})


def _artifact_key(artifact: Document) -> tuple[str, str]:
    return artifact["key"], artifact.get("mode") or "output"


def _iteration(task: Document, iteration: int | None) -> Document:
    return {"last_iteration": max(task["last_iteration"], iteration)} if iteration is not None else {}
