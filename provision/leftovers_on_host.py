"""Signals what a testbed command left running on this machine. Runs on hosts, as root: Python 3.8, no library.

Every process of a command carries an environment variable that says whose it is. Arguments: its name; its value; `own`
for the processes that have that value, `others` for those that have another; the signal; folders with the files of
killed commands, which are removed when none of the processes is left. Prints a JSON object:
`signalled` and `waits`, lists of [name, process ID, value]. In `waits` is what must not be interrupted; what is in
`signalled` may not have ended yet. Containers' processes, which their host sees, are not this machine's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import NamedTuple

# interrupted, they would leave packages or accounts half made; modules of ours that call such take a name of their own
UNINTERRUPTED = {"apt", "apt-get", "dpkg", "testbed-package", "testbed-account"}


class Process(NamedTuple):
    """A process: its parent's ID, its name, whether it is Ansible itself, and the variable's value."""

    parent: int
    name: str
    is_ansible: bool
    run: str


def processes(variable: str) -> dict[int, Process]:
    """Return this machine's processes by ID; one that ended (a zombie) carries nothing."""
    found = {}
    machine = Path("/proc/self/ns/pid").stat()
    for pid in (int(path.name) for path in Path("/proc").glob("[0-9]*")):
        process = _read(Path("/proc", str(pid)), variable, machine)
        if process is not None:
            found[pid] = process
    return found


def _read(folder: Path, variable: str, machine: os.stat_result) -> Process | None:
    try:
        if not os.path.samestat((folder / "ns/pid").stat(), machine):
            return None
        head, _, tail = (folder / "stat").read_text(errors="replace").rpartition(")")
        words = (folder / "cmdline").read_text(errors="replace").split("\0")[:2]
        variables = (folder / "environ").read_text(errors="replace").split("\0")
    except OSError:  # it ended meanwhile, or is another's
        return None
    runs = [value.partition("=")[2] for value in variables if value.startswith(f"{variable}=")]
    is_ansible = any(Path(word).name.startswith("ansible") for word in words)
    return Process(int(tail.split()[1]), head.partition("(")[2], is_ansible, runs[0] if runs else "")


def above(pid: int, there: dict[int, Process]) -> list[int]:
    """Return the process and those it came from, the nearest first."""
    line = []
    while pid in there and pid not in line:
        line.append(pid)
        pid = there[pid].parent
    return line


def uninterrupted(there: dict[int, Process], marked: set[int]) -> set[int]:
    """Return the processes that must be left to end: those of that name, what they started, and what awaits them.

    Ansible itself is not among them, so that it starts nothing more.
    """
    spared = set()
    named = {pid for pid in marked if there[pid].name in UNINTERRUPTED}
    for pid in named:
        for ancestor in above(pid, there):
            if there[ancestor].is_ansible:
                break
            spared.add(ancestor)
    return spared | {pid for pid in marked if named & {*above(pid, there)}}


def sort(there: dict[int, Process], run: str, own: bool, myself: int) -> tuple[list[int], list[int]]:
    """Return the processes to signal and those to wait for; `myself` and what it came from are neither."""
    marked = {pid for pid, process in there.items() if process.run and (process.run == run) == own}
    marked -= {*above(myself, there)}
    spared = uninterrupted(there, marked)
    return sorted(marked - spared), sorted(marked & spared)


def main(variable: str, run: str, whose: str, number: str, *folders: str) -> None:
    """Signal them once, or remove the folders, and tell."""
    there = processes(variable)
    signalled, waits = sort(there, run, whose == "own", os.getpid())
    for pid in signalled:
        with contextlib.suppress(ProcessLookupError):
            # at SIGTERM, Ansible's workers end all that they started, and with it a package manager at work
            os.kill(pid, signal.SIGKILL if there[pid].is_ansible else signal.Signals[number])
    if not signalled and not waits:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    told = {"signalled": signalled, "waits": waits}
    print(json.dumps({key: [[there[pid].name, pid, there[pid].run] for pid in pids] for key, pids in told.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
