"""What is not well with what was seen, and what to do about it. Pure.

Each of `CHECKS` looks at all that was seen; to find another kind of problem, add to it.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from provision.reports import (
    CertificateState,
    Clock,
    Disk,
    MirrorState,
    QueueState,
    Service,
    StatusProblem,
    StoreState,
    WorkerState,
)

# a disk that is so full is a problem; one with data, too, that has less left
FULL = 0.9
FREE_BYTES = 5_000_000_000
# tokens and leases care from here on
CLOCK_S = 30.0
# agents report every 30 s
SILENT_S = 180.0


@dataclass
class Seen:
    """All that `status` saw of a testbed. `away`: what is wrong with hosts that SSH does not reach, by name."""

    away: dict[str, str] = field(default_factory=dict)
    services: list[Service] = field(default_factory=list)
    silent: dict[str, str] = field(default_factory=dict)  # URLs that do not answer, and what came instead
    begun: str = ""  # a re-key, rotation or restore that is not complete
    upgrading: str = ""  # the version to which an upgrade was begun that has not ended
    api_error: tuple[str, str] | None = None  # what the API refused, and what to do
    wanted: list[tuple[str, str]] = field(default_factory=list)  # workers as (host, name)
    workers: list[WorkerState] | None = None  # None: the API did not tell
    queues: list[QueueState] = field(default_factory=list)
    disk: list[Disk] = field(default_factory=list)
    clocks: list[Clock] = field(default_factory=list)
    certificates: list[CertificateState] = field(default_factory=list)
    mirrors: list[MirrorState] = field(default_factory=list)
    stores: list[StoreState] = field(default_factory=list)
    now: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))  # by the server's clock


def hosts_answer(seen: Seen) -> Iterator[StatusProblem]:
    """Every host lets us in."""
    for host, said in seen.away.items():
        yield StatusProblem(
            message=said, remedy=f"Look whether {host} is on and its network works; to try it: testbed ssh {host}"
        )


def services_run(seen: Seen) -> Iterator[StatusProblem]:
    """Every service runs."""
    for service in seen.services:
        if not service.running and service.host not in seen.away:
            short = service.name.removeprefix("testbed-")
            yield StatusProblem(
                message=f"{service.host}: service {service.name} {service.state}",
                remedy=f"See its last words, testbed logs {short}, and start it: testbed up",
            )


def urls_answer(seen: Seen) -> Iterator[StatusProblem]:
    """The server answers under every URL."""
    told = {found.url for found in seen.certificates if found.problem}
    for url, said in [(url, said) for url, said in seen.silent.items() if url not in told]:
        yield StatusProblem(
            message=f"{url} does not answer: {said}",
            remedy="See that the server's services run, and that nothing on the way blocks the port; then testbed up",
        )


def nothing_is_half_done(seen: Seen) -> Iterator[StatusProblem]:
    """No command that was killed waits to be completed."""
    if seen.begun:
        yield StatusProblem(message=f"a {seen.begun} was begun and is not complete", remedy="Complete it: testbed up")
    if seen.upgrading:
        yield StatusProblem(
            message=f"an upgrade to server {seen.upgrading} was begun and has not ended",
            remedy=f"Complete it: testbed upgrade --server {seen.upgrading}",
        )


def certificates_are_good(seen: Seen) -> Iterator[StatusProblem]:
    """Every certificate is trusted, for the name in the URL, and not near its end."""
    for found in seen.certificates:
        if found.problem:
            yield StatusProblem(message=found.problem, remedy=found.remedy)


def api_works(seen: Seen) -> Iterator[StatusProblem]:
    """The API server takes the toolkit's key."""
    if seen.api_error:
        message, remedy = seen.api_error
        yield StatusProblem(message=message, remedy=remedy)


