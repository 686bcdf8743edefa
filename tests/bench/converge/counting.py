"""The tasks of a run, from Ansible's events, and a playbook with as many pings over the same hosts. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

# what runs on the administrator's machine alone
HERE_ONLY = {
    f"ansible.builtin.{name}"
    for name in ("assert", "debug", "fail", "include_role", "include_tasks", "set_fact", "validate_argument_spec")
}


@dataclass
class Task:
    """A task: its role, whether it runs a module on hosts, on which hosts it ran, and on how many it was skipped."""

    role: str
    on_hosts: bool
    hosts: set[str] = field(default_factory=set)
    skipped: int = 0


@dataclass
class Tasks:
    """The tasks of a run, in their order."""

    found: dict[str, Task] = field(default_factory=dict)

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Take an event of ansible-runner."""
        if kind not in ("runner_on_ok", "runner_on_skipped"):
            return
        new = Task(data.get("role") or "(playbook)", data["task_action"] not in HERE_ONLY)
        task = self.found.setdefault(data["task_uuid"], new)
        if kind == "runner_on_ok":
            task.hosts.add(data["host"])
        else:
            task.skipped += 1

    def ran(self, *, on_hosts_only: bool) -> list[frozenset[str]]:
        """Return the hosts of each task that ran; with `on_hosts_only`, of those that ran a module there."""
        tasks = [task for task in self.found.values() if task.hosts and (task.on_hosts or not on_hosts_only)]
        return [frozenset(task.hosts) for task in tasks]

    def by_role(self) -> list[tuple[str, int, int, int, int]]:
        """Return, by role: tasks that ran, modules among them, and over all hosts runs of modules and skipped tasks."""
        roles = dict.fromkeys(task.role for task in self.found.values())
        found = []
        for role in roles:
            tasks = [task for task in self.found.values() if task.role == role]
            modules = [task for task in tasks if task.on_hosts and task.hosts]
            ran = sum(bool(task.hosts) for task in tasks)
            counts = Counter(runs=sum(len(task.hosts) for task in modules), skipped=sum(task.skipped for task in tasks))
            found.append((role, ran, len(modules), counts["runs"], counts["skipped"]))
        return found


def pings(tasks: Iterable[frozenset[str]], environment: dict[str, str]) -> list[dict[str, Any]]:
    """Return plays with a ping for each task on its hosts, and no task that is skipped anywhere."""
    return [
        {
            "hosts": ",".join(sorted(hosts)),
            "gather_facts": False,
            "environment": environment,
            "tasks": [{"ansible.builtin.ping": {}} for _ in same],
        }
        for hosts, same in groupby(tasks)
    ]


def table(rows: list[tuple[str, int, int, int, int]]) -> str:
    """Return the counts by role as a table of Markdown, with their sum."""
    total = ("all", *(sum(int(row[column]) for row in rows) for column in range(1, 5)))
    head = ("role", "tasks", "with a module", "its runs over the hosts", "skipped, over the hosts")
    lines = [head, ("---",) * 5, *sorted(rows), total]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
