"""The whole chain, as a researcher runs it: telemetry, dataset, prepare, train, evaluate, and a model that predicts.

The workload runs once; each check looks at one result of it, read back through the API.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from contextlib import contextmanager

import pytest

from provision import drain, forward, hosts, inventory, status

pytestmark = pytest.mark.full

STEPS = ("ingest", "prepare", "train", "evaluate", "consume")
# clearly above a linear model, as a share of correct predictions
MARGIN = 0.1
# a package that the prepared environment does not have, and small
PROBE_PACKAGE = "humanize==4.9.0"


@contextmanager
def _telling(api, tell):
    """Tell which task runs, while the block waits for it."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1):
            running = api.call(
                "tasks.get_all", status=["queued", "in_progress"], only_fields=["name", "status"], page_size=5
            )
            if running["tasks"]:
                tell("workload: " + ", ".join(f"{task['name']} ({task['status']})" for task in running["tasks"]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


@pytest.fixture(scope="module")
def workload(on, stack, api, tell):
    """Run `testbed-workload VERB …` as the first user in their environment; return its records by step."""
    user = stack.testbed.users[0].name
    host = on(inventory.hosts(stack.inventory, "clients")[0])

    def run(*arguments: str) -> dict[str, dict]:
        with _telling(api, tell):
            done = hosts.run_as(host, user, f"{host.user(user).home}/clearml-venv/bin/testbed-workload", *arguments)
        records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        found = {record["step"]: record for record in records}
        if done.rc != 0:
            found["error"] = {"message": done.stderr.strip()[-1500:] or f"ended with code {done.rc}"}
        return found

    return run


@pytest.fixture(scope="module")
def refuse_drained(stack, api):
    """A function that fails where nobody takes tasks from a queue: they would wait until the workload gives up."""

    def refuse(queue: str) -> None:
        why = drain.nobody_takes(queue, status.workers(stack, api, status.away(stack)))
        assert not why, why

    return refuse


@pytest.fixture(scope="module")
def chain(workload, stack, refuse_drained):
    queue = stack.testbed.agents.prepared_queue
    refuse_drained(queue)
    return workload("chain", "--queue", queue, "--json-lines")


@pytest.fixture
def step(chain, record_property):
    """A function from a step's name to its record; fails with what stopped the chain when it did not get there."""

    def find(name: str) -> dict:
        record = chain.get(name)
        assert record is not None, (
            f"the chain did not get to {name}: {chain.get('error', {}).get('message', 'no reason given')}"
        )
        record_property("reference", record["id"])
        assert record["status"] == "completed", (
            f"{name} {record['status']} ({record['id']}): {chain.get('error', {}).get('message', '')}"
        )
        return record

    return find


@pytest.mark.parametrize("name", STEPS)
def test_workload_completes(step, name, record_property):
    record_property("seconds", step(name)["seconds"])


def test_tasks_have_visible_parents(step, api):
    ids = [step(name)["id"] for name in STEPS[1:]]
    parents = [api.call("tasks.get_by_id", task=task)["task"].get("parent") for task in ids]
    assert parents[1:] == ids[:-1], f"each task's parent is the one before it; found {parents}"


def test_dataset_is_final_and_holds_the_telemetry(step, api, stack):
    record = step("ingest")
    dataset = api.call("tasks.get_by_id", task=record["id"])["task"]
    assert dataset["status"] in ("completed", "published")
    assert "dataset" in dataset["system_tags"]
    assert record["details"]["rows"] >= 1000


def test_every_epoch_has_its_scalars(step, api):
    record = step("train")
    epochs = int(_single_values(api, record["id"])["Epochs"])
    scalars = api.call("events.scalar_metrics_iter_histogram", task=record["id"])
    for metric in ("loss", "accuracy"):
        for part in ("train", "validation"):
            series = scalars[metric][part]
            assert sorted(series["x"]) == list(range(epochs)), f"{metric}/{part}: epochs {series['x']} of {epochs}"
            assert all(math.isfinite(value) for value in series["y"])


def test_plots_are_there(step, api):
    wanted = {"prepare": {"Dataset"}, "train": {"loss curve", "accuracy curve"}, "evaluate": {"Confusion matrix"}}
    for name, metrics in wanted.items():
        plots = api.call("events.get_task_plots", task=step(name)["id"])["plots"]
        assert metrics <= {plot["metric"] for plot in plots}, (
            f"{name}: plots {sorted({plot['metric'] for plot in plots})}"
        )
        assert all(json.loads(plot["plot_str"])["data"] for plot in plots if plot["metric"] in metrics)


def test_figures_are_there(step, api, record_property):
    values = _single_values(api, step("evaluate")["id"])
    record_property("reference", f"Test Accuracy {values['Test Accuracy']:.3f}, Test Loss {values['Test Loss']:.3f}")
    assert 0 <= values["Test Loss"] < math.inf
    assert 0 <= values["Test Accuracy"] <= 1


def test_artifacts_have_their_hashes(step, api):
    for name, artifact in (("prepare", "prepared"), ("prepare", "scaler"), ("evaluate", "Trained Model")):
        task = api.call("tasks.get_by_id", task=step(name)["id"])["task"]
        found = next((entry for entry in task["execution"]["artifacts"] if entry["key"] == artifact), None)
        assert found is not None, f"{name} has no artifact {artifact!r}"
        digest, size = _digest(found["uri"], api)
        assert (digest, size) == (found["hash"], found["content_size"]), (
            f"{found['uri']}: other bytes than were uploaded"
        )


def test_model_is_registered_and_readable(step, api, record_property):
    task = api.call("tasks.get_by_id", task=step("evaluate")["id"])["task"]
    models = task["models"]["output"]
    assert models, "evaluate registered no output model"
    model = api.call("models.get_by_id", model=models[-1]["model"])["model"]
    record_property("reference", model["id"])
    assert model["uri"].endswith("trained_model.keras")
    assert _digest(model["uri"], api)[1] > 1000


def test_model_from_the_server_predicts_the_same(step, api, record_property):
    values = _single_values(api, step("consume")["id"])
    record_property("reference", f"largest difference {values['Largest Difference']:.1e}")
    assert values["Largest Difference"] <= 1e-5


def test_model_beats_a_linear_one(step, api, record_property):
    values = _single_values(api, step("consume")["id"])
    network, linear = values["Network Accuracy"], values["Linear Accuracy"]
    record_property("reference", f"network {network:.3f}, linear {linear:.3f}")
    assert network >= linear + MARGIN, (
        f"network {network:.3f}, linear {linear:.3f}: at least {MARGIN} apart is expected"
    )


def test_task_with_requirements_of_its_own_completes(workload, task_queue, refuse_drained, record_property):
    refuse_drained(task_queue)
    found = workload("probe", "--queue", task_queue, "--package", PROBE_PACKAGE, "--json")
    assert "error" not in found, found["error"]["message"]
    record_property("reference", found["probe"]["id"])
    record_property("seconds", found["probe"]["seconds"])
    assert found["probe"]["status"] == "completed"


def _single_values(api, task: str) -> dict[str, float]:
    answer = api.call("events.get_task_single_value_metrics", tasks=[task])
    return {entry["variant"]: entry["value"] for found in answer["tasks"] for entry in found["values"]}


def _digest(url: str, api) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    headers = {"Authorization": f"Bearer {api.login()}"}
    with forward.client(timeout=60) as http, http.stream("GET", url, headers=headers) as answer:
        assert answer.status_code == 200, f"{url}: HTTP {answer.status_code}"
        for chunk in answer.iter_bytes():
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size
