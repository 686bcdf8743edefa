"""queues.*: tasks in the order in which workers take them."""

import time
from collections.abc import Callable

from clearml_lite.auth import COMPANY
from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import ApiError
from clearml_lite.query import now
from clearml_lite.schema import request_schema
from clearml_lite.services.entities import checked_name, edited_metadata, given, named, new_id, require
from clearml_lite.services.entities import get_all as get_all_entities
from clearml_lite.services.entities import get_all_ex as get_all_entities_ex
from clearml_lite.storage import Document, Transaction

METRICS_KEPT_DAYS = 30
ALL_ENTRIES = -1
BOTTOM = -1  # the position of the last task
# Up to this API level metadata is a list, later a mapping by key.
_METADATA_AS_MAPPING = (2, 13)


def ensure_default_queue(transaction: Transaction) -> None:
    """Every server has a queue that is the default one."""
    if not any("default" in queue["system_tags"] for queue in transaction.all("queues")):
        transaction.put("queues", _new("default", system_tags=["default"]))


@endpoint("queues.create", writes=True)
def create(call: Call) -> Document:
    """A queue."""
    name = checked_name(call.data["name"])
    _refuse_taken(call, name)
    return {"id": make(call, name, **given(call.data, ("tags", "system_tags")))["id"]}


@endpoint("queues.get_by_id")
def get_by_id(call: Call) -> Document:
    """A queue with its entries."""
    return {"queue": _complete(call, require(call, "queues", call.data["queue"]))}


@endpoint("queues.get_all")
def get_all(call: Call) -> Document:
    """Queues by name, ID and tags."""
    return get_all_entities(call, "queues", complete=lambda queue: _complete(call, queue))


@endpoint("queues.get_all_ex", schema=request_schema("queues.get_all"))
def get_all_ex(call: Call) -> Document:
    """As get_all, with the names of tasks and the workers that listen."""
    workers = call.transaction.all("workers")

    def complete(queue: Document) -> Document:
        queue = _complete(call, queue)
        entries = [entry | {"task": named(call, "tasks", entry["task"])} for entry in queue["entries"]]
        listening = [worker for worker in workers if queue["id"] in worker["queues"]]
        return queue | {
            "entries": entries,
            "workers": [
                {"name": worker["id"], "ip": worker["ip"]}
                | ({"task": named(call, "tasks", worker["task"])} if worker.get("task") else {})
                for worker in listening
            ],
        }

    return get_all_entities_ex(call, "queues", complete)


@endpoint("queues.get_default")
def get_default(call: Call) -> Document:
    """The queue for tasks that name none."""
    queue = default_queue(call)
    return {"id": queue["id"], "name": queue["name"]}


@endpoint("queues.get_num_entries")
def get_num_entries(call: Call) -> Document:
    """How many tasks wait."""
    return {"num": count_entries(call, require(call, "queues", call.data["queue"]))}


@endpoint("queues.update", writes=True)
def update(call: Call) -> Document:
    """Changes name or tags."""
    queue = require(call, "queues", call.data["queue"])
    fields = given(call.data, ("tags", "system_tags"))
    if (name := call.data.get("name")) and name != queue["name"]:
        _refuse_taken(call, fields.setdefault("name", checked_name(name)))
    _save(call, queue | fields)
    return {"updated": 1, "fields": fields}


@endpoint("queues.delete", writes=True)
def delete(call: Call) -> Document:
    """Removes a queue; one with tasks only by force, which gives them back their status from before."""
    queue = require(call, "queues", call.data["queue"])
    entries = _entries(call, queue)
    if entries and not call.data.get("force"):
        raise ApiError(400, 12, "Queue is not empty (use force=true to delete it)", id=queue["id"])
    for entry in entries:
        if task := call.transaction.get("tasks", entry["task"]):
            call.transaction.put("tasks", task | {"status": task.pop("enqueue_status", "created")})
    for table in ("queue_entries", "queue_totals", "queue_metrics"):
        call.transaction.execute(f"DELETE FROM {table} WHERE queue = ?", (queue["id"],))  # noqa: S608
    call.transaction.delete("queues", [queue["id"]])
    return {"deleted": 1}


@endpoint("queues.add_task", writes=True)
def add_task(call: Call) -> Document:
    """Appends a task to a queue; its status stays as it is."""
    queue, task = require(call, "queues", call.data["queue"]), require(call, "tasks", call.data["task"])
    if any(entry["task"] == task["id"] for entry in _entries(call, queue)):
        raise ApiError(400, 706, "Task already queued", task=task["id"])
    put_in(call, queue, task["id"])
    return {"added": 1}


