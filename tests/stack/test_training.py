"""The workload on a server alone, with generated data: on an agent of the queue, else in a Python of this machine.

Its tasks carry their code with them, so that agents need nothing of this toolkit.
"""

from __future__ import annotations

import pytest

from provision.smoke import training
from provision.smoke.problem import Broken, need
from provision.smoke.results import curves, latency, matrix, need_registered, need_whole, single_values

pytestmark = [pytest.mark.full, pytest.mark.conf, pytest.mark.training]


@pytest.fixture(scope="module")
def steps(api, target, own_project, tell_step):
    """What became of each step that was begun."""
    return training.run(api, target, own_project, tell_step)


@pytest.fixture
def step(steps, record_property):
    """A function from a step's name to its task; fails with what stopped the steps when it did not get there."""

    def find(name: str) -> str:
        done = steps.get(name)
        if done is None:
            last = list(steps)[-1]
            raise Broken(f"the steps did not get to {name}: {last} {steps[last].status}", expected=f"{name} completes")
        record_property("reference", done.id)
        record_property("seconds", done.seconds)
        need(
            done.status == "completed",
            f"{name} {done.status} (task {done.id}): {done.reason or 'no reason given'}",
            expected=f"{name} completes",
            remedy="The task's console in the web app says more; `--keep` leaves it there.",
        )
        return done.id

    return find


@pytest.mark.parametrize("name", list(training.STEPS))
def test_training_completes(step, api, name, target, drawn):
    """Each step of the workload completes, on an agent of the queue or here."""
    task = step(name)
    if target.queues and (waited := latency(api, task)) is not None:
        drawn.setdefault("latency", {})[name] = waited


def test_training_is_on_the_server(step, api, drawn, record_property):
    """Loss of each epoch, confusion matrix and accuracy of the training are on the server."""
    drawn["loss"], drawn["confusion"] = curves(api, step("train")), matrix(api, step("evaluate"))
    values = single_values(api, step("evaluate"))
    parts = {part for part, found in drawn["loss"].items() if found["x"]}
    need(parts == {"train", "validation"}, f"loss of {sorted(parts) or 'nothing'}", expected="loss of both parts")
    need(drawn["confusion"], "evaluate has no confusion matrix")
    need(0 <= values.get("Test Accuracy", -1) <= 1, f"Test Accuracy: {values.get('Test Accuracy')}")
    record_property("reference", f"Test Accuracy {values['Test Accuracy']:.3f}")


@pytest.mark.of("files")
def test_generated_dataset_is_what_was_uploaded(step, api, http):
    """The dataset's files are on the file server as they were uploaded."""
    made = api.call("tasks.get_by_id", task=step("generate"))["task"]
    dataset = api.call("tasks.get_by_id", task=made["hyperparams"]["General"]["dataset_id"]["value"])["task"]
    need_whole(dataset["execution"]["artifacts"], "dataset", api, http)


@pytest.mark.of("files")
@pytest.mark.parametrize("name", ["prepare", "train", "evaluate"])
def test_results_are_what_was_uploaded(step, api, http, name):
    """The step's artifacts are on the file server as they were uploaded."""
    artifacts = api.call("tasks.get_by_id", task=step(name))["task"]["execution"]["artifacts"]
    need(artifacts, f"{name} has no artifact")
    need_whole(artifacts, name, api, http)


@pytest.mark.of("files")
def test_registered_model_is_the_trained_one(step, api, http, record_property):
    """The registered model's file is that of the artifact, byte by byte."""
    need_registered(api.call("tasks.get_by_id", task=step("evaluate"))["task"], api, http, record_property)


def test_registered_model_predicts_the_same(step, api, record_property):
    """The model, loaded from the server by another task, predicts what it predicted when it was stored."""
    values = single_values(api, step("consume"))
    record_property("reference", f"largest difference {values['Largest Difference']:.1e}")
    need(values["Largest Difference"] <= 1e-5, f"they differ by {values['Largest Difference']:.1e}", expected="≤ 1e-5")
