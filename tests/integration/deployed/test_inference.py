"""The inference service: its own key and account, a model of the followed project, and what it keeps."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest

from provision.credentials import ensure
from provision.spec import AGENT_USER

pytestmark = pytest.mark.deployed

CONF, SERVICE = Path("/etc/testbed/inference.conf"), "testbed-inference"
JOURNALS = Path("/var/lib/testbed/inference/answers")


@pytest.fixture
def health(testbed):
    """A function that asks for the service's health."""
    url = f"http://127.0.0.1:{testbed.inference.port}/health"

    def ask():
        try:
            return httpx.get(url, timeout=30).json()
        except httpx.TransportError:
            return {"problem": "does not answer"}

    return ask


def test_it_runs_as_nobody_else_with_a_key_of_its_own(testbed, pid_of, health, eventually):
    owner = pwd.getpwuid(CONF.stat().st_uid).pw_name
    assert (CONF.stat().st_mode & 0o777, owner) == (0o600, "clearml-inference")
    key = ensure.parse_key(CONF.read_text())
    assert ensure.works(testbed.server.url("api"), key, AGENT_USER)
    process = psutil.Process(pid_of(SERVICE))
    assert process.username() == "clearml-inference"
    assert not any(key.secret_key in word for word in process.cmdline())
    eventually("it follows", lambda: health()["problem"] in (None, "no published model yet"), 120)


def test_it_comes_back_after_a_kill(pid_of, health, eventually):
    killed = pid_of(SERVICE)
    os.kill(killed, signal.SIGKILL)
    eventually("another process", lambda: pid_of(SERVICE) not in (0, killed), 60)
    eventually("it follows", lambda: health()["problem"] in (None, "no published model yet"), 120)


MAKE = """
import sys, tempfile
from pathlib import Path
import numpy as np
from clearml import Task
from tensorflow import keras
from workload.registered import register
from workload.scaler import Scaler
task = Task.init("rapp_examples", "made by a test", output_uri=True, auto_connect_frameworks=False)
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, activation="softmax", use_bias=False)])
model.set_weights([np.array([[5.0, -5.0]])])
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "model.keras")
    model.save(path)
    found = register(task, path, "made by a test", Scaler(["a"], [0.0], [0.0], [1.0]), ["yes", "no"])
task.close()
print("MODEL", task.id, found.id)
"""


@pytest.mark.long
def test_what_is_published_answers_and_is_kept_and_the_one_before_comes_back(
    testbed, api, health, eventually, tmp_path
):
    before = health()["model"]
    conf = Path(f"~{testbed.users[0].name}/clearml.conf").expanduser()
    done = subprocess.run(
        ["/opt/testbed/venvs/prepared/bin/python", "-I", "-c", MAKE],
        env={**os.environ, "HOME": str(tmp_path), "CLEARML_CONFIG_FILE": str(conf)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    task, model = next(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("MODEL"))
    try:
        api.call("models.set_ready", model=model, force_publish_task=False, publish_task=False)
        eventually("it answers", lambda: (health()["model"] or {}).get("id") == model, 120)
        url = f"http://127.0.0.1:{testbed.inference.port}/predict"
        answer = httpx.post(url, json={"rows": [{"a": 1}]}, timeout=60).json()
        assert (answer["model"]["id"], answer["predictions"][0]["label"]) == (model, "yes")
        last = json.loads(sorted(JOURNALS.iterdir())[-1].read_text().splitlines()[-1])
        assert (last["rows"], last["predictions"]) == ([{"a": 1}], answer["predictions"])
        assert JOURNALS.stat().st_mode & 0o777 == 0o700
    finally:
        api.call("models.delete", model=model, force=True)
        api.call("tasks.delete", task=task, force=True)
    if before:
        eventually("the one before", lambda: health()["model"] == before, 120)
