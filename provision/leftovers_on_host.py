"""Signals what a testbed command left running on this machine. Runs on hosts, as root: Python 3.8, no library.

Every process of a command carries an environment variable that says whose it is. The argument is a JSON object:
`variable`, its name; `run`, its value; `whose` processes are meant (see `meant`); `signal`; `folders`, patterns of
those with the files of killed commands, which are removed when no such process is left; `folder`, which is made then,
for this command's files. Prints one: `signalled`, `waits` and `strangers`, lists of [name, process ID, value]. In
`waits` is what must not be interrupted; what is in `signalled` may not have ended yet; `strangers` are others that are
not meant. Containers' processes, which their host sees, are not this machine's.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

# in the value of a command's processes that works on other machines than the one where it was given
ELSEWHERE = re.compile(r"^`[^`]*` of \S+@\S+ \([0-9a-f]{8}\) on testbed ")

# interrupted, they would leave packages, accounts or disks half made, or the server stopped; what of ours does such has
# a name of its own
UNINTERRUPTED = {"apt", "apt-get", "dpkg", "testbed-package", "testbed-account", "testbed-disk", "testbed-server"}


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


def meant(value: str, run: str, whose: str) -> bool:
    """Return whether a process with this value is meant.

    `whose`: `own`, those of this run; `local`, all others of commands on this machine; `all` others; `nobody`; else it
    is a part of the values of one administrator's commands, and the others among them are meant.
    """
    if whose == "own":
        return value == run
    if value == run or whose == "nobody":
        return False
    return whose == "all" or (ELSEWHERE.match(value) is None if whose == "local" else whose in value)


def sort(there: dict[int, Process], run: str, whose: str, myself: int) -> tuple[list[int], list[int], list[int]]:
    """Return the processes to signal, those to wait for, and strangers; `myself` and what it came from are neither."""
    others = {pid for pid, process in there.items() if process.run} - {*above(myself, there)}
    marked = {pid for pid in others if meant(there[pid].run, run, whose)}
    spared = uninterrupted(there, marked)
    strangers = {pid for pid in others - marked if there[pid].run != run}
    return sorted(marked - spared), sorted(marked & spared), sorted(strangers)


def remove(pattern: str) -> None:
    """Remove the folders of that name, and no folder of a stranger's."""
    for folder in glob.glob(pattern):  # noqa: PTH207 (an absolute one)
        if os.lstat(folder).st_uid in (0, os.geteuid(), owner()):
            shutil.rmtree(folder, ignore_errors=True)


def owner() -> int:
    """Return the account that logged in."""
    return int(os.environ.get("SUDO_UID", os.getuid()))


def main(asked: dict[str, Any]) -> None:
    """Signal them once, or see to the folders, and tell."""
    there = processes(asked["variable"])
    signalled, waits, strangers = sort(there, asked["run"], asked["whose"], os.getpid())
    for pid in signalled:
        with contextlib.suppress(ProcessLookupError):
            # at SIGTERM, Ansible's workers end all that they started, and with it a package manager at work
            os.kill(pid, signal.SIGKILL if there[pid].is_ansible else signal.Signals[asked["signal"]])
    if not signalled and not waits:
        for pattern in asked["folders"]:
            remove(pattern)
        if asked["folder"]:
            Path(asked["folder"]).mkdir(mode=0o700)
            os.chown(asked["folder"], owner(), -1)
    told = {"signalled": signalled, "waits": waits, "strangers": strangers}
    print(json.dumps({key: [[there[pid].name, pid, there[pid].run] for pid in pids] for key, pids in told.items()}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
