"""Debian's libfaketime, unpacked and not installed: by packages it is compared what the removal of a testbed leaves."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def library() -> Iterator[Path]:
    """Give the library to preload, which every account may read."""
    folder = Path(tempfile.mkdtemp(prefix="faketime-", dir="/tmp"))  # noqa: S108 (services' accounts get there)
    try:
        subprocess.run(["apt-get", "download", "--quiet", "libfaketime"], cwd=folder, check=True)
        [package] = folder.glob("libfaketime*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
        folder.chmod(0o755)
        [found] = folder.rglob("libfaketimeMT.so.1")
        yield found
    finally:
        shutil.rmtree(folder)
