"""SIGKILL at seeded points of `up`, `smoke` and `down`: the next run completes, and says what it found.

A round, on a machine without a testbed: each of the three is killed once, and run again. What is killed goes round:
`cli` (the command alone), `group` (its process group), `all` (and all that it started, dpkg and pip in the middle).
The points are spread over the steps of each command: tasks of the playbooks, and checks.

    ./testbed test tests/lab/campaigns -m removes                 # one round: the sample in CI
    TESTBED_KILLS_ROUNDS=8 TESTBED_SEED=7 ./testbed test …        # a campaign; its table goes to docs/evidence/kills.md
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from provision import spec
from provision.paths import ROOT, config_dir, state_dir
from provision.secrets import Vault
from tests.integration.removal import snapshot

pytestmark = pytest.mark.removes

ROUNDS = int(os.environ.get("TESTBED_KILLS_ROUNDS", "1"))
SEED = int(os.environ.get("TESTBED_SEED", str(int(time.time()))))
EVIDENCE = ROOT / "docs/evidence/kills.md"
TESTBED = "local"
COMMANDS = {"up": ["up", "--yes"], "smoke": ["smoke"], "down": ["down", "--yes", "--purge"]}
# steps that the log of a whole run has, less the last few: a kill has to come before the end
STEPS = {"up": 235, "smoke": 75, "down": 38}
MODES = ("cli", "group", "all")
# after the step has begun: some tasks take a minute, and most of them no second
DELAYS_S = (0, 0.2, 0.5, 1, 2, 5, 10, 20)
STEP = re.compile(r"^(?:TASK \[(.*?)\] \**|\.*STEP (.*))$", re.MULTILINE)


@dataclass
class Kill:
    """One row of the table."""

    verb: str
    mode: str
    fraction: float
    delay: float
    point: str = ""
    after: float = 0
    left: str = ""
    said: str = ""
    took: float = 0
    result: str = "not reached"


@dataclass
class Campaign:
    """What is killed where, and what came of it."""

    rounds: list[list[Kill]]
    before: dict[str, list[str]]
    rows: list[Kill] = field(default_factory=list)


def plan(rounds: int, seed: int) -> list[list[Kill]]:
    """Return the kills of each round: points stratified over each command, and every mode as often as the others."""
    chance = random.Random(seed)
    strata = {verb: chance.sample(range(rounds), rounds) for verb in COMMANDS}
    first = chance.randrange(len(MODES))
    return [
        [
            Kill(
                verb=verb,
                mode=MODES[(first + number + place) % len(MODES)],
                fraction=(strata[verb][number] + chance.random()) / rounds,
                delay=chance.choice(DELAYS_S),
            )
            for place, verb in enumerate(COMMANDS)
        ]
        for number in range(rounds)
    ]


def _start(verb: str, output: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        return subprocess.Popen(
            [str(ROOT / "testbed"), *COMMANDS[verb], "--spec", str(spec.EXAMPLE)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def _run(verb: str, output: Path) -> tuple[int, str, float]:
    began = time.monotonic()
    code = _start(verb, output).wait()
    return code, output.read_text(errors="replace"), time.monotonic() - began


def _steps(verb: str, since: float) -> list[str]:
    """The steps that the command's log has so far."""
    for log in sorted((state_dir(TESTBED) / "logs").glob(f"{verb}-*.log"), reverse=True):
        if log.stat().st_mtime >= since:
            return [task or step for task, step in STEP.findall(log.read_text(errors="replace"))]
    return []


