"""The cloud's part of `plan`, `up` and `down`: look, plan, apply, and look again until nothing is left to do."""

from __future__ import annotations

import socket
import urllib.parse
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provision.cloud import apply as applying
from provision.cloud import desired as wanting
from provision.cloud import observed as looking
from provision.cloud import plan as planning
from provision.cloud.connect import connect
from provision.errors import CloudError, ShortError
from provision.spec import Testbed

if TYPE_CHECKING:
    from openstack.connection import Connection

# nova may refuse a server once for a reason that passes; what fails twice is told
TRIES = 2
ROUNDS = 5


@dataclass(frozen=True)
class Look:
    """What is wanted, what is there, and what leads from the one to the other."""

    desired: wanting.Desired
    observed: looking.Observed
    plan: planning.Plan


@dataclass
class Project:
    """A testbed's project in the cloud."""

    testbed: Testbed
    parallel: int
    connection: Connection

    @classmethod
    def of(cls, testbed: Testbed, parallel: int) -> Project:
        """Log in. Raises `CloudError`."""
        assert testbed.openstack is not None  # noqa: S101 (the provider is openstack)
        return cls(testbed, parallel, connect(testbed.openstack.cloud, parallel))

    def look(self) -> Look:
        """Return what is to be done. Raises `CloudError`."""
        from concurrent.futures import ThreadPoolExecutor

        desired = wanting.of(self.testbed, own_address(self.connection.config.get_auth_args().get("auth_url", "")))
        with ThreadPoolExecutor(max_workers=2) as pool:
            there = pool.submit(looking.observe, self.connection, desired.name, self.parallel)
            offer = pool.submit(looking.offered, self.connection, desired, self.parallel)
            observed = there.result()
            return Look(desired, observed, planning.plan(desired, observed, offer.result()))

    def bring_up(self, tell: applying.Told) -> looking.Observed:
        """Make the project what is wanted, and return what is there then. Raises `CloudError`, `ShortError`."""
        tries: Counter[str] = Counter()
        for _ in range(ROUNDS):
            look = self.look()
            refuse(look.plan)
            if not look.plan.work:
                return look.observed
            for action in look.plan.work:
                if action.kind == "server" and action.verb == "replace" and action.why.startswith("nova: "):
                    tries[action.name] += 1
                    if tries[action.name] >= TRIES:
                        raise CloudError(
                            f"server {action.name} does not come up. {action.why}",
                            "Mend that, or choose another flavor, image or zone; then run the same command again.",
                        )
            applying.apply(self.connection, look.desired, look.observed, look.plan, parallel=self.parallel, tell=tell)
        left = ", ".join(f"{action.verb} {action.kind} {action.name}" for action in look.plan.work[:5])
        raise CloudError(f"the project does not come to rest; still to do: {left}", "Run `testbed plan` and look.")

    def removal(self, *, keep_volumes: bool) -> Look:
        """Return what `down` would delete. Raises `CloudError`."""
        observed = looking.observe(self.connection, self.testbed.name, self.parallel)
        plan = planning.removal(self.testbed.name, observed, keep_volumes=keep_volumes)
        return Look(wanting.none(self.testbed.name), observed, plan)

    def take_down(self, tell: applying.Told, *, keep_volumes: bool) -> None:
        """Delete all that carries the mark. Raises `CloudError`."""
        for _ in range(ROUNDS):
            look = self.removal(keep_volumes=keep_volumes)
            if not look.plan.work:
                return
            applying.apply(self.connection, look.desired, look.observed, look.plan, parallel=self.parallel, tell=tell)
        raise CloudError("not all is gone", "Run the same command again.")


def refuse(plan: planning.Plan) -> None:
    """Raise `ShortError` where the plan cannot be done, with all that stands in its way."""
    lines = [f"{problem.what}. {problem.remedy}" for problem in plan.problems]
    lines += [
        f"quota of {row.name}: {row.after} needed, {row.limit} allowed ({row.before} used); {row.short_by} short"
        for row in plan.quotas
        if row.short_by
    ]
    if lines:
        remedy = "Ask for more quota, or make the testbed smaller."
        if plan.largest:
            remedy = f"The largest that fits: {plan.largest}."
        elif not any(row.short_by for row in plan.quotas):
            remedy = "Mend these; nothing was changed."
        raise ShortError("\n".join(lines), remedy)


def own_address(auth_url: str) -> str:
    """Return this machine's address as a range of one, as it is on the way to the cloud."""
    host = urllib.parse.urlsplit(auth_url).hostname or ""
    found = _source(host)
    if found is None or found.startswith("127."):
        found = _source("192.0.2.1") or "127.0.0.1"  # any address outside: the one of the default route
    return f"{found}/128" if ":" in found else f"{found}/32"


def _source(host: str) -> str | None:
    """Return from which address this machine reaches `host`; sends nothing."""
    try:
        for family, kind, _, _, address in socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as probe:
                probe.connect(address)
                return str(probe.getsockname()[0])
    except OSError:
        return None
    return None
