"""The real SDK and the real agent against a live server."""

from typing import Any

from tests.integration.lite.conftest import last_line, seen_by

TASK = """
import json, os
from pathlib import Path
import numpy
from clearml import Dataset, Model, OutputModel, Task

task = Task.init("proj/sdk", "whole", auto_connect_frameworks=False, auto_connect_arg_parser=False)
task.connect({"lr": 0.1, "layers": {"first": 32}})
logger = task.get_logger()
for epoch in range(15):
    logger.report_scalar("loss", "train", iteration=epoch, value=1 / (epoch + 1))
logger.report_single_value("Test Accuracy", 0.75)
logger.report_confusion_matrix("confusion", "test", iteration=0, matrix=numpy.eye(3))
logger.report_image("image", "square", iteration=0, image=numpy.zeros((8, 8, 3), dtype=numpy.uint8))
task.upload_artifact("settings", {"a": 1}, wait_on_upload=True)
weights = Path(os.environ["TESTS_FOLDER"], "weights.bin")
weights.write_bytes(os.urandom(300_000))
model = OutputModel(task=task, name="the model", framework="Keras")
model.update_weights(str(weights), auto_delete_file=False, async_enable=False)
task.add_tags(["b", "a"])
task.flush(wait_for_uploads=True)
task.close()

again = Task.get_task(task_id=task.id)
print(json.dumps({
    "status": again.get_status(),
    "parameters": again.get_parameters(),
    "scalars": again.get_reported_scalars(),
    "single": again.get_reported_single_values(),
    "plots": [plot["metric"] for plot in again.get_reported_plots()],
    "images": [image["variant"] for image in again.get_debug_samples("image", "square")],
    "artifact": again.artifacts["settings"].get(),
    "tags": again.get_tags(),
    "model": again.models["output"][0].name,
    "same weights": Path(Model(model.id).get_local_copy(force_download=True)).read_bytes() == weights.read_bytes(),
    "last iteration": again.get_last_iteration(),
}))
"""

DATASET = """
import json, os
from pathlib import Path
from clearml import Dataset

folder = Path(os.environ["TESTS_FOLDER"], "telemetry")
folder.mkdir()
(folder / "one.csv").write_text("a,b\\n1,2\\n")
first = Dataset.create(dataset_name="telemetry", dataset_project="proj/data")
first.add_files(str(folder))
first.upload()
first.finalize()
(folder / "two.csv").write_text("a,b\\n3,4\\n")
second = Dataset.create(dataset_name="telemetry", dataset_project="proj/data", parent_datasets=[first.id])
second.add_files(str(folder))
second.upload()
second.finalize()
latest = Dataset.get(dataset_name="telemetry", dataset_project="proj/data")
copy = Path(latest.get_local_copy())
listed = Dataset.list_datasets(dataset_project="proj/data")
Dataset.delete(dataset_id=second.id)
print(json.dumps({
    "latest": latest.id == second.id,
    "version": latest.version,
    "parents": latest.get_dependency_graph()[second.id] == [first.id],
    "files": {path.name: path.read_text() for path in copy.iterdir()},
    "versions": [entry["version"] for entry in listed],
    "left": [entry["version"] for entry in Dataset.list_datasets(dataset_project="proj/data")],
}))
"""

QUEUES = """
import json
from clearml import Task
from clearml.backend_api.session.client import APIClient

client = APIClient()
queue = client.queues.create(name="prepared")
task = Task.create(project_name="proj/sdk", task_name="waits", script="/dev/null", packages=[])
Task.enqueue(task, queue_name="prepared")
waiting = [entry.task for entry in client.queues.get_by_id(queue.id).entries]
Task.dequeue(task)
task.reload()
copy = Task.clone(task, name="a clone", parent=task.id)
print(json.dumps({
    "waiting": waiting == [task.id],
    "empty": list(client.queues.get_by_id(queue.id).entries),
    "status": task.get_status(),
    "clone": [copy.name, copy.parent == task.id, copy.get_status()],
    "found": Task.query_tasks(project_name="proj/sdk", task_name="^a clone$") == [copy.id],
}))
"""

