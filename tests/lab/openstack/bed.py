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
        assert "Traceback" not in self.out + self.err, self.err
        assert self.err.count("testbed: ") == 1, self.err
        return self.err[self.err.index("testbed: ") :]


@dataclass
class Bed:
    """A testbed of that name: `folder` has its testbed.yaml and clouds.yaml."""

    name: str
    project: Project
    folder: Path
    auth_url: str
    openstack: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Write both files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(self.folder / "key")]
        subprocess.run(key, check=True)
        self.clouds = self.project.clouds_yaml(self.folder, auth_url=self.auth_url)
        self.say()

    def say(self, **changed: Any) -> None:
        """Write testbed.yaml, with changes in its section `openstack`."""
        self.openstack |= changed
        wanted = {"cloud": ENTRY, "image": "blank", "flavor": "t1.tiny", "network": {"cidr": "10.20.0.0/24"}}
        wanted |= {"key": str(self.folder / "key")} | self.openstack
        public = (self.folder / "key.pub").read_text().strip()
        said = {"name": self.name, "provider": "openstack", "openstack": wanted, "server": {}}
        said |= {"users": [{"name": "alice"}], "administrators": [{"name": "ada", "ssh_keys": [public]}]}
        (self.folder / "testbed.yaml").write_text(yaml.safe_dump(said))

    def start(self, verb: str, parallel: int = 16) -> subprocess.Popen[str]:
        """Start the cloud's part of a command."""
        driver = [sys.executable, "-P", "-m", "tests.lab.openstack.driver"]
        return self._start([*driver, verb, str(self.folder / "testbed.yaml"), str(parallel)])

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("OS_")}
        environment = inherited | {"OS_CLIENT_CONFIG_FILE": str(self.clouds), "PYTHONPATH": str(ROOT)}
        environment |= {"XDG_CONFIG_HOME": str(self.folder / "config"), "XDG_STATE_HOME": str(self.folder / "state")}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)

    def run(self, verb: str, parallel: int = 16) -> Done:
        """Run the cloud's part of a command to its end."""
        return finished(self.start(verb, parallel))

    def command(self, *words: str) -> Done:
        """Run the command itself."""
        command = [sys.executable, "-P", "-m", "provision", *words]
        return finished(self._start([*command, "--spec", str(self.folder / "testbed.yaml")]))


def finished(process: subprocess.Popen[str]) -> Done:
    """Wait until a command that was started has ended."""
    out, err = process.communicate(timeout=ENDED_WITHIN_S)
    return Done(process.returncode, out, err)
