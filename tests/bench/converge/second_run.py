"""What a second `up` costs beside as many `ping` tasks over the same hosts, in one run: seconds, tasks, ratios.

    .venv/bin/python -P -m tests.bench.converge.second_run [--spec FILE] [--rounds 3]

It brings the testbed of the spec up (that is the first run, on hosts where none is), then takes turns: all that `up`
does up to the checks, as many `ping` tasks as that ran, and as many as it ran modules on hosts. Pings go the same way:
the same inventory, forks, pipelining and SSH connections that stay, each task on those hosts where its model ran; in
one playbook, where `up` has two. The ratio counts, not the seconds. It looks at every host each time: the run fails
where a second `up` ran fewer modules than the one before it, or changed anything.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from provision import converge, deploy, spec
from provision.console import PeopleConsole, Stage
from provision.session import Session, need_root, open_session

# what runs on the administrator's machine alone
HERE_ONLY = {
    f"ansible.builtin.{name}"
    for name in ("assert", "debug", "fail", "include_role", "include_tasks", "set_fact", "validate_argument_spec")
}


@dataclass
class Tasks:
    """The tasks of a run, in their order: for each, whether it runs a module on hosts, and where it was not skipped."""

    found: dict[str, tuple[bool, set[str]]] = field(default_factory=dict)

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Take an event of ansible-runner."""
        if kind == "runner_on_ok":
            on_host = data["task_action"] not in HERE_ONLY
            self.found.setdefault(data["task_uuid"], (on_host, set()))[1].add(data["host"])

    def hosts(self, on_hosts_only: bool) -> list[set[str]]:
        """Return the hosts of each task."""
        return [hosts for on_host, hosts in self.found.values() if on_host or not on_hosts_only]


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


def pings(tasks: list[set[str]], everywhere: set[str]) -> list[dict[str, Any]]:
    """Return a play with a ping for each task, on its hosts."""
    found = []
    for hosts in tasks:
        ping: dict[str, Any] = {"ansible.builtin.ping": {}}
        if hosts != everywhere:
            ping["when"] = f"inventory_hostname in {sorted(hosts)}"
        found.append(ping)
    environment = {"TESTBED_RUN": "{{ testbed_run }}", "TMPDIR": "{{ testbed_tmp }}"}
    return [{"hosts": "all", "gather_facts": False, "environment": environment, "tasks": found}]


def ping(session: Session, tasks: list[set[str]]) -> float:
    """Return the seconds that so many pings take."""
    playbook = session.work / "ping.yml"
    playbook.write_text(yaml.safe_dump(pings(tasks, {*session.hosts})), encoding="utf-8")
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    testbed = spec.load(given.spec)
    need_root(testbed)
    with open_session(testbed, "bench", PeopleConsole(stderr=True, quiet=True), None) as session:
        began = time.monotonic()
        outcome = deploy.up(session)
        count = len(session.hosts)
        print(f"{count} hosts; first run: {time.monotonic() - began:.0f} s, changed={outcome.changed}", flush=True)
        ratios: dict[str, list[float]] = {"all tasks": [], "modules on hosts": []}
        modules = 0
        print(f"{'round':>5} {'up':>7}" + "".join(f"{'pings: ' + name:>28}{'ratio':>7}" for name in ratios))
        for number in range(1, given.rounds + 1):
            with watched() as tasks:
                began = time.monotonic()
                outcome = deploy.up(session)
                took = time.monotonic() - began
            ran = sum(len(hosts) for hosts in tasks.hosts(True))
            if outcome.changed or outcome.issued or ran < modules:
                sys.exit(f"this was no second run: {outcome}, {ran} modules on hosts, and {modules} before")
            modules = ran
            line = f"{number:>5} {took:>5.1f} s"
            for name, found in ratios.items():
                wanted = tasks.hosts(name != "all tasks")
                pinged = ping(session, wanted)
                found.append(took / pinged)
                runs = sum(len(hosts) for hosts in wanted)
                line += f"{f'{pinged:.1f} s ({len(wanted)} tasks, {runs} runs)':>28}{found[-1]:>7.2f}"
            print(line, flush=True)
        for name, found in ratios.items():
            print(f"median ratio to as many pings as {name}: {statistics.median(found):.2f}")


if __name__ == "__main__":
    main()
