"""Hosts in containers, on a Docker Engine of the lab's own. None of them reaches anything outside of the lab.

TESTBED_LAB_ENGINE=FOLDER takes an engine that `dockerd.sh start FOLDER` has started, and the images that it has.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BOOT_S = 120
IMAGE = "testbed-lab:bookworm"
# --privileged needs CAP_SYS_RESOURCE, which small virtual machines lack; systemd does without
RUN = [
    *("--stop-signal", "SIGRTMIN+3", "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
    *("--security-opt", "systempaths=unconfined", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw"),
    *("--tmpfs", "/run", "--tmpfs", "/run/lock"),
]


@dataclass(frozen=True)
class Engine:
    """The lab's Docker Engine; `folder` has its socket, the key that its hosts accept, and logs.

    Names of what it runs begin with `name`. Its hosts are in the network `subnet`.0/24.
    """

    folder: Path
    name: str = "testbed-lab"
    subnet: str = "10.213.0"

    @property
    def docker(self) -> tuple[str, ...]:
        """The client's command."""
        return ("docker", "--host", f"unix://{self.folder}/docker.sock")

    def run(self, *arguments: str) -> str:
        """Run a docker command, which must succeed, and return what it printed."""
        done = subprocess.run([*self.docker, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def has(self, image: str) -> bool:
        """Tell whether an image is there."""
        return image in self.run("images", "--format", "{{.Repository}}:{{.Tag}}").split()

    def build(self, script: Path, image: str, *arguments: str) -> None:
        """Make an image with one of the lab's scripts."""
        subprocess.run([str(script), f"{self.folder}/docker.sock", image, str(self.folder), *arguments], check=True)

    def start(self, name: str, *options: str, command: tuple[str, ...] = (), image: str = IMAGE) -> Host:
        """Start a host; without a command it boots systemd."""
        self.run("run", "--detach", "--name", name, *RUN, *options, image, *command)
        host = Host(self, name)
        if not command:
            host.wait_for_boot()
        return host


@dataclass(frozen=True)
class Host:
    """A running host."""

    engine: Engine
    name: str

    def run(self, *command: str, check: bool = True, options: tuple[str, ...] = (), data: bytes | None = None) -> str:
        """Run a command on the host, as root unless `options` of docker's say otherwise, and return what it printed."""
        called = [*self.engine.docker, "exec", *(["--interactive"] if data else []), *options, self.name, *command]
        done = subprocess.run(called, input=data, capture_output=True, check=False)
        out = done.stdout.decode(errors="replace")
        assert not check or done.returncode == 0, f"{command}: {out}{done.stderr.decode(errors='replace')}"
        return out

    def wait_for_boot(self) -> None:
        """Wait until systemd has started what it starts; a container runs before its systemd answers."""
        end = time.monotonic() + BOOT_S
        while self.run("systemctl", "is-system-running", "--wait", check=False).strip() not in ("running", "degraded"):
            assert time.monotonic() < end, f"{self.name} does not boot"
            time.sleep(0.2)

    def write(self, path: str, content: bytes) -> None:
        """Write a file on the host, with its folder."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "sh", path, data=content)

    def put_checkout(self, path: str) -> None:
        """Put what git tracks of this checkout into a folder of the host, as root."""
        tracked = subprocess.check_output(["git", "ls-files", "-z", "--cached"], cwd=ROOT)
        packed = subprocess.run(
            ["tar", "--create", "--null", "--files-from=-"], input=tracked, cwd=ROOT, capture_output=True, check=True
        )
        self.run("mkdir", "-p", path)
        self.run("tar", "--extract", "--no-same-owner", "-C", path, data=packed.stdout)

    def ssh_options(self) -> list[str]:
        """Return ssh's options that lead to the host by its name, and pin its key."""
        known = self.engine.folder / f"{self.name}.known_hosts"
        known.write_text(f"{self.name} {self.run('cat', '/etc/ssh/ssh_host_ed25519_key.pub')}")
        # sshd speaks over docker's own pipe: the host needs no network, and no port of this machine
        sshd = ["exec", "-i", self.name, "sh", "-c", "mkdir -p /run/sshd; exec /usr/sbin/sshd -i"]
        options = [f"UserKnownHostsFile={known}", "StrictHostKeyChecking=yes"]
        options += [f"ProxyCommand={shlex.join([*self.engine.docker, *sshd])}"]
        return [word for option in options for word in ("-o", option)]

    def inventory(self) -> Path:
        """Return an inventory that reaches the host by SSH."""
        variables = {"ansible_user": "root", "ansible_ssh_private_key_file": str(self.engine.folder / "key")}
        variables["ansible_ssh_common_args"] = shlex.join(self.ssh_options())
        path = self.engine.folder / f"{self.name}.json"
        path.write_text(json.dumps({"all": {"hosts": {self.name: variables}}}))
        return path

    def play(self, playbook: Path, *arguments: str) -> str:
        """Run a playbook on the host and return what Ansible printed; it must succeed."""
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        environment |= {"ANSIBLE_HOME": str(self.engine.folder / "ansible")}
        ansible = Path(sys.executable).with_name("ansible-playbook")
        command = [str(ansible), "-i", str(self.inventory()), str(playbook), *arguments]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def bare_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A Docker Engine; a new one is without images."""
    if there := os.environ.get("TESTBED_LAB_ENGINE"):
        yield Engine(Path(there))
        return
    folder = tmp_path_factory.mktemp("lab")
    subprocess.run([str(HERE / "dockerd.sh"), "start", str(folder)], check=True)
    try:
        yield Engine(folder)
    finally:
        subprocess.run([str(HERE / "dockerd.sh"), "stop", str(folder)], check=True)


@pytest.fixture(scope="session")
def engine(bare_engine: Engine) -> Engine:
    """A Docker Engine with the image of a Debian host that can boot systemd."""
    return furnish(bare_engine)


def furnish(engine: Engine) -> Engine:
    """Make the key and the image of the lab's hosts, unless the engine has them; return the engine."""
    key = engine.folder / "key"
    if not (key.exists() and engine.has(IMAGE)):
        key.unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        engine.build(HERE / "image.sh", IMAGE, str(key.with_suffix(".pub")))
    return engine


@pytest.fixture(scope="session")
def systemd_host(engine: Engine) -> Iterator[Host]:
    """A host that runs systemd, without any network, and nothing of a testbed."""
    yield engine.start("testbed-lab-systemd", "--network", "none")
    engine.run("rm", "--force", "--volumes", "testbed-lab-systemd")
