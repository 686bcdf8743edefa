"""The service with a real server and real Keras models: it follows what is published, and refuses what was changed."""

import json
import subprocess
import sys
import threading
import time

import httpx
import pytest

from tests.integration.conftest import free_ports
from tests.integration.workload.conftest import environment

pytestmark = pytest.mark.long

MAKE = """
import sys, tempfile
from pathlib import Path
import numpy as np
from clearml import Task
from tensorflow import keras
from workload.registered import register
from workload.scaler import Scaler
task = Task.init("served", "make", output_uri=True, reuse_last_task_id=False, auto_connect_frameworks=False)
with tempfile.TemporaryDirectory() as folder:
    for number in range(2):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="softmax", use_bias=False)])
        weights = np.array([[5.0, -5.0], [0.0, 0.0]]) * (-1) ** number
        model.set_weights([weights])
        path = Path(folder, f"model{number}.keras")
        model.save(path)
        scaler = Scaler(["a", "b"], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0])
        found = register(task, path, "rapp_model", scaler, ["yes", "no"])
        expected = model.predict(np.array([[1.0, 0.0]]), verbose=0)[0].tolist()
        print("MODEL", found.id, expected)
task.close()
"""


@pytest.fixture(scope="module")
def models(server, conf):
    """IDs of two registered models that are not published, each with what it gives for a=1."""
    said = server.run_python(MAKE, conf, timeout=600)
    lines = [line.split(" ", 2) for line in said.splitlines() if line.startswith("MODEL ")]
    return [(line[1], json.loads(line[2])) for line in lines]


@pytest.fixture
def service(conf, tmp_path):
    (port,) = free_ports(1)
    command = ["--project=served", f"--port={port}", f"--folder={tmp_path / 'answers'}", "--poll=0.5"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "workload.serve", *command],
            env=environment(tmp_path, conf),
            cwd=tmp_path,
            stdout=log,
            stderr=log,
        )
    http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
    wait_for(http, bool)
    yield http, tmp_path
    process.terminate()
    assert process.wait(60) == 0, (tmp_path / "log").read_text()


def wait_for(http, wanted):
    """The health, once it is as wanted."""
    limit = time.monotonic() + 300
    while True:
        try:
            found = http.get("/health").json()
            if wanted(found):
                return found
        except httpx.TransportError:
            found = None
        assert time.monotonic() < limit, found
        time.sleep(0.2)


def publish(server, model):
    if not server.call("models.get_by_id", {"model": model})["model"].get("ready"):
        server.call("models.set_ready", {"model": model, "force_publish_task": False, "publish_task": False})


def test_it_follows_what_is_published_drops_nothing_and_refuses_what_was_changed(server, models, service):
    http, folder = service
    (first, of_first), (second, of_second) = models
    wait_for(http, lambda found: found["problem"] == "no published model yet")
    assert http.post("/predict", json={"rows": [{"a": 1}]}).status_code == 503

    publish(server, first)
    wait_for(http, lambda found: found["model"] and found["model"]["id"] == first)
    answers, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            answers.append(http.post("/predict", json={"rows": [{"a": 1, "b": "0"}]}))

    asking = threading.Thread(target=ask)
    asking.start()
    publish(server, second)
    wait_for(http, lambda found: found["model"]["id"] == second)
    seen = len(answers)
    while len(answers) < seen + 5:
        time.sleep(0.05)
    stop.set()
    asking.join(60)
    assert {answer.status_code for answer in answers} == {200}
    expected = {first: of_first, second: of_second}
    for answer in answers:
        found = answer.json()
        row = found["predictions"][0]["probabilities"]
        assert list(row.values()) == pytest.approx(expected[found["model"]["id"]], abs=1e-5)
    assert {answer.json()["model"]["id"] for answer in answers} == {first, second}
    (journal,) = (folder / "answers").iterdir()
    assert len(journal.read_text().splitlines()) == len(answers)


def test_a_file_that_was_changed_on_the_server_is_refused(server, models, service):
    http, _ = service
    publish(server, models[1][0])
    wait_for(http, lambda found: found["model"])
    one, other = (server.call("models.get_by_id", {"model": model})["model"] for model, _ in models)
    kept = {name: one[name] for name in ("name", "project", "labels", "design", "framework")}
    made = server.call("models.create", {**kept, "uri": other["uri"], "ready": True})["id"]
    found = wait_for(http, lambda found: found["problem"])
    assert f"the file of model {made} is not what was registered" in found["problem"]
    assert found["model"]["id"] == models[1][0]
    assert http.post("/predict", json={"rows": [{"a": 1}]}).status_code == 200
