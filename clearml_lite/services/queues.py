"""queues.*: tasks in the order in which workers take them."""

from clearml_lite.auth import COMPANY
from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import ApiError
from clearml_lite.query import now
from clearml_lite.services.entities import checked_name, given, new_id, require
from clearml_lite.services.entities import get_all as get_all_entities
from clearml_lite.storage import Document, Transaction

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
    call.transaction.execute("DELETE FROM queue_entries WHERE queue = ?", (queue["id"],))
    call.transaction.delete("queues", [queue["id"]])
    return {"deleted": 1}


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
    (count,) = call.transaction.execute("SELECT count(*) FROM queue_entries WHERE queue = ?", (queue["id"],)).fetchone()
    return int(count)


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
    return queue | {"entries": _entries(call, queue), "metadata": metadata}


def _entries(call: Call, queue: Document) -> list[Document]:
    rows = call.transaction.execute(
        "SELECT task, added FROM queue_entries WHERE queue = ? ORDER BY position", (queue["id"],)
    )
    return [{"task": task, "added": added} for task, added in rows]


def _save(call: Call, queue: Document) -> None:
    call.transaction.put("queues", queue | {"last_update": now()})
