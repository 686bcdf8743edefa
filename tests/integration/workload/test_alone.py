"""Each step as a command of its own, against a ClearML server: what it is told and refuses, and the same numbers."""

import subprocess
import sys

import pytest

from tests.integration.workload.conftest import environment, results, start

pytestmark = pytest.mark.long
STEPS = ("prepare", "train", "evaluate", "consume")


def alone(home, conf, module, *arguments):
    """`python -m MODULE ARGUMENTS…`: what it printed, and its exit code."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", module, *arguments],
        env=environment(home, conf),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def newest(server):
    """A function from a task's name to the record of the one that was made last."""

    def find(name):
        found = server.call(
            "tasks.get_all",
            {"name": f"^{name}$", "order_by": ["-created"], "search_hidden": True},
        )["tasks"]
        return server.call("tasks.get_by_id", {"task": found[0]["id"]})["task"]

    return find


@pytest.fixture(scope="module")
def dataset(influx, filled, conf, home):
    influx.env_file(home, INFLUXDB_MEASUREMENT=filled)
    (made,) = results(start(home, "ingest", "--days=2", "--dataset=alone", "--json", conf=conf), timeout=600)
    return made["id"]


@pytest.fixture(scope="module")
def prepared(dataset, home, conf, newest):
    code, said = alone(
        home, conf, "workload.prepare", f"--dataset-id={dataset}", "--fill-strategy=median", "--project=alone"
    )
    assert code == 0, said
    return newest("prepare")


def parameters(task):
    return {name: entry["value"] for name, entry in task["hyperparams"]["General"].items()}


def test_a_step_is_a_task_with_what_was_given_as_its_parameters(prepared, dataset):
    assert (prepared["status"], prepared["type"]) == ("completed", "data_processing")
    found = parameters(prepared)
    assert (found["dataset_id"], found["fill_strategy"], found["train_share"]) == (dataset, "median", "0.7")
    assert {artifact["key"] for artifact in prepared["execution"]["artifacts"]} == {"prepared", "scaler"}


def train(home, conf, server, newest, prepared):
    code, said = alone(
        home,
        conf,
        "workload.train",
        f"--prepare-task-id={prepared['id']}",
        "--epochs=2",
        "--units=8,4",
        "--project=alone",
    )
    assert code == 0, said
    task = newest("train")
    scalars = server.call("events.scalar_metrics_iter_histogram", {"task": task["id"]})
    return task, {
        (metric, part): series["y"] for metric in ("loss", "accuracy") for part, series in scalars[metric].items()
    }


def test_two_runs_give_the_same_numbers_and_a_clone_runs_on_an_agent(home, conf, server, newest, prepared, agent):
    first, numbers = train(home, conf, server, newest, prepared)
    second, again = train(home, conf, server, newest, prepared)
    assert first["id"] != second["id"]
    assert len(numbers) == 4
    assert numbers == again
    clone = server.call("tasks.clone", {"task": first["id"], "new_task_name": "clone"})["id"]
    changed = {"section": "General", "name": "epochs", "value": "1", "type": "int"}
    server.call("tasks.edit_hyper_params", {"task": clone, "hyperparams": [changed]})
    queue = server.call("queues.get_all", {"name": f"^{agent}$"})["queues"][0]["id"]
    server.call("tasks.enqueue", {"task": clone, "queue": queue})
    task = server.wait_for_end(clone, 600)
    log = "".join(event["msg"] for event in server.call("events.get_task_log", {"task": clone})["events"])
    assert task["status"] == "completed", log
    scalars = server.call("events.scalar_metrics_iter_histogram", {"task": clone})
    assert scalars["loss"]["train"]["y"] == numbers["loss", "train"][:1]


@pytest.mark.parametrize(
    "module", [*(f"workload.{step}" for step in STEPS), *(f"workload.radio.{step}" for step in STEPS)]
)
def test_help_lists_the_hyper_parameters(home, conf, module):
    code, said = alone(home, conf, module, "--help")
    assert code == 0
    assert "--queue" in said
    assert "-id VALUE" in said
    assert "must be given" in said


def test_what_cannot_run_is_one_line_and_a_failed_task(home, conf, newest, prepared):
    code, said = alone(home, conf, "workload.prepare", "--project=alone", "--task-name=nothing")
    assert code == 1
    assert "prepare.py: dataset_id not set: give --dataset-id" in said
    assert "Traceback" not in said
    assert newest("nothing")["status"] == "failed"
    assert "dataset_id not set" in newest("nothing")["status_message"]
    arguments = (f"--prepare-task-id={prepared['id']}", f"--train-task-id={prepared['id']}", "--project=alone")
    code, said = alone(home, conf, "workload.evaluate", *arguments)
    assert code == 1
    assert "has no artifact 'Candidate Model' (it has: prepared, scaler)" in said


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("workload.prepare", ["--dataset-id=nope"], "cannot get dataset 'nope' ("),
        ("workload.prepare", ["--dataset-id={id}"], "cannot get dataset '{id}' ("),
        ("workload.radio.prepare", ["--dataset-id={id}"], "cannot get dataset '{id}' ("),
        ("workload.prepare", ["--dataset-id=x", "--queue=nosuch"], "the ClearML server has no queue 'nosuch'"),
        ("workload.consume", ["--prepare-task-id={id}", "--evaluate-task-id=nope"], "there is no task 'nope' that"),
        (
            "workload.consume",
            ["--prepare-task-id={id}", "--evaluate-task-id={id}"],
            "task {id} has registered no model",
        ),
        ("workload.radio.consume", ["--prepare-task-id={id}", "--evaluate-task-id={id}"], "task {id} has registered"),
        ("workload.train", ["--units=[64,"], "expected A,B or [A, B]"),
    ],
)
def test_what_is_something_else_is_one_line(home, conf, prepared, module, arguments, message):
    given = [argument.format(id=prepared["id"]) for argument in arguments]
    code, said = alone(home, conf, module, *given, "--project=alone")
    assert code in (1, 2)
    assert message.format(id=prepared["id"]) in said.splitlines()[-1]
    assert "Traceback" not in said


def test_a_server_that_is_away_is_one_line(home, conf):
    down = home / "down.conf"
    down.write_text(f'{conf.read_text()}\napi.api_server: "http://127.0.0.1:1"\n')
    code, said = alone(home, down, "workload.prepare", "--dataset-id=x")
    assert code == 1
    assert said.splitlines()[-1].startswith("prepare.py: cannot log in to the ClearML server at http://127.0.0.1:1")


def test_a_dataset_is_generated_where_there_is_no_influxdb(home, conf, server, newest):
    code, said = alone(home, conf, "workload.generate", "--points=3000", "--days=2", "--project=alone")
    assert code == 0, said
    made = parameters(newest("generate"))["dataset_id"]
    assert server.call("tasks.get_by_id", {"task": made})["task"]["status"] == "completed"
    code, said = alone(home, conf, "workload.prepare", f"--dataset-id={made}", "--project=alone")
    assert code == 0, said
    code, said = alone(home, conf, "workload.generate", "--period=61", "--project=alone")
    assert (code, newest("generate")["status"]) == (1, "failed")
    assert "reporting period 61 s: must be 1 to 60 s: check points, days and period" in said
