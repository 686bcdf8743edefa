"""An agent that died silently is restarted, and a task that it lost is queued again, once, and then fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from provision.credentials import ensure
from provision.paths import ROLES
from provision.spec import AGENT_USER

pytestmark = pytest.mark.deployed

CONFIG, LOG = Path("/etc/testbed/watchdog.json"), Path("/var/log/testbed/testbed-watchdog.log")
WORKER, SERVICE = "local:prepared", "testbed-agent-prepared"
# workers report every 30 s, tasks every 60 s; the installed one is three times as patient
SILENT_S = 65


@pytest.fixture
def impatient(tmp_path):
    """The watchdog with this testbed's settings, and less patience; its log."""
    settings = json.loads(CONFIG.read_text()) | {"silent_seconds": SILENT_S, "interval_seconds": 2}
    config, log = tmp_path / "watchdog.json", tmp_path / "log"
    config.touch(mode=0o600)
    config.write_text(json.dumps(settings | {"state": str(tmp_path / "state.json")}))
    with log.open("w") as file:
        program = [sys.executable, "-I", str(ROLES / "clearml_watchdog/files/watchdog.py"), "--config", str(config)]
        process = subprocess.Popen(program, stdout=file, stderr=file)
    yield log
    process.kill()
    process.wait()


def test_it_runs_with_a_key_of_its_own_that_nobody_else_can_read(testbed, eventually, pid_of):
    assert (CONFIG.stat().st_mode & 0o777, CONFIG.stat().st_uid) == (0o600, 0)
    settings = json.loads(CONFIG.read_text())
    key = ensure.parse_key(CONFIG.read_text())
    assert ensure.works(testbed.server.url("api"), key, AGENT_USER)
    assert settings["workers"] == {f"local:{name}": f"testbed-agent-{name}" for name in ("default", "prepared")}
    assert settings["looks_after_tasks"]
    assert pid_of("testbed-watchdog")
    eventually("it reaches the server", lambda: "looks after 2 workers" in LOG.read_text(), 60)
    assert key.secret_key not in LOG.read_text()


@pytest.mark.long
def test_an_agent_that_hangs_is_restarted(impatient, api, eventually, pid_of):
    hung = pid_of(SERVICE)
    os.kill(hung, signal.SIGSTOP)
    eventually("another agent", lambda: pid_of(SERVICE) not in (0, hung), 4 * SILENT_S)
    assert f"Restarts {SERVICE}: worker {WORKER}: it has not reported for" in impatient.read_text()
    assert "testbed-agent-default" not in impatient.read_text()

    def reports():
        return any(worker["id"] == WORKER for worker in api.call("workers.get_all", last_seen=20)["workers"])

    eventually("it reports", reports, 60)


@pytest.mark.long
def test_a_lost_task_is_queued_again_and_then_fails(impatient, api, testbed, eventually, pid_of):
    queue = api.call("queues.get_all", name=f"^{testbed.agents.prepared_queue}$")["queues"][0]["id"]
    script = {"binary": "python", "entry_point": "sleep.py", "working_dir": ".", "repository": "", "branch": ""}
    script |= {"diff": "import time\ntime.sleep(1200)\n", "requirements": {"pip": ""}}
    task = api.call("tasks.create", name="to be lost", type="testing", script=script)["id"]

    def found():
        return api.call("tasks.get_by_id", task=task)["task"]

    def taken():
        workers = api.call("workers.get_all", last_seen=0)["workers"]
        return any((worker.get("task") or {}).get("id") == task for worker in workers if worker["id"] == WORKER)

    try:
        api.call("tasks.enqueue", task=task, queue=queue)
        for time in ("first", "second"):
            eventually(f"taken, the {time} time", taken, 120)
            begun = found()["started"]
            os.kill(pid_of(SERVICE), signal.SIGKILL)
            if time == "first":
                eventually("begun again", lambda: found()["started"] != begun, 4 * SILENT_S)  # noqa: B023
        eventually("failed", lambda: found()["status"] == "failed", 4 * SILENT_S)
        assert found()["status_reason"] == "testbed watchdog"
        assert found()["status_message"] == f"its worker {WORKER} lost it, for the second time"
        said = [event["msg"] for event in api.call("events.get_task_log", task=task, order="asc")["events"]]
        assert any("the testbed's watchdog queues the task again" in line for line in said)
        assert f"Task {task} (to be lost) queued again" in impatient.read_text()
    finally:
        api.call("tasks.stop", task=task, force=True)
        api.call("tasks.delete", task=task, force=True)
