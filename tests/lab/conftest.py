"""A host that boots systemd, in a container of a Docker Engine of the lab's own; Ansible reaches it by SSH."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
IMAGE = "testbed-lab:bookworm"
NAME = "testbed-lab-systemd"
# --privileged needs CAP_SYS_RESOURCE, which small virtual machines lack; systemd does without
RUN = [
    *("--network", "none", "--stop-signal", "SIGRTMIN+3", "--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE"),
    *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
    *("--security-opt", "systempaths=unconfined", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw"),
    *("--tmpfs", "/run", "--tmpfs", "/run/lock"),
]


@dataclass(frozen=True)
class Host:
    """A running host."""

    folder: Path
    docker: tuple[str, ...]

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command on the host and return what it printed."""
        done = subprocess.run([*self.docker, "exec", NAME, *command], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def play(self, playbook: Path, *arguments: str) -> str:
        """Run a playbook on the host and return what Ansible printed; it must succeed."""
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        environment |= {"ANSIBLE_HOME": str(self.folder / "ansible"), "ANSIBLE_HOST_KEY_CHECKING": "false"}
        ansible = Path(sys.executable).with_name("ansible-playbook")
        command = [str(ansible), "-i", str(self.folder / "inventory.ini"), str(playbook), *arguments]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def systemd_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host that runs systemd, and nothing of a testbed."""
    folder = tmp_path_factory.mktemp("lab")
    socket = folder / "docker.sock"
    docker = ("docker", "--host", f"unix://{socket}")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    subprocess.run([str(HERE / "dockerd.sh"), "start", str(folder)], check=True)
    try:
        image = [str(HERE / "image.sh"), str(socket), IMAGE, str(folder), str(folder / "key.pub")]
        subprocess.run(image, check=True)
        subprocess.run([*docker, "run", "--detach", "--name", NAME, *RUN, IMAGE], check=True, stdout=subprocess.DEVNULL)
        # sshd speaks over docker's own pipe: the host needs no network, and no port of this machine
        sshd = f"{' '.join(docker)} exec -i {NAME} sh -c 'mkdir -p /run/sshd; exec /usr/sbin/sshd -i'"
        ssh = f'-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o "ProxyCommand={sshd}"'
        (folder / "inventory.ini").write_text(
            f"host ansible_user=root ansible_ssh_private_key_file={folder}/key\n"
            f"[all:vars]\nansible_ssh_common_args={ssh}\n"
        )
        host = Host(folder, docker)
        host.run("systemctl", "is-system-running", "--wait", check=False)
        yield host
        subprocess.run([*docker, "rm", "--force", "--volumes", NAME], check=True, stdout=subprocess.DEVNULL)
    finally:
        subprocess.run([str(HERE / "dockerd.sh"), "stop", str(folder)], check=True)
