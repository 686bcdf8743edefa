"""Every agent has reported to the server and listens on its queues."""

from __future__ import annotations

from provision.status import WORKER_TIMEOUT_S


def test_worker_reports(api, worker, record_property):
    host, described = worker
    name = f"{host}:{described.name}"
    record_property("reference", name)
    found = {entry["id"]: entry for entry in api.call("workers.get_all", last_seen=WORKER_TIMEOUT_S)["workers"]}
    assert name in found, (
        f"worker {name} has not reported for {WORKER_TIMEOUT_S} s; the server knows {sorted(found) or 'none'}; "
        f"see service testbed-agent-{described.name} on {host}"
    )
    queues = [queue["name"] for queue in found[name]["queues"]]
    assert queues == list(described.queues), (
        f"worker {name} listens on {queues}, not on {list(described.queues)}; run `testbed up`"
    )
