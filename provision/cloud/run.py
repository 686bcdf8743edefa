"""The cloud's part of `plan`, `up` and `down`: look, plan, apply, and look again until nothing is left to do."""

from __future__ import annotations

import dataclasses
import functools
import socket
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from provision.cloud import apply as applying
from provision.cloud import desired as wanting
from provision.cloud import keys, marker
from provision.cloud import observed as looking
from provision.cloud import plan as planning
from provision.cloud.choose import Problem, choose
from provision.cloud.connect import be_patient, connect, explained
from provision.cloud.console import reader
from provision.cloud.machines import machines_of
from provision.errors import BusyError, CloudError, LostError, ShortError, TestbedError, UnreadError
from provision.machines import Console, Machine
from provision.spec import Testbed

if TYPE_CHECKING:
    from openstack.connection import Connection

# nova may refuse a server once for a reason that passes; what fails twice is told
TRIES = 2
ROUNDS = 5
# rounds that end early, as a call got no answer, beside those: where that goes on and on it is told
LOST_ROUNDS = 10
PARALLEL = 16  # calls at a time, where nobody says


@dataclass(frozen=True)
class Look:
    """What is wanted, what is there, what the cloud offers, and what leads from the one to the other.

    `offer` is None where it is not asked for, or not all that is there could be read.
    """

    desired: wanting.Desired
    observed: looking.Observed
    plan: planning.Plan
    offer: looking.Offer | None = None

    def rebuilding(self, rebuild: frozenset[str]) -> Look:
        """Return the same with these servers, by ID, made anew."""
        if self.offer is None:
            return self
        plan = planning.plan(self.desired, self.observed, self.offer, rebuild)
        return dataclasses.replace(self, plan=plan.with_problems(self.plan.problems))


@dataclass
class _Rounds:
    """How many more rounds of looking and applying there may be."""

    whole: int = ROUNDS
    lost: int = LOST_ROUNDS

    @contextmanager
    def one(self) -> Iterator[None]:
        """A round; a call without an answer ends just this one, as long as there may be more of that kind."""
        try:
            yield
            self.whole -= 1
        except LostError:
            self.lost -= 1
            if not self.lost:
                raise
            time.sleep(applying.POLL_S)  # what is at work gets the time to show


