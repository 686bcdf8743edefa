"""Where the toolkit keeps things: its own files, and each testbed's on the administrator's machine."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

# What is no Python package of ours lies in the checkout, beside this one; the wheel carries it inside (pyproject.toml).
_CARRIED = Path(__file__).parent / "_data"
INSTALLED = _CARRIED.is_dir()
ROOT = _CARRIED if INSTALLED else Path(__file__).parent.parent
PLAYBOOKS = ROOT / "playbooks"
ROLES = ROOT / "roles"
TEMPLATES = ROOT / "templates"
EXAMPLE = ROOT / "testbed.example.yaml"
# written by role common on every host of a testbed
HOST_MARKER = Path("/etc/testbed/testbed.json")
HOST_PINS = ROOT / "requirements" / "hosts.txt"


def config_dir(testbed: str) -> Path:
    """Return the folder of the testbed's secrets; `write_private` makes it."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "testbed" / testbed


def state_dir(testbed: str) -> Path:
    """Return the folder of the testbed's logs, wheels and lock."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "testbed" / testbed


def backups_dir(testbed: str) -> Path:
    """Return the folder of the testbed's backups: not beside its logs, which `down --purge` removes."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "testbed" / testbed / "backups"


def make_private(path: Path) -> None:
    """Make a folder of mode 0700, where it is not there yet."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)


def write_private(path: Path, data: bytes) -> None:
    """Write `data` to `path` (0600, in a folder of 0700); a crash leaves the old file or the new one, never a part."""
    make_private(path.parent)
    write_atomic(path, data)


def write_atomic(path: Path, data: bytes, like: os.stat_result | None = None) -> None:
    """Write `data` to `path` (0600) in a folder that is there; a crash leaves the old file or the new one.

    `like`: of a file whose mode it gets, and where root writes it, owner and group.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if like is not None:
                if os.geteuid() == 0:
                    os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
