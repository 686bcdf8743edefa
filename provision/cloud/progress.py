"""What people see while a plan is applied: a count of what is done, and a line for each resource."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from provision.cloud.plan import Action, Kind, Plan

PAST = {"create": "created", "change": "changed", "replace": "replaced", "delete": "deleted", "wait": "waited for"}
# there are many of them, and nobody asks for one
COUNTED_ONLY: tuple[Kind, ...] = ("port", "security group rule")


class Progress:
    """Follows the application of plans; `step` gets what is being done, `note` what was done. For several threads."""

    def __init__(self, step: Callable[[str], None], note: Callable[[str], None]) -> None:
        self.done: Counter[str] = Counter()
        self._step, self._note = step, note
        self._lock = threading.Lock()
        self._left: dict[tuple[str, str], Action] = {}
        self._total: Counter[Kind] = Counter()

    def planned(self, plan: Plan) -> None:
        """A round begins."""
        with self._lock:
            self._left = {(action.kind, action.id or action.name): action for action in plan.work}
            self._total = Counter(action.kind for action in plan.work)
            self._step(self._where())

    def told(self, action: Action, result: str) -> None:
        """`result`: `done`; of a server that is to run, also `ACTIVE` or what nova says."""
        with self._lock:
            comes = action.kind == "server" and action.verb != "delete"
            if comes and result == "done":  # nova has begun
                return
            if self._left.pop((action.kind, action.id or action.name), None) is None:
                return
            self.done[action.verb] += 1
            if comes:
                self._note(f"server {action.name}: {result}")
            elif action.kind not in COUNTED_ONLY:
                self._note(f"{PAST[action.verb]} {action.kind} {action.name}")
            self._step(self._where())

    def _where(self) -> str:
        left = Counter(kind for kind, _ in self._left)
        return ", ".join(
            f"{total - left[kind]} of {total} {plural(kind, total)}{self._state(kind)}"
            for kind, total in self._total.items()
            if left[kind]
        )

    def _state(self, kind: Kind) -> str:
        comes = any(action.verb != "delete" for (of, _), action in self._left.items() if of == kind)
        return " ACTIVE" if kind == "server" and comes else ""

    @property
    def result(self) -> str:
        """What was done, in words."""
        return ", ".join(f"{count} {PAST[verb]}" for verb, count in self.done.items()) or "nothing to do"


def plural(kind: str, count: int) -> str:
    """Return what `count` of a kind are called."""
    return kind if count == 1 else f"{kind}s"
