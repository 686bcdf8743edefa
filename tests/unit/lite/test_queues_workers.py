"""queues.* and workers.*: order, metadata, what waits and who works."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from clearml_lite.storage import Storage

Call = Callable[..., Any]


@pytest.fixture
def queue(call: Call) -> str:
    return str(call("queues.create", name="the queue")["id"])


@pytest.fixture
def tasks(call: Call, queue: str) -> list[str]:
    """Four tasks that wait in the queue."""
    made = [call("tasks.create", name=f"task {number}", type="training")["id"] for number in range(4)]
    for task in made:
        call("tasks.enqueue", task=task, queue=queue)
    return made


def order(call: Call, queue: str, tasks: list[str]) -> str:
    entries = call("queues.get_by_id", queue=queue)["queue"]["entries"]
    return "".join(str(tasks.index(entry["task"])) for entry in entries)


@pytest.mark.parametrize(
    ("move", "task", "parameters", "position", "result"),
    [
        ("move_task_to_front", 2, {}, 0, "2013"),
        ("move_task_to_back", 1, {}, -1, "0231"),
        ("move_task_forward", 3, {}, 2, "0132"),
        ("move_task_forward", 3, {"count": 2}, 1, "0312"),
        ("move_task_forward", 1, {"count": 9}, 0, "1023"),
        ("move_task_backward", 0, {}, 1, "1023"),
        ("move_task_backward", 0, {"count": 9}, 3, "1230"),
    ],
)
def test_a_task_is_moved_within_its_queue(
    call: Call, queue: str, tasks: list[str], move: str, task: int, parameters: Any, position: int, result: str
) -> None:
    assert call(f"queues.{move}", queue=queue, task=tasks[task], **parameters) == {"position": position}
    assert order(call, queue, tasks) == result
    handed_out = [call("queues.get_next_task", queue=queue)["entry"]["task"] for _ in tasks]
    assert [tasks.index(task) for task in handed_out] == [int(number) for number in result]


def test_who_is_not_in_the_queue_cannot_be_moved(call: Call, queue: str, tasks: list[str]) -> None:
    assert call("queues.move_task_to_front", queue=queue, task="nobody")[:2] == (400, 12)
    assert call("queues.move_task_to_front", queue="nowhere", task=tasks[0])[:2] == (400, 701)


def test_tasks_are_added_peeked_at_and_removed(call: Call, queue: str) -> None:
    assert call("queues.peek_task", queue=queue) == {"task": None}
    task = call("tasks.create", name="a task", type="training")["id"]
    assert call("queues.add_task", queue=queue, task=task) == {"added": 1}
    assert call("queues.add_task", queue=queue, task=task)[:2] == (400, 706)
    assert call("queues.add_task", queue=queue, task="nobody")[:2] == (400, 101)
    assert call("queues.peek_task", queue=queue) == {"task": task}
    assert call("tasks.get_by_id", task=task)["task"]["status"] == "created"
    assert call("queues.remove_task", queue=queue, task=task) == {"removed": 1}
    assert call("queues.remove_task", queue=queue, task=task) == {"removed": 0}


def test_no_more_entries_than_asked_for(call: Call, queue: str, tasks: list[str]) -> None:
    assert len(call("queues.get_by_id", queue=queue, max_task_entries=2)["queue"]["entries"]) == 2
    (document,) = call("queues.get_all", id=[queue], max_task_entries=3)["queues"]
    assert [entry["task"] for entry in document["entries"]] == tasks[:3]


def test_metadata_of_a_queue(call: Call, queue: str) -> None:
    items = [{"key": "gpu", "type": "str", "value": "a"}, {"key": "rack", "value": "7"}]
    assert call("queues.add_or_update_metadata", queue=queue, metadata=items) == {"updated": 1}
    call("queues.add_or_update_metadata", queue=queue, metadata=[{"key": "gpu", "value": "b"}])
    metadata = call("queues.get_by_id", queue=queue)["queue"]["metadata"]
    assert metadata == {"gpu": {"key": "gpu", "value": "b"}, "rack": {"key": "rack", "value": "7"}}
    assert call("queues.delete_metadata", queue=queue, keys=["rack", "unknown"]) == {"updated": 1}
    call("queues.add_or_update_metadata", queue=queue, metadata=[{"key": "new"}], replace_metadata=True)
    assert list(call("queues.get_by_id", queue=queue)["queue"]["metadata"]) == ["new"]


def test_get_all_ex_shows_tasks_and_workers_by_name(call: Call, queue: str, tasks: list[str]) -> None:
    call("workers.register", worker="w:0", queues=[queue])
    (document,) = call("queues.get_all_ex", id=[queue])["queues"]
    assert document["entries"][0]["task"] == {"id": tasks[0], "name": "task 0"}
    assert [worker["name"] for worker in document["workers"]] == ["w:0"]


def test_what_waited_and_how_long(call: Call, storage: Storage, queue: str) -> None:
    start = int(time.time()) - 1000
    with storage.write() as transaction:
        transaction.execute("DELETE FROM queue_metrics")
        rows = [(queue, 0, 2, 5.0), (queue, 10, 7, 9.0), (queue, 70, 1, 1.0), ("other", 20, 3, 11.0)]
        transaction.executemany(
            "INSERT INTO queue_metrics VALUES (?, ?, ?, ?)",
            [(name, (start + second) * 1000, length, waiting) for name, second, length, waiting in rows],
        )
    span = {"from_date": start, "to_date": start + 120, "interval": 60}
    assert call("queues.get_queue_metrics", queue_ids=[queue], **span)["queues"] == [
        {"queue": queue, "dates": [start, start + 60], "avg_waiting_times": [9.0, 1.0], "queue_lengths": [7, 1]}
    ]
    assert call("queues.get_queue_metrics", **span)["queues"] == [
        {"queue": "all", "dates": [start, start + 60], "avg_waiting_times": [10.0, 1.0], "queue_lengths": [5, 1]}
    ]


def test_a_queue_that_changes_notes_what_waits(call: Call, queue: str, tasks: list[str]) -> None:
    now = time.time()
    span = {"from_date": now - 100, "to_date": now + 100, "interval": 200}
    (metrics,) = call("queues.get_queue_metrics", queue_ids=[queue], **span)["queues"]
    assert 1 <= metrics["queue_lengths"][0] <= 4
    call("queues.delete", queue=queue, force=True)
    assert call("queues.get_queue_metrics", queue_ids=[queue], **span)["queues"] == []
    refreshed = call("queues.get_queue_metrics", refresh=True, **span)["queues"]
    assert [metrics["queue"] for metrics in refreshed] == ["all"]


def report(call: Call, worker: str, second: int, **fields: Any) -> None:
    call("workers.status_report", worker=worker, timestamp=second, **fields)


def test_who_reported_and_who_worked(call: Call) -> None:
    task = call("tasks.create", name="a task", type="training")["id"]
    start = int(time.time()) - 300
    report(call, "idle", start)
    report(call, "busy", start + 10, task=task)
    report(call, "busy", (start + 130) * 1000, task=task)
    answer = call("workers.get_activity_report", from_date=start, to_date=start + 180, interval=60)
    dates = [start, start + 60, start + 120]
    assert answer == {"total": {"dates": dates, "counts": [2, 0, 1]}, "active": {"dates": dates, "counts": [1, 0, 1]}}
    backwards = call("workers.get_activity_report", from_date=start, to_date=start - 60, interval=60)
    assert backwards["total"] == {"dates": [], "counts": []}
    assert call("workers.get_activity_report", from_date=0, to_date=start, interval=1)[:2] == (400, 12)


def test_what_workers_report_by_category(call: Call) -> None:
    second = int(time.time())
    report(call, "one", second, machine_stats={"cpu_usage": [1], "cpu_temperature": [2], "memory_free": 3})
    report(call, "two", second, machine_stats={"gpu_usage": [1]})
    assert call("workers.get_metric_keys")["categories"] == [
        {"name": "cpu", "metric_keys": ["cpu_temperature", "cpu_usage"]},
        {"name": "gpu", "metric_keys": ["gpu_usage"]},
        {"name": "memory", "metric_keys": ["memory_free"]},
    ]
    of_two = call("workers.get_metric_keys", worker_ids=["two"])["categories"]
    assert [category["name"] for category in of_two] == ["gpu"]


def test_a_report_changes_what_it_names(call: Call, queue: str) -> None:
    call("workers.register", worker="w", queues=[queue], tags=["old"], system_tags=["sys"])
    report(call, "w", int(time.time()), tags=["new"])
    (worker,) = call("workers.get_all")["workers"]
    assert (worker["tags"], worker["system_tags"]) == (["new"], ["sys"])
    assert [entry["id"] for entry in worker["queues"]] == [queue]
    report(call, "w", int(time.time()), queues=[])
    assert call("workers.get_all")["workers"][0]["queues"] == []
    assert call("workers.get_all", tags=["-new"])["workers"] == []
