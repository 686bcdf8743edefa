"""A rotation of keys in its middle: agents take no task any more, and have no new key yet."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from provision import drain, spec
from provision.paths import ROOT

ORDER = Path(drain.ORDERS, f"{drain.ROTATION}prepared")


@contextlib.contextmanager
def rotation(*words: str) -> Iterator[psutil.Popen]:
    """The command, from where on agents take no task any more; killed where the block ends before it."""
    command = [str(ROOT / "testbed"), *words, "--yes", "--json", "--spec", str(spec.EXAMPLE)]
    begun = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        while begun.poll() is None and not ORDER.exists():
            time.sleep(0.1)
        assert ORDER.exists(), begun.communicate()[0]
        yield begun
    finally:
        for process in [*begun.children(recursive=True), begun] if begun.poll() is None else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        begun.wait()


def seen_during(begun: psutil.Popen, look: Callable[[], str]) -> set[str]:
    """What was seen while agents had the order to take no task; returns when the command has ended."""
    seen = set()
    while begun.poll() is None:
        if ORDER.exists():
            found = look()
            if ORDER.exists():
                seen.add(found)
        time.sleep(0.1)
    return seen