def workers_report(seen: Seen) -> Iterator[StatusProblem]:
    """Every worker has reported of late."""
    if seen.workers is None:
        return
    ages = {worker.name: age_s(worker.last_report, seen.now) for worker in seen.workers}
    for host, name in seen.wanted:
        age = ages.get(f"{host}:{name}")
        if age is None or age > SILENT_S:
            since = "is not known to the server" if age is None else f"has not reported for {age:.0f} s"
            yield StatusProblem(
                message=f"worker {host}:{name} {since}",
                remedy=f"See testbed logs agent-{name} --host {host}; where the watchdog does not help: testbed up",
            )


def disks_have_room(seen: Seen) -> Iterator[StatusProblem]:
    """Disks can be written to, and have room."""
    for disk in seen.disk:
        where = f"{disk.host}: {disk.path}"
        if not disk.writable:
            yield StatusProblem(
                message=f"{where} is read-only",
                remedy="The kernel makes a damaged disk so, see dmesg there: mend and remount it, then testbed up",
            )
        if disk.used >= FULL or (disk.data and disk.free < FREE_BYTES):
            yield StatusProblem(
                message=f"{where} is {disk.used:.0%} full, {disk.free / 1e9:.1f} GB are left",
                remedy=f"Make room (what is large: du -xh {disk.path}), or give it a larger disk",
            )
        if disk.inodes_used >= FULL:
            yield StatusProblem(
                message=f"{where} has used {disk.inodes_used:.0%} of its inodes",
                remedy=f"Remove folders with very many files below {disk.path}, or give it a larger disk",
            )


def clocks_agree(seen: Seen) -> Iterator[StatusProblem]:
    """Hosts and services have the time that it is here."""
    for clock in seen.clocks:
        if abs(clock.offset) > CLOCK_S:
            way = "ahead of" if clock.offset > 0 else "behind"
            yield StatusProblem(
                message=f"the clock of {clock.of} is {abs(clock.offset):.0f} s {way} this machine's",
                remedy="Have both keep time (timedatectl set-ntp true); restart a service that has its own",
            )


def mirrors_answer(seen: Seen) -> Iterator[StatusProblem]:
    """Every mirror of the spec's answers the hosts that use it."""
    silent: dict[tuple[str, str, str], list[str]] = {}
    for found in seen.mirrors:
        if found.problem:
            silent.setdefault((found.key, found.url, found.problem), []).append(found.host)
    for (key, url, problem), hosts in silent.items():
        yield StatusProblem(
            message=f"{', '.join(hosts)}: mirror {url} ({key}) does not answer: {problem}",
            remedy="What runs goes on; nothing can be installed. See that the mirror runs and that nothing on the way "
            f"blocks it (proxy, firewall), or name another one in {key} of testbed.yaml; then testbed up",
        )


def stores_elsewhere_answer(seen: Seen) -> Iterator[StatusProblem]:
    """Every existing cluster takes calls from the server's host."""
    for store in [store for store in seen.stores if store.problem]:
        where = f"server.stores.{store.name}: {store.host}:{store.port}"
        yield StatusProblem(
            message=f"{where} does not answer the server: {store.problem}",
            remedy="See that it runs, and that no firewall is between; the ClearML server goes on by itself then",
        )


CHECKS: list[Callable[[Seen], Iterable[StatusProblem]]] = [
    hosts_answer,
    services_run,
    certificates_are_good,
    urls_answer,
    nothing_is_half_done,
    api_works,
    workers_report,
    disks_have_room,
    clocks_agree,
    mirrors_answer,
    stores_elsewhere_answer,
]


def problems(seen: Seen) -> list[StatusProblem]:
    """Return all that is not well, in the order of `CHECKS`."""
    return [problem for check in CHECKS for problem in check(seen)]


def age_s(moment: str, now: datetime.datetime) -> float:
    """Return how many seconds before `now` an ISO 8601 time of the server was."""
    then = datetime.datetime.fromisoformat(moment)
    if then.tzinfo is None:
        then = then.replace(tzinfo=datetime.UTC)
    return (now - then).total_seconds()
