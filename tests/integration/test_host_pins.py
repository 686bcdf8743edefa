"""requirements/hosts.txt pins everything for the Python of every supported distribution, with wheels that there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from provision.paths import HOST_PINS, ROOT

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("distribution", "python", "some"),
    [
        ("Ubuntu 20.04", "3.8", {"clearml==2.1.3", "tensorflow-cpu==2.13.1", "keras==2.13.1"}),
        ("Ubuntu 22.04", "3.10", {"clearml==2.1.12", "tensorflow-cpu==2.21.0", "keras==3.12.4"}),
        ("Debian 12", "3.11", {"clearml==2.1.12", "tensorflow-cpu==2.21.0", "keras==3.15.1"}),
        ("Ubuntu 24.04", "3.12", {"clearml==2.1.12", "tensorflow-cpu==2.21.0", "keras==3.15.1"}),
    ],
)
def test_the_pins_resolve(tmp_path, distribution, python, some):
    wanted = tmp_path / "wanted.in"
    wanted.write_text("clearml\nclearml-agent\nsetuptools\n")
    # unlike pip, uv applies the markers of the Python that it is told, not of the one that runs it
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    uv += ["--python-version", python, "--only-binary", ":all:", "--constraint", str(HOST_PINS), "--extra", "train"]
    done = subprocess.run(
        [*uv, str(wanted), str(ROOT / "workload/pyproject.toml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{distribution}: {done.stderr}"
    resolved = {line.split(";")[0].strip() for line in done.stdout.splitlines()}
    pinned = {line.split(";")[0].strip() for line in HOST_PINS.read_text().splitlines()}
    assert resolved - pinned == set(), f"{distribution}: not pinned"
    assert some <= resolved
