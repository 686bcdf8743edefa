"""What the checks of the workload read of its tasks, through the API."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from provision.clearml_api import ClearmlApi
from provision.smoke.problem import need

Task = dict[str, Any]


def single_values(api: ClearmlApi, task: str) -> dict[str, float]:
    """Return the single values of a task, by name. Raises `ApiError`."""
    answer = api.call("events.get_task_single_value_metrics", tasks=[task])
    return {entry["variant"]: entry["value"] for found in answer["tasks"] for entry in found["values"]}


def digest(url: str, api: ClearmlApi, http: httpx.Client) -> tuple[str, int]:
    """Return SHA-256 and size of a file on the file server. Raises `Broken` where it is not there."""
    found, size = hashlib.sha256(), 0
    headers = {"Authorization": f"Bearer {api.login()}"}
    with http.stream("GET", url, headers=headers) as answer:
        need(answer.status_code == 200, f"{url}: HTTP {answer.status_code}", expected=f"{url} is there")
        for chunk in answer.iter_bytes():
            found.update(chunk)
            size += len(chunk)
    return found.hexdigest(), size


def need_whole(artifacts: Sequence[Task], of: str, api: ClearmlApi, http: httpx.Client) -> None:
    """Raise `Broken` unless each artifact has the bytes that were uploaded, by its hash and size."""
    for artifact in artifacts:
        if artifact.get("hash") and artifact["uri"].startswith("http"):
            found = digest(artifact["uri"], api, http)
            need(
                found == (artifact["hash"], artifact["content_size"]),
                f"{of}: {artifact['key']} at {artifact['uri']} has other bytes than were uploaded: {found[1]} of "
                f"{artifact['content_size']}, SHA-256 {found[0][:12]}…",
                expected=f"{artifact['content_size']} bytes, SHA-256 {artifact['hash'][:12]}…",
                remedy="Something changes files on the file server's disk: check it, and who may write there.",
            )


def curves(api: ClearmlApi, task: str) -> dict[str, dict[str, list[float]]]:
    """Return the loss of a training, by part, as the server has it. Raises `ApiError`."""
    scalars = api.call("events.scalar_metrics_iter_histogram", task=task)
    return {part: {"x": found["x"], "y": found["y"]} for part, found in scalars.get("loss", {}).items()}


def matrix(
    api: ClearmlApi, task: str, name: str = "Confusion matrix", variant: str | None = None
) -> dict[str, Any] | None:
    """Return a plot of a task that is a matrix: its values, the labels of columns and rows. Raises `ApiError`."""
    for plot in api.call("events.get_task_plots", task=task)["plots"]:
        if plot["metric"] == name and variant in (None, plot["variant"]):
            data = json.loads(plot["plot_str"])["data"][0]
            return {"rows": data["z"], "x": list(data.get("x") or []), "y": list(data.get("y") or [])}
    return None


def latency(api: ClearmlApi, task: str) -> float | None:
    """Return the seconds from a task's making, right before it is enqueued, to its start, by the server's clock."""
    found = api.call("tasks.get_by_id", task=task)["task"]
    if not (found.get("created") and found.get("started")):
        return None
    made, started = (datetime.datetime.fromisoformat(found[key]) for key in ("created", "started"))
    return round((started - made).total_seconds(), 1)


def need_registered(
    task: Task, api: ClearmlApi, http: httpx.Client, record_property: Callable[[str, object], None]
) -> None:
    """Raise `Broken` unless the last output model of a task has the bytes of its artifact `Trained Model`."""
    models = task["models"]["output"]
    need(models, f"task {task['id']} registered no output model")
    model = api.call("models.get_by_id", model=models[-1]["model"])["model"]
    record_property("reference", model["id"])
    artifact = next(entry for entry in task["execution"]["artifacts"] if entry["key"] == "Trained Model")
    found = digest(model["uri"], api, http)
    need(
        found[0] == artifact["hash"],
        f"model {model['id']} at {model['uri']} is another file than was trained: {found[1]} bytes, SHA-256 "
        f"{found[0][:12]}…",
        expected=f"{artifact['content_size']} bytes, SHA-256 {artifact['hash'][:12]}…",
        remedy="Somebody or something has put another file in its place on the file server: ask who may write there.",
    )
