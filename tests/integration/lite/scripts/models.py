"""Output and input models: made, described, published, archived, versioned, found and removed."""

import json
import os
from pathlib import Path

from clearml import InputModel, Model, OutputModel, Task

folder = Path(os.environ["TESTS_FOLDER"])
seen = {}


def weights(text):
    path = folder / f"{text}.txt"
    path.write_text(text)
    return str(path)


task = Task.init(
    "models",
    "makes models",
    auto_connect_frameworks=False,
    auto_connect_arg_parser=False,
    auto_resource_monitoring=False,
)
first = OutputModel(task=task, name="detector", framework="PyTorch", label_enumeration={"cat": 1}, tags=["good"])
first.update_weights(weights("one"), auto_delete_file=False, async_enable=False, iteration=3)
first.update_design(config_dict={"layers": 3})
first.set_metadata("cells", "3", v_type="int")
first.set_all_metadata({"site": {"value": "north", "type": "str"}}, replace=False)
first.comment = "the first one"
first.report_scalar("validation", "loss", value=0.5, iteration=0)
first.report_single_value("size", 3.0)
second = OutputModel(task=task, name="detector", framework="PyTorch")
second.update_weights(weights("two"), auto_delete_file=False, async_enable=False)
package = OutputModel(task=task, name="package")
(folder / "package").mkdir()
(folder / "package" / "part.txt").write_text("part")
package.update_weights_package(weights_path=str(folder / "package"), auto_delete_file=False, async_enable=False)
imported = InputModel.import_model(
    weights_url="https://example.org/bought.pt", name="imported", project="models", tags=["bought"], framework="PyTorch"
)
task.connect(imported, name="start")
task.flush(wait_for_uploads=True)
task.mark_completed()
task.close()

model = Model(first.id)
seen["model"] = {
    "name": model.name,
    "framework": model.framework,
    "labels": model.labels,
    "tags": model.tags,
    "comment": model.comment,
    "design": model.config_dict,
    "metadata": model.get_all_metadata_casted(),
    "weights": Path(model.get_local_copy()).read_text(),
    "task": model.task == task.id,
}
parts = Model(package.id).get_local_copy(extract_archive=True)
seen["package"] = [path.name for path in Path(parts).iterdir()]
again = Task.get_task(task_id=task.id)
seen["of the task"] = {kind: [each.name for each in again.models[kind]] for kind in ("input", "output")}


def found(**filters):
    return sorted(each.name for each in Model.query_models(project_name="models", **filters))


seen["found"] = {
    "tags": found(tags=["good"]),
    "name": found(model_name="detector"),
    "metadata": found(metadata={"site": "north"}),
    "none": found(metadata={"site": "south"}),
}
seen["published"] = [model.published]
model.publish()
seen["published"].append(Model(first.id).published)
seen["only published"] = found(only_published=True)
seen["task"] = Task.get_task(task_id=task.id).get_status()
Model(second.id).archive()
seen["visible"] = found()
seen["all"] = found(include_archived=True)
Model(second.id).unarchive()
seen["again"] = found()
seen["removed"] = [Model.remove(second.id), Model.remove(first.id, force=True)]
seen["left"] = found()
print(json.dumps(seen))
