"""What stands and how it is: services, versions, workers, queues, disk."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor

from provision import drain, hosts, inventory
from provision.clearml_api import ClearmlApi
from provision.errors import ApiError, ReachError
from provision.reports import Disk, QueueState, Service, StatusReport, Urls, WorkerState
from provision.session import Session

VERSION_COMMANDS = {
    "clearml_lite": ("server", "/opt/testbed/venvs/clearml-lite/bin/python", "clearml-lite"),
    "clearml-agent": ("agents", "/opt/testbed/venvs/clearml-agent/bin/python", "clearml-agent"),
    "workload": ("agents", "/opt/testbed/venvs/prepared/bin/python", "testbed-workload"),
    "tensorflow": ("agents", "/opt/testbed/venvs/prepared/bin/python", "tensorflow-cpu"),
}
# a worker that has not reported for so long is gone, as ClearML's server sees it
WORKER_TIMEOUT_S = 600
AT_ONCE = 16


def collect(session: Session) -> StatusReport:
    """Return the testbed's state; `healthy` is true when every service runs and every worker has reported."""
    testbed = session.testbed
    problems: list[str] = []
    services = []
    away = _away(session)
    problems += away.values()
    for host, name in inventory.services(testbed, session.inventory):
        found = None if host in away else hosts.connect(session.inventory_file, host)
        state = "does not run" if found is None else hosts.service_state(found, name)
        services.append(Service(host=host, name=name, running=state == hosts.RUNS))
        if found is not None and state != hosts.RUNS:
            problems.append(f"{host}: service {name} {state}")
    workers: list[WorkerState] = []
    queues: list[QueueState] = []
    try:
        secrets = session.vault.load()
        if secrets is None or secrets.toolkit is None:
            problems.append("the testbed has no keys: it is not up")
        else:
            with ClearmlApi(testbed.server.url("api"), secrets.toolkit) as api:
                workers, queues = _workers(api, _drained(session, away)), _queues(api)
            seen = {worker.name for worker in workers}
            problems += [
                f"worker {host}:{worker.name} has not reported for {WORKER_TIMEOUT_S} s"
                for host, worker in inventory.workers(testbed, session.inventory)
                if f"{host}:{worker.name}" not in seen
            ]
    except ApiError as error:
        problems.append(error.message)
    return StatusReport(
        testbed=testbed.name,
        healthy=not problems,
        problems=problems,
        urls=Urls.of(testbed, session.machines),
        services=services,
        versions=_versions(session, away),
        workers=workers,
        queues=queues,
        disk=_disk(session, away),
    )


def _away(session: Session) -> dict[str, str]:
    """Return what is wrong with hosts that SSH does not reach, by name."""

    def ask(name: str) -> str | None:
        try:
            hosts.connect(session.inventory_file, name).run("true")
        except ReachError as error:
            return error.message
        return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {name: said for name, said in zip(session.hosts, pool.map(ask, session.hosts), strict=True) if said}


def _drained(session: Session, away: Collection[str]) -> dict[str, str]:
    """Return since when workers are drained, by worker."""
    return {
        f"{host}:{worker}": order.text
        for host in inventory.hosts(session.inventory, "agents")
        if host not in away
        for worker, order in drain.orders(session, host).items()
    }


def _workers(api: ClearmlApi, drained: Mapping[str, str]) -> list[WorkerState]:
    return [
        WorkerState(
            name=worker["id"],
            queues=[queue["name"] for queue in worker.get("queues", [])],
            task=(worker.get("task") or {}).get("id"),
            last_report=worker.get("last_activity_time") or worker.get("register_time"),
            drained=drained.get(worker["id"]),
        )
        for worker in api.call("workers.get_all", last_seen=WORKER_TIMEOUT_S)["workers"]
    ]


def _queues(api: ClearmlApi) -> list[QueueState]:
    return [
        QueueState(name=queue["name"], waiting=len(queue.get("entries") or []))
        for queue in api.call("queues.get_all", only_fields=["name", "entries"])["queues"]
    ]


def _versions(session: Session, away: Collection[str]) -> dict[str, str | None]:
    script = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    found: dict[str, str | None] = {}
    commands = dict(VERSION_COMMANDS)
    if session.testbed.server.backend == "docker":
        del commands["clearml_lite"]
        found["clearml-server"] = _server_image(session, away)
    for name, (group, python, distribution) in commands.items():
        found[name] = None
        for host in [host for host in inventory.hosts(session.inventory, group) if host not in away][:1]:
            done = hosts.connect(session.inventory_file, host).run("%s -I -c %s %s", python, script, distribution)
            found[name] = done.stdout.strip() if done.rc == 0 else None
    return found


def _server_image(session: Session, away: Collection[str]) -> str | None:
    """Return the image that the API server runs."""
    for host in [host for host in inventory.hosts(session.inventory, "server") if host not in away]:
        name = inventory.api_service(session.testbed)
        done = hosts.connect(session.inventory_file, host).run("docker inspect --format {{.Config.Image}} %s", name)
        return done.stdout.strip() if done.rc == 0 else None
    return None


def _disk(session: Session, away: Collection[str]) -> list[Disk]:
    found = []
    for name in [name for name in session.hosts if name not in away]:
        done = hosts.connect(session.inventory_file, name).run(
            "df --block-size=1 --output=size,avail %s | tail -n 1", session.testbed.data_dir
        )
        if done.rc == 0 and done.stdout.strip():
            size, free = map(int, done.stdout.split())
            found.append(Disk(host=name, path=session.testbed.data_dir, size=size, free=free))
    return found


def age(moment: str) -> str:
    """Return how long ago an ISO 8601 time of the server was, in seconds."""
    then = datetime.datetime.fromisoformat(moment)
    if then.tzinfo is None:
        then = then.replace(tzinfo=datetime.UTC)
    return f"{(datetime.datetime.now(datetime.UTC) - then).total_seconds():.0f} s ago"
