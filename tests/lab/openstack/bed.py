"""A testbed in a project of the test cloud, and the cloud's part of the commands on it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from provision.paths import ROOT
from tests.lab.openstack.cloud import ENTRY, Project

# a public key of the tests, whose private half is nowhere
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGvxSwlNFKnjHRrbiv+0tFGoNFFaT8UB1UvOSFiSA9Vo"
ENDED_WITHIN_S = 900


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The one message of a command that failed; asserts that it is one, and no traceback."""
        assert "Traceback" not in self.err, self.err
        assert self.err.startswith("Error: "), self.err
        assert self.err.count("Error: ") == 1, self.err
        return self.err


@dataclass
class Bed:
    """A testbed of that name: `folder` has its testbed.yaml and clouds.yaml."""

    name: str
    project: Project
    folder: Path
    openstack: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write both files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.clouds = self.project.clouds_yaml(self.folder)
        self.say()

    def say(self, **changed: Any) -> None:
        """Write testbed.yaml, with changes in its section `openstack`."""
        self.openstack |= changed
        wanted = {"cloud": ENTRY, "image": "blank", "flavor": "t1.tiny", "network": {"cidr": "10.20.0.0/24"}}
        wanted |= self.openstack
        said = {"name": self.name, "provider": "openstack", "openstack": wanted, "server": {}}
        said |= {"users": [{"name": "alice"}], "administrators": [{"name": "ada", "ssh_keys": [KEY]}]}
        (self.folder / "testbed.yaml").write_text(yaml.safe_dump(said))

    def start(self, verb: str, parallel: int = 16) -> subprocess.Popen[str]:
        """Start the cloud's part of a command."""
        driver = [sys.executable, "-P", "-m", "tests.lab.openstack.driver"]
        command = [*driver, verb, str(self.folder / "testbed.yaml"), str(parallel)]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
        environment = inherited | {"OS_CLIENT_CONFIG_FILE": str(self.clouds), "PYTHONPATH": str(ROOT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)

    def run(self, verb: str, parallel: int = 16) -> Done:
        """Run the cloud's part of a command to its end."""
        process = self.start(verb, parallel)
        out, err = process.communicate(timeout=ENDED_WITHIN_S)
        return Done(process.returncode, out, err)