@endpoint("queues.remove_task", writes=True)
def remove_task(call: Call) -> Document:
    """Takes a task out of a queue; its status stays as it is."""
    queue = require(call, "queues", call.data["queue"])
    removed = call.transaction.execute(
        "DELETE FROM queue_entries WHERE queue = ? AND task = ?", (queue["id"], call.data["task"])
    ).rowcount
    if removed:
        _save(call, queue)
    return {"removed": removed}


@endpoint("queues.peek_task")
def peek_task(call: Call) -> Document:
    """The task that will be handed out next."""
    entries = _entries(call, require(call, "queues", call.data["queue"]), 1)
    return {"task": entries[0]["task"] if entries else None}


@endpoint("queues.move_task_forward", writes=True)
def move_task_forward(call: Call) -> Document:
    """Moves a task towards the top of its queue."""
    return {"position": _move(call, lambda place, _: place - call.data.get("count", 1))}


@endpoint("queues.move_task_backward", writes=True)
def move_task_backward(call: Call) -> Document:
    """Moves a task towards the end of its queue."""
    return {"position": _move(call, lambda place, _: place + call.data.get("count", 1))}


@endpoint("queues.move_task_to_front", writes=True)
def move_task_to_front(call: Call) -> Document:
    """Makes a task the next to be handed out."""
    return {"position": _move(call, lambda _, __: 0)}


@endpoint("queues.move_task_to_back", writes=True)
def move_task_to_back(call: Call) -> Document:
    """Makes a task the last to be handed out."""
    _move(call, lambda _, last: last)
    return {"position": BOTTOM}


@endpoint("queues.add_or_update_metadata", writes=True)
def add_or_update_metadata(call: Call) -> Document:
    """Adds metadata by key, or replaces all of it."""
    queue = require(call, "queues", call.data["queue"])
    _save(call, queue | {"metadata": edited_metadata(call, queue)})
    return {"updated": 1}


@endpoint("queues.delete_metadata", writes=True)
def delete_metadata(call: Call) -> Document:
    """Removes metadata by key."""
    queue = require(call, "queues", call.data["queue"])
    kept = {key: item for key, item in queue["metadata"].items() if key not in call.data["keys"]}
    _save(call, queue | {"metadata": kept})
    return {"updated": 1}


