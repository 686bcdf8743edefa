"""Ends what a command left running on the testbed's hosts, before another one begins beside it.

Ansible runs in sessions of its own and as other users, so a killed command leaves processes behind that nobody's kill
reaches. They are found by what they carry in their environment (see leftovers_on_host), wherever they went.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from provision import hosts, locks
from provision.console import Stage, stage
from provision.errors import BusyError, TestbedError

# a package that is being installed is waited for; what does not end at SIGTERM is killed
UNINTERRUPTED_S = 900
GENTLE_S = 10
HARD_S = 30

# the administrator's machine, beside the hosts
HERE = "this machine"
# which of the other commands are to be ended: those of this machine (see leftovers_on_host)
LOCAL = "local"
EVERYBODY = "all"
NOBODY = "nobody"
AT_ONCE = 16

# what was signalled and what is waited for: name, process ID, whose it is
Found = tuple[list[tuple[str, int, str]], list[tuple[str, int, str]]]

_SCRIPT = (Path(__file__).parent / "leftovers_on_host.py").read_text(encoding="utf-8")


def end(
    console: Console,
    inventory_file: Path,
    names: list[str],
    run: str,
    *,
    own: bool,
    whose: str = LOCAL,
    folders: Sequence[Path | str] = (),
    folder: str = "",
) -> None:
    """End all processes on hosts `names` that commands other than `run` left there; with `own`, those of `run`.

    `whose`: which of the other commands, where there may be several administrators'. Package managers are waited for.
    Then the `folders` (patterns) that held the commands' temporary files are removed there: under sudo they hold files
    of root's; and `folder` is made. Raises `BusyError` when something does not end, or is not to be ended.
    """
    asked = {
        "variable": locks.VARIABLE,
        "run": run,
        "whose": "own" if own else whose,
        "folders": [str(pattern) for pattern in folders],
        "folder": folder,
    }
    signal = partial(_signal, inventory_file, asked=asked)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        first = dict(zip(names, pool.map(lambda name: signal(name, "SIGTERM"), names), strict=True))
    left = {name: found for name, found in first.items() if any(found)}
    if left:
        title = "End what this command started" if own else "End what a killed command left"
        with stage(console, title) as current:
            for name, found in left.items():
                current.result += f"{name}: {_end(current, signal, name, own, found)} processes  "


def _end(current: Stage, signal: Callable[[str, str], Found], name: str, own: bool, found: Found) -> int:
    """Wait until the processes `found` and what they start have ended; return how many there were."""
    began = time.monotonic()
    seen: set[int] = set()
    told: set[str] = set()
    while any(found):
        signalled, waits = found
        for _, pid, of in signalled + waits:
            seen.add(pid)
            if not own and of not in told:
                told.add(of)
                current.note(f"{name}: left by {of}")
        waited = time.monotonic() - began
        if waited > UNINTERRUPTED_S or (not waits and waited > HARD_S):
            there = ", ".join(f"{program} ({pid})" for program, pid, _ in signalled + waits)
            raise BusyError(f"{name}: what a stopped command left does not end: {there}", "Wait, or end it yourself.")
        for program in sorted({program for program, _, _ in waits} - told):
            told.add(program)
            current.note(f"{name}: wait for {program}, which must not be interrupted")
        time.sleep(0.2)
        found = signal(name, "SIGTERM" if waited < GENTLE_S else "SIGKILL")
    return len(seen)


def _signal(inventory_file: Path, name: str, number: str, *, asked: dict[str, Any]) -> Found:
    argument = json.dumps({**asked, "signal": number})
    if name == HERE:
        here = subprocess.run([sys.executable, "-I", "-c", _SCRIPT, argument], capture_output=True, check=False)
        code, out, said = here.returncode, here.stdout.decode(), here.stderr.decode(errors="replace")
    else:
        done = hosts.connect(inventory_file, name).run("/usr/bin/python3 -I -c %s %s", _SCRIPT, argument)
        code, out, said = done.rc, done.stdout, done.stderr
    if code != 0:
        raise TestbedError(f"{name}: its processes cannot be looked at: {said.strip()}", "Mend the host.")
    told = {
        key: [(str(program), int(pid), str(of)) for program, pid, of in found] for key, found in json.loads(out).items()
    }
    if told["strangers"] and name != HERE and asked["whose"] not in ("own", LOCAL, NOBODY):
        program, pid, of = told["strangers"][0]
        raise BusyError(
            f"{name}: {program} ({pid}) works there for another administrator: {of}",
            f"Wait until it has ended; {locks.TAKE_OVER}.",
        )
    return told["signalled"], told["waits"]


@contextmanager
def ended_unless_well(
    console: Console, inventory_file: Path, names: list[str], run: str, folders: Sequence[Path | str]
) -> Iterator[None]:
    """Run the block; when it is stopped or fails, end what it started, and remove the `folders` with its files."""
    try:
        yield
    except BaseException:
        try:
            end(console, inventory_file, names, run, own=True, folders=folders)
        except TestbedError as error:  # what stopped the command is more to the point
            console.print(error.message, markup=False, soft_wrap=True)
        raise
