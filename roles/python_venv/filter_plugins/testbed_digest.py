"""Digest of a file on the administrator's machine, so that nothing is copied to a host that has it."""

from __future__ import annotations

import hashlib
from pathlib import Path


def testbed_digest(path: str) -> str:
    """Return the SHA-256 of the file's content, in hex. Raises OSError when it cannot be read."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict:
        """Return the filters by name."""
        return {"testbed_digest": testbed_digest}
