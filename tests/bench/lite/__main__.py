"""How fast clearml_lite is: throughput by wrk, latency by the SDK's session, and what the server needs for it.

    .venv/bin/python -P -m tests.bench.lite [--seconds 5]

Needs wrk (`apt-get install wrk`). Clients and server share the machine. Prints tables for docs/evidence/lite-bench.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from clearml_lite.storage import Storage
from tests.integration.conftest import LiteServer

ROOT = Path(__file__).parents[3]
PROJECT_TASKS = (1_000, 10_000, 100_000)
BATCH, SERIES, POINTS = 1_000, 10, 100_000
MEGABYTES = 64
TICK = os.sysconf("SC_CLK_TCK")
SCRIPT = """\
local file = io.open("{body}")
wrk.method, wrk.body = "POST", file:read("*a")
wrk.headers["Authorization"] = "Bearer {token}"
wrk.headers["Content-Type"] = "{kind}"
"""
# one client, one call after the other, as the SDK sends them: milliseconds of each, and of the server's processor
LATENCIES = """\
import json, os, sys, time
from clearml.backend_api import Session
session, result = Session(), {}
def processor():
    fields = open(f"/proc/{sys.argv[1]}/stat").read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1000
for name, times, data in json.load(sys.stdin):
    service, _, action = name.partition(".")
    spent, used = [], processor()
    warm = min(times, 20)
    for number in range(times + warm):
        body = data[number % len(data)]
        begun = time.perf_counter()
        answer = session.send_request(service, action, **body)
        spent.append((time.perf_counter() - begun) * 1000)
        assert answer.status_code == 200, answer.text
    result[name] = [spent[warm:], (processor() - used) / len(spent)]
print(json.dumps(result))
"""


def table(*rows: tuple[Any, ...]) -> None:
    """Print rows as Markdown; the first has the titles."""
    print(
        *("| " + " | ".join(str(cell) for cell in row) + " |" for row in (rows[0], ("---",) * len(rows[0]), *rows[1:])),
        sep="\n",
    )
    print(flush=True)


class Server(LiteServer):
    """A server whose processor time and memory are read while it runs."""

    most_memory = 0.0

    @property
    def cpu(self) -> float:
        """Seconds of processor time since it started."""
        assert self.process
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def note_memory(self) -> float:
        """Return the most memory that it has had in this run, in MB; it counts for all runs."""
        assert self.process
        found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found
        here = int(found[1]) / 1024
        self.most_memory = max(self.most_memory, here)
        return here

    @contextmanager
    def stopped(self) -> Iterator[Storage]:
        """Yield the storage while the server is down, to fill it."""
        self.note_memory()
        self.stop()
        with closing(Storage(self.folder / "data" / "clearml.sqlite")) as storage:
            yield storage
        self.start()


def wrk(
    server: Server, name: str, body: str, seconds: int, connections: int, kind: str = "application/json"
) -> tuple[float, float, float]:
    """Return calls a second, the 95th percentile in ms, and the server's processors in use."""
    request, script = server.folder / "body", server.folder / "script.lua"
    request.write_text(body)
    script.write_text(
        SCRIPT.format(body=request, token=server.token(), kind=kind)
        + 'done = function(summary, latency) io.write("p95 ", latency:percentile(95) / 1000, "\\n") end\n'
    )
    used, begun = server.cpu, time.monotonic()
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script)]
    done = subprocess.run([*command, f"{server.urls['api']}/{name}"], capture_output=True, text=True, check=True)
    used, spent = server.cpu - used, time.monotonic() - begun
    assert "Non-2xx" not in done.stdout, done.stdout
    assert "Socket errors" not in done.stdout, done.stdout
    rate, slow = (re.search(rf"{what}\s*([\d.]+)", done.stdout) for what in ("Requests/sec:", "p95"))
    assert rate
    assert slow
    return float(rate[1]), float(slow[1]), used / spent


