"""What is on this machine: packages, accounts, and the files of every folder where a testbed could leave any.

`python3 snapshot.py FILE` writes it; the removal test compares. With `--touched` every path comes with its mode, owner,
size and last change, for tests that nothing at all was changed.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

FOLDERS = ("/etc", "/opt", "/home", "/srv", "/usr/local", "/var/lib", "/var/log", "/var/spool", "/run", "/root")
# What package managers, other programs and the people at this machine write while they work.
PASSING = (
    "/etc/ld.so.cache",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/subgid-",
    "/etc/subuid-",
    "/root/",
    "/run/lock",
    "/run/utmp",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/systemd/deb-systemd",
    "/var/lib/ucf",
    "/var/log/apt",
    "/var/log/alternatives.log",
    "/var/log/dpkg.log",
    "/var/log/btmp",
    "/var/log/faillog",
    "/var/log/lastlog",
    "/var/log/wtmp",
)


def _lines(*command: str) -> list[str]:
    return sorted(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())


def _files() -> list[str]:
    found = []
    for folder in FOLDERS:
        for parent, folders, names in os.walk(folder):
            folders[:] = [name for name in folders if not f"{parent}/{name}/".startswith(PASSING)]
            found += [f"{parent}/{name}" for name in names + folders if not f"{parent}/{name}".startswith(PASSING)]
    return sorted(found)


# What is written all the time by a machine at work
RESTLESS = ("/run/utmp", "/var/log/journal/", "/var/log/btmp", "/var/log/lastlog", "/var/log/wtmp")
TREES = ("/etc", "/opt", "/home", "/root", "/srv", "/usr", "/var", "/run")


def touched(leave_out: tuple[str, ...] = ()) -> dict[str, list]:
    """Return mode, owner, group, and for files size and last change, of every path but those that begin as `leave_out`.

    The time of the last change is the inode's: no write, rename, or change of mode or owner leaves it as it was.
    """
    left_out = RESTLESS + leave_out
    found: dict[str, list] = {}
    for tree in TREES:
        for parent, folders, names in os.walk(tree):
            folders[:] = [name for name in folders if not f"{parent}/{name}/".startswith(left_out)]
            for path in (f"{parent}/{name}" for name in [*folders, *names]):
                if path.startswith(left_out):
                    continue
                try:
                    state = Path(path).lstat()
                except FileNotFoundError:  # it went meanwhile
                    continue
                inside = [] if stat.S_ISDIR(state.st_mode) else [state.st_size, state.st_ctime_ns]
                found[path] = [state.st_mode, state.st_uid, state.st_gid, *inside]
    return found


def take() -> dict[str, list[str]]:
    """Return packages (name and state), accounts and groups, and files by name."""
    return {
        "packages": _lines("dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\n"),
        "accounts": _lines("getent", "passwd") + _lines("getent", "group"),
        "files": _files(),
    }


if __name__ == "__main__":
    what = touched() if "--touched" in sys.argv else take()
    Path(sys.argv[-1]).write_text(json.dumps(what))