class Follower(Protocol):
    """Who is told what happens; `told` is called from several threads."""

    def planned(self, plan: planning.Plan) -> None:
        """A round begins."""

    def told(self, action: planning.Action, result: str) -> None:
        """Something was done."""


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

    def observe(self) -> looking.Observed:
        """Return what the testbed has. Raises `CloudError`."""
        return looking.observe(self.connection, self.testbed.name, self.parallel)

    def look(self, offer: looking.Offer | None = None) -> Look:
        """Return what is to be done; what cannot be read is among the plan's problems.

        `offer`: what the cloud offers, where that is known already.
        """
        auth_url = self.connection.config.get_auth_args().get("auth_url", "")
        desired = wanting.of(self.testbed, own_address(auth_url), marker.mine(datetime.now(UTC)).holder)
        with ThreadPoolExecutor(max_workers=2) as pool:
            there = pool.submit(self.observe)
            if offer is None:
                offer = pool.submit(looking.offered, self.connection, desired, self.parallel).result()
        try:
            return Look(desired, there.result(), planning.plan(desired, there.result(), offer), offer)
        except UnreadError as error:
            problems = (*_problems(error), *choose(desired, offer).problems)
            return Look(desired, looking.Observed(), planning.Plan((), tuple(dict.fromkeys(problems))))

    def bring_up(
        self,
        follower: Follower,
        *,
        rebuild: frozenset[str] = frozenset(),
        agreed: Look | None = None,
        fresh: bool = False,
    ) -> looking.Observed:
        """Make the project what is wanted, and return what is there then.

        `rebuild`: servers to make anew, by ID. `agreed`: what somebody agreed to, else what is seen first: servers and
        volumes that were there then are replaced and deleted as it says, and no others. `fresh`: it was seen just now.
        Raises `CloudError`, and `ShortError` when nothing was changed.
        """
        be_patient(self.connection, self.parallel)
        failed: dict[str, set[str]] = defaultdict(set)
        tags = marker.mine(datetime.now(UTC)).tags
        rounds, changed, offer = _Rounds(), False, None
        while rounds.whole:
            look = (agreed if agreed and fresh and not changed else self.look(offer)).rebuilding(rebuild)
            agreed = agreed or look
            offer = look.offer  # it stays for the rounds; a quota that somebody else fills is nova's to tell
            refuse(look.plan, changed=changed)
            if not look.plan.work:
                return look.observed
            _keep_to(agreed, look.plan)
            for action in look.plan.work:
                if action.kind == "server" and action.verb == "replace" and action.why.startswith(planning.FAULT):
                    failed[action.name].add(action.id)
                    if len(failed[action.name]) >= TRIES:
                        raise CloudError(
                            f"server {action.name} does not come up. {action.why}",
                            "Mend that, or choose another flavor, image or zone; then run the same command again.",
                        )
            changed = True
            with rounds.one():
                self._apply(look, follower, tags)
        left = ", ".join(f"{action.verb} {action.kind} {action.name}" for action in look.plan.work[:5])
        raise CloudError(f"the project does not come to rest; still to do: {left}", "Run `testbed plan` and look.")

    def removal(self, *, keep_volumes: bool) -> Look:
        """Return what `down` would delete. Raises `CloudError`."""
        observed = self.observe()
        plan = planning.removal(self.testbed.name, observed, keep_volumes=keep_volumes)
        return Look(wanting.none(self.testbed.name), observed, plan)

    def take_down(self, follower: Follower, *, keep_volumes: bool) -> None:
        """Delete all that carries the mark. Raises `CloudError`."""
        be_patient(self.connection, self.parallel)
        rounds = _Rounds()
        while rounds.whole:
            look = self.removal(keep_volumes=keep_volumes)
            if not look.plan.work:
                return
            with rounds.one():
                self._apply(look, follower, [])
        raise CloudError("not all is gone", "Run the same command again.")

    def _apply(self, look: Look, follower: Follower, tags: list[str]) -> None:
        follower.planned(look.plan)
        applying.apply(
            self.connection,
            look.desired,
            look.observed,
            look.plan,
            parallel=self.parallel,
            tell=follower.told,
            group_tags=tags,
        )

    @contextmanager
    def marked(self, observed: looking.Observed, *, break_lock: bool) -> Iterator[None]:
        """Show other administrators who is at work while the block runs. Raises `BusyError` when one of them is."""
        me = marker.mine(datetime.now(UTC))
        for group in observed.security_groups[:1]:
            found = marker.read(group.detail)
            if found is not None and marker.in_the_way(found, me) and not break_lock:
                raise BusyError(
                    f"another administrator works on testbed {self.testbed.name}: {found}",
                    "Wait until they have ended; --break-lock goes ahead at once.",
                )
            self._mark(group, [*marker.others(group.detail), *me.tags])
        try:
            yield
        finally:
            with suppress(CloudError):  # what is left is known by its age, and by its holder
                for group in looking.observe_security_groups(self.connection, self.testbed.name)[:1]:
                    left = marker.read(group.detail)
                    if left is not None and left.holder == me.holder:
                        self._mark(group, marker.others(group.detail))

    def _mark(self, group: looking.Thing, tags: list[str]) -> None:
        from openstack.network.v2.security_group import SecurityGroup

        with explained("mark the security group"):
            self.connection.network.set_tags(SecurityGroup.existing(id=group.id), tags)


