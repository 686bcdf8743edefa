"""Both workloads, as a researcher runs them: data, dataset, prepare, train, evaluate, and a model that predicts.

Each runs once, the classifier on telemetry and the radio map on a small floor that is generated; each check looks at
one result, read back through the API.
"""

from __future__ import annotations

import json
import math
import threading
from contextlib import contextmanager

import pytest

from provision import drain, hosts, inventory, status
from provision.smoke.problem import Broken, need
from provision.smoke.results import curves, latency, matrix, need_registered, need_whole, single_values

pytestmark = [pytest.mark.full, pytest.mark.hosts, pytest.mark.of("agents")]

STEPS = ("ingest", "prepare", "train", "evaluate", "consume")
# clearly above a linear model, as a share of correct predictions
MARGIN = 0.1
# places of the radio map: few, for it is there to be seen at work, and still clearly better than the mean
RADIO_POINTS = 1000
# the error of its network, as a share of the mean's
LARGEST_RATIO = 0.6
MAPS = ("measured", "predicted", "error")
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
def workload(on, stack, api, tell_step, own_project):
    """Run `testbed-workload VERB …` as the first user in their environment; return its records by step."""
    user = stack.testbed.users[0].name
    host = on(inventory.hosts(stack.inventory, "clients")[0])

    def run(*arguments: str) -> dict[str, dict]:
        with _telling(api, tell_step):
            done = hosts.run_as(
                host,
                user,
                f"{host.user(user).home}/clearml-venv/bin/testbed-workload",
                *(*arguments, "--project", own_project),
            )
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
        need(
            not why,
            why,
            expected=f"a worker takes tasks from queue {queue}",
            remedy=why.partition(". ")[2] or why.partition(": ")[2],
        )

    return refuse


@pytest.fixture(scope="module")
def chain(workload, stack, refuse_drained):
    queue = stack.testbed.agents.prepared_queue
    refuse_drained(queue)
    return workload("chain", "--queue", queue, "--json-lines")


@pytest.fixture(scope="module")
def radio_chain(workload, stack, refuse_drained):
    queue = stack.testbed.agents.prepared_queue
    refuse_drained(queue)
    return workload("radio", "--queue", queue, "--points", str(RADIO_POINTS), "--json-lines")


def _finder(chain, what: str, record_property):
    """A function from a step's name to its record; fails with what stopped the chain when it did not get there."""

    def find(name: str) -> dict:
        record, reason = chain.get(name), chain.get("error", {}).get("message", "no reason given")
        expected, remedy = f"{name} completes", "The step's console in the web app, and the agent's log, say more."
        if record is None:
            raise Broken(f"{what} did not get to {name}: {reason}", expected=expected, remedy=remedy)
        record_property("reference", record["id"])
        need(
            record["status"] == "completed",
            f"{name} {record['status']} (task {record['id']}): {reason}",
            expected=expected,
            remedy=remedy,
        )
        return record

    return find


@pytest.fixture
def step(chain, record_property):
    """From a step's name to its record, of the classifier."""
    return _finder(chain, "the chain", record_property)


@pytest.fixture
def radio_step(radio_chain, record_property):
    """From a step's name to its record, of the radio map."""
    return _finder(radio_chain, "the radio map", record_property)


def _completed(record, name: str, api, drawn, record_property) -> None:
    record_property("seconds", record["seconds"])
    if not name.endswith("ingest") and (waited := latency(api, record["id"])) is not None:
        drawn.setdefault("latency", {})[name] = waited


@pytest.mark.parametrize("name", STEPS)
def test_workload_completes(step, name, record_property, api, drawn):
    """Each step of the workload completes, as the first user of testbed.yaml runs it."""
    _completed(step(name), name, api, drawn, record_property)


def test_tasks_have_visible_parents(step, api):
    """Each task's parent is the one whose results it takes."""
    ids = [step(name)["id"] for name in STEPS[1:]]
    parents = [api.call("tasks.get_by_id", task=task)["task"].get("parent") for task in ids]
    need(parents[1:] == ids[:-1], f"parents {parents}", expected=f"tasks {ids}, each the parent of the next")


