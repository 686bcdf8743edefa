"""What is on this machine: packages, accounts, and the files of every folder where a testbed could leave any.

`python3 snapshot.py FILE` writes it; the removal test compares.
"""

from __future__ import annotations

import json
import os
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


def take() -> dict[str, list[str]]:
    """Return packages (name and state), accounts and groups, and files by name."""
    return {
        "packages": _lines("dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\n"),
        "accounts": _lines("getent", "passwd") + _lines("getent", "group"),
        "files": _files(),
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(take()))
