"""Each endpoint that only reads, as far as the SDK's APIClient knows it, called with what it requires."""

import json
import os
import time

from clearml import Task
from clearml.backend_api.services import events
from clearml.backend_api.session.client import APIClient

client = APIClient()
project = client.projects.create(name="api client").id
task = client.tasks.create(
    name="read by all",
    type="training",
    project=project,
    hyperparams={"Args": {"rate": {"section": "Args", "name": "rate", "value": "0.5"}}},
    configuration={"net": {"name": "net", "value": "layers: 3"}},
).id
model = client.models.create(name="a model", uri="file:///model", task=task, project=project).id
queue = client.queues.create(name="read by all").id
client.tasks.enqueue(task=task, queue=queue)
client.workers.register(worker="reader:0", queues=[queue])
reporter = Task.get_task(task)
reporter.mark_started(force=True)
logger = reporter.get_logger()
logger.report_scalar("loss", "train", value=0.5, iteration=1)
logger.report_single_value("accuracy", 0.9)
logger.report_text("a line")
logger.report_histogram("plot", "bars", values=[1, 2], iteration=1)
logger.flush(wait=True)
event = {"task": task, "metric": "images", "variant": "one", "iter": 1}
client.session.send_request(
    "events", "add", json=event | {"type": "training_debug_image", "key": "k", "url": "http://files/k"}
)
client.session.send_request("events", "add", json=event | {"type": "training_stats_vector", "values": [1, 2]})
scroll = client.events.debug_images(metrics=[{"task": task, "metric": "images"}]).scroll_id


def scroll_of(action, **parameters):
    """The scroll ID of a sample, which the SDK's class for it leaves out."""
    return client.session.send_request("events", action, json={"task": task} | parameters).json()["data"]["scroll_id"]


sample = scroll_of("get_debug_image_sample", metric="images", variant="one")
plot = scroll_of("get_plot_sample", metric="plot")

given = {
    "events.clear_scroll": {"scroll_id": scroll},
    "events.get_plot_sample": {"task": task, "metric": "plot"},
    "events.get_scalar_metric_data": {"task": task, "metric": "loss"},
    "events.next_debug_image_sample": {"task": task, "scroll_id": sample},
    "events.next_plot_sample": {"task": task, "scroll_id": plot},
    "events.plots": {"metrics": [{"task": task, "metric": "plot"}]},
    "events.scalar_metrics_iter_raw": {"task": task, "metric": events.MetricVariants(metric="loss")},
    "models.get_by_task_id": {"task": task},
    "projects.get_model_metadata_values": {"key": "none"},
    "tasks.get_configurations": {"tasks": [task]},
    "tasks.validate": {"name": "another", "type": "training"},
    "workers.get_stats": {"items": [{"key": "cpu_usage", "category": "avg"}]},
}
common = {
    "task": task, "tasks": [task], "project": project, "model": model, "queue": queue, "user": reporter.data.user,
    "metric": "images", "variant": "one", "metrics": [{"task": task, "metric": "images"}], "section": "Args",
    "name": "rate",
    "from_date": time.time() - 60, "to_date": time.time(), "interval": 10,
}  # fmt: skip
seen, failed, unknown = [], {}, []
for endpoint, required in json.loads(os.environ["READING"]).items():
    service, _, action = endpoint.partition(".")
    if not hasattr(getattr(client, service, None), action):
        unknown.append(endpoint)
        continue
    parameters = given.get(endpoint, {})
    parameters |= {name: common[name] for name in required if name not in parameters}
    try:
        repr(getattr(getattr(client, service), action)(**parameters))
        seen.append(endpoint)
    except Exception as error:
        failed[endpoint] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps({"seen": seen, "failed": failed, "unknown": unknown}))
