"""The workload on a server that no testbed belongs to: the tasks carry its code, and the data are generated."""

from __future__ import annotations

import base64
import functools
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.clearml_api import ClearmlApi
from provision.errors import ApiError
from provision.paths import ROOT
from provision.smoke.problem import Broken
from provision.smoke.target import Target

# step -> task type, and the hyper-parameters that say whose results it takes
STEPS: dict[str, tuple[str, dict[str, str]]] = {
    "generate": ("data_processing", {}),
    "prepare": ("data_processing", {"dataset_id": "dataset"}),
    "train": ("training", {"prepare_task_id": "prepare"}),
    "evaluate": ("testing", {"prepare_task_id": "prepare", "train_task_id": "train"}),
    "consume": ("inference", {"prepare_task_id": "prepare", "evaluate_task_id": "evaluate"}),
}
PACKAGES = ("clearml", "numpy", "pandas", "pyarrow", "requests", "scikit-learn", "tensorflow-cpu")
MODULES = ("clearml", "numpy", "pandas", "pyarrow", "requests", "sklearn", "tensorflow")
WAIT_S = 900  # for an agent to take a task
RUN_S = 1800  # an agent may have to build an environment first
POLL_S = 1.0
LOG_LINES = 15
SCRIPT = """# The reference workload of the testbed toolkit, which this task carries with it.
import atexit, base64, shutil, sys, tempfile
from pathlib import Path

folder = tempfile.mkdtemp()
atexit.register(shutil.rmtree, folder, True)
code = Path(folder, "workload.zip")
code.write_bytes(base64.b64decode("{code}"))
sys.path.insert(0, str(code))
from workload import {step}

{step}.main()
"""
# which of the modules a Python does not have
LACKS = "import importlib.util as u, sys; print(*[name for name in sys.argv[1:] if not u.find_spec(name)])"


@dataclass(frozen=True)
class Done:
    """A step that came to an end: its task, how it ended, why, and how long it took."""

    id: str
    status: str
    reason: str
    seconds: float


@functools.cache
def python() -> str | None:
    """Return the Python that has what training needs: this command's, or `python3` of the PATH, as in a venv."""
    for each in (sys.executable, shutil.which("python3")):
        if each and _lacks(each) == "":
            return each
    return None


