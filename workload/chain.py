"""The workloads as ClearML tasks: ingest here, then prepare, train, evaluate and consume on an agent."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator

from workload.errors import ServerError
from workload.influx import InfluxDB
from workload.ingest import Wanted, ingest
from workload.server import need_queue
from workload.step import FAILED

LOG = logging.getLogger(__name__)

POLL = 1.0  # s between two looks at a task
LOG_LINES = 30  # of a failed task, shown to the user
# step -> task type, and the hyper-parameters that say whose results it takes; the radio map has the same
STEPS = {
    "prepare": ("data_processing", {"dataset_id": "ingest"}),
    "train": ("training", {"prepare_task_id": "prepare"}),
    "evaluate": ("testing", {"prepare_task_id": "prepare", "train_task_id": "train"}),
    "consume": ("inference", {"prepare_task_id": "prepare", "evaluate_task_id": "evaluate"}),
}


@dataclass(frozen=True)
class Result:
    """A finished step. `details` are its single values; of a failed one, `log` holds the end of its console."""

    step: str
    status: str
    seconds: float
    id: str
    url: str
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return self.status == "completed"


def run_chain(database: InfluxDB, wanted: Wanted, queue: str, timeout: float) -> Iterator[Result]:
    """Yield the result of each step; the first that is not completed is the last. `timeout` in s is for all of them."""
    need_queue(queue)
    began = time.monotonic()
    version = ingest(database, wanted)
    details = {"rows": version.rows, "new_rows": version.new_rows, "version": version.version}
    first = Result("ingest", "completed", time.monotonic() - began, version.id, version.url, details)
    yield from _run_steps("", wanted.project, first, queue, timeout)


def run_radio(
    project: str, dataset: str, file: Path | None, points: int, seed: int, queue: str, timeout: float
) -> Iterator[Result]:
    """As `run_chain`, of the radio map. file: CSV of measurements, or None for `points` that are generated."""
    from workload.radio.ingest import ingest as ingest_radio

    need_queue(queue)
    began = time.monotonic()
    version = ingest_radio(project, dataset, file, points, seed)
    details = {"rows": version.rows, "version": version.version}
    first = Result("ingest", "completed", time.monotonic() - began, version.id, version.url, details)
    yield from _run_steps("radio", project, first, queue, timeout)


def create(workload: str, project: str, step: str) -> Any:
    """A task in draft that runs a step on an agent, with the step's own hyper-parameters. workload: "" or "radio"."""
    package = f"workload.{workload}" if workload else "workload"
    script = f"from {package} import {step}\nfrom workload.step import run\n\nrun({step}.main)\n"
    return _create(project, f"{workload} {step}".strip(), STEPS[step][0], script)


def _run_steps(workload: str, project: str, first: Result, queue: str, timeout: float) -> Iterator[Result]:
    yield first
    timeout -= first.seconds
    ids, parent = {"ingest": first.id}, first.id
    for step, (_, inputs) in STEPS.items():
        task = create(workload, project, step)
        task.set_parameters({f"General/{name}": ids[source] for name, source in inputs.items()})
        task.set_parent(parent)
        ids[step] = parent = task.id
        result = _run(task, step, queue, timeout)
        timeout -= result.seconds
        yield result
        if not result.ok:
            return


def run_probe(project: str, queue: str, package: str, timeout: float) -> Result:
    """Run a task that needs `package` (NAME==VERSION) on a queue whose agents honour a task's own requirements."""
    name, equals, version = package.partition("==")
    if not (name and equals and version):
        raise ServerError(f"--package {package}: expected NAME==VERSION")
    need_queue(queue)
    script = (
        "from importlib.metadata import version\n\n"
        f"found = version({name!r})\n"
        f"print({name!r}, found)\n"
        f"raise SystemExit(found != {version!r})\n"
    )
    task = _create(project, "probe", "custom", script)
    task.set_packages([package])
    return _run(task, "probe", queue, timeout)


def _create(project: str, name: str, kind: str, script: str) -> Any:
    from clearml import Task

    task = Task.create(project_name=project, task_name=name, task_type=kind)
    task.set_script(working_dir=".", entry_point=f"{name.replace(' ', '_')}.py", diff=script)
    task.output_uri = True  # else what it makes would be registered as files of the agent's host
    return task


def _run(task: Any, step: str, queue: str, timeout: float) -> Result:
    """Enqueue the task and wait for its end. One that nobody takes within the time is taken out of the queue again."""
    from clearml import Task

    began = time.monotonic()
    Task.enqueue(task, queue_name=queue)
    LOG.info("%s: task %s in queue %s", step, task.id, queue)
    url = str(task.get_output_log_web_page())
    status = "queued"
    # None: this call failed. With a token that the server takes no more, the SDK logs in again, for the next call
    while status in ("queued", "in_progress", "None"):
        if time.monotonic() - began > timeout:
            if status == "queued":
                Task.dequeue(task)
                reason = f"no agent took it from queue {queue} in {timeout:.0f} s: check that one serves the queue"
            else:
                reason = f"still running after {timeout:.0f} s: see {url}"
            return Result(step, "timeout", time.monotonic() - began, task.id, url, {"reason": reason})
        time.sleep(POLL)
        status = str(task.get_status())
    seconds = time.monotonic() - began
    if status == "completed":
        return Result(step, status, seconds, task.id, url, task.get_reported_single_values())
    task.reload()
    lines = [line for report in task.get_reported_console_output(number_of_reports=10) for line in report.splitlines()]
    return Result(step, status, seconds, task.id, url, _why(task.data.script.entry_point, lines, task.data))


def _why(script: str, lines: list[str], data: Any) -> dict[str, Any]:
    """Why a task failed: what its step has said of it (`workload.step.run`), else the end of its console.

    An agent writes over the status what it has itself to say, once it has sent all of the console.
    """
    if data.status_reason == FAILED and data.status_message:
        return {"reason": data.status_message}
    said = [line for line in lines if line.startswith(f"{script}: ")]
    if said:
        return {"reason": said[-1].partition(": ")[2]}
    return {"reason": data.status_reason or "", "log": lines[-LOG_LINES:]}
