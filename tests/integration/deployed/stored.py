"""What a user of the testbed stores with the SDK, and whether it can be read."""

from __future__ import annotations

import pwd
import subprocess

from provision import spec

STORE = """
from clearml import Task
task = Task.init("tests of tls", "stores", output_uri=True, auto_resource_monitoring=False)
task.upload_artifact("numbers", {"a": [1, 2, 3]}, wait_on_upload=True)
task.close()
print("SAID", task.id, task.artifacts["numbers"].url)
"""
READ = """
from clearml import Task
print("SAID", Task.get_task(task_id="TASK").artifacts["numbers"].get())
"""


def _run(testbed: spec.Testbed, script: str) -> str:
    """Return what a script says that the testbed's first user runs in their environment, with their clearml.conf."""
    user = pwd.getpwnam(testbed.users[0].name)
    done = subprocess.run(
        [f"{user.pw_dir}/clearml-venv/bin/python", "-c", script],
        user=user.pw_uid,
        group=user.pw_gid,
        extra_groups=[],
        cwd=user.pw_dir,
        env={"HOME": user.pw_dir, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line.removeprefix("SAID ") for line in done.stdout.splitlines() if line.startswith("SAID ")]
    assert done.returncode == 0, done.stdout + done.stderr
    return said[0]


def store(testbed: spec.Testbed, files_url: str) -> str:
    """Return the task in which the user has stored something, under `files_url`."""
    task, url = _run(testbed, STORE).split()
    assert url.startswith(f"{files_url}/")
    return task


def is_there(testbed: spec.Testbed, task: str) -> bool:
    """Return whether the user reads back what is stored in `task`."""
    return _run(testbed, READ.replace("TASK", task)) == "{'a': [1, 2, 3]}"
