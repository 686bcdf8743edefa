"""What stands and how it is: services, versions, workers, queues, disks, clocks, mirrors."""

from __future__ import annotations

import datetime
import email.utils
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import httpx

from provision import drain, forward, hosts, inventory, mirrors, stores, tls, upgrade_begun
from provision.clearml_api import ClearmlApi
from provision.diagnosis import Seen, age_s, problems
from provision.errors import ApiError, ReachError
from provision.reports import Clock, Disk, QueueState, Service, StatusReport, Urls, WorkerState
from provision.session import Session
from provision.spec import Testbed

VERSION_COMMANDS = {
    "clearml_lite": ("server", "/opt/testbed/venvs/clearml-lite/bin/python", "clearml-lite"),
    "clearml-agent": ("agents", "/opt/testbed/venvs/clearml-agent/bin/python", "clearml-agent"),
    "workload": ("agents", "/opt/testbed/venvs/prepared/bin/python", "testbed-workload"),
    "tensorflow": ("agents", "/opt/testbed/venvs/prepared/bin/python", "tensorflow-cpu"),
}
# a worker that has not reported for so long is gone, as ClearML's server sees it
WORKER_TIMEOUT_S = 600
AT_ONCE = 16
UNASKED = "cannot be asked"  # a service on a host that SSH does not reach
ANSWER_S = 10.0
PINGS: dict[Literal["api", "web", "files"], str] = {"api": "/debug.ping", "web": "/", "files": "/"}
# what fills up beside the data: packages and environments, logs, users' files, what is unpacked
PLACES = ("/", "/opt/testbed", "/var/log", "/home", "/tmp")  # noqa: S108 (looked at, not written to)
# the time; then of each file system: its first folder of those named, whether that is writable, and what df says
LOOK = """date +%s.%N
data=$1; shift
found=$data; while [ ! -e "$found" ]; do found=$(dirname "$found"); done
seen=:
for path in "$data" "$@"; do
  [ "$path" = "$data" ] || found=$path
  [ -e "$found" ] || continue
  device=$(stat --format=%d "$found")
  case $seen in *:$device:*) continue ;; esac
  seen=$seen$device:
  if [ -w "$found" ]; then able=writable; else able=read-only; fi
  figures=$(df --block-size=1 --output=size,used,avail,itotal,iused "$found" | tail -n 1)
  printf '%s\\t%s\\t%s\\n' "$path" $able "$figures"
done
"""


def collect(session: Session) -> StatusReport:
    """Return the testbed's state, and what is not well with what to do about it."""
    testbed = session.testbed
    seen = Seen(away=away(session))
    for host, name in inventory.services(testbed, session.inventory):
        found = None if host in seen.away else hosts.connect(session.inventory_file, host)
        state = UNASKED if found is None else hosts.service_state(found, name)
        seen.services.append(Service(host=host, name=name, running=state == hosts.RUNS, state=state))
    seen.wanted = [(host, worker.name) for host, worker in inventory.workers(testbed, session.inventory)]
    _look_at_urls(testbed, seen)
    _look_at_hosts(session, seen)
    seen.mirrors = mirrors.look(session, seen.away)
    seen.stores = stores.look(session, seen.away)
    seen.begun = _begun(session)
    seen.upgrading = upgrading.wanted if (upgrading := upgrade_begun.find(testbed.name)) else ""
    if testbed.server.url("api") not in seen.silent:
        _look_at_api(session, seen)
    found_problems = problems(seen)
    return StatusReport(
        testbed=testbed.name,
        at=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}",
        healthy=not found_problems,
        problems=found_problems,
        urls=Urls.of(testbed, session.machines),
        services=seen.services,
        versions=_versions(session, seen.away),
        workers=seen.workers or [],
        queues=seen.queues,
        disk=seen.disk,
        clocks=seen.clocks,
        certificates=seen.certificates,
        mirrors=seen.mirrors,
        stores=seen.stores,
    )


def _begun(session: Session) -> str:
    secrets = session.vault.load()
    return secrets.changing if secrets is not None else ""