def latencies(server: Server, calls: list[tuple[str, int, list[Any]]]) -> dict[str, tuple[list[float], float]]:
    """Return the milliseconds of each call, as one client sees them, and the server's processor time of one."""
    assert server.process
    environment = os.environ | {"CLEARML_CONFIG_FILE": str(server.client_conf()), "HOME": str(server.folder)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", LATENCIES, str(server.process.pid)], input=json.dumps(calls), env=environment,
        cwd=server.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def percentile(values: list[float], part: float) -> float:
    """Return the value that this part of the values does not exceed."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]


def fill_tasks(storage: Storage, template: dict[str, Any], project: str, count: int) -> list[str]:
    """Copy a task until the project has so many, and return all IDs."""
    with storage.write() as transaction:
        there = [
            row[0]
            for row in transaction.execute("SELECT id FROM tasks WHERE json_extract(doc, '$.project') = ?", (project,))
        ]
        new = [uuid.uuid4().hex for _ in range(count - len(there))]
        for number, identifier in enumerate(new):
            moment = f"2026-01-01T00:00:{number % 60:02}.{number:06}+00:00"
            transaction.put("tasks", template | {"id": identifier, "project": project, "last_update": moment})
    return there + new


def starts(server: Server, rounds: int) -> None:
    """Print how long the server takes until it answers."""
    seconds = []
    for _ in range(rounds):
        server.stop()
        begun = time.monotonic()
        server.start()
        seconds.append(time.monotonic() - begun)
    table(
        ("start to ready", "median", "longest"),
        (f"{rounds} starts", f"{statistics.median(seconds):.2f} s", f"{max(seconds):.2f} s"),
    )


def throughput(server: Server, template: dict[str, Any], project: str, seconds: int) -> None:
    """Print what many connections get through, with 10,000 tasks in a project."""
    with server.stopped() as storage:
        tasks = fill_tasks(storage, template, project, 10_000)
        queue = fill_queue(storage, tasks, "throughput", 200_000)
    target = server.call("tasks.create", {"name": "scalars", "type": "training"})["id"]
    event = {
        "type": "training_stats_scalar",
        "task": target,
        "metric": "loss",
        "variant": "train",
        "value": 0.123456789,
    }
    lines = "\n".join(json.dumps(event | {"iter": step, "timestamp": 1767225600000 + step}) for step in range(BATCH))
    page = {
        "project": [project],
        "page": 0,
        "page_size": 50,
        "order_by": ["-last_update"],
        "only_fields": ["id", "name", "status"],
    }
    rows: list[tuple[Any, ...]] = [("call", "connections", "calls/s", "scalars/s", "p95", "processors of the server")]
    for name, body, connections, kind in (
        ("debug.ping", "{}", 8, "application/json"),
        ("tasks.get_by_id", json.dumps({"task": tasks[0]}), 8, "application/json"),
        ("tasks.get_all", json.dumps(page), 8, "application/json"),
        ("queues.get_next_task", json.dumps({"queue": queue}), 8, "application/json"),
        ("events.add_batch", lines, 1, "application/json-lines"),
        ("events.add_batch", lines, 8, "application/json-lines"),
    ):  # fmt: skip
        rate, slow, used = wrk(server, name, body, seconds, connections, kind)
        scalars = f"{rate * BATCH:,.0f}" if name == "events.add_batch" else ""
        rows.append((f"`{name}`", connections, f"{rate:,.0f}", scalars, f"{slow:.1f} ms", f"{used:.2f}"))
    table(*rows)


def fill_queue(storage: Storage, tasks: list[str], name: str, count: int) -> str:
    """Make a queue with so many entries, and return its ID."""
    identifier = uuid.uuid4().hex
    with storage.write() as transaction:
        default = transaction.all("queues")[0]
        transaction.put("queues", default | {"id": identifier, "name": name, "system_tags": []})
        entries = ((identifier, tasks[number % len(tasks)], "2026-01-01T00:00:00+00:00") for number in range(count))
        transaction.executemany("INSERT INTO queue_entries (queue, task, added) VALUES (?, ?, ?)", entries)
    return identifier


def growth(server: Server, template: dict[str, Any], project: str) -> None:
    """Print how long a call takes one client while the project grows."""
    rows: list[tuple[Any, ...]] = [("tasks", "call", "median", "p95", "p99", "processor of the server")]
    for count in PROJECT_TASKS:
        with server.stopped() as storage:
            tasks = fill_tasks(storage, template, project, count)
            queue = fill_queue(storage, tasks, f"growth {count}", count)
        page = {"project": [project], "page": 0, "page_size": 50, "order_by": ["-last_update"]}
        event = {
            "type": "training_stats_scalar",
            "task": tasks[0],
            "metric": "m",
            "variant": "v",
            "iter": 1,
            "value": 1.5,
        }
        found = latencies(
            server,
            [
                ("tasks.get_by_id", 300, [{"json": {"task": task}} for task in tasks[:: count // 100]]),
                ("tasks.get_all", 100, [{"json": page | {"only_fields": ["id", "name", "status"]}}]),
                ("queues.get_next_task", 200, [{"json": {"queue": queue}}]),
                ("events.add_batch", 100, [{"data": json.dumps(event)}]),
            ],
        )
        for name, (spent, used) in found.items():
            cells = (statistics.median(spent), percentile(spent, 0.95), percentile(spent, 0.99), used)
            rows.append((f"{count:,}", f"`{name}`", *(f"{cell:.1f} ms" for cell in cells)))
    table(*rows)


def curves(server: Server) -> None:
    """Print how long curves out of a million scalars take."""
    task = server.call("tasks.create", {"name": "curves", "type": "training"})["id"]
    with server.stopped() as storage, storage.write() as transaction:
        for number in range(SERIES):
            transaction.execute("INSERT INTO series (task, metric, variant) VALUES (?, 'm', ?)", (task, f"v{number}"))
            (series,) = transaction.execute("SELECT last_insert_rowid()").fetchone()
            points = ((series, step, 1767225600000 + step, step / 7, "w") for step in range(POINTS))
            transaction.executemany(
                "INSERT INTO scalars (series, iter, timestamp, value, worker) VALUES (?, ?, ?, ?, ?)", points
            )
    rows: list[tuple[Any, ...]] = [
        (
            "`scalar_metrics_iter_histogram`, 1,000,000 scalars in 10 curves",
            "median",
            "longest",
            "processor of the server",
        )
    ]
    for key in ("iter", "timestamp"):
        request = {"task": task, "key": key}
        spent, used = latencies(server, [("events.scalar_metrics_iter_histogram", 5, [{"json": request}])]).popitem()[1]
        rows.append((f"by {key}", f"{statistics.median(spent):,.0f} ms", f"{max(spent):,.0f} ms", f"{used:,.0f} ms"))
    table(*rows)


def transfer(server: Server) -> None:
    """Print how fast a large file goes up and comes back."""
    import httpx

    rows: list[tuple[Any, ...]] = [(f"{MEGABYTES} MB", "seconds", "MB/s", "processor time of the server")]
    content = os.urandom(1 << 20) * MEGABYTES
    steps: dict[str, Callable[[httpx.Client], httpx.Response]] = {
        "up": lambda client: client.post("/", files={"bench/file": content}),
        "down": lambda client: client.get("/bench/file"),
    }
    with httpx.Client(
        base_url=server.urls["files"], headers={"Authorization": f"Bearer {server.token()}"}, timeout=300
    ) as client:
        for name, step in steps.items():
            used, begun = server.cpu, time.monotonic()
            step(client).raise_for_status()
            spent = time.monotonic() - begun
            rows.append((name, f"{spent:.2f}", f"{MEGABYTES / spent:.0f}", f"{server.cpu - used:.2f} s"))
    table(*rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.lite", description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of load for each call (default: 5)")
    parser.add_argument(
        "--only", choices=["starts", "throughput", "growth", "curves", "transfer"], help="one part of it"
    )
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not here: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="bench-lite-") as folder:
        # as on a host, where pip has compiled what it installed
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = f"{folder}/compiled"
        server = Server(Path(folder))
        server.start()
        try:
            project = server.call("projects.create", {"name": "bench"})["id"]
            parameters = {"Args": {f"p{n}": {"section": "Args", "name": f"p{n}", "value": str(n)} for n in range(20)}}
            made = server.call(
                "tasks.create", {"name": "train", "type": "training", "project": project, "hyperparams": parameters}
            )
            template = server.call("tasks.get_by_id", {"task": made["id"]})["task"]
            parts: dict[str, Callable[[], None]] = {
                "starts": lambda: starts(server, 10),
                "throughput": lambda: throughput(server, template, project, arguments.seconds),
                "curves": lambda: curves(server),
                "transfer": lambda: transfer(server),
                "growth": lambda: growth(server, template, project),
            }
            for name, part in parts.items():
                if arguments.only in (None, name):
                    part()
                    print(f"Most memory so far: {max(server.note_memory(), server.most_memory):.0f} MB.\n")
        finally:
            server.stop()


if __name__ == "__main__":
    main()