REMOTE = """
from clearml import Task

task = Task.init("proj/agent", "remote", auto_connect_frameworks=False)
parameters = task.connect({"steps": 2})
for step in range(int(parameters["steps"])):
    task.get_logger().report_scalar("loss", "train", iteration=step, value=step)
task.upload_artifact("result", {"steps": parameters["steps"]}, wait_on_upload=True)
print("REMOTE DONE")
"""

ENQUEUE = """
import os
from clearml import Task

script = os.path.join(os.environ["TESTS_FOLDER"], "remote.py")
task = Task.create(project_name="proj/agent", task_name="remote", script=script, packages=["clearml"],
                   force_single_script_file=True)
task.set_parameters({"General/steps": 3})
Task.enqueue(task, queue_name="default")
print(task.id)
"""


def test_sdk_reports_a_task_and_reads_it_back(lite: Any) -> None:
    seen = last_line(lite.run_python(TASK, lite.client_conf("task")))
    curve = seen.pop("scalars")["loss"]["train"]
    assert curve["x"] == list(range(15))
    assert curve["y"] == [1 / (epoch + 1) for epoch in range(15)]
    assert seen == {
        "status": "completed",
        "parameters": {"General/lr": "0.1", "General/layers/first": "32"},
        "single": {"Test Accuracy": 0.75},
        "plots": ["confusion"],
        "images": ["square"],
        "artifact": {"a": 1},
        "tags": ["a", "b"],
        "model": "the model",
        "same weights": True,
        "last iteration": 14,
    }


def test_sdk_makes_a_dataset_with_a_child_version(lite: Any) -> None:
    assert last_line(lite.run_python(DATASET, lite.client_conf("dataset"))) == {
        "latest": True,
        "version": "1.0.1",
        "parents": True,
        "files": {"one.csv": "a,b\n1,2\n", "two.csv": "a,b\n3,4\n"},
        "versions": ["1.0.0", "1.0.1"],
        "left": ["1.0.0"],
    }


def test_sdk_moves_tasks_through_queues(lite: Any) -> None:
    assert last_line(lite.run_python(QUEUES, lite.client_conf("queues"))) == {
        "waiting": True,
        "empty": [],
        "status": "created",
        "clone": ["a clone", True, "created"],
        "found": True,
    }


def test_agent_runs_a_task_with_changed_parameters(lite: Any, agents: Any) -> None:
    (lite.folder / "remote.py").write_text(REMOTE)
    task = lite.run_python(ENQUEUE, agents.conf("agent")).strip().splitlines()[-1]
    agents.start("tests-lite:0", "default")
    document = agents.ended(task)
    workers = lite.call("workers.get_all")["workers"]
    assert document["status"] == "completed", agents.log("tests-lite:0").read_text()
    assert document["last_worker"] == "tests-lite:0"
    assert document["hyperparams"]["General"]["steps"]["value"] == "3"
    assert document["last_iteration"] == 2
    assert [artifact["key"] for artifact in document["execution"]["artifacts"]] == ["result"]
    console = lite.call("events.get_task_log", {"task": task, "batch_size": 1000})["events"]
    assert any("REMOTE DONE" in line["msg"] for line in console)
    assert [worker["id"] for worker in workers] == ["tests-lite:0"]


def test_tasks_are_found_by_every_filter(lite: Any) -> None:
    assert seen_by(lite, "searches.py") == {
        "any": ["first", "second", "third"],
        "without": ["second"],
        "only without": ["archived", "second"],
        "all": ["first"],
        "all but": ["third"],
        "any of": ["first", "second", "third"],
        "mixed": ["first"],
        "project": ["third"],
        "projects": ["first", "third"],
        "exactly": ["third"],
        "type": ["second"],
        "status": ["third"],
        "drafts": ["first", "second"],
        "archived": ["archived"],
        "visible": ["first", "second"],
        "text": ["fourth"],
        "pattern": ["fourth", "second"],
        "both": ["third"],
        "ordered": ["first", "second"],
        "backwards": ["second", "first"],
        "fields": {"id": seen_third(lite), "name": "third", "tags": ["b", "c"], "script.binary": "python"},
        "by parent": 0,
        "below": ["fourth", "third"],
        "page": [2, 2, 1],
    }


def seen_third(lite: Any) -> str:
    (third,) = lite.call("tasks.get_all", {"name": "^third$", "only_fields": ["id"]})["tasks"]
    return str(third["id"])