def _look_at_api(session: Session, seen: Seen) -> None:
    secrets = session.vault.load()
    if secrets is None or secrets.toolkit is None:
        seen.api_error = "the testbed has no keys: it is not up", "Bring it up: testbed up"
        return
    try:
        with ClearmlApi(session.testbed.server.url("api"), secrets.toolkit) as api:
            seen.workers, seen.queues = workers(session, api, seen.away), _queues(api)
    except ApiError as error:
        if error.code == httpx.codes.UNAUTHORIZED:
            remedy = "Issue another one: testbed up. Where the secrets are not the testbed's: testbed secrets status"
            seen.api_error = f"the server refuses the toolkit's key: {error.message}", remedy
        else:
            seen.api_error = error.message, error.remedy or "See testbed logs of the server's service; then testbed up"


def _look_at_urls(testbed: Testbed, seen: Seen) -> None:
    """See whether the server answers, with which certificates, and what time it is there."""
    seen.certificates = tls.look(testbed)
    with forward.client(timeout=ANSWER_S) as client:
        for service, path in PINGS.items():
            url = testbed.server.url(service)
            began = time.time()
            try:
                answer = client.get(f"{url}{path}")
            except httpx.HTTPError as error:
                seen.silent[url] = str(error) or type(error).__name__
                continue
            if answer.is_server_error:
                seen.silent[url] = f"HTTP {answer.status_code}"
            if date := answer.headers.get("Date"):  # whole seconds
                there = email.utils.parsedate_to_datetime(date).timestamp() + 0.5
                offset = there - (began + time.time()) / 2
                seen.clocks.append(Clock(of=url, offset=round(offset, 1)))
                if service == "api":
                    seen.now += datetime.timedelta(seconds=offset)


def _look_at_hosts(session: Session, seen: Seen) -> None:
    """See the time, and the disks, on each host, some at once."""
    path = session.testbed.data_dir

    def look(name: str) -> tuple[Clock, list[Disk]]:
        began = time.time()
        places = [*PLACES, *_images_at(session, name)]
        done = hosts.connect(session.inventory_file, name).run(
            f"sh -c %s sh{' %s' * (1 + len(places))}", LOOK, path, *places
        )
        clock, *rest = done.stdout.splitlines() or ["0"]
        offset = float(clock) - (began + time.time()) / 2
        return Clock(of=name, offset=round(offset, 1)), [disk_of(name, line, path) for line in rest]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for clock, disks in pool.map(look, [name for name in session.hosts if name not in seen.away]):
            seen.clocks.append(clock)
            seen.disk += disks


def _images_at(session: Session, host: str) -> list[str]:
    """Return the folder of the Docker Engine of the server's host."""
    if session.testbed.server.backend != "docker" or host not in inventory.hosts(session.inventory, "server"):
        return []
    done = hosts.connect(session.inventory_file, host).run("docker info --format %s", "{{.DockerRootDir}}")
    return [done.stdout.strip()] if done.rc == 0 and done.stdout.strip() else []


def disk_of(host: str, line: str, data: str) -> Disk:
    """Return a host's disk from a line of `LOOK`; `data` is the data folder."""
    path, able, figures = line.split("\t")
    size, used, free, inodes, inodes_used = (int(word) if word.isdigit() else 0 for word in figures.split())
    return Disk(
        host=host,
        path=path,
        data=path == data,
        size=size,
        free=free,
        used=round(used / (used + free), 4) if used + free else 1.0,
        inodes_used=round(inodes_used / inodes, 4) if inodes else 0.0,
        writable=able == "writable",
    )


def away(session: Session) -> dict[str, str]:
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
        for worker, order in drain.orders(session, host, rotation=True).items()
    }


def workers(session: Session, api: ClearmlApi, without: Collection[str]) -> list[WorkerState]:
    """Return the workers that the server knows; hosts of `without` are not asked which of theirs are drained.

    Raises `ApiError`, `ReachError`.
    """
    drained = _drained(session, without)
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
    if session.testbed.server.is_external:
        del commands["clearml_lite"]
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


def age(moment: str) -> str:
    """Return how long ago an ISO 8601 time of the server was, in seconds."""
    return f"{age_s(moment, datetime.datetime.now(datetime.UTC)):.0f} s ago"