def _keep_to(agreed: Look, plan: planning.Plan) -> None:
    """Raise `CloudError` where a plan loses data that nobody agreed to lose."""
    there = {each.id for each in agreed.observed.servers} | {each.id for each in agreed.observed.volumes}
    lost = {action.id for action in agreed.plan.work if action.verb in ("replace", "delete")}
    for action in plan.work:
        if action.kind not in ("server", "volume") or action.verb not in ("replace", "delete"):
            continue
        if action.why.startswith(planning.FAULT):  # it never ran
            continue
        if action.id in there - lost and not action.to.get("begun"):
            raise CloudError(
                f"{action.kind} {action.name} would be lost now, which nobody agreed to: {action.why}",
                "`testbed plan` shows it; the same command asks again.",
            )


def machines(testbed: Testbed, parallel: int = PARALLEL) -> tuple[Machine, ...]:
    """Return the testbed's servers as they can be reached now; `TestbedError` where there are none."""
    found = machines_of(testbed, Project.of(testbed, parallel).observe())
    if not found:
        raise TestbedError(f"testbed {testbed.name} has no servers", "Bring it up: testbed up")
    return tuple(found)


def consoles(testbed: Testbed) -> Callable[[Machine], Console] | None:
    """Return what reads the consoles of a testbed's servers, and logs in for the first; None where it has no cloud."""
    if testbed.openstack is None:
        return None
    connection = functools.cache(lambda: Project.of(testbed, PARALLEL).connection)
    return lambda machine: reader(connection())(machine)


@dataclass(frozen=True)
class Survey:
    """What `plan` shows; `project`: None where there was no logging in."""

    project: Project | None
    look: Look


def survey(testbed: Testbed, parallel: int) -> Survey:
    """Return what is to be done, and all that is missing or wrong, here and in the cloud."""
    problems = keys.key_problems(testbed)
    project = None
    try:
        project = Project.of(testbed, parallel)
        look = project.look()
    except CloudError as error:
        problems.insert(0, Problem(error.message, error.remedy))
        look = Look(wanting.of(testbed, own_address("")), looking.Observed(), planning.Plan(()))
    return Survey(project, dataclasses.replace(look, plan=look.plan.with_problems(problems)))


def _problems(error: UnreadError) -> list[Problem]:
    return [Problem(each.message, each.remedy) for each in error.errors]


def in_the_way(plan: planning.Plan) -> list[tuple[str, str]]:
    """Return all that stands in the way of a plan, each with its remedy."""
    found = [(problem.what, problem.remedy) for problem in plan.problems]
    remedy = "Ask for more, or make the testbed smaller."
    if plan.largest:
        remedy = f"The largest layout that fits: {plan.largest}. Or ask for more."
    for row in plan.quotas:
        if row.short_by:
            used = f"{row.after} needed, {row.limit} allowed ({row.before} used)"
            found.append((f"quota of {row.name}: {used}: {row.short_by} short", remedy))
    return found


def refuse(plan: planning.Plan, *, changed: bool = False) -> None:
    """Raise `ShortError` where the plan cannot be done, with all that stands in its way.

    `changed`: something was changed before; then it is a `CloudError`, and quotas, which were read before that, are the
    cloud's to tell.
    """
    found = in_the_way(dataclasses.replace(plan, quotas=()) if changed else plan)
    if not found:
        return
    what = "\n".join(message for message, _ in found)
    remedy = "\n  ".join(dict.fromkeys(remedy for _, remedy in found))
    if changed:
        raise CloudError(what, f"{remedy}\n  Then run the same command again; what is done stays done.")
    raise ShortError(what, f"{remedy}\n  Nothing was changed.")


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
        found = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)
        # floating IPs and the testbed's own networks are IPv4
        for family, kind, _, _, address in sorted(found, key=lambda each: each[0] != socket.AF_INET):
            with socket.socket(family, kind) as probe:
                probe.connect(address)
                return str(probe.getsockname()[0])
    except OSError:
        return None
    return None
