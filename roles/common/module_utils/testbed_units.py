"""Units of systemd that are not the testbed's own: whether they are there and come up with the machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

UNIT_DIRS = [Path("/etc/systemd/system"), Path("/usr/lib/systemd/system"), Path("/lib/systemd/system")]


class UnitError(Exception):
    """systemctl failed; the text is what it said, and what to do."""


def is_masked(unit: str) -> bool:
    """Tell whether an administrator forbids the unit."""
    return os.path.realpath(UNIT_DIRS[0] / unit) == os.devnull


def is_there(unit: str) -> bool:
    """Tell whether the unit is installed, and not masked."""
    return not is_masked(unit) and any((folder / unit).exists() for folder in UNIT_DIRS)


def is_on(unit: str) -> bool:
    """Tell whether the unit comes up with the machine."""
    return not is_masked(unit) and any(UNIT_DIRS[0].glob(f"*.wants/{unit}"))


def is_active(unit: str) -> bool:
    """Tell whether the unit runs now."""
    done = subprocess.run(["systemctl", "is-active", "--quiet", unit], check=False)
    return done.returncode == 0


def systemctl(*arguments: str) -> str:
    """Run systemctl and return what it printed. Raises UnitError."""
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnitError(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}. Put that right, then run this again")
    return done.stdout
