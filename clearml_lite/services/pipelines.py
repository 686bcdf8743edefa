"""pipelines.*"""

from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import ApiError
from clearml_lite.services.entities import require
from clearml_lite.services.task_status import enqueue_task, wanted_queue
from clearml_lite.services.tasks import clone_task
from clearml_lite.storage import Document

PIPELINE = "pipeline"


@endpoint("pipelines.start_pipeline", writes=True)
def start_pipeline(call: Call) -> Document:
    """Runs a pipeline again: a clone of its task, with other arguments, in a queue."""
    source = require(call, "tasks", call.data["task"])
    if PIPELINE not in source["system_tags"]:
        raise ApiError(400, 12, "Task is not a pipeline", id=source["id"])
    task = clone_task(call, source, {"new_task_name": source["name"], "new_task_system_tags": source["system_tags"]})
    arguments = dict(task["hyperparams"].get("Args", {}))
    for item in call.data.get("args") or ():
        name = item.get("name") or ""
        changed = {"section": "Args", "name": name, "value": item.get("value") or ""}
        arguments[name] = arguments.get(name, {}) | changed
    if arguments:
        task["hyperparams"] = task["hyperparams"] | {"Args": arguments}
    call.transaction.put("tasks", task)
    enqueue_task(call, wanted_queue(call), task["id"])
    return {"pipeline": task["id"], "enqueued": True}
