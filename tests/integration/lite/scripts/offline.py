"""A task that was made without a server, given to it afterwards."""

import json

import numpy
from clearml import Task

Task.set_offline(True)
task = Task.init(
    "offline",
    "made alone",
    auto_connect_frameworks=False,
    auto_connect_arg_parser=False,
    auto_resource_monitoring=False,
)
task.connect({"rate": 0.5}, name="Own")
for epoch in range(5):
    task.get_logger().report_scalar("loss", "train", iteration=epoch, value=epoch)
task.get_logger().report_confusion_matrix("confusion", "test", numpy.eye(2), iteration=0)
task.upload_artifact("numbers", {"a": 1}, wait_on_upload=True)
folder = task.get_offline_mode_folder()
task.close()
Task.set_offline(False)

identifier = Task.import_offline_session(f"{folder}.zip")
again = Task.get_task(task_id=identifier)
print(
    json.dumps(
        {
            "name": again.name,
            "project": again.get_project_name(),
            "status": again.get_status(),
            "parameters": again.get_parameters()["Own/rate"],
            "scalars": again.get_reported_scalars()["loss"]["train"]["y"],
            "plots": [plot["metric"] for plot in again.get_reported_plots()],
            "artifact": again.artifacts["numbers"].get(),
        }
    )
)
