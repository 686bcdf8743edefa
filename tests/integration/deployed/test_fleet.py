"""Drained workers finish what they run and take nothing else, whatever happens, until they are undrained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.deployed

WORKER, SERVICE = "local:prepared", "testbed-agent-prepared"
# an agent looks into its queues every second or two
SEVERAL_LOOKS_S = 10


@pytest.fixture
def undrained(command):
    yield
    done = command("undrain")
    assert done.returncode == 0, done.stderr


def _workers(done: subprocess.CompletedProcess[str]) -> dict[str, dict]:
    assert done.returncode == 0, done.stdout + done.stderr
    return {worker["name"]: worker for worker in json.loads(done.stdout)["workers"]}


@pytest.mark.long
def test_a_drained_worker_finishes_its_task_and_takes_no_other(command, enqueue, status_of, eventually, undrained):
    first = enqueue(90)
    eventually("the first task runs", lambda: status_of(first) == "in_progress", 60)
    second = enqueue(0)
    worker = _workers(command("drain", "prepared", "--json"))[WORKER]
    assert (worker["state"], worker["task"]) == ("finishing", first)
    given_up = command("drain", WORKER, "--wait", "--timeout", "0", "--json")
    assert given_up.returncode == 1, "it runs a task, and the time is over"
    assert status_of(first) == "in_progress"
    waited = _workers(command("drain", WORKER, "--wait", "--json"))[WORKER]
    assert waited["state"] == "drained"
    assert waited["since"] == worker["since"], "drained again, it is drained since the first time"
    assert status_of(first) == "completed"
    time.sleep(SEVERAL_LOOKS_S)
    assert status_of(second) == "queued"
    assert _workers(command("undrain", WORKER, "--json"))[WORKER]["state"] == "working"
    eventually("the second task is taken", lambda: status_of(second) == "completed", 60)


@pytest.mark.long
def test_a_worker_stays_drained_over_a_kill_and_up(command, enqueue, status_of, eventually, undrained, pid_of):
    assert _workers(command("drain", WORKER, "--wait", "--json"))[WORKER]["state"] == "drained"
    waits = enqueue(0)
    killed = pid_of(SERVICE)
    os.kill(killed, signal.SIGKILL)
    eventually("the agent is back", lambda: pid_of(SERVICE) not in (0, killed), 60)
    done = command("up", "--yes", "--json")
    assert "changed=0" in done.stderr, "an order is no change that `up` takes back"
    again = _workers(command("drain", WORKER, "--wait", "--timeout", "60", "--json"))[WORKER]
    assert again["state"] == "drained"
    assert status_of(waits) == "queued"
    told = {worker["name"]: worker for worker in json.loads(command("status", "--json").stdout)["workers"]}
    assert told[WORKER]["drained"] == again["since"]
    assert told["local:default"]["drained"] is None
    assert command("undrain", "--json").returncode == 0
    eventually("the task is taken", lambda: status_of(waits) == "completed", 60)


@pytest.mark.long
def test_smoke_says_that_a_queues_only_worker_is_drained_and_does_not_wait(command, undrained):
    since = _workers(command("drain", WORKER, "--wait", "--json"))[WORKER]["since"]
    done = command("smoke", "--json")
    assert done.returncode == 1, done.stdout + done.stderr
    failed = {check["message"] for check in json.loads(done.stdout)["checks"] if check["result"] == "failed"}
    assert failed
    for message in failed:
        assert f"{WORKER}, drained since {since}" in message
        assert f"testbed undrain {WORKER}" in message


def test_a_name_that_nobody_has_changes_nothing(command):
    done = command("drain", "prepared", "nobody")
    assert done.returncode == 2
    assert "nobody is no agent host and no worker" in done.stderr
    assert not Path("/etc/testbed/drained", SERVICE).exists()
