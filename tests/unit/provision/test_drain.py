"""Which workers a name means, and what their hosts' files tell."""

from __future__ import annotations

import contextlib
import itertools
from types import SimpleNamespace

import pytest
import yaml

from provision import drain, status
from provision.drain import Order
from provision.errors import BusyError, ConvergeError, InputError
from provision.paths import PLAYBOOKS
from provision.reports import DrainReport, DrainState, WorkerState

WORKERS = [("agent-1", "default"), ("agent-1", "gpu"), ("agent-2", "default")]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([], {"agent-1": ["default", "gpu"], "agent-2": ["default"]}),
        (["agent-1"], {"agent-1": ["default", "gpu"]}),
        (["default"], {"agent-1": ["default"], "agent-2": ["default"]}),
        (["agent-1:default"], {"agent-1": ["default"]}),
        (["gpu", "agent-2", "agent-2:default"], {"agent-1": ["gpu"], "agent-2": ["default"]}),
    ],
)
def test_a_name_is_a_hosts_a_workers_or_both(names, chosen):
    assert drain.choose(names, WORKERS) == chosen


@pytest.mark.parametrize("name", ["agent-3", "agent-2:gpu", ":", ""])
def test_a_name_that_means_nobody_is_told_who_is_there(name):
    with pytest.raises(InputError) as caught:
        drain.choose(["gpu", name], WORKERS)
    assert "agent-1:default, agent-1:gpu, agent-2:default" in caught.value.message
    assert caught.value.exit_code == 2
    assert caught.value.remedy


def test_an_answer_counts_only_for_the_order_that_it_repeats():
    text = """\
/etc/testbed/drained/testbed-agent-one:2026-01-01T00:00:00Z by ada@desk
/etc/testbed/drained/testbed-agent-two:2026-01-02T00:00:00Z by ada@desk
/etc/testbed/drained/testbed-agent-three:2026-01-03T00:00:00Z by ada@desk
/data/agent/tmp/one/drained:2026-01-01T00:00:00Z by ada@desk
/data/agent/tmp/two/drained:2025-12-24T00:00:00Z by bob@desk
/data/agent/tmp/four/drained:2025-12-24T00:00:00Z by bob@desk
"""
    found = drain.parse(text, "/data")
    assert {name: order.answered for name, order in found.items()} == {"one": True, "two": False, "three": False}
    assert found["one"].text == "2026-01-01T00:00:00Z by ada@desk"


def test_the_orders_of_a_rotation_are_told_apart_from_those_of_people():
    text = """\
/etc/testbed/drained/testbed-agent-one:2026-01-01T00:00:00Z by ada@desk
/etc/testbed/drained/rotation.testbed-agent-two:2026-01-02T00:00:00Z by ada@desk
/data/agent/tmp/two/drained:2026-01-02T00:00:00Z by ada@desk
"""
    assert {*drain.parse(text, "/data")} == {"one"}
    assert drain.parse(text, "/data", drain.ROTATION) == {
        "two": Order("2026-01-02T00:00:00Z by ada@desk", answered=True)
    }


@pytest.mark.parametrize(
    ("order", "runs", "state"),
    [
        (None, True, "working"),
        (None, False, "working"),
        (Order("now", answered=False), True, "finishing"),
        (Order("now", answered=True), True, "drained"),
        (Order("now", answered=False), False, "drained"),
    ],
)
def test_a_worker_is_drained_when_its_agent_has_answered_or_does_not_run(order, runs, state):
    assert drain.state_of(order, runs=runs) == state


def _worker(name, *queues, drained=None):
    return WorkerState(name=name, queues=queues, task=None, last_report="2026-01-01T00:00:00Z", drained=drained)


SINCE = "2026-01-01T00:00:00Z by ada@desk"


def test_a_queue_whose_every_worker_is_drained_is_told_with_who_they_are_and_what_to_do():
    workers = [_worker("a:gpu", "gpu", "default", drained=SINCE), _worker("b:gpu", "gpu", drained=SINCE)]
    told = drain.nobody_takes("gpu", [*workers, _worker("b:default", "default")])
    assert f"queue gpu takes tasks: a:gpu, drained since {SINCE}, b:gpu" in told
    assert told.endswith("testbed undrain a:gpu b:gpu")
    assert drain.nobody_takes("default", [*workers, _worker("b:default", "default")]) == "", "b:default takes them"


def test_what_a_rotation_left_that_was_stopped_is_told_with_what_ends_it():
    left = _worker("a:gpu", "gpu", drained=f"{SINCE}, {drain.REPLACED}")
    assert "until its keys are replaced" in drain.nobody_takes("gpu", [left])
    assert drain.nobody_takes("gpu", [left]).endswith("testbed up, which completes a rotation of keys that was stopped")
    both = drain.nobody_takes("gpu", [left, _worker("b:gpu", "gpu", drained=SINCE)])
    assert both.endswith("testbed undrain b:gpu")


def test_status_tells_the_order_that_a_stopped_rotation_left(monkeypatch):
    order = f"{drain.ORDERS}/{drain.ROTATION}gpu:{SINCE}, {drain.REPLACED}\n"
    host = SimpleNamespace(run=lambda _: SimpleNamespace(stdout=order))
    monkeypatch.setattr(drain.hosts, "connect", lambda *_: host)
    monkeypatch.setattr(status.inventory, "hosts", lambda *_: ["a"])
    session = SimpleNamespace(testbed=SimpleNamespace(data_dir="/data"), inventory={}, inventory_file="")
    assert status._drained(session, ()) == {"a:gpu": f"{SINCE}, {drain.REPLACED}"}


