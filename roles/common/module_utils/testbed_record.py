"""What a testbed put on this machine, written down before it is put there, so that `down` removes exactly that."""

from __future__ import annotations

import json
import os
from pathlib import Path

RECORD = Path("/var/lib/testbed-record/installed.json")
MARKER = Path("/etc/testbed/testbed.json")


def load() -> dict:
    """Return the record; its keys: testbed and id (or None), packages, dependencies, accounts, directories, let_in."""
    record = {"testbed": None, "id": None, "packages": [], "dependencies": [], "accounts": {}, "directories": []}
    record["let_in"] = {}
    if RECORD.exists():
        record.update(json.loads(RECORD.read_text()))
    return record


def save(record: dict) -> None:
    """Replace the record in one step; a kill leaves the old one or the new one."""
    RECORD.parent.mkdir(mode=0o700, exist_ok=True)
    half = RECORD.with_suffix(".new")
    with half.open("w") as stream:
        json.dump(record, stream, indent=1, sort_keys=True)
        stream.flush()
        os.fsync(stream.fileno())
    half.chmod(0o600)
    half.replace(RECORD)


def claimed_by() -> str | None:
    """Return the name of the testbed that this machine carries, or None."""
    return json.loads(MARKER.read_text())["name"] if MARKER.exists() else None


def claimed_id() -> str | None:
    """Return the id of the secrets of the testbed that this machine carries; None also before there were ids."""
    return json.loads(MARKER.read_text()).get("id") if MARKER.exists() else None
