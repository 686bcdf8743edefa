"""A task scheduler and a trigger scheduler, each while something happens that it must act on."""

import json
import os
import threading
import time
from pathlib import Path

from clearml import Dataset, OutputModel, Task
from clearml.automation import TaskScheduler, TriggerScheduler
from clearml.backend_api.session.client import APIClient

client = APIClient()
queue = client.queues.create(name="scheduled").id
service = Task.init("schedules", "the service", task_type="service", auto_resource_monitoring=False)


def draft(name):
    return Task.create(project_name="schedules", task_name=name, script="/dev/null", packages=[])


def waiting():
    entries = client.queues.get_by_id(queue).entries
    return [Task.get_task(task_id=entry.task) for entry in entries]


def until(seen):
    deadline = time.monotonic() + 240
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.2)


nightly = draft("nightly")
scheduler = TaskScheduler(sync_frequency_minutes=0.02)
scheduler.add_task(
    nightly.id,
    queue="scheduled",
    name="every night",
    hour=3,
    minute=30,
    day=1,
    target_project="schedules/runs",
    execute_immediately=True,
    task_parameters={"General/lr": "0.5"},
)
threading.Thread(target=scheduler.start, daemon=True).start()
until(waiting)
run = waiting()[0]
until(lambda: service.get_configuration_object("schedule"))
schedule = json.loads(service.get_configuration_object("schedule"))

triggers = TriggerScheduler(pooling_frequency_minutes=0.01, sync_frequency_minutes=0.02)
called = []
for_task, for_model, for_dataset = draft("after a task"), draft("after a model"), draft("after a dataset")
triggers.add_task_trigger(
    schedule_task_id=for_task.id,
    schedule_queue="scheduled",
    name="good enough",
    trigger_project="schedules",
    trigger_on_status=["completed"],
    trigger_on_metric="accuracy",
    trigger_on_variant="test",
    trigger_on_threshold=0.9,
    trigger_on_sign="max",
    task_parameters={"Args/id": "${task.id}"},
)
triggers.add_model_trigger(
    schedule_task_id=for_model.id,
    schedule_queue="scheduled",
    name="published model",
    trigger_on_publish=True,
    trigger_project="schedules",
    task_parameters={"Args/id": "${model.id}"},
)
triggers.add_dataset_trigger(
    schedule_task_id=for_dataset.id,
    schedule_queue="scheduled",
    name="tagged dataset",
    trigger_on_tags=["ready"],
    task_parameters={"Args/id": "${dataset.id}"},
)
triggers.add_task_trigger(schedule_function=called.append, name="failures", trigger_on_status=["failed"])
threading.Thread(target=triggers.start, daemon=True).start()


def ended(name, accuracy, fails=False):
    task = draft(name)
    task.mark_started()
    task.get_logger().report_scalar("accuracy", "test", value=accuracy, iteration=0)
    task.flush(wait_for_uploads=True)
    if fails:
        task.mark_failed(force=True)
    else:
        task.mark_completed()
    return task


poor, good, broken = ended("poor", 0.1), ended("good", 0.95), ended("broken", 0.1, fails=True)
weights = Path(os.environ["TESTS_FOLDER"], "scheduled.bin")
weights.write_bytes(b"weights")
model = OutputModel(task=service, name="published")
model.update_weights(str(weights), auto_delete_file=False, async_enable=False)
model.publish()
dataset = Dataset.create(dataset_name="rows", dataset_project="schedules", dataset_tags=["ready"])
dataset.add_files(str(weights))
dataset.upload(show_progress=False)
dataset.finalize()
until(lambda: len(waiting()) >= 4 and called)
wanted = {"after a task": good.id, "after a model": model.id, "after a dataset": dataset.id}
print(
    json.dumps(
        {
            "scheduled": [run.name, run.get_project_name(), run.get_parameter("General/lr"), run.get_status()],
            "schedule": [[job["name"], job["hour"], job["minute"]] for job in schedule],
            "triggered": {
                name: [task.get_parameter("Args/id") == identifier for task in waiting() if task.name.startswith(name)]
                for name, identifier in wanted.items()
            },
            "called": called == [broken.id],
        }
    ),
    flush=True,
)
os._exit(0)  # the schedulers never end