def _carrying(run: str = "") -> dict[int, str]:
    """Processes that a command started (of them those whose TESTBED_RUN holds `run`), with their names."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            variables = (process / "environ").read_text(errors="replace").split("\0")
            carried = [value for value in variables if value.startswith("TESTBED_RUN=") and len(value) > 12]
            if any(run in value for value in carried):
                found[int(process.name)] = (process / "comm").read_text().strip()
        except OSError:
            continue
    return found


def _kill(kill: Kill, process: subprocess.Popen[bytes], began: float, since: float) -> None:
    """Kill the command in its step, after the delay or when the next step begins, if that is earlier."""
    wanted = int(kill.fraction * STEPS[kill.verb])
    end = float("inf")
    while (number := len(_steps(kill.verb, since))) <= wanted and time.monotonic() < end:
        if number == wanted and end == float("inf"):
            end = time.monotonic() + kill.delay
        assert process.poll() is None, f"`{kill.verb}` came to its end after {number} steps, before step {wanted}"
        time.sleep(0.05)
    steps = _steps(kill.verb, since)
    kill.after = time.monotonic() - began
    (os.kill if kill.mode == "cli" else os.killpg)(process.pid, signal.SIGKILL)
    process.wait()
    if kill.mode == "all":
        while there := _carrying(f"process {process.pid},"):
            for pid in there:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
    kill.point = f"step {len(steps)}: {steps[-1] if steps else 'before the first'}"


def _whole_files() -> None:
    """Whatever was killed when, files that a later run trusts are whole."""
    for path in [
        Path("/var/lib/testbed-record/installed.json"),
        Path("/etc/testbed/testbed.json"),
        *Path("/opt/testbed/stamps").glob("*.json"),
    ]:
        if path.exists():
            json.loads(path.read_text())
    for path in [Path("/etc/testbed/clearml-lite.yaml"), *Path("/etc/testbed").glob("*.yml")]:
        if path.exists():
            assert isinstance(yaml.safe_load(path.read_text()), dict), path
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists() and "testbed" in policy.read_text():
        assert policy.read_text().endswith("exit 101\n")
        assert policy.stat().st_mode & 0o777 == 0o755
    if (config_dir(TESTBED) / "secrets.yml").exists():
        assert Vault(TESTBED).load() is not None
    proven = state_dir(TESTBED) / "proven"
    if proven.exists():
        assert proven.read_text() == spec.load(spec.EXAMPLE).model_dump_json()


def _dpkg() -> str:
    """What dpkg has half done, in one word or two."""
    audit = subprocess.check_output(["dpkg", "--audit"], text=True)
    packages = re.findall(r"^ (\S+)", audit, re.MULTILINE)
    journal = list(Path("/var/lib/dpkg/updates").glob("[0-9]*"))
    return ", ".join([*packages[:3], *(["…"] if packages[3:] else []), *(["journal"] if journal else [])])


def _processes_said(output: str) -> str:
    found = re.search(r"End what a killed command left\s+(.*)", output)
    waited = re.findall(r"wait for (\S+)", output)
    said = [" ".join(found[1].split())] if found else []
    return "; ".join(said + [f"waited for {', '.join(dict.fromkeys(waited))}" for _ in waited[:1]]) or "nothing"


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    """A machine without a testbed, and in the end the table."""
    code, output, _ = _run("down", tmp_path_factory.mktemp("first") / "down")
    assert code == 0, output
    found = Campaign(plan(ROUNDS, SEED), snapshot.take())
    yield found
    text = table(found.rows)
    print(f"\n{text}")
    if ROUNDS > 1:
        EVIDENCE.parent.mkdir(exist_ok=True)
        with EVIDENCE.open("a") as file:
            file.write(text)


def table(rows: list[Kill]) -> str:
    """Return the rows as Markdown."""
    command = f"TESTBED_KILLS_ROUNDS={ROUNDS} TESTBED_SEED={SEED} ./testbed test tests/lab/campaigns -m removes"
    lines = [
        f"\n## {time.strftime('%Y-%m-%d')}, seed {SEED}\n\n`{command}`\n",
        "| killed | what | where | after | left behind | the next run ended | in | result |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| `{row.verb}` | {row.mode} | {row.point.replace('|', '/')} | {row.after:.0f} s | {row.left} "
            f"| {row.said} | {row.took:.0f} s | {row.result} |"
        )
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("number", range(ROUNDS))
def test_the_next_run_completes(number: int, campaign: Campaign, tmp_path: Path) -> None:
    code, output, _ = _run("down", tmp_path / "clean")  # of a round that failed
    assert code == 0, output
    for kill in campaign.rounds[number]:
        campaign.rows.append(kill)
        began, since = time.monotonic(), time.time()
        process = _start(kill.verb, tmp_path / f"{kill.verb}-killed")
        _kill(kill, process, began, since)
        orphans = _carrying()
        names = ", ".join(sorted({*orphans.values()})[:4])
        kill.left = f"{len(orphans)} processes ({names})" if orphans else "no process"
        kill.left += f"; dpkg: {half}" if (half := _dpkg()) else ""
        _whole_files()

        kill.result = "failed"
        code, output, kill.took = _run(kill.verb, tmp_path / f"{kill.verb}-next")
        kill.said = _processes_said(output)
        assert code == 0, output
        if kill.verb != "down":
            passed = re.search(r"(\d+) of (\d+) checks passed", output)
            assert passed is not None, output
            assert passed[1] == passed[2]
            kill.result = f"{passed[0]}"
        assert _dpkg() == ""
        assert _carrying() == {}, "what a command started ends with it, and services carry no mark of it"
        _whole_files()
        if kill.verb == "down":
            after = snapshot.take()
            for what, before in campaign.before.items():
                came, gone = {*after[what]} - {*before}, {*before} - {*after[what]}
                assert (sorted(came), sorted(gone)) == ([], []), f"{what}: left behind, taken away"
            assert not config_dir(TESTBED).exists()
            assert not Path("/run/lock/clearml-testbed.lock").exists()
            kill.result = "no trace"
