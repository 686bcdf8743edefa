"""Which queues get a task so that every agent and every queue has one, and who is left alone."""

from __future__ import annotations

import pytest

from provision.reports import WorkerState
from provision.smoke import agents
from provision.smoke.agents import Ran

TWO_ON_ONE = {"h1:prepared": ["prepared"], "h2:prepared": ["prepared"], "h1:default": ["default"]}


def _ran(worker: str, queue: str, status: str = "completed") -> Ran:
    return Ran("1" * 32, "train", queue, worker, status, 2.0)


@pytest.mark.parametrize(
    ("away", "ran", "sent"),
    [
        ([], [], ["default", "prepared", "prepared"]),
        ([], [_ran("h1:prepared", "prepared")], ["default", "prepared", "prepared"]),
        ([], [_ran("h1:prepared", "prepared"), _ran("h2:prepared", "prepared")], ["default"]),
        ([], [_ran(name, queues[0]) for name, queues in TWO_ON_ONE.items()], []),
        (["h2:prepared"], [_ran("h1:prepared", "prepared")], ["default"]),
        (["h1:default"], [_ran("h1:prepared", "prepared"), _ran("h2:prepared", "prepared")], []),
        ([], [_ran(name, queues[0], "failed") for name, queues in TWO_ON_ONE.items()], ["default", *["prepared"] * 2]),
    ],
    ids=["nothing ran", "one of two", "both of two", "all", "one is busy", "drained", "all failed"],
)
def test_as_many_tasks_as_take_from_a_queue_where_one_of_them_had_none(away, ran, sent):
    assert agents.wanted(TWO_ON_ONE, away, ran, ["prepared", "default"]) == sent


def test_an_agent_of_several_queues_gets_it_where_fewest_others_take_it():
    workers = {"a": ["shared", "own"], "b": ["shared"], "c": ["shared"]}
    ran = [_ran("b", "shared"), _ran("c", "shared")]
    assert agents.wanted(workers, [], ran, ["shared"]) == ["own"]


def test_a_queue_that_gave_nothing_gets_one_though_its_agents_have_run():
    assert agents.wanted({"a": ["first", "second"]}, [], [_ran("a", "first")], ["first", "second"]) == ["second"]


def test_who_is_drained_or_works_for_others_is_left_alone():
    states = [
        WorkerState(name="a", queues=["q"], task=None, last_report="", drained=None),
        WorkerState(name="b", queues=["q"], task="own", last_report="", drained=None),
        WorkerState(name="c", queues=["q"], task="theirs", last_report="", drained=None),
        WorkerState(name="d", queues=["q"], task=None, last_report="", drained="2026-11-23 by root"),
    ]
    left = agents.busy(states, ["own"])
    assert set(left) == {"c", "d"}
    assert "busy with task theirs" in left["c"]
    assert "drained since 2026-11-23 by root" in left["d"]


def test_a_task_lasts_longer_than_an_agent_waits_between_two_looks():
    assert agents.HOLD_S > 5
    compile(agents.SCRIPT, "check.py", "exec")
