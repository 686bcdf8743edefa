"""workers.*: who listens on queues, on what they work, how their machines do."""

from datetime import UTC, datetime, timedelta
from typing import Any

from clearml_lite.auth import COMPANY, COMPANY_NAME
from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import validation_error
from clearml_lite.query import compile_filters, now
from clearml_lite.services.entities import given
from clearml_lite.services.queues import count_entries
from clearml_lite.storage import Document

TIMEOUT_SECONDS = 600
STATS_KEPT_DAYS = 30
LATEST_SECOND = 10**11
MOST_INTERVALS = 10_000


@endpoint("workers.register", writes=True)
def register(call: Call) -> Document:
    """A worker listens; it is forgotten when it has not reported for `timeout` seconds."""
    _save(call, _new(call, call.data["worker"]) | {"register_timeout": call.data.get("timeout") or TIMEOUT_SECONDS})
    return {}


@endpoint("workers.unregister", writes=True)
def unregister(call: Call) -> Document:
    """A worker has stopped."""
    call.transaction.delete("workers", [call.data["worker"]])
    return {}


@endpoint("workers.status_report", writes=True)
def status_report(call: Call) -> Document:
    """What a worker does and how its machine does; the task it works on is marked with it."""
    moment = now()
    worker = call.transaction.get("workers", call.data["worker"]) or _new(call, call.data["worker"])
    task = call.transaction.get("tasks", call.data.get("task") or "")
    worker |= {
        "ip": call.address,
        "last_activity_time": moment,
        "last_report_time": moment,
        "queue": call.data.get("queue"),
        "queues": call.data.get("queues", worker["queues"]),
        "task": task["id"] if task else None,
    }
    worker |= given(call.data, ("tags", "system_tags"))
    _save(call, worker)
    if task:
        call.transaction.put(
            "tasks", task | {"last_worker": worker["id"], "last_worker_report": moment, "last_update": moment}
        )
    timestamp = _milliseconds(call.data["timestamp"])
    call.transaction.execute("INSERT INTO worker_activity VALUES (?, ?, ?)", (worker["id"], timestamp, bool(task)))
    _save_stats(call, worker["id"], timestamp, call.data.get("machine_stats") or {})
    return {}


@endpoint("workers.get_all")
def get_all(call: Call) -> Document:
    """Workers by tags that reported in the last `last_seen` seconds (0: all that are not timed out)."""
    last_seen = call.data.get("last_seen", 3600)
    alive = [
        worker
        for worker in compile_filters(call.data, ("tags", "system_tags")).run(call.transaction, "workers")
        if _age(worker) <= min(last_seen or worker["register_timeout"], worker["register_timeout"])
    ]
    return {"workers": [_shown(call, worker) for worker in alive]}


@endpoint("workers.get_stats")
def get_stats(call: Call) -> Document:
    """Machine statistics by interval: avg, min or max of what workers reported."""
    start, end = int(call.data["from_date"] * 1000), int(call.data["to_date"] * 1000)
    interval = max(int(call.data["interval"]), 1) * 1000
    wanted = call.data.get("worker_ids") or [
        row[0]
        for row in call.transaction.execute(
            "SELECT DISTINCT worker FROM worker_stats WHERE timestamp BETWEEN ? AND ?", (start, end)
        )
    ]
    workers = []
    for worker in wanted:
        metrics = [
            metric for item in call.data["items"] for metric in _metric_stats(call, worker, item, start, end, interval)
        ]
        if metrics:
            workers.append({"worker": worker, "metrics": metrics})
    return {"workers": workers}


@endpoint("workers.get_metric_keys")
def get_metric_keys(call: Call) -> Document:
    """What workers report about their machines, by category (the first word: cpu, gpu, memory, …)."""
    wanted = call.data.get("worker_ids")
    condition = f"WHERE worker IN ({', '.join('?' * len(wanted))})" if wanted else ""
    rows = call.transaction.execute(
        f"SELECT DISTINCT metric FROM worker_stats {condition} ORDER BY metric",  # noqa: S608
        wanted or (),
    )
    categories: dict[str, list[str]] = {}
    for (metric,) in rows:
        categories.setdefault(metric.partition("_")[0], []).append(metric)
    return {"categories": [{"name": name, "metric_keys": keys} for name, keys in categories.items()]}


