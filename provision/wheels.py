"""Builds the wheels that go onto hosts. Equal sources give equal bytes, so an unchanged wheel changes no host."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from provision.errors import TestbedError
from provision.inventory import Wheels
from provision.paths import ROOT


def build(destination: Path) -> Wheels:
    """Build the wheels of clearml_lite and of the workload into `destination`. Raises `TestbedError`."""
    destination.mkdir(parents=True, exist_ok=True)
    return Wheels(lite=_build(ROOT / "clearml_lite", destination), workload=_build(ROOT / "workload", destination))


def _build(project: Path, destination: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=destination) as fresh:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "hatchling", "build", "-t", "wheel", "-d", fresh],
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
        )
        built = list(Path(fresh).glob("*.whl"))
        if done.returncode or len(built) != 1:
            raise TestbedError(
                f"the wheel of {project.name} could not be built: {done.stderr.strip()}", "Mend the sources."
            )
        wheel = destination / built[0].name
        shutil.move(built[0], wheel)
        return wheel