def test_a_queue_without_a_worker_is_told():
    assert "no worker serves queue gpu: testbed status" in drain.nobody_takes("gpu", [_worker("a:one", "default")])


def _reports(*states):
    for given in states:
        workers = [
            DrainState(name=f"h:{number}", state=state, since=None, task=task)
            for number, (state, task) in enumerate(given)
        ]
        yield DrainReport(testbed="t", done=False, changed=0, workers=workers)


IDLE, BUSY, DONE = ("finishing", None), ("finishing", "id"), ("drained", None)


@pytest.mark.parametrize(
    ("states", "all_of_it", "looks"),
    [
        ([[DONE, DONE]], True, 1),
        ([[IDLE, BUSY], [DONE, BUSY], [DONE, DONE]], True, 3),
        ([[IDLE, BUSY], [DONE, BUSY], [DONE, DONE]], False, 2),
    ],
)
def test_it_waits_for_the_end_of_tasks_or_only_for_answers(monkeypatch, states, all_of_it, looks):
    monkeypatch.setattr(drain.time, "sleep", lambda _: None)
    found, told = _reports(*states), []
    last = drain.wait(lambda: next(found), None, told.append, all_of_it=all_of_it)
    assert len(told) == looks
    assert last is told[-1]


@pytest.fixture
def played(monkeypatch):
    """Playbooks that a rotation runs for its pause, and a function that says what the workers are then."""
    plays = []
    monkeypatch.setattr(
        drain, "play", lambda _, name, _title, told: plays.append((name, told["clearml_agent_rotation"]))
    )

    def says(*workers):
        [found] = _reports(workers)
        monkeypatch.setattr(drain, "report", lambda *_, **__: found)
        return plays

    return says


SESSION = SimpleNamespace(stage=lambda _: contextlib.nullcontext(), aside=contextlib.nullcontext)


def test_workers_take_no_task_while_keys_are_replaced(played):
    plays = played(DONE, DONE)
    with drain.paused(SESSION, {"h": ["0", "1"]}):
        assert plays == [("drain", True)]
    assert plays == [("drain", True), ("undrain", True)]


def test_workers_go_on_waiting_for_the_up_of_a_rotation_of_secrets_unless_it_does_not_come_to_it(played):
    plays = played(DONE)
    with drain.paused(SESSION, {"h": ["0"]}, stays=True):
        pass
    assert plays == [("drain", True)]
    with pytest.raises(ConvergeError), drain.paused(SESSION, {"h": ["0"]}, stays=True):
        raise ConvergeError("a task runs")
    assert plays[-1] == ("undrain", True)


def test_who_stops_it_while_the_order_is_given_leaves_no_order(played, monkeypatch):
    plays = played(DONE)

    def stopped(_, name, *__):
        plays.append(name)
        if name == "drain":
            raise KeyboardInterrupt

    monkeypatch.setattr(drain, "play", stopped)
    with pytest.raises(KeyboardInterrupt), drain.paused(SESSION, {"h": ["0"]}):
        pytest.fail("it goes on")
    assert plays == ["drain", "undrain"]


def test_a_host_that_is_away_keeps_no_other_from_work():
    [play] = yaml.safe_load((PLAYBOOKS / "undrain.yml").read_text())
    assert not play.get("any_errors_fatal"), "Ansible would stop on all hosts"


def test_workers_that_are_not_on_their_hosts_yet_are_not_paused(monkeypatch):
    monkeypatch.setattr(drain, "workers", lambda _: [("h", "old"), ("h", "new"), ("bare", "old")])
    listed = {"h": "agent-old.conf\nca-bundle.crt\n", "bare": ""}
    host = lambda _, name: SimpleNamespace(run=lambda _: SimpleNamespace(stdout=listed[name]))  # noqa: E731
    monkeypatch.setattr(drain.hosts, "connect", host)
    assert drain.there(SimpleNamespace(inventory_file="")) == {"h": ["old"]}


def test_a_task_that_an_agent_has_taken_already_stops_the_rotation(played):
    plays = played(DONE, BUSY)
    with pytest.raises(BusyError, match="h:1 runs task id"), drain.paused(SESSION, {"h": ["0", "1"]}):
        pytest.fail("keys are replaced while a task runs")
    assert plays == [("drain", True), ("undrain", True)], "agents take tasks again"


def test_an_agent_that_does_not_answer_stops_the_rotation(played, monkeypatch):
    played(DONE, IDLE)
    clock = itertools.count(0, 30)
    monkeypatch.setattr(drain.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(drain.time, "sleep", lambda _: None)
    with pytest.raises(BusyError, match="h:1 has not answered"), drain.paused(SESSION, {"h": ["0", "1"]}):
        pytest.fail("keys are replaced, and nobody knows what the agent does")


def test_agents_take_tasks_again_after_a_rotation_that_failed(played):
    plays = played(DONE)
    with pytest.raises(ConvergeError), drain.paused(SESSION, {"h": ["0"]}):
        raise ConvergeError("a host is gone")
    assert plays[-1] == ("undrain", True)


def test_it_gives_up_when_the_time_is_over(monkeypatch):
    clock = itertools.count(0, 10)
    monkeypatch.setattr(drain.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(drain.time, "sleep", lambda _: None)
    found, told = itertools.cycle(_reports([BUSY])), []
    drain.wait(lambda: next(found), 25, told.append, all_of_it=True)
    assert len(told) == 3
