"""Every agent is seen to run a task, on a live server: by agents that are played, and by two real ones of one queue."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from provision.clearml_api import ClearmlApi
from provision.credentials.conf import parse_key
from provision.reports import WorkerState
from provision.smoke import agents, project
from tests.integration.workload.conftest import running_agent


@pytest.fixture
def api(ground):
    with ClearmlApi(ground.server.urls["api"], parse_key(ground.good.read_text())) as api:
        yield api


@pytest.fixture
def own(ground, api):
    name = project.create(api, keep=False)
    yield name
    with httpx.Client() as http:
        project.remove(api, http, ground.server.urls["files"], name)


@pytest.fixture
def quick(monkeypatch):
    """Tasks are over in a moment, and nobody is waited for long."""
    monkeypatch.setattr(agents, "HOLD_S", 0.3)
    monkeypatch.setattr(agents, "TAKE_S", 3)
    monkeypatch.setattr(agents, "POLL_S", 0.05)


@contextlib.contextmanager
def _played(ground, name: str, queue: str, *, takes: bool = True) -> Iterator[None]:
    """An agent that takes tasks, and completes each after HOLD_S; or one that reports only."""
    ground.worker(name, queue)
    number = ground.server.call("queues.get_all", {"name": f"^{queue}$"})["queues"][0]["id"]
    over = threading.Event()

    def report(task: str | None) -> None:
        state = {"worker": name, "queues": [number], "timestamp": int(time.time() * 1000)}
        ground.server.call("workers.status_report", state | ({"task": task} if task else {}))

    def work() -> None:
        while takes and not over.wait(0.05):
            entry = ground.server.call("queues.get_next_task", {"queue": number}).get("entry")
            if entry:
                report(entry["task"])
                ground.server.call("tasks.started", {"task": entry["task"]})
                over.wait(agents.HOLD_S)
                ground.server.call("tasks.completed", {"task": entry["task"]})
                report(None)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _look(api):
    return lambda: [
        WorkerState(
            name=worker["id"],
            queues=[queue["name"] for queue in worker["queues"]],
            task=(worker.get("task") or {}).get("id"),
            last_report="",
            drained=None,
        )
        for worker in api.call("workers.get_all")["workers"]
    ]


def _cover(api, own, workers: dict[str, list[str]]) -> agents.Covered:
    queues = list(dict.fromkeys(queue for listens in workers.values() for queue in listens))
    return agents.cover(api, own, workers, queues, _look(api), lambda text: None)


@pytest.mark.usefixtures("quick")
def test_both_agents_of_one_queue_run_one(ground, api, own):
    with _played(ground, "h1:a", "prepared"), _played(ground, "h2:a", "prepared"):
        found = _cover(api, own, {"h1:a": ["prepared"], "h2:a": ["prepared"]})
    assert {each.worker for each in found.ran} == {"h1:a", "h2:a"}
    assert {each.status for each in found.ran} == {"completed"}
    assert found.left == {}


@pytest.mark.usefixtures("quick")
def test_one_that_takes_nothing_is_seen_and_its_task_is_taken_out_of_the_queue(ground, api, own):
    with _played(ground, "h1:a", "prepared"), _played(ground, "h2:b", "default", takes=False):
        found = _cover(api, own, {"h1:a": ["prepared"], "h2:b": ["default"]})
    assert [each.worker for each in found.ran] == ["h1:a"]
    assert found.of("h2:b") == found.out_of("default") == []
    assert found.left == {}
    assert all(not queue["entries"] for queue in api.call("queues.get_all")["queues"])


@pytest.mark.usefixtures("quick")
def test_one_that_works_for_a_user_is_left_alone_and_so_is_the_users_task(ground, api, own):
    theirs = api.call("tasks.create", name="a user's", type="training")["id"]
    with _played(ground, "h1:a", "prepared"), _played(ground, "h2:b", "default", takes=False):
        api.call("tasks.started", task=theirs)
        state = {"worker": "h2:b", "task": theirs, "timestamp": int(time.time() * 1000)}
        ground.server.call("workers.status_report", state)
        found = _cover(api, own, {"h1:a": ["prepared"], "h2:b": ["default"]})
    assert theirs in found.left["h2:b"]
    assert found.left_of("default") == found.left
    assert found.left_of("prepared") == {}
    assert api.call("tasks.get_by_id", task=theirs)["task"]["status"] == "in_progress"
    assert {each.queue for each in found.ran} == {"prepared"}


@pytest.mark.long
def test_two_real_agents_of_one_queue_both_run_one(ground, api, own, tmp_path):
    homes = [tmp_path / name for name in ("first", "second")]
    for home in homes:
        home.mkdir()
    with running_agent(ground.server, homes[0], "first") as queue, running_agent(ground.server, homes[1], "second"):
        end = time.monotonic() + 300
        while len(names := {worker["id"] for worker in api.call("workers.get_all")["workers"]}) < 2:
            assert time.monotonic() < end, names
            time.sleep(0.2)
        found = _cover(api, own, {name: [queue] for name in names})
    assert {each.worker for each in found.ran if each.status == "completed"} == names