def test_dataset_is_final_and_holds_the_telemetry(step, api):
    """The telemetry has become a finalized Dataset with all of its rows."""
    record = step("ingest")
    dataset = api.call("tasks.get_by_id", task=record["id"])["task"]
    need(dataset["status"] in ("completed", "published"), f"dataset {record['id']} is {dataset['status']}")
    need("dataset" in dataset["system_tags"], f"task {record['id']} is no dataset: tags {dataset['system_tags']}")
    need(record["details"]["rows"] >= 1000, f"{record['details']['rows']} rows", expected="at least 1000 rows")


def test_every_epoch_has_its_scalars(step, api, drawn):
    """Loss and accuracy of each epoch of the training are on the server, all of them finite."""
    record = step("train")
    epochs = int(single_values(api, record["id"])["Epochs"])
    scalars = api.call("events.scalar_metrics_iter_histogram", task=record["id"])
    for metric in ("loss", "accuracy"):
        for part in ("train", "validation"):
            series = scalars.get(metric, {}).get(part, {"x": [], "y": []})
            need(
                sorted(series["x"]) == list(range(epochs)) and all(math.isfinite(value) for value in series["y"]),
                f"{metric}/{part}: epochs {series['x']}, values {series['y']}",
                expected=f"a finite value for each of {epochs} epochs",
            )
    drawn["loss"] = curves(api, record["id"])


def test_plots_are_there(step, api, drawn):
    """Table, learning curves and confusion matrix are on the server, with data in them."""
    wanted = {"prepare": {"Dataset"}, "train": {"loss curve", "accuracy curve"}, "evaluate": {"Confusion matrix"}}
    for name, metrics in wanted.items():
        plots = api.call("events.get_task_plots", task=step(name)["id"])["plots"]
        full = {plot["metric"] for plot in plots if json.loads(plot["plot_str"])["data"]}
        need(metrics <= full, f"{name} has plots {sorted(full)}", expected=f"{name} has plots {sorted(metrics)}")
    drawn["confusion"] = matrix(api, step("evaluate")["id"])


def test_figures_are_there(step, api, record_property):
    """Loss and accuracy on the test part are on the server."""
    values = single_values(api, step("evaluate")["id"])
    for name in ("Test Loss", "Test Accuracy"):
        need(math.isfinite(values.get(name, math.nan)), f"{name}: {values.get(name)}", expected=f"{name} is a number")
    record_property("reference", f"Test Accuracy {values['Test Accuracy']:.3f}, Test Loss {values['Test Loss']:.3f}")
    need(values["Test Loss"] >= 0 and 0 <= values["Test Accuracy"] <= 1, f"{values}", expected="a loss, and a share")


@pytest.mark.of("files")
@pytest.mark.parametrize(
    ("name", "least"),
    [("ingest", ()), ("prepare", ("prepared", "scaler")), ("train", ()), ("evaluate", ("Trained Model",))],
    ids=["ingest", "prepare", "train", "evaluate"],
)
def test_artifacts_are_what_was_uploaded(step, api, http, name, least):
    """The files of dataset, prepared data, scaler and model are on the file server as they were uploaded."""
    artifacts = api.call("tasks.get_by_id", task=step(name)["id"])["task"]["execution"]["artifacts"]
    there = {entry["key"] for entry in artifacts}
    need(there >= set(least), f"{name} has artifacts {sorted(there)}", expected=f"{name} has artifacts {sorted(least)}")
    need_whole(artifacts, name, api, http)


@pytest.mark.of("files")
def test_model_is_the_one_that_was_trained(step, api, http, record_property):
    """The registered model's file is that of the artifact, byte by byte."""
    task = api.call("tasks.get_by_id", task=step("evaluate")["id"])["task"]
    need_registered(task, api, http, record_property)


def test_model_from_the_server_predicts_the_same(step, api, record_property):
    """The model, loaded from the server by another task, predicts what it predicted when it was stored."""
    values = single_values(api, step("consume")["id"])
    record_property("reference", f"largest difference {values['Largest Difference']:.1e}")
    need(values["Largest Difference"] <= 1e-5, f"they differ by {values['Largest Difference']:.1e}", expected="≤ 1e-5")