@endpoint("queues.get_queue_metrics", writes=True)
def get_queue_metrics(call: Call) -> Document:
    """How many tasks waited in queues and for how long, by interval; without IDs the mean of all queues."""
    if call.data.get("refresh"):
        for queue in call.transaction.all("queues"):
            _note_metrics(call, queue["id"])
    start, end = int(call.data["from_date"] * 1000), int(call.data["to_date"] * 1000)
    interval = max(call.data["interval"], 1) * 1000
    wanted = call.data.get("queue_ids")
    condition = f"AND queue IN ({', '.join('?' * len(wanted))})" if wanted else ""
    # Of an interval's values the one with the longest wait counts.
    longest = f"""SELECT queue, (timestamp - ?) / ? AS bucket, max(waiting) AS waiting, length FROM queue_metrics
                  WHERE timestamp BETWEEN ? AND ? {condition} GROUP BY queue, bucket"""  # noqa: S608
    averaged = f"SELECT 'all', bucket, avg(waiting), round(avg(length)) FROM ({longest}) GROUP BY bucket"  # noqa: S608
    query = longest if wanted else averaged
    found: dict[str, Document] = {}
    rows = call.transaction.execute(f"{query} ORDER BY 1, 2", (start, interval, start, end, *(wanted or ())))
    for name, bucket, waiting, length in rows:
        empty: Document = {"queue": name, "dates": [], "avg_waiting_times": [], "queue_lengths": []}
        metrics = found.setdefault(name, empty)
        metrics["dates"].append((start + bucket * interval) // 1000)
        metrics["avg_waiting_times"].append(round(waiting, 3))
        metrics["queue_lengths"].append(int(length))
    return {"queues": list(found.values())}


@endpoint("queues.get_next_task", writes=True)
def get_next_task(call: Call) -> Document:
    """Takes the first task out of the queue: each task is handed out once."""
    queue = require(call, "queues", call.data["queue"])
    row = call.transaction.execute(
        """DELETE FROM queue_entries WHERE position = (SELECT min(position) FROM queue_entries WHERE queue = ?)
           RETURNING task, added""",
        (queue["id"],),
    ).fetchone()
    if row is None:
        return {}
    _save(call, queue)
    entry = {"task": row[0], "added": row[1]}
    if not call.data.get("get_task_info"):
        return {"entry": entry}
    task = call.transaction.get("tasks", row[0]) or {}
    return {"entry": entry, "task_info": {name: task[name] for name in ("company", "user", "project") if name in task}}


def make(call: Call, name: str, **fields: object) -> Document:
    """A new queue."""
    queue = _new(name, **fields)
    call.transaction.put("queues", queue)
    return queue


def default_queue(call: Call) -> Document:
    """The queue with the system tag `default`.

    Raises:
        ApiError: 400/701 when it was deleted.
    """
    for queue in call.transaction.all("queues"):
        if "default" in queue["system_tags"]:
            return queue
    raise ApiError(400, 701, "Invalid queue id (there is no default queue)", company=COMPANY)


def count_entries(call: Call, queue: Document) -> int:
    """How many tasks wait in a queue."""
    return _totals(call, queue["id"])[0]


def put_in(call: Call, queue: Document, task: str) -> None:
    """Appends a task."""
    call.transaction.execute(
        "INSERT INTO queue_entries (queue, task, added) VALUES (?, ?, ?)", (queue["id"], task, now())
    )
    _save(call, queue)


def take_out(call: Call, task: str) -> int:
    """Takes a task out of the queues it is in, and tells of how many."""
    rows = call.transaction.execute("DELETE FROM queue_entries WHERE task = ? RETURNING queue", (task,)).fetchall()
    for (queue,) in rows:
        _save(call, require(call, "queues", queue))
    return len(rows)


def _new(name: str, **fields: object) -> Document:
    moment = now()
    return {
        "id": new_id(), "name": name, "company": COMPANY, "created": moment, "tags": [], "system_tags": [],
        "last_update": moment, "metadata": {},
    } | fields  # fmt: skip


def _refuse_taken(call: Call, name: str) -> None:
    if call.transaction.first("queues", name=name):
        raise ApiError(400, 801, "Value combination is already in use", name=name, company=COMPANY)


def _complete(call: Call, queue: Document) -> Document:
    """The queue as clients see it: with entries, and metadata in the form of their API level."""
    metadata = queue["metadata"] if call.version >= _METADATA_AS_MAPPING else list(queue["metadata"].values())
    most = call.data.get("max_task_entries") or ALL_ENTRIES
    return queue | {"entries": _entries(call, queue, most), "metadata": metadata}


def _entries(call: Call, queue: Document, most: int = ALL_ENTRIES) -> list[Document]:
    rows = call.transaction.execute(
        "SELECT task, added FROM queue_entries WHERE queue = ? ORDER BY position LIMIT ?", (queue["id"], most)
    )
    return [{"task": task, "added": added} for task, added in rows]


def _save(call: Call, queue: Document) -> None:
    call.transaction.put("queues", queue | {"last_update": now()})
    _note_metrics(call, queue["id"])


def _note_metrics(call: Call, queue: str) -> None:
    """Notes how many tasks wait now, and their mean waiting time in seconds."""
    moment = int(time.time() * 1000)
    length, added = _totals(call, queue)
    waiting = max(moment - added / length, 0) / 1000 if length else 0
    call.transaction.execute("INSERT INTO queue_metrics VALUES (?, ?, ?, ?)", (queue, moment, length, waiting))
    oldest = moment - METRICS_KEPT_DAYS * 24 * 3600 * 1000
    call.transaction.execute("DELETE FROM queue_metrics WHERE timestamp < ?", (oldest,))


def _totals(call: Call, queue: str) -> tuple[int, int]:
    """How many tasks wait, and the sum of the milliseconds since 1970 at which they were put in."""
    row = call.transaction.execute("SELECT length, added FROM queue_totals WHERE queue = ?", (queue,)).fetchone()
    return row or (0, 0)


def _move(call: Call, to: Callable[[int, int], int]) -> int:
    """Moves a task within its queue.

    Args:
        to: the new place, from the present one and the last one of the queue.

    Raises:
        ApiError: 400/12 when the task is not in the queue.
    """
    queue = require(call, "queues", call.data["queue"])
    rows = call.transaction.execute(
        "SELECT position, task, added FROM queue_entries WHERE queue = ? ORDER BY position", (queue["id"],)
    ).fetchall()
    tasks = [row[1:] for row in rows]
    place = next((number for number, (task, _) in enumerate(tasks) if task == call.data["task"]), None)
    if place is None:
        raise ApiError(400, 12, "Task is not in the queue", task=call.data["task"], queue=queue["id"])
    last = len(tasks) - 1
    wanted = min(max(to(place, last), 0), last)
    tasks.insert(wanted, tasks.pop(place))
    call.transaction.executemany(
        "UPDATE queue_entries SET task = ?, added = ? WHERE position = ?",
        [(*task, row[0]) for row, task in zip(rows, tasks, strict=True) if row[1:] != task],
    )
    _save(call, queue)
    return wanted
