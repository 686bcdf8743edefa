"""What a second `up` costs beside as many `ping` tasks over the same hosts, in one run: seconds, tasks, ratios.

    .venv/bin/python -P -m tests.bench.converge.second_run --spec FILE [--rounds 3]

It brings the testbed of the spec up (that is the first run, on hosts where none is), then takes turns: all that `up`
does up to the checks, as many `ping` tasks as that ran, and as many as it ran modules on hosts. Pings go the same way:
the same inventory, forks, pipelining and SSH connections that stay, each task on those hosts where its model ran; in
one playbook, where `up` has two. The ratio counts, not the seconds. It looks at every host each time: the run fails
where a second `up` ran fewer modules than the one before it, or changed anything.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from provision import converge, deploy, spec
from provision.console import PeopleConsole, Stage
from provision.session import Session, need_root, open_session
from tests.bench.converge.counting import Tasks, pings, table


@contextmanager
def watched() -> Iterator[Tasks]:
    """Yield the tasks of the playbooks that run in the block."""
    tasks, event = Tasks(), converge._Watch.event

    def seen(watch: converge._Watch, told: dict[str, Any]) -> bool:
        tasks.event(told.get("event", ""), told.get("event_data", {}))
        return event(watch, told)

    converge._Watch.event = seen  # type: ignore[method-assign]
    try:
        yield tasks
    finally:
        converge._Watch.event = event  # type: ignore[method-assign]


def ping(session: Session, tasks: list[frozenset[str]]) -> float:
    """Return the seconds that so many pings take."""
    playbook = session.work / "ping.yml"
    environment = {"TESTBED_RUN": "{{ testbed_run }}", "TMPDIR": "{{ testbed_tmp }}"}
    playbook.write_text(yaml.safe_dump(pings(tasks, environment)), encoding="utf-8")
    began = time.monotonic()
    converge.run_playbook(
        playbook,
        session.inventory,
        session.vault,
        stage=Stage(session.console, "ping", None),
        log=session.log,
        work=session.work,
        variables={"testbed_run": ""},
        secret_variables={},
        remote_tmp=session.remote_tmp,
    )
    return time.monotonic() - began


def up(session: Session) -> tuple[float, deploy.Outcome, Tasks]:
    """Bring the testbed up; return the seconds, what that changed, and the tasks."""
    with watched() as tasks:
        began = time.monotonic()
        outcome = deploy.up(session)
        return time.monotonic() - began, outcome, tasks


def measure(file: Path, rounds: int) -> None:
    """Measure a first run and `rounds` second ones on the hosts of a spec, and print."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    testbed = spec.load(file)
    need_root(testbed)
    with open_session(testbed, "bench", PeopleConsole(stderr=True, quiet=True), None) as session:
        took, outcome, tasks = up(session)
        count = len(tasks.ran(on_hosts_only=False))
        print(f"{len(session.hosts)} hosts; first run: {took:.0f} s, {count} tasks, changed={outcome.changed}")
        ratios: dict[str, list[float]] = {"all tasks": [], "modules on hosts": []}
        modules = 0
        print(f"{'round':>5} {'up':>8}" + "".join(f"{'pings: ' + name:>32}{'ratio':>7}" for name in ratios), flush=True)
        for number in range(1, rounds + 1):
            took, outcome, tasks = up(session)
            ran = sum(map(len, tasks.ran(on_hosts_only=True)))
            if outcome.changed or outcome.issued or ran < modules:
                sys.exit(f"this was no second run: {outcome}, {ran} modules on hosts, and {modules} before")
            modules = ran
            line = f"{number:>5} {took:>6.1f} s"
            for name, found in ratios.items():
                wanted = tasks.ran(on_hosts_only=name != "all tasks")
                pinged = ping(session, wanted)
                found.append(took / pinged)
                line += f"{f'{pinged:.1f} s ({len(wanted)} tasks, {sum(map(len, wanted))} runs)':>32}{found[-1]:>7.2f}"
            print(line, flush=True)
        for name, found in ratios.items() if rounds else ():
            print(f"median ratio to as many pings as {name}: {statistics.median(found):.2f}")
        print(table(tasks.by_role()), flush=True)


def main() -> None:
    """Measure on hosts that are there, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    measure(given.spec, given.rounds)


if __name__ == "__main__":
    main()
