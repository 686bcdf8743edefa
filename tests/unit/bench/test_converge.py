"""The benchmark of a second run counts what ran where, and pings as often over the same hosts."""

from __future__ import annotations

from typing import Any

from tests.bench.converge import __main__ as bench
from tests.bench.converge.counting import Tasks, pings, table


def counted(*events: tuple[str, str, str, str, str]) -> Tasks:
    tasks = Tasks()
    for kind, uuid, role, action, host in events:
        told: dict[str, Any] = {"task_uuid": uuid, "task_action": action, "host": host}
        tasks.event(kind, told | ({"role": role} if role else {}))
    return tasks


RUN = counted(
    ("runner_on_ok", "1", "", "ansible.builtin.setup", "a"),
    ("runner_on_ok", "1", "", "ansible.builtin.setup", "b"),
    ("runner_on_start", "2", "x", "testbed_files", "a"),
    ("runner_on_ok", "2", "x", "testbed_files", "a"),
    ("runner_on_ok", "3", "x", "ansible.builtin.assert", "a"),
    ("runner_on_skipped", "4", "x", "testbed_service", "a"),
    ("runner_on_skipped", "4", "x", "testbed_service", "b"),
    ("runner_on_ok", "5", "y", "testbed_files", "a"),
    ("runner_on_skipped", "5", "y", "testbed_files", "b"),
)


def test_a_task_counts_where_it_ran_and_not_where_it_was_skipped() -> None:
    assert RUN.ran(on_hosts_only=False) == [{"a", "b"}, {"a"}, {"a"}, {"a"}]
    assert RUN.ran(on_hosts_only=True) == [{"a", "b"}, {"a"}, {"a"}]


def test_roles_are_told_with_their_sum() -> None:
    assert RUN.by_role() == [("(playbook)", 1, 1, 2, 0), ("x", 2, 1, 1, 2), ("y", 1, 1, 1, 1)]
    assert table(RUN.by_role()).splitlines()[-1] == "| all | 4 | 3 | 4 | 3 |"


def test_there_are_as_many_pings_on_the_same_hosts_and_none_is_skipped() -> None:
    plays = pings(RUN.ran(on_hosts_only=True), {"A": "b"})
    assert [(play["hosts"], len(play["tasks"])) for play in plays] == [("a,b", 1), ("a", 2)]
    assert all(task == {"ansible.builtin.ping": {}} for play in plays for task in play["tasks"])
    assert all(play["environment"] == {"A": "b"} and not play["gather_facts"] for play in plays)


def test_the_hosts_are_one_of_each_kind_and_agents() -> None:
    assert bench.names(4) == ["server", "telemetry", "client", "agent1"]
    assert len(bench.names(12)) == 12
    lines = bench.machine_lines(dict.fromkeys(bench.names(5), "192.0.2.1")).splitlines()
    assert lines[0].endswith("groups: [server]}")
    assert [line.rsplit("[", 1)[1] for line in lines[2:]] == ["clients]}", "agents]}", "agents]}"]
