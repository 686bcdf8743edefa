"""What a testbed put on this machine, written down before it is put there, so that `down` removes exactly that."""

from __future__ import annotations

import json
import os
from pathlib import Path

RECORD = Path("/var/lib/testbed-record/installed.json")
MARKER = Path("/etc/testbed/testbed.json")


def load() -> dict:
    """Return the record: testbed and id (or None), and what was installed, made or switched on."""
    record = {"testbed": None, "id": None, "packages": [], "dependencies": [], "accounts": {}, "directories": []}
    record.update({"let_in": {}, "user_keys": {}, "names": [], "time": {}, "updates": {}, "groups": {}})
    if RECORD.exists():
        record.update(json.loads(RECORD.read_text()))
    return record


def replace_file(path: Path, content: str, mode: int, owner: tuple[int, int] | None = None) -> None:
    """Write a file in one step: a kill, or a machine that goes down, leaves the old one or the new one.

    It is never readable for more accounts than the mode says. `owner`: the IDs of user and group, if not ours.
    Bytes that are no UTF-8 are those that `errors="surrogateescape"` has read.
    """
    half = path.with_name(f"{path.name}.testbed-new")  # a name that no service manager reads
    half.unlink(missing_ok=True)
    descriptor = os.open(half, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as stream:
        if owner is not None:
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)  # whatever the umask
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    half.replace(path)


def save(record: dict) -> None:
    """Replace the record in one step; a kill leaves the old one or the new one."""
    RECORD.parent.mkdir(mode=0o700, exist_ok=True)
    replace_file(RECORD, json.dumps(record, indent=1, sort_keys=True), 0o600)


def name_process(name: str) -> None:
    """Give this process a name by which whoever ends a killed command's processes knows what not to interrupt."""
    Path("/proc/self/comm").write_text(name)


def claimed_by() -> str | None:
    """Return the name of the testbed that this machine carries, or None."""
    return json.loads(MARKER.read_text())["name"] if MARKER.exists() else None


def claimed_id() -> str | None:
    """Return the id of the secrets of the testbed that this machine carries; None also before there were ids."""
    return json.loads(MARKER.read_text()).get("id") if MARKER.exists() else None
