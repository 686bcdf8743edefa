"""What starts clearml-agent keeps it from tasks while its worker is drained, and never in the middle of one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROLE = Path(__file__).parents[3] / "roles/clearml_agent"
FILE = ROLE / "files/testbed_agent.py"


@pytest.fixture(scope="module")
def testbed_agent():
    spec = importlib.util.spec_from_file_location("testbed_agent", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def turn(testbed_agent, tmp_path):
    return testbed_agent.Turn([tmp_path / "order", tmp_path / "rotation.order"], tmp_path / "answer")


def test_without_an_order_it_takes_tasks_and_answers_nothing(turn):
    assert turn.takes_tasks()
    assert not turn.answer.exists()


def test_it_answers_an_order_with_its_text_and_takes_the_answer_back(turn, capsys):
    turn.orders[0].write_text("2026-01-01 by ada\n")
    assert not turn.takes_tasks()
    assert turn.answer.read_text() == "2026-01-01 by ada\n"
    assert not turn.takes_tasks()
    assert capsys.readouterr().out.count("Drained") == 1, "said once, not at each look"
    turn.orders[0].unlink()
    assert turn.takes_tasks()
    assert not turn.answer.exists()


def test_a_new_order_is_answered_anew(turn):
    for text in ("first\n", "second\n"):
        turn.orders[0].write_text(text)
        assert not turn.takes_tasks()
        assert turn.answer.read_text() == text


def test_the_order_of_a_rotation_counts_where_there_is_no_other(turn):
    order, rotation = turn.orders
    rotation.write_text("rotation\n")
    assert not turn.takes_tasks()
    assert turn.answer.read_text() == "rotation\n"
    order.write_text("by ada\n")
    assert not turn.takes_tasks()
    assert turn.answer.read_text() == "by ada\n"
    rotation.unlink()
    assert not turn.takes_tasks(), "what a person has ordered outlives a rotation"
    order.unlink()
    assert turn.takes_tasks()


def test_an_order_that_cannot_be_read_or_answered_holds_all_the_same(testbed_agent, tmp_path):
    folder = tmp_path / "order"
    folder.mkdir()  # not a file: cannot be read
    assert not testbed_agent.Turn([folder], tmp_path / "answer").takes_tasks()
    order = tmp_path / "readable"
    order.write_text("now\n")
    assert not testbed_agent.Turn([order], tmp_path / "nowhere/answer").takes_tasks()


def test_the_agent_asks_right_before_each_look_into_a_queue(tmp_path):
    """With the real agent's loop: a task that is taken has been allowed by the line before."""
    script = f"""
import sys
sys.path.insert(0, {str(FILE.parent)!r})
import testbed_agent
from pathlib import Path
from clearml_agent.commands import worker

order, answer, taken = Path("order"), Path("answer"), []
class Stop(BaseException): pass
class Agent(worker.Worker):
    def __init__(self):
        self._services_mode = self._daemon_foreground = None
        self._impersonate_as_task_owner = self.docker_image_func = self._redirected_stdout_file_no = None
        self._uptime_config = self._downtime_config = None
        self._polling_interval, self.worker_id, self.queues = 0, "w", ["q"]
        self.monitor = type("M", (), {{"setup_daemon_cluster_report": lambda *a, **k: None}})()
        self._session = type("S", (), {{"config": {{}}, "debug_mode": False, "send_api": lambda *a: None,
                                       "get_nvidia_visible_env": None}})()
        self.log = type("L", (), {{"debug": lambda *a: None}})()
        self.looks = 0
    def get_worker_properties(self, queues):
        self.looks += 1
        if self.looks > 20: raise Stop
        return {{"q": {{"name": "q", "tags": []}}}}, None
    def run_one_task(self, queue, task, *a, **k):
        taken.append(task); order.write_text("drain"); assert not answer.exists(), "answered in the middle of a task"
    report_monitor = send_logs = _unregister = lambda *a, **k: None
    def _get_node_rank(self): return 0
worker.get_next_task = lambda *a, **k: {{"entry": {{"task": "t" + str(len(taken))}}}}
worker.kill_all_child_processes = lambda **k: None
worker.WorkerParams
turn = testbed_agent.Turn([order], answer)
testbed_agent.have_asked(worker.Worker, turn)
try:
    Agent().run_tasks_loop(["q"], type("P", (), {{"debug": False}})())
except Stop:
    pass
print(taken, answer.read_text())
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"CLEARML_CONFIG_FILE": str(tmp_path / "none.conf")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['t0'] drain", done.stdout


@pytest.mark.parametrize(
    ("gpus", "options", "environment"),
    [
        (None, [], {}),
        ("none", ["--cpu-only"], {"NVIDIA_VISIBLE_DEVICES": "none", "CUDA_VISIBLE_DEVICES": "none"}),
        ("all", ["--gpus", "all"], {"NVIDIA_VISIBLE_DEVICES": "all"}),
        ("0,1", ["--gpus", "0,1"], {"NVIDIA_VISIBLE_DEVICES": "0,1", "CUDA_VISIBLE_DEVICES": "0,1"}),
    ],
)
def test_gpus_reach_the_agent_and_its_tasks(gpus, options, environment):
    [service] = services({"name": "gpu", "queues": ["q"], "prepared": False} | ({"gpus": gpus} if gpus else {}))
    assert service["command"][-2 - len(options) :] == ["--queue", "q", *options]
    seen = {name: value for name, value in service["environment"].items() if name.endswith("VISIBLE_DEVICES")}
    assert seen == environment


def services(*workers):
    """Return the services of these workers, as the role describes them."""
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import Templar, trust_as_template

    variables = yaml.safe_load((ROLE / "vars/main.yml").read_text())
    expression = trust_as_template(variables.pop("clearml_agent_instances"))
    given = {"clearml_agent_workers": list(workers), "clearml_agent_home": "/data/agent", "common_environment": {}}
    given |= {"clearml_agent_poll_seconds": 1, "python_venv_constraints": "/x/hosts.txt"}
    given |= {"clearml_agent_venv": "/venv", "clearml_agent_prepared_environment": {"PREPARED": "1"}}
    given |= {"clearml_agent_building_environment": {"BUILDING": "1"}}
    return Templar(DataLoader(), variables=given).template(expression)


def test_each_worker_is_a_service_with_settings_of_its_own():
    first, second = services(
        {"name": "a", "queues": ["x", "y"], "prepared": False}, {"name": "b", "queues": ["z"], "prepared": True}
    )
    assert [first["name"], second["name"]] == ["testbed-agent-a", "testbed-agent-b"]
    assert first["command"][1:3] == ["--config-file", "/etc/testbed/agent-a.conf"]
    assert first["command"][-3:] == ["--queue", "x", "y"]
    assert second["environment"]["TMPDIR"] == "/data/agent/tmp/b"
    assert ("BUILDING" in first["environment"], "PREPARED" in first["environment"]) == (True, False)
    assert ("BUILDING" in second["environment"], "PREPARED" in second["environment"]) == (False, True)
    assert "/etc/testbed/agent-b.conf" in second["files"]
    assert "/etc/testbed/agent-a.conf" not in second["files"]


@pytest.mark.parametrize(
    ("gpus", "count", "fits"),
    [("0", 0, False), ("all", 0, False), ("0", 1, True), ("all", 1, True), ("0,2", 2, False), ("1", 2, True)],
)
def test_gpus_that_are_not_there_are_refused(gpus, count, fits):
    tasks = yaml.safe_load((ROLE / "tasks/gpus.yml").read_text())
    [check] = [task for task in tasks if task["name"] == "Check that the workers' GPUs are there"]
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import Templar, trust_as_template

    templar = Templar(DataLoader(), variables={"item": {"gpus": gpus}, "clearml_agent_gpus": {"matched": count}})
    expression = trust_as_template("{{ " + check["ansible.builtin.assert"]["that"] + " }}")
    assert templar.template(expression) is fits
