"""Prints the log of a service on this machine. Runs on hosts, as root: Python 3.8, no library.

The argument is a JSON object: `path`, the log, or `container`, whose log it is (instead); `lines`, how many of
its last to print (null: all); `since`, seconds since 1970 from which on lines count (null: all); `follow`, whether to
go on with what is written from now on.
"""

from __future__ import annotations

import calendar
import collections
import gzip
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

POLL_S = 0.2
# with the time of day first in a line, or soon after its beginning; Z: UTC, else the machine's own time
TIME = re.compile(rb"^[^0-9\n]{0,8}(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,]\d+)?(Z|\+00:00)?")


def files(path: Path) -> list[Path]:
    """Return the log and those that it was rotated to, the oldest first."""
    rotated = {
        int(number.group(1)): other
        for other in path.parent.glob(path.name + ".*")
        for number in [re.match(r"\.(\d+)(\.gz)?$", other.name[len(path.name) :])]
        if number
    }
    return [rotated[number] for number in sorted(rotated, reverse=True)] + [path]


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the file's lines; one that was rotated away meanwhile has none."""
    try:
        with cast(BinaryIO, gzip.open(path) if path.suffix == ".gz" else path.open("rb")) as stream:
            yield from stream
    except FileNotFoundError:
        return


def moment(line: bytes) -> float | None:
    """Return the time that the line begins with, in seconds since 1970; None where it has none."""
    found = TIME.match(line)
    if not found:
        return None
    text = f"{found.group(1).decode()} {found.group(2).decode()}"
    try:
        if found.group(3):
            return float(calendar.timegm(time.strptime(text, "%Y-%m-%d %H:%M:%S")))
        return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M:%S"))
    except ValueError:  # no such day
        return None


def newer(lines: Iterator[bytes], since: float | None) -> Iterator[bytes]:
    """Yield the lines from `since` on; one without a time is as old as the line before."""
    shown = since is None
    for line in lines:
        if not shown:
            at = moment(line)
            shown = at is not None and at >= cast(float, since)
        if shown:
            yield line


def follow(path: Path, stream: BinaryIO) -> Iterator[bytes]:
    """Yield what is written to the log after what `stream` has read, also after it was rotated; never ends."""
    while True:
        if line := stream.readline():
            yield line
            continue
        try:
            if path.stat().st_ino != os.fstat(stream.fileno()).st_ino:
                stream = path.open("rb")  # noqa: SIM115 (until the end of the process)
            elif path.stat().st_size < stream.tell():  # emptied in place
                stream.seek(0)
        except FileNotFoundError:
            pass
        time.sleep(POLL_S)


def of_container(asked: dict[str, Any]) -> NoReturn:
    """Become `docker logs`, with what the container wrote to stderr beside the rest."""
    name = asked["container"]
    try:
        done = subprocess.run(["docker", "inspect", name], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        sys.exit(f"{name}: there is no docker command here")
    if done.returncode != 0:
        sys.exit(f"{name}: {done.stderr.strip()}")
    command = ["docker", "logs", "--tail", "all" if asked["lines"] is None else str(asked["lines"])]
    command += [] if asked["since"] is None else ["--since", str(int(asked["since"]))]
    command += ["--follow"] if asked["follow"] else []
    os.dup2(sys.stdout.fileno(), sys.stderr.fileno())
    os.execvp("docker", [*command, name])  # noqa: S606 (a list, no shell)


def main(asked: dict[str, Any]) -> None:
    """Print what was asked for."""
    if asked.get("container"):
        of_container(asked)
    path, out = Path(asked["path"]), sys.stdout.buffer
    if not path.exists():
        sys.exit(f"{path}: there is no such log yet")
    with path.open("rb") as stream:
        older = (line for file in files(path)[:-1] for line in lines_of(file))
        lines = newer(itertools.chain(older, stream), asked["since"])
        for line in lines if asked["lines"] is None else collections.deque(lines, asked["lines"]):
            out.write(line)
        out.flush()
        if asked["follow"]:
            for line in follow(path, stream):
                out.write(line)
                out.flush()


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)  # the reader has gone
