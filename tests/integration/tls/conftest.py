"""The program nginx: that of this machine, or the distribution's package unpacked into a folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program."""
    if found := shutil.which("nginx", path="/usr/sbin"):
        return Path(found)
    folder = tmp_path_factory.mktemp("package")
    folder.chmod(0o777)  # apt fetches as a user of its own
    for command in (["apt-get", "download", "nginx"], ["sh", "-c", "dpkg-deb --extract nginx_*.deb ."]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"nginx is not here, and cannot be had: {done.stderr}"
    found = folder / "usr/sbin/nginx"
    assert found.exists(), "the package nginx of this distribution has no program in it"
    return found
