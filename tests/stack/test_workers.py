"""Every agent has reported to the server and listens on its queues."""

from __future__ import annotations

import time

from provision.status import WORKER_TIMEOUT_S

# an agent that has just been started reports within seconds
STARTING_S = 60


def _wait(api, name: str, queues: list[str]) -> dict[str, dict]:
    end = time.monotonic() + STARTING_S
    while True:
        found = {entry["id"]: entry for entry in api.call("workers.get_all", last_seen=WORKER_TIMEOUT_S)["workers"]}
        if name in found and [queue["name"] for queue in found[name]["queues"]] == queues or time.monotonic() > end:
            return found
        time.sleep(1)


def test_worker_reports(api, worker, record_property):
    host, described = worker
    name = f"{host}:{described.name}"
    record_property("reference", name)
    found = _wait(api, name, list(described.queues))
    assert name in found, (
        f"worker {name} has not reported for {WORKER_TIMEOUT_S} s; the server knows {sorted(found) or 'none'}; "
        f"see service testbed-agent-{described.name} on {host}"
    )
    queues = [queue["name"] for queue in found[name]["queues"]]
    assert queues == list(described.queues), (
        f"worker {name} listens on {queues}, not on {list(described.queues)}; run `testbed up`"
    )
