"""The radio map's chain on the testbed that is up, as its first user runs it: each step by an agent of `prepared`."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from provision.clearml_api import ClearmlApi
from provision.smoke import project

pytestmark = [pytest.mark.deployed, pytest.mark.long]

NAME = "radio map test"
STEPS = ["ingest", "prepare", "train", "evaluate", "consume"]


@pytest.fixture(scope="module")
def own_project(testbed, secrets):
    yield NAME
    with ClearmlApi(testbed.server.url("api"), secrets.toolkit) as api, httpx.Client(timeout=30) as http:
        project.remove(api, http, testbed.server.url("files"), NAME)


def _run(testbed, *arguments: str) -> subprocess.CompletedProcess[str]:
    user = testbed.users[0].name
    command = f"~{user}/clearml-venv/bin/testbed-workload radio --queue {testbed.agents.prepared_queue} --json-lines"
    return subprocess.run(
        ["runuser", "-l", user, "-c", " ".join([command, *arguments])],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_radio_chain_runs_to_its_end_on_the_agent(testbed, api, own_project):
    done = _run(testbed, f"--project '{own_project}'", "--timeout 1500")
    assert done.returncode == 0, done.stdout + done.stderr
    found = {record["step"]: record for record in map(json.loads, done.stdout.splitlines())}
    assert list(found) == STEPS
    assert found["evaluate"]["details"]["Test RMSE"] < 0.6 * found["evaluate"]["details"]["Mean Predictor RMSE"]
    assert found["consume"]["details"]["Largest Difference"] < 1e-5
    for step in STEPS[1:]:
        task = api.call("tasks.get_by_id", task=found[step]["id"])["task"]
        assert (task["status"], task["last_worker"].partition(":")[2]) == ("completed", "prepared")


@pytest.fixture
def few(testbed):
    """Measurements of the user's that no signal reached."""
    user = testbed.users[0].name
    file = Path(f"~{user}/few.csv").expanduser()
    file.write_text("X(m),Y(m),Path Loss (dB)\n1,1,250\n2,2,250\n3,3,250\n")
    shutil.chown(file, user)
    yield file
    file.unlink()


def test_a_step_that_fails_on_the_agent_says_why_in_one_line(testbed, own_project, few):
    done = _run(testbed, f"--project '{own_project}'", f"--csv {few}", "--dataset few", "--timeout 900")
    assert done.returncode == 1
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["step"], last["status"]) == ("prepare", "failed")
    why = "0 rows with a signal cannot be split with train_share 0.7 and validation_share 0.15"
    assert last["details"] == {"reason": why}
    assert done.stderr.splitlines()[-1] == why
