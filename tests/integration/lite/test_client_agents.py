"""Real agents: order of queues, several agents, clones with other parameters, aborts, services, pipelines, searches."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.lite.conftest import SCRIPTS, seen_by

pytestmark = pytest.mark.long

QUICK = "print('ran')\n"
WAITS = """
import os, time
print("waiting", flush=True)
while not os.path.exists(os.path.join(os.environ["TESTS_FOLDER"], "go on")):
    time.sleep(0.2)
"""
STEP = """
from clearml import Task

task = Task.init("pipes", "a step", auto_connect_frameworks=False, auto_resource_monitoring=False)
number = int(task.connect({"number": 0})["number"])
task.upload_artifact("number", {"number": number}, wait_on_upload=True)
"""
OBJECTIVE = """
from clearml import Task

task = Task.init("search", "objective", auto_connect_frameworks=False, auto_resource_monitoring=False)
x = int(task.connect({"x": 0})["x"])
for step in range(3):
    task.get_logger().report_scalar("distance", "from two", iteration=step, value=abs(x - 2) + 2 - step)
"""


@pytest.fixture
def draft(lite: Any) -> Callable[..., str]:
    """A function that makes a task which runs this code."""

    def make(name: str, code: str, **fields: Any) -> str:
        script = {"diff": code, "entry_point": "run.py", "working_dir": ".", "binary": "python", "requirements": {}}
        made = lite.call("tasks.create", {"name": name, "type": "training", "script": script} | fields)
        return str(made["id"])

    return make


@pytest.fixture
def queue(lite: Any) -> Callable[[str], str]:
    return lambda name: str(lite.call("queues.create", {"name": name})["id"])


def enqueue(lite: Any, task: str, queue: str) -> None:
    lite.call("tasks.enqueue", {"task": task, "queue": queue})


def test_an_agent_takes_from_its_first_queue_first(lite: Any, agents: Any, draft: Any, queue: Any) -> None:
    low, high = queue("low"), queue("high")
    tasks = [draft(name, QUICK) for name in ("low one", "low two", "high")]
    for task, its_queue in zip(tasks, (low, low, high), strict=True):
        enqueue(lite, task, its_queue)
    agents.start("ordered:0", "high", "low")
    ended = [agents.ended(task) for task in tasks]
    assert [document["status"] for document in ended] == ["completed"] * 3
    first_to_last = sorted(ended, key=lambda document: document["started"])
    assert [document["name"] for document in first_to_last] == ["high", "low one", "low two"]
    assert all("ran" in agents.console(task) for task in tasks)


def test_several_agents_share_a_queue_and_run_each_task_once(lite: Any, agents: Any, draft: Any, queue: Any) -> None:
    shared = queue("shared")
    tasks = [draft(f"shared {number}", WAITS) for number in range(2)]
    for task in tasks:
        enqueue(lite, task, shared)
    for number in range(2):
        agents.start(f"shared:{number}", "shared")
    # each agent runs one: neither ends before the other runs
    agents.until(lambda: all("waiting" in agents.console(task) for task in tasks))
    workers = lite.call("workers.get_all")["workers"]
    assert {worker["id"] for worker in workers if worker["id"].startswith("shared:")} == {"shared:0", "shared:1"}
    (lite.folder / "go on").touch()
    ended = [agents.ended(task) for task in tasks]
    assert {document["last_worker"] for document in ended} == {"shared:0", "shared:1"}
    assert [document["status"] for document in ended] == ["completed"] * 2
    assert all(agents.console(task).count("waiting") == 1 for task in tasks)
    (lite.folder / "go on").unlink()


def test_a_running_task_is_aborted_and_runs_as_a_clone_with_other_parameters(
    lite: Any, agents: Any, draft: Any, queue: Any
) -> None:
    (lite.folder / "step.py").write_text(STEP)
    its_queue = queue("aborts")
    task = draft("endless", WAITS)
    enqueue(lite, task, its_queue)
    agents.start("aborts:0", "aborts")
    agents.until(lambda: "waiting" in agents.console(task))
    assert lite.call("tasks.stop", {"task": task})["fields"]["status_message"] == "stopping"
    assert agents.ended(task)["status"] == "stopped"

    parameters = {"General": {"number": {"section": "General", "name": "number", "value": "1"}}}
    step = draft("a step", STEP, hyperparams=parameters)
    changed = {"General": {"number": {"section": "General", "name": "number", "value": "42"}}}
    clone = lite.call("tasks.clone", {"task": step, "new_task_name": "forty-two", "new_task_hyperparams": changed})[
        "id"
    ]
    enqueue(lite, clone, its_queue)
    document = agents.ended(clone)
    assert document["status"] == "completed", agents.log("aborts:0").read_text()
    assert document["hyperparams"]["General"]["number"]["value"] == "42"
    (artifact,) = document["execution"]["artifacts"]
    assert json.loads(artifact["type_data"]["preview"]) == {"number": 42}
    assert agents.document(step)["status"] == "created"


def test_services_mode_runs_several_at_once(lite: Any, agents: Any, draft: Any, queue: Any) -> None:
    services = queue("services")
    tasks = [draft(f"service {number}", WAITS) for number in range(2)]
    for task in tasks:
        enqueue(lite, task, services)
    agents.start("services", "services", options=("--services-mode",))
    agents.until(lambda: all("waiting" in agents.console(task) for task in tasks))
    (lite.folder / "go on").touch()
    assert [agents.ended(task)["status"] for task in tasks] == ["completed"] * 2
    (lite.folder / "go on").unlink()


def test_execute_runs_a_draft_without_a_queue(lite: Any, agents: Any, draft: Any) -> None:
    task = draft("executed", QUICK)
    conf = agents.conf("executes")
    done = subprocess.run(
        agents.command("execute", "--id", task),
        env=agents.environment("executes:0", conf),
        cwd=lite.folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert agents.document(task)["status"] == "completed"
    assert "ran" in agents.console(task)


def test_a_pipeline_runs_on_agents(lite: Any, agents: Any, queue: Any) -> None:
    (lite.folder / "step.py").write_text(STEP)
    for name in ("controllers", "steps"):
        queue(name)
        agents.start(f"{name}:0", name)
    conf = agents.conf("pipeline")
    printed = lite.run_python((SCRIPTS / "pipeline_remote.py").read_text(), conf, timeout=600)
    controller = next(line for line in printed.splitlines() if len(line) == 32 and line.isalnum())
    document = agents.ended(controller)
    assert document["status"] == "completed", agents.console(controller)
    found = lite.call("tasks.get_all", {"parent": controller, "search_hidden": True})["tasks"]
    steps = {step["name"]: step for step in found}
    assert {name: step["status"] for name, step in steps.items()} == {"first": "completed", "second": "completed"}
    assert {step["last_worker"] for step in found} == {"steps:0"}
    assert steps["first"]["hyperparams"]["General"]["number"]["value"] == "5"
    assert steps["second"]["hyperparams"]["return"]["result"]["value"] == "10"


def test_a_search_of_parameters_finds_the_best(lite: Any, agents: Any, queue: Any) -> None:
    (lite.folder / "objective.py").write_text(OBJECTIVE)
    queue("search")
    agents.start("search:0", "search")
    assert seen_by(lite, "optimizer.py", agents.conf("optimizer")) == {
        "best": ["2", 0.0],
        "tried": ["1", "2", "3"],
        "children": 3,
        "archived": 1,
        "tags": ["optimization"],
    }


def test_the_command_clearml_task_makes_a_task_that_an_agent_runs(lite: Any, agents: Any, queue: Any) -> None:
    (lite.folder / "step.py").write_text(STEP)
    queue("commands")
    environment = agents.environment("commands:0", agents.conf("commands"))
    command = [str(Path(sys.executable).with_name("clearml-task")), "--project", "pipes", "--name", "by command"]
    arguments = ["--script", "step.py", "--queue", "commands", "--packages", "clearml", "--tags", "made"]
    done = subprocess.run(
        [*command, *arguments], env=environment, cwd=lite.folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (task,) = lite.call("tasks.get_all", {"name": "^by command$", "tags": ["made"]})["tasks"]
    agents.start("commands:0", "commands")
    document = agents.ended(task["id"])
    assert document["status"] == "completed", agents.log("commands:0").read_text()
    assert [artifact["key"] for artifact in document["execution"]["artifacts"]] == ["number"]


def test_the_command_clearml_data_makes_versions(lite: Any, agents: Any) -> None:
    environment = agents.environment("nobody", agents.conf("data"))
    folder = lite.folder / "by command"
    folder.mkdir()
    (folder / "one.csv").write_text("1\n")

    def data(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("clearml-data")), *arguments]
        done = subprocess.run(command, env=environment, cwd=lite.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    data("create", "--project", "commands", "--name", "rows")
    data("add", "--files", str(folder))
    data("upload")
    data("close")
    (first,) = lite.call("tasks.get_all", {"name": "^rows$", "search_hidden": True})["tasks"]
    assert "one.csv" in data("list", "--id", first["id"])
    (folder / "two.csv").write_text("2\n")
    data("sync", "--folder", str(folder), "--parents", first["id"], "--project", "commands", "--name", "rows")
    documents = lite.call("tasks.get_all", {"name": "^rows$", "search_hidden": True, "order_by": ["created"]})["tasks"]
    second = documents[1]
    assert [document["status"] for document in documents] == ["completed", "completed"]
    copied = lite.folder / "copied"
    data("get", "--id", second["id"], "--copy", str(copied))
    assert {path.name for path in copied.iterdir()} == {"one.csv", "two.csv"}
    data("verify", "--id", second["id"], "--folder", str(copied))
    assert "two.csv" in data("compare", "--source", first["id"], "--target", second["id"], "--verbose")
    assert second["id"] in data("search", "--name", "rows", "--project", "commands")
    data("publish", "--id", first["id"])
    assert agents.document(first["id"])["status"] == "published"
    data("delete", "--id", second["id"])
    left = lite.call("tasks.get_all", {"name": "^rows$", "search_hidden": True})["tasks"]
    assert [document["id"] for document in left] == [first["id"]]
