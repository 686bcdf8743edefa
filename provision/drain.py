"""Drains workers: each finishes what it runs and takes no other task, over `up` and reboots, until it is undrained.

A worker is drained by a file on its host, its order (role clearml_agent, `drain.yml`); its agent answers with the same
text when it has seen the order, which it looks for only between tasks. While keys are replaced it has an order of the
rotation's own, beside that of a person; the next `up` takes away what a rotation left that was killed.
"""

from __future__ import annotations

import contextlib
import datetime
import getpass
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from provision import hosts, inventory
from provision.clearml_api import ClearmlApi
from provision.errors import ApiError, BusyError, InputError, TestbedError
from provision.plays import play
from provision.reports import DrainReport, DrainState, WorkerState
from provision.session import Session

DRAIN = ("Drain the workers",)
UNDRAIN = ("Undrain the workers",)
PAUSE, RESUME = "Have the agents take no task", "Have the agents take tasks again"
ORDERS = "/etc/testbed/drained"
SERVICE = "testbed-agent-"
ROTATION = f"rotation.{SERVICE}"
# an idle agent looks for an order every second or two; one that has no answer from the server, every minute
ANSWER_S = 15.0
LOOK_S = 2.0
REPLACED = "until its keys are replaced (testbed up)"  # what a rotation's order says
ROTATION_S = 90.0  # what to wait for an answer at most before agents start anew with other keys

State = Literal["working", "finishing", "drained"]


@dataclass(frozen=True)
class Order:
    """What a worker's host tells of its order: the text, and whether the agent has answered with it."""

    text: str
    answered: bool


def choose(names: Sequence[str], workers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the workers that `names` mean, by host; `workers`: all there are, as (host, name).

    A name is a host's (all of its workers), a worker's (on every host that runs it) or HOST:WORKER; without any, all
    workers are meant. Raises `InputError` for a name that means none.
    """
    there = list(workers)
    chosen = set() if names else set(there)
    for name in names:
        meant = {(host, worker) for host, worker in there if name in (host, worker, f"{host}:{worker}")}
        if not meant:
            known = ", ".join(f"{host}:{worker}" for host, worker in there)
            raise InputError(
                f"{name} is no agent host and no worker of this testbed; there are: {known}",
                "Name a host, a worker, or HOST:WORKER.",
            )
        chosen |= meant
    found: dict[str, list[str]] = {}
    for host, worker in sorted(chosen):
        found.setdefault(host, []).append(worker)
    return found


def state_of(order: Order | None, *, runs: bool) -> State:
    """Return how far a worker is; `runs`: whether its service does. One that is stopped takes no task either."""
    if order is None:
        return "working"
    return "drained" if order.answered or not runs else "finishing"


def parse(text: str, data_dir: str, prefix: str = SERVICE) -> dict[str, Order]:
    """Return the orders in `read`'s lines, by worker; `prefix`: what an order's name has before the worker's."""
    orders, answers = {}, {}
    for line in text.splitlines():
        path, _, said = line.partition(":")
        if path.startswith(f"{ORDERS}/{prefix}"):
            orders[path.removeprefix(f"{ORDERS}/{prefix}")] = said
        else:
            answers[path.removeprefix(f"{data_dir}/agent/tmp/").removesuffix("/drained")] = said
    return {worker: Order(said, answers.get(worker) == said) for worker, said in orders.items()}


def nobody_takes(queue: str, workers: Iterable[WorkerState]) -> str:
    """Return why what is put into `queue` waits there, and what to do; empty where one of `workers` takes it."""
    serving = [worker for worker in workers if queue in worker.queues]
    if not serving:
        return f"no worker serves queue {queue}: testbed status tells which do not report, and what to do"
    if not all(worker.drained for worker in serving):
        return ""
    told = ", ".join(f"{worker.name}, drained since {worker.drained}" for worker in serving)
    names = " ".join(worker.name for worker in serving if not (worker.drained or "").endswith(REPLACED))
    way = f"testbed undrain {names}" if names else "testbed up, which completes a rotation of keys that was stopped"
    return f"no worker of queue {queue} takes tasks: {told}. To have them taken again: {way}"


def orders(session: Session, host: str, *, rotation: bool = False) -> dict[str, Order]:
    """Return the orders on `host`, by worker; `rotation`: where there is none, a rotation's. Raises `ReachError`."""
    folder = session.testbed.data_dir
    done = hosts.connect(session.inventory_file, host).run(
        f"grep --with-filename --no-messages '' {ORDERS}/* {folder}/agent/tmp/*/drained"
    )
    found = parse(done.stdout, folder)
    return parse(done.stdout, folder, ROTATION) | found if rotation else found  # an agent answers the other one first


def order_text() -> str:
    """Return what an order says: since when, and from whom."""
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ} by {getpass.getuser()}@{socket.gethostname()}"


def drain(session: Session, chosen: Mapping[str, Sequence[str]]) -> int:
    """Order the workers to take no task; return how many had no order yet. Raises `ConvergeError`."""
    return _change(session, "drain", DRAIN[0], chosen, drained=True)


def undrain(session: Session, chosen: Mapping[str, Sequence[str]]) -> int:
    """Take the workers' orders back; return how many had one. Raises `ConvergeError`."""
    return _change(session, "undrain", UNDRAIN[0], chosen, drained=False)


