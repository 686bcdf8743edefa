"""Every agent has reported to the server and listens on its queues, and every queue is served."""

from __future__ import annotations

import datetime
import email.utils
import json
import time

import pytest

from provision import inventory
from provision.smoke.problem import Broken, need
from provision.status import WORKER_TIMEOUT_S

# an agent that has just been started reports within seconds
STARTING_S = 60
# agents report every half minute
STALE_S = 180
# the worker IDs of the agents that run on a host: of each process of an agent that was not started by another one of it
TWINS = """
import glob, json, os, re
agents, parents = {}, {}
here = os.readlink("/proc/self/ns/pid")
for folder in glob.glob("/proc/[0-9]*"):
    try:
        if os.readlink(folder + "/ns/pid") != here:  # a container's: its files and server are others
            continue
        words = open(folder + "/cmdline", "rb").read().decode(errors="replace").split(chr(0))
        parent = int(open(folder + "/stat").read().rpartition(")")[2].split()[1])
        process = int(folder.rpartition("/")[2])
        parents[process] = parent
        if "daemon" not in words or not any("agent" in word for word in words):
            continue
        conf = words[words.index("--config-file") + 1] if "--config-file" in words else ""
        for entry in open(folder + "/environ", "rb").read().decode(errors="replace").split(chr(0)):
            if entry.startswith("CLEARML_CONFIG_FILE=") and not conf:
                conf = entry.partition("=")[2]
        found = re.search(r'worker_id"?\\s*[:=]\\s*"([^"]*)"', open(conf).read())
        if found:
            agents[process] = found.group(1)
    except (OSError, ValueError):
        continue
def below(process):
    while process in parents:
        process = parents[process]
        if process in agents:
            return True
    return False
print(json.dumps([name for process, name in agents.items() if not below(process)]))
"""


def _known(api, last_seen: int = WORKER_TIMEOUT_S) -> dict[str, dict]:
    return {entry["id"]: entry for entry in api.call("workers.get_all", last_seen=last_seen)["workers"]}


def _listens(worker: dict) -> list[str]:
    return [queue.get("name", queue["id"]) for queue in worker["queues"]]


def _wait(api, name: str, queues: list[str]) -> dict[str, dict]:
    end = time.monotonic() + STARTING_S
    while True:
        found = _known(api)
        if name in found and _listens(found[name]) == queues or time.monotonic() > end:
            return found
        time.sleep(1)


def _ages(api, http, target) -> dict[str, tuple[float, dict]]:
    """How many seconds ago each worker has reported, by the server's own clock."""
    date = http.get(f"{target.url('api')}/debug.ping").headers.get("Date")
    now = email.utils.parsedate_to_datetime(date) if date else datetime.datetime.now(datetime.UTC)
    return {
        name: ((now - datetime.datetime.fromisoformat(worker["last_report_time"])).total_seconds(), worker)
        for name, worker in _known(api).items()
        if worker.get("last_report_time")
    }


@pytest.mark.hosts
def test_worker_reports(api, worker, record_property):
    """The worker has reported to the server, and listens on the queues of testbed.yaml."""
    host, described = worker
    name = f"{host}:{described.name}"
    record_property("reference", name)
    found = _wait(api, name, list(described.queues))
    need(
        name in found,
        f"worker {name} has not reported for {WORKER_TIMEOUT_S} s; the server knows {sorted(found) or 'none'}",
        expected=f"worker {name} reports to the server",
        remedy=f"`testbed logs agent-{described.name}` says why; `testbed up` starts it.",
    )
    need(
        _listens(found[name]) == list(described.queues),
        f"worker {name} listens on {', '.join(_listens(found[name])) or 'no queue'}",
        expected=f"worker {name} listens on {', '.join(described.queues)}",
        remedy="Run `testbed up`, which starts it on its queues again.",
    )


@pytest.mark.of("agents")
def test_queue_is_served(api, http, target, queue, record_property):
    """The queue is there, and a worker listens on it that has reported lately."""
    record_property("reference", queue)
    there = [entry["name"] for entry in api.call("queues.get_all", only_fields=["name"])["queues"]]
    need(
        queue in there,
        f"there is no queue {queue}; there are: {', '.join(sorted(there)) or 'none'}",
        expected=f"the server has queue {queue}",
        remedy="Name another with --queue, or make it: clearml-agent daemon --create-queue."
        if target.conf
        else "Run `testbed up`, which starts the agents that make it.",
    )
    end = time.monotonic() + (0 if target.conf else STARTING_S)
    while True:
        ages = {name: age for name, (age, worker) in _ages(api, http, target).items() if queue in _listens(worker)}
        if any(age <= STALE_S for age in ages.values()) or time.monotonic() > end:
            break
        time.sleep(1)
    seen = ", ".join(f"{name}, silent for {age:.0f} s" for name, age in sorted(ages.items()))
    need(
        any(age <= STALE_S for age in ages.values()),
        f"no worker serves queue {queue}: {seen or 'none listens on it'}",
        expected=f"a worker that listens on {queue} has reported in the last {STALE_S} s",
        remedy="Start an agent: clearml-agent daemon --queue " + queue if target.conf else "",
    )


@pytest.mark.of("agents")
def test_no_worker_is_stale(api, http, target, request):
    """Every worker that the server lists has reported lately; one that has not takes no task, and may have lost one."""
    ours = None
    if target.conf is None:
        stack = request.getfixturevalue("stack")
        ours = {f"{host}:{worker.name}" for host, worker in inventory.workers(stack.testbed, stack.inventory)}
    for name, (age, worker) in sorted(_ages(api, http, target).items()):
        asked_for = not target.queues or set(_listens(worker)) & set(target.queues)
        if asked_for if ours is None else name in ours:
            need(
                age <= STALE_S,
                f"worker {name} has been silent for {age:.0f} s, and the server still lists it",
                expected=f"worker {name} has reported in the last {STALE_S} s",
                remedy=f"See whether its agent runs and reaches {target.url('api')}; if it is gone, the server "
                "forgets it after ten minutes.",
            )


@pytest.mark.hosts
@pytest.mark.of("agents")
def test_worker_ids_are_used_once(on, stack):
    """No two agents on the hosts have the same worker ID: the server would take them for one, and lose tasks."""
    found: dict[str, str] = {}
    for host in inventory.hosts(stack.inventory, "agents"):
        done = on(host).run("/usr/bin/python3 -I -c %s", TWINS)
        need(
            done.rc == 0,
            f"{host}: the processes cannot be read: {' '.join(done.stderr.split())[-200:]}",
            expected=f"{host}: /usr/bin/python3 lists the agents' processes",
            remedy="See whether /usr/bin/python3 runs there; `testbed status` says whether the host can be reached.",
        )
        for name in json.loads(done.stdout):
            if name in found:
                raise Broken(
                    f"two agents work as {name}: on {found[name]} and on {host}",
                    expected=f"one agent works as {name}",
                    remedy="End the one that is none of the testbed's services, and give it a worker_id of its own.",
                )
            found[name] = host
