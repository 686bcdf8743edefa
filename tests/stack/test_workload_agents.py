"""Every agent runs a task, and every queue gives one.

What the workload has run counts; agents and queues that had nothing of it get tasks that last some seconds.
"""

from __future__ import annotations

import pytest

from provision import inventory, status
from provision.smoke import agents
from provision.smoke.agents import Covered, Ran
from provision.smoke.problem import Broken, need

pytestmark = [pytest.mark.full, pytest.mark.hosts, pytest.mark.of("agents")]


@pytest.fixture(scope="module")
def covered(stack, target, api, own_project, tell_step, drawn) -> Covered:
    """Who ran what, of all agents."""
    away = status.away(stack)
    workers = {
        f"{host}:{worker.name}": list(worker.queues)
        for host, worker in inventory.workers(stack.testbed, stack.inventory)
    }
    found = agents.cover(api, own_project, workers, target.queues, lambda: status.workers(stack, api, away), tell_step)
    drawn["ran"] = [each for each in found.ran if each.queue]
    return found


def _told(ran: list[Ran], what: str) -> str:
    """What was run in words; raises `Broken` where none of it completed."""
    good = [each for each in ran if each.status == "completed"]
    if not good:
        last = ran[-1]
        raise Broken(
            f"{what}: task {last.task} ({last.name}) {last.status} on {last.worker}",
            expected=f"{what}: a task completes",
            remedy="The task's console in the web app, and the agent's log, say more; `--keep` leaves the task there.",
        )
    return ", ".join(dict.fromkeys(each.name for each in good))


def test_agent_runs_a_task(covered, worker, record_property):
    """The agent takes a task from one of its queues and completes it; one that is drained or busy is left alone."""
    host, described = worker
    name = f"{host}:{described.name}"
    ran = covered.of(name)
    if not ran and name in covered.left:
        pytest.skip(f"{name} is {covered.left[name]}")
    need(
        ran,
        f"agent {name} has taken no task from {', '.join(described.queues)}",
        expected=f"agent {name} takes a task within {agents.TAKE_S} s",
        remedy=f"`testbed logs agent-{described.name}` says what it does; restart its service on {host}: "
        f"testbed-agent-{described.name}.",
        of=[(host, f"testbed-agent-{described.name}")],
    )
    record_property("reference", f"{name} ran {_told(ran, f'agent {name}')}")


def test_queue_gives_a_task(covered, queue, record_property):
    """A task that is put into the queue is taken by an agent and completes."""
    ran = covered.out_of(queue)
    if not ran and (left := covered.left_of(queue)):
        pytest.skip(f"no agent was free for {queue}: " + "; ".join(f"{name} is {why}" for name, why in left.items()))
    need(
        ran,
        f"no agent has taken a task from queue {queue}",
        expected=f"an agent takes a task from {queue} within {agents.TAKE_S} s",
        remedy="`testbed status` says which workers listen on it; `testbed up` starts what is missing.",
    )
    _told(ran, f"queue {queue}")
    workers = ", ".join(dict.fromkeys(each.worker for each in ran))
    record_property("reference", f"{queue}: taken by {workers}")
