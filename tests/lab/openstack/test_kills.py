"""SIGKILL between the API calls of `up` and `down`: the next run ends as if nothing had been; nothing leaks or doubles.

A point is before a call is sent, or after one that changes something was made and before its answer was read: then it
is done, and nobody knows. A round kills `up` and runs it again, then kills `down` and runs it again; the whole project
is compared, also what carries no mark.

    ./testbed test tests/lab/openstack/test_kills.py                   # ten points, drawn by TESTBED_SEED
    ./testbed test --full tests/lab/openstack/test_kills.py -k any_two  # all; the table: docs/evidence/cloud-kills.md
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from provision.paths import ROOT
from tests.lab.openstack import proxy as front
from tests.lab.openstack.bed import Bed
from tests.lab.openstack.cloud import Cloud, contents
from tests.lab.openstack.conftest import two_servers
from tests.lab.openstack.proxy import Call, Cut, Fault, Proxy, Reply

SEED = int(os.environ.get("TESTBED_SEED", str(int(time.time()))))
SAMPLE = 10
ROUNDS_AT_ONCE = 3  # each in a project of its own; most of a round is waiting
EVIDENCE = ROOT / "docs/evidence/cloud-kills.md"
HEAD = """\
# Killed between API calls

SIGKILL between the API calls of `up`'s and `down`'s part in the cloud, on a testbed of two servers with boot volumes,
a floating IP, a network, a subnet and a router, against a real OpenStack control plane with fake hypervisors. *before
call n*: the call was not sent. *after change n*: the call was made, its answer was not read. *differences then*:
resources of the project that were too many or missing after the kill. The next run of the same command must leave the
project as an undisturbed one does, also in what carries no mark. Made by tests/lab/openstack/test_kills.py.
"""


@dataclass(frozen=True)
class Point:
    """Before the `number`th call of a command, or after the `number`th that changes something."""

    verb: Literal["up", "down"]
    moment: Literal["before", "after"]
    number: int


@dataclass
class Row:
    """One kill and what came of it."""

    point: Point
    call: str = "the command had ended"
    left: int = 0
    took: float = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """As a line of the table."""
        where = f"{self.point.moment} {'call' if self.point.moment == 'before' else 'change'} {self.point.number}"
        result = "; ".join(" ".join(each.split()) for each in self.wrong) or "as undisturbed"
        return f"| `{self.point.verb}` | {where} | {self.call} | {self.left} | {self.took:.0f} s | {result} |"


def points(verb: Literal["up", "down"], calls: list[Call]) -> list[Point]:
    """Return all points of a command that makes these calls."""
    changing = sum(call.changes for call in calls)
    found = [Point(verb, "before", number + 1) for number in range(len(calls))]
    return found + [Point(verb, "after", number + 1) for number in range(changing)]


def drawn(all_points: list[Point], count: int, chance: random.Random) -> list[Point]:
    """Return a sample, most of it where something was made that nobody knows of."""
    after = [point for point in all_points if point.moment == "after"]
    before = [point for point in all_points if point.moment == "before"]
    many = min(len(after), count * 3 // 5)
    return chance.sample(after, many) + chance.sample(before, count - many)


def kill(bed: Bed, proxy: Proxy, row: Row) -> None:
    """Run the command and kill it at the point."""
    proxy.forget()
    changes = itertools.count(1)
    processes: list[subprocess.Popen[str]] = []

    def where(call: Call) -> bool:
        if row.point.moment == "before":
            return call.number == row.point.number
        return call.changes and next(changes) == row.point.number

    def end(call: Call, reply: Reply | None = None) -> Reply | None:
        row.call = str(call)
        processes[0].send_signal(signal.SIGKILL)
        raise Cut

    moment = {"before": end} if row.point.moment == "before" else {"after": end}
    proxy.add(Fault(where, **moment))
    processes.append(bed.start(row.point.verb))
    processes[0].communicate()
    proxy.forget()


def difference(there: list[str], wanted: list[str]) -> list[str]:
    """Return what is too much and what is missing."""
    return [f"+ {line}" for line in there if line not in wanted] + [f"- {line}" for line in wanted if line not in there]


def play(cloud: Cloud, folder: Path, rows: list[Row], undisturbed: list[str]) -> None:
    """Play rounds in a project of their own: `up` and `down` take turns."""
    with cloud.project("lab-kills", {"volumes": 50}) as project, front.running(cloud) as proxy:
        bed = two_servers("ran", project, proxy, folder)
        for row in rows:
            wanted = undisturbed if row.point.verb == "up" else []
            kill(bed, proxy, row)
            row.left = len(difference(contents(project), wanted))
            began = time.monotonic()
            done = bed.run(row.point.verb)
            row.took = time.monotonic() - began
            if done.code:
                row.wrong.append(f"exit code {done.code}: {done.err}")
            row.wrong += difference(contents(project, wanted), wanted)
            if row.wrong:  # the next round begins anew
                project.clear()
                if row.point.verb == "up":
                    assert bed.run("up").code == 0


def play_all(cloud: Cloud, folder: Path, ups: list[Point], downs: list[Point], undisturbed: list[str]) -> list[Row]:
    """Kill at all these points, several rounds at once; return what came of it."""
    # a `down` needs an `up` before, and the other way round: the shorter list begins again
    count = max(len(ups), len(downs))
    rounds = [[Row(ups[number % len(ups)]), Row(downs[number % len(downs)])] for number in range(count)]
    with ThreadPoolExecutor(ROUNDS_AT_ONCE) as pool:
        lanes = [list(itertools.chain(*rounds[lane::ROUNDS_AT_ONCE])) for lane in range(ROUNDS_AT_ONCE)]
        futures = [pool.submit(play, cloud, folder / str(lane), rows, undisturbed) for lane, rows in enumerate(lanes)]
        for future in futures:
            future.result()
    return [row for pair in rounds for row in pair]


@pytest.fixture(scope="module")
def all_points(cloud: Cloud, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Point]]:
    """All points of both commands, from a run that nobody disturbs."""
    found: dict[str, list[Point]] = {}
    with cloud.project("lab-kills") as project:
        bed = two_servers("ran", project, proxy, tmp_path_factory.mktemp("points"))
        for verb in ("up", "down"):
            proxy.forget()
            assert bed.run(verb).code == 0
            found[verb] = points(verb, proxy.calls)
    return found


def test_ten_kills_leave_no_trace(
    cloud: Cloud, all_points: dict[str, list[Point]], undisturbed: list[str], tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    ups, downs = (drawn(all_points[verb], SAMPLE // 2, chance) for verb in ("up", "down"))
    rows = play_all(cloud, tmp_path, ups, downs, undisturbed)
    print(*rows, sep="\n")
    assert len(rows) == SAMPLE
    assert not [str(row) for row in rows if row.wrong], f"TESTBED_SEED={SEED}"
    assert sum(row.call == "the command had ended" for row in rows) < SAMPLE / 2


@pytest.mark.full
def test_no_kill_between_any_two_calls_leaves_a_trace(
    cloud: Cloud, all_points: dict[str, list[Point]], undisturbed: list[str], tmp_path: Path
) -> None:
    rows = play_all(cloud, tmp_path, all_points["up"], all_points["down"], undisturbed)
    lines = [
        f"\n## {time.strftime('%Y-%m-%d')}\n",
        "`./testbed test --full tests/lab/openstack/test_kills.py`\n",
        "| killed | where | call | differences then | the next run took | and left the project |",
        "| --- | --- | --- | --- | --- | --- |",
        *map(str, rows),
    ]
    with EVIDENCE.open("a") as file:
        file.write(HEAD if file.tell() == 0 else "")
        file.write("\n".join(lines) + "\n")
    assert not [str(row) for row in rows if row.wrong]
