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
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from clearml_lite.check import check
from clearml_lite.config import load

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

KILLS = 10
CAMPAIGN = 200
LARGEST_FILE = 300_000


class Client(threading.Thread, ABC):
    """Writes one thing after the other until it is told to stop, and remembers what was acknowledged."""

    def __init__(self, server: Any, token: str, task: str, number: int) -> None:
        super().__init__()
        self.urls, self.task, self.name = server.urls, task, f"client {number}"
        self.headers = {"Authorization": f"Bearer {token}"}
        self.turn = 0
        self.acknowledged: list[int] = []
        self.wrong: list[str] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        with httpx.Client(headers=self.headers, timeout=60) as self.client:
            while not self.stopping.is_set():
                with contextlib.suppress(httpx.TransportError):
                    answer = self.once(self.turn)
                    if answer.status_code == 200:
                        self.acknowledged.append(self.turn)
                    else:
                        self.wrong.append(answer.text)
                self.turn += 1

    def call(self, endpoint: str, data: Any) -> httpx.Response:
        return self.client.post(f"{self.urls['api']}/{endpoint}", json=data)

    @abstractmethod
    def once(self, turn: int) -> httpx.Response:
        """Do what this client does, once."""

    @abstractmethod
    def lost(self, server: Any) -> list[Any]:
        """What was acknowledged and is not there, or is there and not whole."""


class Scalars(Client):
    """Batches of 20 scalars."""

    def once(self, turn: int) -> httpx.Response:
        event = {"type": "training_stats_scalar", "task": self.task, "metric": self.name, "variant": "v"}
        points = range(turn * 20, turn * 20 + 20)
        lines = "\n".join(json.dumps(event | {"iter": point, "value": point}) for point in points)
        return self.client.post(f"{self.urls['api']}/events.add_batch", content=lines)

    def lost(self, server: Any) -> list[Any]:
        curves = server.call("events.scalar_metrics_iter_histogram", {"task": self.task, "samples": 0})
        curve = curves.get(self.name, {}).get("v", {"x": [], "y": []})
        there = set(curve["x"])
        halves = [
            turn for turn in range(self.turn) if len(there & set(range(turn * 20, turn * 20 + 20))) not in (0, 20)
        ]
        wrong = [(x, y) for x, y in zip(curve["x"], curve["y"], strict=True) if x != y]
        return [*halves, *wrong, *(turn for turn in self.acknowledged if turn * 20 not in there)]


class Tasks(Client):
    """Tasks, and a parameter of the shared one."""

    def once(self, turn: int) -> httpx.Response:
        name = f"{self.name} {turn}"
        if turn % 2:
            return self.call("tasks.create", {"name": name, "type": "testing"})
        parameter = {"section": self.name, "name": name, "value": str(turn)}
        return self.call("tasks.edit_hyper_params", {"task": self.task, "hyperparams": [parameter], "force": True})

    def lost(self, server: Any) -> list[Any]:
        wanted = {"name": f"^{self.name} ", "only_fields": ["name"]}
        names = {task["name"] for task in server.call("tasks.get_all", wanted)["tasks"]}
        task = server.call("tasks.get_by_id", {"task": self.task})["task"]
        names |= task["hyperparams"].get(self.name, {}).keys()
        return [turn for turn in self.acknowledged if f"{self.name} {turn}" not in names]


class Files(Client):
    """Files, of which every third replaces the one before."""

    def once(self, turn: int) -> httpx.Response:
        return self.client.post(self.urls["files"], files={self.path(turn): self.content(turn)})

    def path(self, turn: int) -> str:
        return f"{self.name}/replaced" if turn % 3 == 0 else f"{self.name}/{turn}"

    def content(self, turn: int) -> bytes:
        return (f"{self.name} {turn} ".encode() * LARGEST_FILE)[: LARGEST_FILE - turn % 1000]

    def lost(self, server: Any) -> list[Any]:
        folder = server.folder / "data" / "files"
        wrong: list[Any] = []
        for file in sorted((folder / self.name).iterdir()):
            turns = range(0, self.turn, 3) if file.name == "replaced" else [int(file.name)]
            if not any(file.read_bytes() == self.content(turn) for turn in reversed(turns)):
                wrong.append(f"{file} is torn")
        replaced = [turn for turn in self.acknowledged if turn % 3 == 0]
        if replaced:  # that, or one that was sent after it
            there = (folder / self.name / "replaced").read_bytes()
            if not any(there == self.content(turn) for turn in range(replaced[-1], self.turn, 3)):
                wrong.append("an older file is back")
        return wrong + [turn for turn in self.acknowledged if not (folder / self.path(turn)).is_file()]


def kill(server: Any, kills: int, seed: int) -> tuple[list[float], int]:
    """SIGKILL at random moments under the load of 8 clients, and what was acknowledged looked up at the end.

    Returns:
        the seconds of each start until the server was ready, and how many writes were acknowledged.
    """
    server.start()
    task = server.call("tasks.create", {"name": "durable", "type": "training"})["id"]
    kinds = [Scalars, Scalars, Scalars, Tasks, Tasks, Tasks, Files, Files]
    clients = [kind(server, server.token(), task, number) for number, kind in enumerate(kinds)]
    for client in clients:
        client.start()
    moments = random.Random(seed)
    ready: list[float] = []
    try:
        for _ in range(kills):
            if moments.randrange(5) == 0:  # while it starts
                server.stop(signal.SIGKILL)
                server.begin()
            threading.Event().wait(moments.uniform(0, 0.5))
            server.stop(signal.SIGKILL)
            begun = time.monotonic()
            server.start()
            ready.append(time.monotonic() - begun)
    finally:
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join()
    for client in clients:
        assert client.wrong == [], client.name
        assert client.acknowledged, client.name
        assert client.lost(server) == [], client.name
    assert "Traceback" not in server.log.read_text()
    found = check(load(server.config_file))
    assert found.problems == []
    return ready, sum(len(client.acknowledged) for client in clients)


def test_no_acknowledged_write_is_lost(make_server: Callable[[], Any]) -> None:
    kill(make_server(), KILLS, seed=7)


@pytest.mark.full
def test_no_acknowledged_write_is_lost_in_a_campaign(make_server: Callable[[], Any]) -> None:
    seed = int(os.environ.get("TESTBED_SEED", "7"))
    ready, acknowledged = kill(make_server(), CAMPAIGN, seed)
    ready.sort()
    cells = (CAMPAIGN, seed, acknowledged, f"{ready[len(ready) // 2]:.2f} s", f"{ready[-1]:.2f} s")
    print(
        f"\n| kills | seed | acknowledged writes | ready again, median | longest |\n| {' | '.join(map(str, cells))} |"
    )


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
