"""Many writers and readers at once: all are answered, no update is lost, a task is handed out once."""

import json
import random
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

WRITERS = READERS = 16
BATCH = 20


class Worker(threading.Thread, ABC):
    """Does one thing over and over until the deadline; an answer that is no success is kept."""

    def __init__(self, server: Any, token: str, until: Callable[[], bool], number: int) -> None:
        super().__init__()
        self.server, self.until, self.number = server, until, number
        self.headers = {"Authorization": f"Bearer {token}"}
        self.random = random.Random(number)
        self.done = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        try:
            with httpx.Client(headers=self.headers, timeout=120) as self.client:
                while not self.until():
                    self.once()
                    self.done += 1
        except Exception as error:
            self.wrong.append(repr(error))

    def call(self, endpoint: str, **data: Any) -> Any:
        answer = self.client.post(f"{self.server.urls['api']}/{endpoint}", json=data)
        if answer.status_code != 200:
            self.wrong.append(f"{endpoint}: {answer.text}")
        return answer.json()["data"]

    @abstractmethod
    def once(self) -> None:
        """Do what this client does, once."""


class Writer(Worker):
    """Adds to one task that all writers share, and puts tasks of its own into the queue."""

    def __init__(self, *fixed: Any, shared: str, queue: str) -> None:
        super().__init__(*fixed)
        self.shared, self.queue = shared, queue
        self.queued: list[str] = []

    def once(self) -> None:
        name = f"w{self.number} {self.done}"
        events = [
            {"type": "training_stats_scalar", "task": self.shared, "metric": f"m{self.number}", "variant": "v"}
            | {"iter": self.done * BATCH + point, "value": 1}
            for point in range(BATCH)
        ]
        lines = "\n".join(json.dumps(event) for event in events)
        sent = self.client.post(f"{self.server.urls['api']}/events.add_batch", content=lines)
        if sent.json()["data"].get("added") != BATCH:
            self.wrong.append(sent.text)
        parameter = {"section": "Args", "name": name, "value": str(self.done)}
        self.call("tasks.edit_hyper_params", task=self.shared, hyperparams=[parameter], force=True)
        self.call("models.create", name=name, uri=f"http://elsewhere/{name}")
        task = self.call("tasks.create", name=name, type="testing")["id"]
        self.call("tasks.enqueue", task=task, queue=self.queue)
        self.queued.append(task)


class Reader(Worker):
    """Takes tasks out of the queue, and reads what others write."""

    def __init__(self, *fixed: Any, shared: str, queue: str) -> None:
        super().__init__(*fixed)
        self.shared, self.queue = shared, queue
        self.taken: list[str] = []

    def once(self) -> None:
        if entry := self.call("queues.get_next_task", queue=self.queue).get("entry"):
            self.taken.append(entry["task"])
        kind = self.random.randrange(4)
        if kind == 0:
            curves = self.call("events.scalar_metrics_iter_histogram", task=self.shared, samples=0)
            for metric, variants in curves.items():
                points = variants["v"]["x"]
                if points != list(range(len(points))) or len(points) % BATCH:
                    self.wrong.append(f"{metric}: a batch is seen in part, or points are missing")
        elif kind == 1:
            self.call("tasks.get_all", name="^w", page_size=20, order_by=["-last_update"])
        elif kind == 2:
            self.call("queues.get_all_ex")
        else:
            self.call("tasks.get_by_id", task=self.shared)


def hold(server: Any, until: Callable[[], bool]) -> tuple[int, int]:
    """Lets writers and readers work side by side, and compares what they did with what is there.

    Returns:
        how often writers and readers went round.
    """
    shared = server.call("tasks.create", {"name": "shared", "type": "training"})["id"]
    queue = server.call("queues.create", {"name": "busy"})["id"]
    token = server.token()
    writers = [Writer(server, token, until, number, shared=shared, queue=queue) for number in range(WRITERS)]
    readers = [Reader(server, token, until, 100 + number, shared=shared, queue=queue) for number in range(READERS)]
    for worker in (*writers, *readers):
        worker.start()
    for worker in (*writers, *readers):
        worker.join()
    assert [wrong for worker in (*writers, *readers) for wrong in worker.wrong] == []

    queued = Counter(task for writer in writers for task in writer.queued)
    left = [entry["task"] for entry in server.call("queues.get_by_id", {"queue": queue})["queue"]["entries"]]
    assert Counter(task for reader in readers for task in reader.taken) + Counter(left) == queued
    assert set(queued.values()) == {1}

    task = server.call("tasks.get_by_id", {"task": shared})["task"]
    wanted = {f"w{writer.number} {turn}": str(turn) for writer in writers for turn in range(writer.done)}
    assert {name: item["value"] for name, item in task["hyperparams"]["Args"].items()} == wanted
    curves = server.call("events.scalar_metrics_iter_histogram", {"task": shared, "samples": 0})
    for writer in writers:
        assert curves[f"m{writer.number}"]["v"]["x"] == list(range(writer.done * BATCH))
    counts = {last["metric"]: last["count"] for each in task["last_metrics"].values() for last in each.values()}
    assert counts == {f"m{writer.number}": writer.done * BATCH for writer in writers}
    models = {model["name"] for model in server.call("models.get_all", {"only_fields": ["name"]})["models"]}
    assert models == wanted.keys()
    assert "Traceback" not in server.log.read_text()
    return sum(writer.done for writer in writers), sum(reader.done for reader in readers)


@pytest.fixture
def server(make_server: Callable[[], Any]) -> Iterator[Any]:
    started = make_server()
    started.start()
    yield started
    started.stop()


def test_no_update_is_lost_between_many_clients(server: Any) -> None:
    turns = iter(range(WRITERS * 3 + READERS * 3))
    lock = threading.Lock()

    def enough() -> bool:
        with lock:
            return next(turns, None) is None

    assert sum(hold(server, enough)) == (WRITERS + READERS) * 3


@pytest.mark.long
def test_no_update_is_lost_in_a_minute(server: Any) -> None:
    end = time.monotonic() + 60
    writes, reads = hold(server, lambda: time.monotonic() > end)
    print(f"{writes} turns of writers, {reads} of readers in 60 s")
    assert writes
    assert reads
