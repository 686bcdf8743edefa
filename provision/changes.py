"""What a run would change: from the events of Ansible's check mode to a list of typed changes. Pure.

The toolkit's own modules tell their changes (`testbed_changes`); for `template` and `copy` the task that follows does
(filter `testbed_changes`); `file` tells enough itself. What nobody tells is listed under the task's name, so that
nothing is left out in silence.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Action = Literal["add", "change", "replace", "start", "restart", "remove", "revoke", "keep"]
KINDS = {
    "disk": "Disks",
    "package": "Packages",
    "account": "Accounts",
    "folder": "Folders",
    "environment": "Python environments",
    "file": "Files",
    "service": "Services",
    "database": "InfluxDB",
    "telemetry": "Telemetry",
    "key": "Keys",
    "task": "Other tasks",
}
TOLD_BY_THE_NEXT_TASK = {"template", "copy", "ansible.builtin.template", "ansible.builtin.copy"}
OK_EVENTS = {"runner_on_ok", "runner_item_on_ok"}


@dataclass(frozen=True)
class Change:
    """One thing that would come, change, restart or go. `needs` are things that must be there first, as `kind name`.

    `files` are those whose change restarts a service; a service that is there and stays has action `keep`.
    `diff` is the text before and after, unless it is secret.
    """

    host: str
    kind: str
    name: str
    action: Action
    detail: str = ""
    needs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    diff: tuple[str, str] | None = None

    def shown(self) -> dict[str, Any]:
        """Return it for scripts; `after` is what it waits for, among the things to come."""
        return {
            "host": self.host,
            "kind": self.kind,
            "name": self.name,
            "action": self.action,
            "after": list(self.needs),
            "detail": self.detail,
        }


@dataclass
class Collector:
    """Gathers the changes from the events of a playbook."""

    found: list[Change] = field(default_factory=list)
    # by host: ID and name of the task whose changes the next one tells
    _untold: dict[str, tuple[str, str]] = field(default_factory=dict)

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Take an event of ansible-runner: its name and `event_data`."""
        if kind == "playbook_on_stats":
            self._give_up(*self._untold)
        if kind not in OK_EVENTS:
            return
        host, result = data.get("host", ""), data.get("res") or {}
        task = (data.get("task_uuid", ""), data.get("task", ""))
        module = data.get("task_action", "")
        message = result.get("msg")
        told = result.get("testbed_changes")
        if isinstance(message, dict) and "testbed_changes" in message:
            told = message["testbed_changes"]
            self._untold.pop(host, None)
        elif self._untold.get(host) != task:
            self._give_up(host)
        if told is not None:
            self.found += [_change(host, entry) for entry in told]
        elif not result.get("changed") or "results" in result:
            return
        elif module.removeprefix("ansible.builtin.") == "file":
            self.found.append(_of_file(host, result))
        elif module in TOLD_BY_THE_NEXT_TASK or result.get("censored"):
            self._untold[host] = task
        else:
            self.found.append(Change(host, "task", task[1], "change"))

    def _give_up(self, *hosts: str) -> None:
        self.found += [
            Change(host, "task", self._untold.pop(host)[1], "change") for host in hosts if host in self._untold
        ]


def _change(host: str, told: dict[str, Any]) -> Change:
    diff = told.get("diff")
    return Change(
        host,
        told["kind"],
        told["name"],
        told["action"],
        told.get("detail") or "",
        tuple(told.get("needs", ())),
        tuple(told.get("files", ())),
        (diff["before"], diff["after"]) if diff else None,
    )


def _of_file(host: str, result: dict[str, Any]) -> Change:
    before, after = ((result.get("diff") or {}).get(when) or {} for when in ("before", "after"))
    was, will = before.get("state"), after.get("state", result.get("state"))
    kind = "folder" if "directory" in (was, will) else "file"
    action: Action = "remove" if will == "absent" else "add" if was == "absent" else "change"
    return Change(host, kind, result.get("path") or result.get("dest", ""), action)


def resolve(found: Iterable[Change]) -> list[Change]:
    """Return the changes by kind and in their order, once each; `needs` becomes what of it is to come itself.

    A service that stays restarts when one of its files changes.
    """
    once: dict[tuple[str, str, str], Change] = {}
    for change in found:
        key = (change.host, change.kind, change.name)
        if key not in once or once[key].action == "keep":
            once[key] = change
    changed = {(change.host, change.name) for change in once.values() if change.kind == "file"}
    wanted = []
    for change in once.values():
        if change.action == "keep":
            if not any((change.host, path) in changed for path in change.files):
                continue
            change = dataclasses.replace(change, action="restart")
        wanted.append(change)
    wanted.sort(key=lambda change: (list(KINDS).index(change.kind), change.host))
    return [dataclasses.replace(change, needs=_to_come(change, wanted)) for change in wanted]


def staying(found: Iterable[Change]) -> list[Change]:
    """Return, of what a removal did, the folders that it could only empty; `detail` says why they stay."""
    return [change for change in resolve(found) if (change.kind, change.action) == ("folder", "change")]


def _to_come(change: Change, wanted: list[Change]) -> tuple[str, ...]:
    if change.action in ("remove", "revoke"):
        return ()
    names = dict.fromkeys(
        f"{other.kind} {other.name}"
        for need in change.needs
        for other in wanted
        if other is not change and other.action not in ("remove", "revoke") and _meets(other, need, change.host)
    )
    return tuple(names)


def _meets(other: Change, need: str, host: str) -> bool:
    kind, _, name = need.partition(" ")
    if host and other.host and other.host != host and (kind, other.kind) != ("service", "service"):
        return False
    if kind != "path":
        return (other.kind, other.name) == (kind, name)
    if other.kind == "file":
        return other.name == name
    return other.kind == "environment" and name.startswith(f"{other.name}/")


def text_diff(change: Change) -> str:
    """Return the change of a file's text as a unified diff; empty where there is none to show."""
    if change.diff is None or change.diff[0] == change.diff[1]:
        return ""
    before, after = (text.splitlines() for text in change.diff)
    return "\n".join(difflib.unified_diff(before, after, change.name, change.name, lineterm=""))
