"""The steps as a ClearML pipeline, on a real agent and without one, and a search for hyper-parameters."""

import subprocess
import sys

import pytest

from tests.integration.workload.conftest import environment, results, start

pytestmark = pytest.mark.long
STEPS = ("prepare", "train", "evaluate", "consume")


@pytest.fixture(scope="module")
def run(influx, filled, conf, tmp_path_factory):
    """`python -m MODULE ARGUMENTS...`, as a user."""
    home = tmp_path_factory.mktemp("home")
    influx.env_file(home, INFLUXDB_MEASUREMENT=filled)

    def call(module, *arguments):
        return subprocess.run(
            [sys.executable, "-P", "-m", module, *arguments],
            env=environment(home, conf),
            cwd=home,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )

    call.home = home
    return call


@pytest.fixture(scope="module")
def dataset(run, conf):
    (made,) = results(start(run.home, "ingest", "--dataset=piped", "--json", conf=conf), timeout=600)
    return made["id"]


def steps_of(done):
    """The IDs of the steps' tasks, as the command prints them."""
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {line[0]: line[1] for line in lines if len(line) == 2 and line[0] in STEPS}


@pytest.fixture(scope="module")
def steps(run, dataset, agent):
    """Of the pipeline on an agent."""
    return steps_of(run("workload.pipeline", f"--dataset-id={dataset}", f"--queue={agent}"))


def need_complete(server, steps, dataset):
    assert tuple(steps) == STEPS
    tasks = {step: server.call("tasks.get_by_id", {"task": steps[step]})["task"] for step in STEPS}
    assert {task["status"] for task in tasks.values()} == {"completed"}
    given = {step: {k: v["value"] for k, v in task["hyperparams"]["General"].items()} for step, task in tasks.items()}
    assert given["prepare"]["dataset_id"] == dataset
    assert given["train"]["prepare_task_id"] == given["consume"]["prepare_task_id"] == steps["prepare"]
    assert given["evaluate"]["train_task_id"] == steps["train"]
    assert given["consume"]["evaluate_task_id"] == steps["evaluate"]
    (controller,) = {task["parent"] for task in tasks.values()}
    found = server.call("tasks.get_by_id", {"task": controller})["task"]
    assert (found["type"], found["status"]) == ("controller", "completed")


def test_the_pipeline_runs_on_an_agent_and_its_steps_take_the_results_of_those_before(steps, dataset, server):
    need_complete(server, steps, dataset)


def test_the_pipeline_runs_without_an_agent(run, dataset, server):
    need_complete(server, steps_of(run("workload.pipeline", f"--dataset-id={dataset}", "--here")), dataset)


def test_a_pipeline_with_a_step_that_fails_says_which_in_its_last_line(run, server):
    done = run("workload.pipeline", "--dataset-id=nosuch", "--here")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "pipeline.py: step prepare of the pipeline did not complete: see http"
    )


def test_a_search_runs_trials_with_other_values_and_tells_the_best_first(run, steps, agent, server):
    command = (f"--train-task-id={steps['train']}", f"--queue={agent}", "--trials=2", "--epochs=1")
    done = run("workload.optimize", *command)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if "learning_rate" in line]
    assert len({line[0] for line in lines}) == 2
    losses = [float(line[2]) for line in lines]
    assert losses == sorted(losses)
    for line in lines:
        task = server.call("tasks.get_by_id", {"task": line[0]})["task"]
        found = {name: value["value"] for name, value in task["hyperparams"]["General"].items()}
        assert found["epochs"] == "1"
        assert (found["learning_rate"], found["batch_size"]) == (line[4], line[6])


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("workload.pipeline", ("--dataset-id=x", "--queue=nowhere"), "no queue 'nowhere'"),
        ("workload.optimize", ("--train-task-id=x", "--queue=nowhere"), "no queue 'nowhere'"),
        ("workload.optimize", ("--train-task-id=nosuch",), "'nosuch' is no training that this user may read"),
    ],
)
def test_what_cannot_run_is_one_line(run, agent, module, arguments, message):
    done = run(module, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
