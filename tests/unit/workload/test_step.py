"""A step's hyper-parameters, from its defaults, a command line, or the task that an agent runs."""

import importlib
import sys
from types import SimpleNamespace

import pytest
from workload import chain, step
from workload.errors import ServerError, StepError

DEFAULTS = {"dataset_id": "", "share": 0.7, "units": [32, 16], "drop": ["time"], "epochs": 5}


class Sdk:
    """As the SDK shows a task: here, or on an agent with what was set on the task."""

    def __init__(self, local, there=(), connect=None):
        self.local, self.there, self.connect = local, dict(there), connect
        self.given, self.remote, self.failed = {}, [], []

    def module(self):
        task = SimpleNamespace(
            connect=self.connect or (lambda found: {**found, **self.there}),
            execute_remotely=lambda queue_name: self.remote.append(queue_name),
            close=lambda: None,
            get_parameter=lambda name, default: self.there.get(name.partition("/")[2], default),
            mark_failed=lambda **more: self.failed.append(more["status_message"]),
        )

        def init(**more):
            self.given = more
            return task

        found = SimpleNamespace(
            running_locally=lambda: self.local,
            force_store_standalone_script=lambda: None,
            init=init,
            current_task=lambda: task,
            get_task=self.get_task,
        )
        return SimpleNamespace(Task=found, Dataset=SimpleNamespace(get=self.get_dataset))

    def get_task(self, task_id):
        if task_id == "nope":
            raise ValueError("Task id=nope\nnot found")
        return SimpleNamespace(artifacts={}, models={"output": []}) if task_id != "gone" else None

    def get_dataset(self, dataset_id, alias):
        raise ValueError("Could not find Dataset id=nope,\nproject=None")


@pytest.fixture
def start(monkeypatch):
    def call(*arguments, local=True, there=(), connect=None):
        sdk = Sdk(local, there, connect)
        monkeypatch.setitem(sys.modules, "clearml", sdk.module())
        queues = SimpleNamespace(get_all=lambda name: [1] if name == "^prepared$" else [])
        monkeypatch.setattr("workload.server.login", lambda: SimpleNamespace(queues=queues))
        monkeypatch.setattr(sys, "argv", ["prepare.py", *arguments])
        return sdk, step.start("prepare", "data_processing", DEFAULTS)[1]

    return call


def test_options_of_the_command_line_go_before_the_defaults(start):
    sdk, found = start("--dataset-id=d1", "--share", "0.5", "--units=8,4", "--drop=['a', 'b']", "--project=mine")
    assert found == {"dataset_id": "d1", "share": 0.5, "units": [8, 4], "drop": ["a", "b"], "epochs": 5}
    assert (sdk.given["project_name"], sdk.given["task_name"], sdk.remote) == ("mine", "prepare", [])


def test_with_a_queue_an_agent_goes_on(start):
    assert start("--dataset-id=d1", "--queue=prepared")[0].remote == ["prepared"]


def test_on_an_agent_what_was_set_on_the_task_counts_and_its_command_line_does_not(start):
    sdk, found = start("--not-an-option", local=False, there={"dataset_id": "d2", "share": 0.1})
    assert (found["dataset_id"], found["share"], found["epochs"]) == ("d2", 0.1, 5)


def test_what_must_be_given_and_is_not_is_named_before_anything_runs(start):
    with pytest.raises(StepError, match="dataset_id not set: give --dataset-id, or set it in the task's hyper-param"):
        start("--queue=prepared")


@pytest.mark.parametrize(
    "argument", ["--share=much", "--units=a,b", "--units=[64,", "--units=['a']", "--units=[64", "--nothing=1"]
)
def test_an_option_that_cannot_be_is_refused(start, argument, capsys):
    with pytest.raises(SystemExit) as ended:
        start(argument)
    assert ended.value.code == 2
    assert argument.partition("=")[0] in capsys.readouterr().err


