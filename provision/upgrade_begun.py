"""An upgrade of the server that was begun and has not ended: a file says so until the testbed is seen to be well."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from provision.paths import state_dir, write_private


@dataclass(frozen=True)
class Begun:
    """An upgrade whose backup is made: from which version to which, its folder, and when, in seconds since 1970."""

    current: str
    wanted: str
    folder: str
    made: float = 0.0


def _file(testbed: str) -> Path:
    return state_dir(testbed) / "upgrade.json"


def find(testbed: str) -> Begun | None:
    """Return the upgrade of the testbed that was begun and has not ended, if there is one."""
    try:
        return Begun(**json.loads(_file(testbed).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def write(testbed: str, begun: Begun) -> None:
    """Write down that an upgrade begins."""
    write_private(_file(testbed), json.dumps(dataclasses.asdict(begun)).encode())


def end(testbed: str) -> None:
    """Forget an upgrade that was begun: the testbed is well with the version that it has."""
    _file(testbed).unlink(missing_ok=True)
