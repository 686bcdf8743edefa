"""What is seen while a plan is applied."""

from __future__ import annotations

from provision.cloud.plan import Action, Plan
from provision.cloud.progress import Progress

SERVERS = [Action("create", "server", f"agent-{number}", "not there") for number in (1, 2)]
PORT = Action("create", "port", "agent-1", "not there")
OLD = Action("delete", "server", "agent-3", "no longer wanted", "s-3")
REPLACED = Action("replace", "server", "server", "image a → b", "s-1")


def follow(*told: tuple[Action, str], of: list[Action]) -> tuple[list[str], list[str], str]:
    steps: list[str] = []
    notes: list[str] = []
    progress = Progress(steps.append, notes.append)
    progress.planned(Plan((*of, Action("keep", "network", "net", ""))))
    for action, result in told:
        progress.told(action, result)
    return steps, notes, progress.result


def test_servers_count_when_they_are_active_not_when_nova_has_begun():
    told = [(SERVERS[0], "done"), (SERVERS[1], "done"), (SERVERS[1], "ACTIVE"), (SERVERS[0], "ERROR, No valid host")]
    steps, notes, result = follow(*told, of=SERVERS)
    assert steps == ["0 of 2 servers ACTIVE", "1 of 2 servers ACTIVE", ""]
    assert notes == ["server agent-2: ACTIVE", "server agent-1: ERROR, No valid host"]
    assert result == "2 created"


def test_each_kind_is_counted_until_all_of_it_is_done():
    steps, notes, _ = follow((PORT, "done"), (SERVERS[0], "ACTIVE"), of=[PORT, *SERVERS])
    assert steps == [
        "0 of 1 port, 0 of 2 servers ACTIVE",
        "0 of 2 servers ACTIVE",
        "1 of 2 servers ACTIVE",
    ]
    assert notes == ["server agent-1: ACTIVE"], "ports are many, and only counted"


def test_a_replaced_server_is_told_once_and_when_it_is_there_again():
    told = [(REPLACED, "done"), (OLD, "done"), (REPLACED, "done"), (REPLACED, "ACTIVE")]
    steps, notes, result = follow(*told, of=[OLD, REPLACED])
    assert notes == ["deleted server agent-3", "server server: ACTIVE"]
    assert steps == ["0 of 2 servers ACTIVE", "1 of 2 servers ACTIVE", ""]
    assert result == "1 deleted, 1 replaced"


def test_deleting_servers_makes_none_active():
    steps, _, result = follow(of=[OLD])
    assert steps == ["0 of 1 server"]
    assert result == "nothing to do"