def test_what_the_user_can_mend_is_one_line_and_fails_the_task(monkeypatch, capsys):
    sdk = Sdk(True)
    monkeypatch.setitem(sys.modules, "clearml", sdk.module())
    monkeypatch.setattr(sys, "argv", ["/x/prepare.py"])

    def main():
        raise StepError("nothing to do")

    with pytest.raises(SystemExit) as ended:
        step.run(main)
    assert (ended.value.code, capsys.readouterr().err) == (1, "prepare.py: nothing to do\n")
    assert sdk.failed == ["nothing to do"]


def test_with_debug_the_traceback_stands_above_it(monkeypatch, capsys):
    sdk = Sdk(False, {"debug": "1"})
    monkeypatch.setitem(sys.modules, "clearml", sdk.module())
    monkeypatch.setattr(sys, "argv", ["/x/prepare.py"])

    def stumble():
        raise StepError("nothing to do")

    with pytest.raises(SystemExit):
        step.run(stumble)
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("Traceback")
    assert any("in stumble" in line for line in said)
    assert said[-1] == "prepare.py: nothing to do"


def test_debug_is_a_hyper_parameter_of_every_step(start):
    connected = {}

    def connect(found):
        connected.update(found)
        return found

    sdk, found = start("--dataset-id=d1", "--debug=1", connect=connect)
    assert connected["debug"] == 1
    assert "debug" not in found


def test_a_queue_that_is_not_there_is_said_before_a_task_is_made(start, monkeypatch):
    made = []
    monkeypatch.setattr(Sdk, "module", lambda self, module=Sdk.module: made.append(self) or module(self))
    with pytest.raises(ServerError, match="the ClearML server has no queue 'nosuch': check --queue"):
        start("--dataset-id=d1", "--queue=nosuch")
    assert made[0].given == {}


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda: step.artifact("nope", "a"),
            "there is no task 'nope' that this user may read (Task id=nope not found)",
        ),
        (lambda: step.registered_model("nope"), "there is no task 'nope' that this user may read (Task id=nope not f"),
        (lambda: step.registered_model("gone"), "there is no task 'gone' that this user may read: check its ID"),
        (lambda: step.registered_model("t1"), "task t1 has registered no model: give the ID of an evaluate task"),
        (lambda: step.dataset("nope", "x"), "cannot get dataset 'nope' (Could not find Dataset id=nope, project=None)"),
    ],
)
def test_an_id_of_something_else_is_one_line(monkeypatch, ask, message):
    monkeypatch.setitem(sys.modules, "clearml", Sdk(True).module())
    with pytest.raises(StepError) as error:
        ask()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["tensorflow_that_is_not_there", "clearml"])
def test_a_package_that_is_not_installed_is_one_line(monkeypatch, capsys, missing):
    sdk = Sdk(True)
    monkeypatch.setitem(sys.modules, "clearml", None if missing == "clearml" else sdk.module())
    monkeypatch.setattr(sys, "argv", ["/x/train.py"])
    with pytest.raises(SystemExit) as ended:
        step.run(lambda: __import__(missing))
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert said.startswith(f"train.py: {missing} is not installed here: install ")
    assert said.count("\n") == 1
    assert len(sdk.failed) == (missing != "clearml")


@pytest.mark.parametrize("name", ["prepare", "train", "evaluate", "consume"])
def test_a_clone_of_a_task_from_before_finds_its_step(name):
    there = getattr(importlib.import_module("workload.tasks"), name)  # such a task: from workload.tasks import NAME
    assert there.main is importlib.import_module(f"workload.{name}").main


AGENT = "worker execution exit code 1"


@pytest.mark.parametrize(
    ("status", "lines", "expected"),
    [
        (("error", "no column 'x'"), ["a"], {"reason": "no column 'x'"}),
        ((AGENT, ""), ["a", "train.py: no: column", "Leaving process"], {"reason": "no: column"}),
        ((AGENT, ""), ["a", "b", "c"], {"reason": AGENT, "log": ["b", "c"]}),
        ((None, None), ["a", "b", "c"], {"reason": "", "log": ["b", "c"]}),
    ],
)
def test_a_chain_tells_what_a_failed_step_said_else_the_end_of_its_console(monkeypatch, status, lines, expected):
    monkeypatch.setattr(chain, "LOG_LINES", 2)
    data = SimpleNamespace(status_reason=status[0], status_message=status[1])
    assert chain._why("train.py", lines, data) == expected