def test_model_beats_a_linear_one(step, api, record_property):
    """The network is clearly better than a linear model: the data are what they should be."""
    values = single_values(api, step("consume")["id"])
    network, linear = values["Network Accuracy"], values["Linear Accuracy"]
    record_property("reference", f"network {network:.3f}, linear {linear:.3f}")
    need(network >= linear + MARGIN, f"network {network:.3f}, linear {linear:.3f}", expected=f"at least {MARGIN} more")


def test_task_with_requirements_of_its_own_completes(workload, task_queue, refuse_drained, record_property):
    """A task that needs a package which the hosts do not have runs in an environment of its own."""
    refuse_drained(task_queue)
    found = workload("probe", "--queue", task_queue, "--package", PROBE_PACKAGE, "--json")
    expected = f"a task with {PROBE_PACKAGE} completes on queue {task_queue}"
    remedy = "Agents must reach a package index: `mirrors` and `proxy` in testbed.yaml; the task's console says more."
    need("error" not in found, found.get("error", {}).get("message", ""), expected=expected, remedy=remedy)
    record_property("reference", found["probe"]["id"])
    record_property("seconds", found["probe"]["seconds"])
    need(found["probe"]["status"] == "completed", f"it {found['probe']['status']}", expected=expected, remedy=remedy)


@pytest.mark.parametrize("name", STEPS)
def test_radio_map_completes(radio_step, name, record_property, api, drawn):
    """Each step of the radio map completes, as the first user of testbed.yaml runs it."""
    _completed(radio_step(name), f"radio {name}", api, drawn, record_property)


def test_radio_map_is_drawn(radio_step, api, drawn, record_property):
    """Maps of the measured path loss, of the predicted, and of the error are on the server, with values in them."""
    task = radio_step("evaluate")["id"]
    found = {name: matrix(api, task, "Path loss map", name) for name in MAPS}
    empty = [name for name, each in found.items() if not each or not any(any(row) for row in each["rows"])]
    need(not empty, f"task {task} has no map of: {', '.join(empty)}", expected=f"maps: {', '.join(MAPS)}")
    drawn["maps"] = [{"title": f"Path loss, {name}", **each} for name, each in found.items()]
    values = single_values(api, task)
    record_property("reference", f"RMSE {values['Test RMSE (dB)']:.1f} dB, MAE {values['Test MAE (dB)']:.1f} dB")


def test_radio_map_predicts_the_same_and_beats_the_mean(radio_step, api, record_property):
    """The network, loaded from the server by another task, predicts as recorded, and clearly better than the mean."""
    values = single_values(api, radio_step("consume")["id"])
    network, mean = values["Network RMSE"], values["Mean Predictor RMSE"]
    record_property("reference", f"RMSE {network:.3f}, of the mean {mean:.3f}")
    need(values["Largest Difference"] <= 1e-5, f"they differ by {values['Largest Difference']:.1e}", expected="≤ 1e-5")
    need(
        network <= LARGEST_RATIO * mean,
        f"RMSE {network:.3f}, of the mean {mean:.3f}",
        expected=f"at most {LARGEST_RATIO} of the mean's",
    )


@pytest.mark.of("files")
@pytest.mark.parametrize("name", ["ingest", "prepare", "train", "evaluate"])
def test_radio_artifacts_are_what_was_uploaded(radio_step, api, http, name):
    """The files of the radio map's dataset, prepared data, network and map are as they were uploaded."""
    artifacts = api.call("tasks.get_by_id", task=radio_step(name)["id"])["task"]["execution"]["artifacts"]
    need(artifacts, f"{name} has no artifacts", expected=f"{name} has artifacts")
    need_whole(artifacts, name, api, http)


@pytest.mark.of("files")
def test_radio_model_is_the_one_that_was_trained(radio_step, api, http, record_property):
    """The registered model's file is that of the artifact, byte by byte."""
    need_registered(api.call("tasks.get_by_id", task=radio_step("evaluate")["id"])["task"], api, http, record_property)