def _lacks(path: str) -> str | None:
    done = subprocess.run([path, "-P", "-c", LACKS, *MODULES], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else None


def left_out(target: Target) -> str:
    """Return why nothing can be trained with this server; empty where it can."""
    if target.queues or python():
        return ""
    return (
        f"training: no --queue is named, and neither this command's Python nor python3 has all of "
        f"{', '.join(MODULES)}. Name the queue of an agent, or start this from a virtual environment that has them."
    )


def script(step: str) -> str:
    """Return the text of a step's task: the workload's code as it is here, and a call of it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((ROOT / "workload").glob("*.py")):
            archive.writestr(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    return SCRIPT.format(code=base64.b64encode(packed.getvalue()).decode(), step=step)


def run(api: ClearmlApi, target: Target, project: str, tell: Callable[[str], None]) -> dict[str, Done]:
    """Run the steps one after the other, on the target's queue or here; the first that fails is the last.

    Raises `ApiError`, and `Broken` where the queue is not there or a step's result is not.
    """
    queue = _queue(api, target.queues[0]) if target.queues else None
    [home] = api.call("projects.get_all", name=f"^{project}$", only_fields=["id"])["projects"]
    found: dict[str, Done] = {}
    ids: dict[str, str] = {}
    for step, (kind, inputs) in STEPS.items():
        given = {name: ids[source] for name, source in inputs.items()}
        task = _create(api, home["id"], step, kind, given, target.url("files"))
        tell(f"workload: {step} " + (f"in queue {target.queues[0]}" if queue else "here"))
        began = time.monotonic()
        reason = _on_queue(api, task, queue) if queue else _here(api, task, step, target)
        ended = api.call("tasks.get_by_id", task=task)["task"]
        ids[step] = task
        found[step] = Done(task, str(ended["status"]), reason, round(time.monotonic() - began, 1))
        if ended["status"] != "completed":
            break
        if step == "generate":
            ids["dataset"] = _dataset(ended)
    return found


def _queue(api: ClearmlApi, name: str) -> str:
    for queue in api.call("queues.get_all", only_fields=["id", "name"])["queues"]:
        if queue["name"] == name:
            return str(queue["id"])
    raise Broken(f"there is no queue {name}", expected=f"queue {name}", remedy="Name another with --queue.")


def _dataset(task: Mapping[str, Any]) -> str:
    found = ((task.get("hyperparams") or {}).get("General") or {}).get("dataset_id")
    if not found:
        raise Broken(f"task {task['id']} has completed, and does not say which dataset it made: the server lost it")
    return str(found["value"])


def _create(api: ClearmlApi, project: str, step: str, kind: str, inputs: Mapping[str, str], files: str) -> str:
    parameters = {
        name: {"section": "General", "name": name, "value": value, "type": "str"} for name, value in inputs.items()
    }
    return str(
        api.call(
            "tasks.create",
            name=step,
            type=kind,
            project=project,
            script={
                "diff": script(step),
                "entry_point": f"{step}.py",
                "working_dir": ".",
                "binary": "python3",
                "requirements": {"pip": "\n".join(PACKAGES)},
            },
            hyperparams={"General": parameters} if parameters else {},
            output_dest=files,  # else what it makes would be registered as files of the agent's host
        )["id"]
    )


def _on_queue(api: ClearmlApi, task: str, queue: str) -> str:
    """Have an agent run the task; return why it did not complete."""
    api.call("tasks.enqueue", task=task, queue=queue)
    began = time.monotonic()
    while True:
        found = api.call("tasks.get_by_id", task=task)["task"]
        waited = time.monotonic() - began
        if found["status"] not in ("queued", "in_progress"):
            return _told(api, task, found)
        if found["status"] == "queued" and waited > WAIT_S:
            return f"no agent took it in {WAIT_S} s: check that one serves the queue, and what else waits in it"
        if waited > WAIT_S + RUN_S:
            return f"it still runs after {waited:.0f} s"
        time.sleep(POLL_S)


def _told(api: ClearmlApi, task: str, found: Mapping[str, Any]) -> str:
    if found["status"] == "completed":
        return ""
    events = api.call("events.get_task_log", task=task, batch_size=50, order="desc").get("events", [])
    lines = "".join(event.get("msg", "") + "\n" for event in reversed(events)).splitlines()[-LOG_LINES:]
    return "\n".join([found.get("status_message") or found.get("status_reason") or "", *lines]).strip()


def _here(api: ClearmlApi, task: str, step: str, target: Target) -> str:
    """Run the task in a Python of this machine, as an agent does; return why it did not complete."""
    api.call("tasks.started", task=task)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CLEARML_", "TRAINS_"))}
    with tempfile.TemporaryDirectory() as folder:  # the SDK keeps a copy of what it fetches
        environment |= {
            "CLEARML_CONFIG_FILE": str(Path(target.conf or "").absolute()),
            "CLEARML_TASK_ID": task,
            "CLEARML_CACHE_DIR": folder,
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        try:
            done = subprocess.run(
                [python() or sys.executable, "-"],
                input=script(step),
                env=environment,
                cwd=folder,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=RUN_S,
                check=False,
            )
            code, said = done.returncode, "\n".join((done.stdout + done.stderr).strip().splitlines()[-LOG_LINES:])
        except subprocess.TimeoutExpired:
            code, said = 1, f"it still runs after {RUN_S} s"
    try:
        api.call("tasks.failed" if code else "tasks.completed", task=task, status_reason="")
    except ApiError as error:
        if error.code != 400:  # it has told that itself
            raise
    return said if code else ""
