"""A task from its first line to its deletion, with every kind of artifact, and a clone of it that is changed."""

import json
import os
from pathlib import Path

import numpy
import pandas
from clearml import Task

folder = Path(os.environ["TESTS_FOLDER"])
(folder / "kept.txt").write_text("kept")
(folder / "tree").mkdir()
(folder / "tree" / "leaf.txt").write_text("leaf")
seen = {}


def own(task):
    return {name: value for name, value in task.get_parameters().items() if name.startswith("Own/")}


Task.add_requirements("numpy", ">=1.0")
task = Task.init(
    "life/one",
    "begun",
    task_type="testing",
    auto_connect_frameworks=False,
    auto_connect_arg_parser=False,
    auto_resource_monitoring=False,
)
task.connect({"rate": 0.5, "deep": {"er": [1, 2]}, "gone": "soon"}, name="Own")
task.connect_configuration({"layers": [3, 4]}, name="network")
task.connect_configuration(folder / "kept.txt", name="plain")
task.connect_label_enumeration({"cat": 1, "dog": 2})
task.set_user_properties({"name": "cell", "value": "7", "type": "int"}, owner="me")
task.set_comment("words")
task.set_progress(40)
task.upload_artifact("array", numpy.arange(4), wait_on_upload=True)
task.upload_artifact("frame", pandas.DataFrame({"a": [1, 2]}), wait_on_upload=True)
task.upload_artifact("file", folder / "kept.txt", wait_on_upload=True)
task.upload_artifact("folder", folder / "tree", wait_on_upload=True)
task.upload_artifact("text", "some text", wait_on_upload=True)
task.upload_artifact("extra", {"x": 1}, metadata={"made": "by hand"}, wait_on_upload=True)
task.flush(wait_for_uploads=True)
task.close()

again = Task.get_task(project_name="life/one", task_name="begun")
artifacts = again.artifacts
seen["artifacts"] = {
    "array": artifacts["array"].get().tolist(),
    "frame": artifacts["frame"].get()["a"].tolist(),
    "file": Path(artifacts["file"].get_local_copy()).read_text(),
    "folder": [path.name for path in Path(artifacts["folder"].get_local_copy()).iterdir()],
    "text": Path(artifacts["text"].get_local_copy()).read_text(),
    "extra": artifacts["extra"].get(),
    "metadata": artifacts["extra"].metadata,
}
seen["task"] = {
    "type": str(again.task_type),
    "parameters": own(again),
    "cast": again.get_parameters_as_dict(cast=True)["Own"],
    "network": again.get_configuration_object_as_dict("network"),
    "plain": again.get_configuration_object("plain"),
    "labels": again.get_labels_enumeration(),
    "properties": again.get_user_properties(value_only=True),
    "progress": again.get_progress(),
    "comment": again.comment,
    "numpy": [line for line in again.get_requirements()["pip"].splitlines() if line.startswith("numpy")],
    "script": again.get_script()["entry_point"],
}

copy = Task.clone(again, name="changed", comment="other words")
copy.set_parameters_as_dict({"Own": {"rate": 0.25, "new": "here", "gone": "soon"}})
copy.delete_parameter("Own/gone")
copy.set_parameter("Own/late", 3)
copy.set_configuration_object("network", config_dict={"layers": [9]})
copy.set_packages(["six==1.16.0"])
copy.set_base_docker("ubuntu:24.04", docker_arguments="--ipc=host", docker_setup_bash_script="echo hello")
copy.set_script(repository="https://example.org/r.git", branch="main", entry_point="run.py", working_dir=".")
copy.set_name("renamed")
copy.set_task_type("inference")
copy.add_tags(["x", "y"])
copy.remove_tags(["x"])
copy.delete_user_properties([{"section": "properties", "name": "owner"}])
copy.move_to_project(new_project_name="life/two")
copy = Task.get_task(task_id=copy.id)
seen["copy"] = {
    "name": copy.name,
    "comment": copy.comment,
    "project": copy.get_project_name(),
    "type": str(copy.task_type),
    "status": copy.get_status(),
    "tags": copy.get_tags(),
    "docker": copy.get_base_docker(),
    "parameters": own(copy),
    "network": copy.get_configuration_object_as_dict("network"),
    "requirements": copy.get_requirements()["pip"],
    "script": {name: copy.get_script()[name] for name in ("repository", "branch", "entry_point")},
    "properties": copy.get_user_properties(value_only=True),
    "artifacts": list(copy.artifacts),
    "parent": copy.parent == again.id,
}

imported = Task.import_task(again.export_task(), update=False)
seen["imported"] = [imported.id != again.id, imported.get_parameters()["Own/rate"], imported.get_status()]

states = []


def note():
    copy.reload()
    states.append([copy.get_status(), copy.data.status_message])


copy.mark_started()
note()
copy.mark_stop_request(status_message="please")
note()
copy.mark_stopped(force=True, status_message="enough")
note()
copy.mark_started(force=True)
copy.mark_failed(status_reason="broke", status_message="in the middle", force=True)
note()
copy.reset()
note()
copy.mark_started()
copy.mark_completed()
note()
copy.publish()
note()
seen["states"] = states
archived = []
for wanted in (True, False):
    copy.set_archived(wanted)
    archived.append(copy.get_archived())
seen["archived"] = archived

Task.enqueue(imported, queue_name="default")
imported.reload()
seen["queued"] = [
    imported.get_status(),
    Task.get_num_enqueued_tasks(queue_name="default"),
    imported.get_executed_queue(return_name=True),
]
Task.dequeue(imported)
imported.reload()
seen["dequeued"] = [imported.get_status(), Task.get_num_enqueued_tasks(queue_name="default")]
seen["files"] = [artifact.url for artifact in artifacts.values()]
seen["deleted"] = [bool(imported.delete()), bool(again.delete(raise_on_error=True))]
seen["left"] = Task.query_tasks(task_filter={"id": [again.id, imported.id]})
print(json.dumps(seen))
