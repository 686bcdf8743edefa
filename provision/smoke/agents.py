"""Has every agent run a task: small ones are put into the queues, as many as agents take from each, until all have.

A task cannot be sent to an agent, only put into a queue. So each task lasts longer than an agent waits between two
looks at its queues: while the one that took it is at work, the next is left for another. No other task is touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from provision.clearml_api import ClearmlApi
from provision.reports import WorkerState
from provision.smoke.results import latency

HOLD_S = 8  # an idle agent looks every 5 s
TAKE_S = 60  # for one that has nothing to do to take a task
RUN_S = 300  # it may have to build an environment first
ROUNDS = 4
POLL_S = 1.0
NAME = "agent check"
SCRIPT = f"""import time

print("this agent runs tasks")
time.sleep({HOLD_S})
"""
WAITING = ("queued", "in_progress")


@dataclass(frozen=True)
class Ran:
    """A task that an agent has taken from a queue; `waited`: seconds from its enqueueing to its start."""

    task: str
    name: str
    queue: str
    worker: str
    status: str
    waited: float | None


@dataclass
class Covered:
    """Who ran what. `workers`: the queues that each listens on; `left`: why one was sent nothing, by name."""

    workers: Mapping[str, Sequence[str]]
    ran: list[Ran] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def of(self, worker: str) -> list[Ran]:
        """Return what a worker ran."""
        return [each for each in self.ran if each.worker == worker]

    def out_of(self, queue: str) -> list[Ran]:
        """Return what was taken from a queue."""
        return [each for each in self.ran if each.queue == queue]

    def left_of(self, queue: str) -> dict[str, str]:
        """Return the workers of a queue that were sent nothing, and why."""
        return {name: why for name, why in self.left.items() if queue in self.workers.get(name, ())}


def wanted(
    workers: Mapping[str, Sequence[str]], away: Iterable[str], ran: Iterable[Ran], queues: Iterable[str]
) -> list[str]:
    """Return the queues to put a task into, once for each task; none: every worker and every queue had one. Pure.

    `workers`: the queues that each listens on; those in `away` take nothing now.
    """
    there = {name: listens for name, listens in workers.items() if name not in set(away)}
    of_queue: dict[str, list[str]] = {}
    for name, listens in there.items():
        for queue in listens:
            of_queue.setdefault(queue, []).append(name)
    done = list(ran)
    have_run = {each.worker for each in done if each.status == "completed"}
    had_one = {each.queue for each in done if each.status == "completed"}
    chosen = {
        min(listens, key=lambda queue: len(of_queue[queue]))
        for name, listens in there.items()
        if name not in have_run and listens
    }
    chosen |= {queue for queue in queues if queue not in had_one and queue in of_queue}
    return [queue for queue in sorted(chosen) for _ in of_queue[queue]]


def busy(states: Iterable[WorkerState], own: Iterable[str]) -> dict[str, str]:
    """Return the workers that take nothing now, and why; `own`: tasks that are this run's. Pure."""
    ours, found = set(own), {}
    for worker in states:
        if worker.drained:
            found[worker.name] = f"drained since {worker.drained}; to have it take tasks again: testbed undrain"
        elif worker.task and worker.task not in ours:
            found[worker.name] = f"busy with task {worker.task}, which is not this test's"
    return found


def cover(
    api: ClearmlApi,
    project: str,
    workers: Mapping[str, Sequence[str]],
    queues: Sequence[str],
    look: Callable[[], Sequence[WorkerState]],
    tell: Callable[[str], None],
) -> Covered:
    """Put tasks of `project` into queues until each of `workers` and `queues` has had one, or takes none.

    What already ran in the project counts. `look`: asks how the workers are. Raises `ApiError`.
    """
    ids = {queue["id"]: queue["name"] for queue in api.call("queues.get_all", only_fields=["id", "name"])["queues"]}
    [home] = api.call("projects.get_all", name=f"^{project}$", only_fields=["id"])["projects"]
    found = Covered(workers, _ran(api, home["id"], ids))
    for _ in range(ROUNDS):
        states = look()
        found.left = busy(states, (each.task for each in found.ran))
        reporting = {name: listens for name, listens in workers.items() if name in {each.name for each in states}}
        sent = wanted(reporting, found.left, found.ran, queues)
        if not sent:
            break
        tell(f"agents: {len(sent)} tasks in {', '.join(dict.fromkeys(sent))}")
        by_name = {name: number for number, name in ids.items()}
        tasks = [_send(api, home["id"], by_name[queue]) for queue in sent if queue in by_name]
        if not _wait(api, tasks):  # who is idle has taken what it takes
            found.ran = _ran(api, home["id"], ids)
            break
        found.ran = _ran(api, home["id"], ids)
    return found


def _send(api: ClearmlApi, project: str, queue: str) -> str:
    task = api.call(
        "tasks.create",
        name=NAME,
        type="testing",
        project=project,
        script={
            "diff": SCRIPT,
            "entry_point": "check.py",
            "working_dir": ".",
            "binary": "python3",
            "requirements": {"pip": ""},
        },
    )["id"]
    api.call("tasks.enqueue", task=task, queue=queue)
    return str(task)


def _wait(api: ClearmlApi, tasks: Sequence[str]) -> bool:
    """Wait for the tasks' end; return whether all were taken. What nobody takes is taken out of its queue again."""
    begun = time.monotonic()
    while True:
        states = api.call("tasks.get_all", id=list(tasks), only_fields=["id", "status"])["tasks"]
        waiting = [task["id"] for task in states if task["status"] == "queued"]
        open_ones = [task["id"] for task in states if task["status"] in WAITING]
        passed = time.monotonic() - begun
        if waiting and len(waiting) == len(open_ones) and passed > TAKE_S:
            for task in waiting:
                api.call("tasks.dequeue", task=task)
            return False
        if not open_ones or passed > RUN_S:
            return not open_ones
        time.sleep(POLL_S)


def _ran(api: ClearmlApi, project: str, queues: Mapping[str, str]) -> list[Ran]:
    tasks: list[dict[str, Any]] = api.call(
        "tasks.get_all",
        project=[project],
        order_by=["created"],
        only_fields=["id", "name", "status", "last_worker", "execution.queue"],
    )["tasks"]
    return [
        Ran(
            task["id"],
            task["name"],
            queues.get((task.get("execution") or {}).get("queue") or "", ""),
            task["last_worker"],
            task["status"],
            latency(api, task["id"]),
        )
        for task in tasks
        if task.get("last_worker")
    ]
