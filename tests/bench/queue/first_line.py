"""From enqueue to the first line of user code, on a queue of prepared environments: the median of some tasks.

    .venv/bin/python -P -m tests.bench.queue.first_line [--conf ~/clearml.conf] [--queue prepared] [--rounds 20]

With --conf it measures the testbed that the conf reaches; without, a clearml_lite and a clearml-agent of its own on
this machine. One task at a time, to an idle agent, after a random pause: so a task waits from nothing to one poll. The
agent looks into its queues every POLL s (its default). The first line of the task writes the time of its host; so
hosts' clocks count.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

POLL = 5.0  # s between two looks of clearml-agent: its default, and the least without CLEARML_AGENT_QUEUE_POLL_FREQ_SEC
LIMIT = 300.0  # s for one task
SCRIPT = """import time

print("FIRST LINE", time.time())
"""


def first_line(log: str) -> float | None:
    """The time (s since the epoch) that the task's first line has printed, or None."""
    for line in log.splitlines():
        if line.startswith("FIRST LINE "):
            return float(line.split()[2])
    return None


def summary(waits: list[float], poll: float) -> str:
    """The figures, as a row of a table."""
    median = statistics.median(waits)
    return (
        f"| {len(waits)} | {median:.1f} s | {min(waits):.1f} s | {max(waits):.1f} s | {poll:.0f} s |"
        f" {max(median - poll, 0):.1f} s |"
    )


def one(Task: Any, project: str, queue: str) -> float:
    """Seconds from enqueue to the first line of one task. Raises TimeoutError."""
    task = Task.create(project_name=project, task_name="first line", task_type="testing")
    task.set_script(working_dir=".", entry_point="first_line.py", diff=SCRIPT)
    began = time.time()
    Task.enqueue(task, queue_name=queue)
    limit = time.monotonic() + LIMIT
    while time.monotonic() < limit:
        time.sleep(0.5)
        if task.get_status() in ("completed", "failed", "stopped"):
            task.reload()
            found = first_line("".join(task.get_reported_console_output(number_of_reports=20)))
            task.delete(raise_on_error=False)
            if found is None:
                raise RuntimeError(f"task {task.id} has ended and did not print its line")
            return found - began
    raise TimeoutError(f"task {task.id} has not ended in {LIMIT:.0f} s: does an agent serve {queue}?")


@contextlib.contextmanager
def own_stack() -> Iterator[tuple[Path, str]]:
    """A clearml_lite and a clearml-agent: a conf, and the agent's queue."""
    from tests.integration.conftest import LiteServer
    from tests.integration.workload.conftest import running_agent

    folder = Path(tempfile.mkdtemp(prefix="bench-queue-"))
    (folder / "lite").mkdir()
    server = LiteServer(folder / "lite")
    server.start()
    try:
        with running_agent(server, folder) as queue:
            yield server.client_conf("bench"), queue
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", type=Path, help="clearml.conf of the testbed (default: a stack of the bench's own)")
    parser.add_argument("--queue", default="prepared", help="default: %(default)s")
    parser.add_argument("--project", default="bench", help="ClearML project (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    chance = random.Random(1)
    with contextlib.ExitStack() as stack:
        conf, queue = (given.conf, given.queue) if given.conf else stack.enter_context(own_stack())
        os.environ["CLEARML_CONFIG_FILE"] = str(conf.expanduser())
        from clearml import Task

        one(Task, given.project, queue)  # the first one on a host unpacks and compiles
        waits = []
        for number in range(given.rounds):
            time.sleep(chance.uniform(1, 1 + POLL))
            waits.append(one(Task, given.project, queue))
            print(f"{number + 1:3} {waits[-1]:6.2f} s", file=sys.stderr, flush=True)
    print("| tasks | median | least | most | polling interval | median beyond the poll |")
    print("| --- | --- | --- | --- | --- | --- |")
    print(summary(waits, POLL))


if __name__ == "__main__":
    main()
