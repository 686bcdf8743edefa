"""What all steps begin with."""

from __future__ import annotations

import os
from typing import Any

# No screen on a host, whatever the user's shell says; and TensorFlow's start-up notes are not news
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

PROJECT = "rapp_examples"


def start(name: str, kind: str, parameters: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The ClearML task, and its hyper-parameters: what was set on the task goes before the defaults given here."""
    from clearml import Task

    task = Task.init(
        project_name=PROJECT,
        task_name=name,
        task_type=kind,
        output_uri=True,
        auto_connect_frameworks=False,  # what is reported is reported on purpose, once
        auto_connect_arg_parser=False,
        auto_resource_monitoring=False,
    )
    return task, task.connect(parameters)


def artifact(task_id: str, name: str) -> str:
    """Path of a local copy of another task's artifact. Raises ValueError when there is none."""
    from clearml import Task

    artifacts = Task.get_task(task_id=task_id).artifacts
    if name not in artifacts:
        raise ValueError(f"task {task_id} has no artifact {name!r} (it has: {', '.join(artifacts) or 'none'})")
    return str(artifacts[name].get_local_copy(raise_on_error=True))
