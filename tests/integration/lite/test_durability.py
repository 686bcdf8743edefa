"""What was acknowledged is there after SIGKILL, whatever the server was doing."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx

TRAINING = """
import time
from clearml import Task

task = Task.init("proj/durable", "training", auto_connect_frameworks=False, auto_connect_arg_parser=False)
for epoch in range(40):
    print("epoch", epoch, flush=True)
    task.get_logger().report_scalar("loss", "train", iteration=epoch, value=epoch)
    time.sleep(0.1)
task.upload_artifact("result", {"epochs": 40}, wait_on_upload=True)
task.close()
"""

KILLS = 4
WRITERS = 4


class Writer(threading.Thread):
    """Sends batches of scalars until it is told to stop; remembers those that were acknowledged."""

    def __init__(self, url: str, token: str, task: str, number: int) -> None:
        super().__init__()
        self.url, self.task, self.metric = url, task, f"writer {number}"
        self.headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json-lines"}
        self.acknowledged: set[int] = set()
        self.refused: list[str] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        iteration = 0
        with httpx.Client(headers=self.headers, timeout=5) as client:
            while not self.stopping.is_set():
                batch = range(iteration, iteration + 20)
                event = {"type": "training_stats_scalar", "task": self.task, "metric": self.metric, "variant": "v"}
                lines = "\n".join(json.dumps(event | {"iter": number, "value": number}) for number in batch)
                with contextlib.suppress(httpx.TransportError):
                    answer = client.post(f"{self.url}/events.add_batch", content=lines)
                    if answer.status_code == 200:
                        self.acknowledged.update(batch)
                    else:
                        self.refused.append(answer.text)
                iteration += 20


def test_no_acknowledged_event_is_lost(make_server: Callable[[], Any]) -> None:
    server = make_server()
    server.start()
    task = server.call("tasks.create", {"name": "durable", "type": "training"})["id"]
    token = server.token()
    writers = [Writer(server.urls["api"], token, task, number) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    moments = random.Random(7)
    for _ in range(KILLS):
        until = sum(len(writer.acknowledged) for writer in writers) + moments.randrange(200, 1500)
        while sum(len(writer.acknowledged) for writer in writers) < until:
            assert any(writer.is_alive() for writer in writers)
        server.stop(signal.SIGKILL)
        server.start()
    for writer in writers:
        writer.stopping.set()
        writer.join()
    metrics = server.call("events.scalar_metrics_iter_histogram", {"task": task, "samples": 1_000_000})
    for writer in writers:
        curve = metrics[writer.metric]["v"]
        assert writer.refused == []
        assert curve["x"] == curve["y"]
        assert writer.acknowledged <= set(curve["x"])


def test_a_training_goes_on_after_the_server_was_killed(make_server: Callable[[], Any]) -> None:
    server = make_server()
    server.start()
    conf = server.client_conf()
    script = server.folder / "training.py"
    script.write_text(TRAINING)
    environment = os.environ | {"CLEARML_CONFIG_FILE": str(conf), "HOME": str(server.folder)}
    log = server.folder / "training.log"
    with log.open("wb") as output:
        training = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=output, stderr=output)
    while "epoch 10\n" not in log.read_text():
        assert training.poll() is None, log.read_text()
        time.sleep(0.01)
    server.stop(signal.SIGKILL)
    server.start()
    assert training.wait(120) == 0, log.read_text()
    (task,) = server.call("tasks.get_all", {"name": "^training$"})["tasks"]
    curve = server.call("events.scalar_metrics_iter_histogram", {"task": task["id"]})["loss"]["train"]
    assert curve["x"] == curve["y"] == list(range(40))
    assert task["status"] == "completed"
    assert [artifact["key"] for artifact in task["execution"]["artifacts"]] == ["result"]


def test_an_upload_is_whole_or_not_there(make_server: Callable[[], Any]) -> None:
    server = make_server()
    server.start()
    headers = {"Authorization": f"Bearer {server.token()}"}
    url = server.urls["files"]
    stored = httpx.post(url, files={"/a/model.bin": b"old" * 1000}, headers=headers)
    assert stored.json() == ["a/model.bin"]
    begun = threading.Event()

    def body() -> Any:
        yield b'--edge\r\nContent-Disposition: form-data; name="/a/model.bin"; filename="m"\r\n\r\n'
        for _ in range(20):
            yield b"new" * 10_000
        begun.set()
        yield b"new" * 10_000
        threading.Event().wait(0.2)
        yield b"new"

    def upload() -> None:
        with contextlib.suppress(httpx.TransportError):
            multipart = {"Content-Type": "multipart/form-data; boundary=edge"}
            httpx.post(url, content=body(), headers=headers | multipart)

    uploading = threading.Thread(target=upload)
    uploading.start()
    begun.wait(10)
    server.stop(signal.SIGKILL)
    uploading.join()
    server.start()
    assert httpx.get(f"{url}/a/model.bin", headers=headers).content == b"old" * 1000
    assert list((server.folder / "data" / "arriving").iterdir()) == []