@endpoint("workers.get_activity_report")
def get_activity_report(call: Call) -> Document:
    """How many workers reported, and how many of these worked on a task, by interval."""
    start, end = int(call.data["from_date"] * 1000), int(call.data["to_date"] * 1000)
    interval = max(call.data["interval"], 1) * 1000
    count = -((start - end) // interval)
    if count > MOST_INTERVALS:
        raise validation_error("interval", f"makes more than {MOST_INTERVALS} points!")
    rows = call.transaction.execute(
        """SELECT (timestamp - ?) / ? AS bucket, count(DISTINCT worker), count(DISTINCT CASE WHEN works THEN worker END)
           FROM worker_activity WHERE timestamp >= ? AND timestamp < ? GROUP BY bucket""",
        (start, interval, start, end),
    )
    counts = {bucket: (total, active) for bucket, total, active in rows}
    dates = [(start + number * interval) // 1000 for number in range(count)]
    series = zip(*(counts.get(number, (0, 0)) for number in range(count)), strict=True) if count > 0 else ((), ())
    total, active = ({"dates": dates, "counts": list(each)} for each in series)
    return {"total": total, "active": active}


def _metric_stats(call: Call, worker: str, item: Document, start: int, end: int, interval: int) -> list[Document]:
    aggregation = item.get("category") or "avg"
    variant = "variant" if call.data.get("split_by_variant") else "NULL"
    rows = call.transaction.execute(
        f"""SELECT {variant} AS name, (timestamp - ?) / ? AS bucket, {aggregation}(value) FROM worker_stats
            WHERE worker = ? AND metric = ? AND timestamp BETWEEN ? AND ?
            GROUP BY name, bucket ORDER BY name, bucket""",  # noqa: S608
        (start, interval, worker, item.get("key"), start, end),
    )
    metrics: dict[str | None, Document] = {}
    for name, bucket, value in rows:
        empty = {"metric": item["key"], "dates": [], "stats": [{"aggregation": aggregation, "values": []}]}
        metric = metrics.setdefault(name, empty | ({"variant": name} if name else {}))
        metric["dates"].append((start + bucket * interval) // 1000)
        metric["stats"][0]["values"].append(value)
    return list(metrics.values())


def _new(call: Call, identifier: str) -> Document:
    moment = now()
    return {
        "id": identifier,
        "company": COMPANY,
        "user": call.identity.user,
        "ip": call.address,
        "queues": call.data.get("queues") or [],
        "register_time": moment,
        "register_timeout": TIMEOUT_SECONDS,
        "last_activity_time": moment,
        "last_report_time": moment,
        "tags": call.data.get("tags") or [],
        "system_tags": call.data.get("system_tags") or [],
    }


def _save(call: Call, worker: Document) -> None:
    call.transaction.put("workers", worker)
    timed_out = [other["id"] for other in call.transaction.all("workers") if _age(other) > other["register_timeout"]]
    call.transaction.delete("workers", timed_out)


def _age(worker: Document) -> float:
    """Seconds since the worker's last report."""
    return (datetime.now(UTC) - datetime.fromisoformat(worker["last_report_time"])).total_seconds()


def _shown(call: Call, worker: Document) -> Document:
    user = call.transaction.get("users", worker["user"])
    shown = {
        key: worker[key]
        for key in (
            "id",
            "ip",
            "last_activity_time",
            "last_report_time",
            "register_time",
            "register_timeout",
            "tags",
            "system_tags",
        )
    }
    shown |= {
        "company": {"id": COMPANY, "name": COMPANY_NAME},
        "key": f"worker_{COMPANY}_{worker['user']}_{worker['id']}",
        "user": {"id": worker["user"], "name": user["name"] if user else worker["user"]},
        "queues": [_queue(call, queue) for queue in worker["queues"]],
    }
    if worker.get("queue"):
        shown["queue"] = _queue(call, worker["queue"])
    if task := call.transaction.get("tasks", worker.get("task") or ""):
        started = datetime.fromisoformat(task.get("started") or task["created"])
        running = datetime.fromisoformat(worker["last_report_time"]) - started
        shown["task"] = {
            "id": task["id"], "name": task["name"], "last_iteration": task["last_iteration"],
            "running_time": max(int(running / timedelta(milliseconds=1)), 0),
        }  # fmt: skip
        if project := call.transaction.get("projects", task.get("project") or ""):
            shown["project"] = {"id": project["id"], "name": project["name"]}
    return shown


def _queue(call: Call, identifier: str) -> Document:
    queue = call.transaction.get("queues", identifier)
    if queue is None:
        return {"id": identifier}
    return {"id": identifier, "name": queue["name"], "num_tasks": count_entries(call, queue)}


def _milliseconds(timestamp: int) -> int:
    """The schema wants seconds, the agent sends milliseconds."""
    return timestamp * 1000 if abs(timestamp) < LATEST_SECOND else timestamp


def _save_stats(call: Call, worker: str, timestamp: int, stats: dict[str, Any]) -> None:
    rows = [
        (worker, timestamp, metric, str(variant), float(number))
        for metric, value in stats.items()
        for variant, number in enumerate(value if isinstance(value, list) else [value])
        if number is not None
    ]
    call.transaction.executemany("INSERT INTO worker_stats VALUES (?, ?, ?, ?, ?)", rows)
    oldest = int((datetime.now(UTC) - timedelta(days=STATS_KEPT_DAYS)).timestamp() * 1000)
    for table in ("worker_stats", "worker_activity"):
        call.transaction.execute(f"DELETE FROM {table} WHERE timestamp < ?", (oldest,))  # noqa: S608