@contextlib.contextmanager
def paused(session: Session, chosen: Mapping[str, Sequence[str]], *, stays: bool = False) -> Iterator[None]:
    """Have workers run no task and take none while the block runs. Raises `BusyError` where one runs a task.

    stays: they go on so after the block, unless it fails; `resume` or the next `up` has them take tasks again.
    """
    if not chosen:
        yield
        return
    try:
        play(session, "drain", PAUSE, _told(chosen))
        with session.stage("Wait for the agents' answers"):
            _require_idle(
                wait(
                    lambda: report(session, chosen, 0, drained=True, rotation=True),
                    ROTATION_S,
                    lambda _: None,
                    all_of_it=False,
                )
            )
        yield
    except BaseException:
        with session.aside(), contextlib.suppress(TestbedError):  # a host that is gone; the next `up` does it there
            resume(session, chosen)
        raise
    if not stays:
        resume(session, chosen)


def resume(session: Session, chosen: Mapping[str, Sequence[str]]) -> None:
    """Have workers that were `paused` take tasks again. Raises `ConvergeError`."""
    play(session, "undrain", RESUME, _told(chosen))


def _told(chosen: Mapping[str, Sequence[str]]) -> dict[str, object]:
    order = f"{order_text()}, {REPLACED}"
    return {"testbed_workers": chosen, "testbed_order": order, "clearml_agent_rotation": True}


def _require_idle(found: DrainReport) -> None:
    busy = [worker for worker in found.workers if worker.state != "drained"]
    if not busy:
        return
    told = [f"{worker.name} " + (f"runs task {worker.task}" if worker.task else "has not answered") for worker in busy]
    raise BusyError(
        f"agents start anew with new keys, and tasks that run would fail: {', '.join(told)}",
        "Let tasks end (`testbed drain --wait`), or say --force. Why an agent does not answer, `testbed status` tells.",
    )


def _change(session: Session, verb: str, title: str, chosen: Mapping[str, Sequence[str]], *, drained: bool) -> int:
    before = {host: orders(session, host) for host in chosen}
    play(session, verb, title, {"testbed_workers": chosen, "testbed_order": order_text()})
    return sum((worker in before[host]) != drained for host, workers in chosen.items() for worker in workers)


def report(
    session: Session, chosen: Mapping[str, Sequence[str]], changed: int, *, drained: bool, rotation: bool = False
) -> DrainReport:
    """Return how far the workers are; `rotation`: with the orders of a rotation of keys, too. Raises `ReachError`."""
    running = tasks_of_workers(session)
    workers = []
    for host, names in chosen.items():
        given = orders(session, host, rotation=rotation)
        for worker in names:
            order = given.get(worker)
            found = hosts.connect(session.inventory_file, host)
            state = state_of(order, runs=hosts.service_is_running(found, f"{SERVICE}{worker}"))
            name = f"{host}:{worker}"
            task = None if state == "drained" else running.get(name)
            workers.append(DrainState(name=name, state=state, since=order.text if order else None, task=task))
    wanted = "drained" if drained else "working"
    done = all(worker.state == wanted for worker in workers)
    return DrainReport(testbed=session.testbed.name, done=done, changed=changed, workers=workers)


def tasks_of_workers(session: Session) -> dict[str, str]:
    """Return the IDs of the tasks that workers run, as the server knows; none where it does not answer."""
    secrets = session.vault.load()
    if secrets is None or secrets.toolkit is None:
        raise TestbedError("the testbed has no keys: it is not up", "Bring it up: testbed up")
    try:
        with ClearmlApi(session.testbed.server.url("api"), secrets.toolkit) as api:
            found = api.call("workers.get_all", last_seen=0)["workers"]
    except ApiError:  # an agent can be drained without its server; the agent answers later
        return {}
    return {worker["id"]: worker["task"]["id"] for worker in found if worker.get("task")}


def wait(
    look: Callable[[], DrainReport], seconds: float | None, told: Callable[[DrainReport], None], *, all_of_it: bool
) -> DrainReport:
    """Look until every worker is drained or, unless `all_of_it`, the others run a task; return what was seen last.

    Gives up after `seconds`; None: never. `told` gets every look.
    """
    end = None if seconds is None else time.monotonic() + seconds
    while True:
        found = look()
        told(found)
        busy: Collection[DrainState] = [worker for worker in found.workers if worker.state == "finishing"]
        if not busy or (not all_of_it and all(worker.task for worker in busy)):
            return found
        if end is not None and time.monotonic() >= end:
            return found
        time.sleep(LOOK_S)


def there(session: Session) -> dict[str, list[str]]:
    """Return the workers that are on their hosts, by host: not those that the next `up` makes. Raises `ReachError`."""
    found: dict[str, list[str]] = {}
    for host, names in choose([], workers(session)).items():
        listed = hosts.connect(session.inventory_file, host).run("ls /etc/testbed").stdout.splitlines()
        if made := [name for name in names if f"agent-{name}.conf" in listed]:
            found[host] = made
    return found


def workers(session: Session) -> list[tuple[str, str]]:
    """Return every worker as (host, name)."""
    return [(host, worker.name) for host, worker in inventory.workers(session.testbed, session.inventory)]
