"""Guests that really boot: host keys from the console, SSH by floating IP and jump host, role common, disks that grow.

The hypervisor emulates, so a guest takes minutes. Two are made: the server, with a floating IP, is the way to the
agent, whose root is on LVM in a partition that is smaller than its disk.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from provision import inventory, spec, ssh
from provision.cloud import console
from provision.cloud.desired import user_data
from provision.cloud.machines import machines_of
from provision.cloud.plan import Action, Plan
from provision.cloud.run import Project
from provision.inventory import Wheels
from provision.known_hosts import parse
from provision.machines import Machine
from provision.spec_types import JumpHost
from tests.lab.openstack.cloud import ENTRY, Cloud
from tests.lab.openstack.conftest import NAME, running

if TYPE_CHECKING:
    from openstack.connection import Connection

    from tests.lab.conftest import Engine

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[3]
PLAYBOOK = Path(__file__).with_name("common.yml")
CLONE_NEWNET = 0x40000000
WAIT_S = 1800.0
# what libvirt, qemu and bridges need; --privileged would be more than a small virtual machine can give
EMULATES = (
    *("--cap-add", "ALL", "--cap-drop", "SYS_RESOURCE", "--device", "/dev/net/tun"),
    *("--device-cgroup-rule", "a *:* rwm", "--security-opt", "seccomp=unconfined"),
    *("--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined"),
)
GIB = 2**30
SPEC = """
name: {name}
provider: openstack
server: {{backend: lite}}
users: [{{name: alice}}]
administrators: [{{name: ada, ssh_keys: [{key}]}}]
openstack:
  cloud: {cloud}
  image: {name}
  flavor: {name}
  user: debian
  key: {file}
  network: {{cidr: 10.77.0.0/24, external: public}}
  floating_ip_pool: public
  security: {{ssh: [172.31.240.0/22, 10.77.0.0/24]}}
  nodes:
    agents: {{image: {name}-lvm}}
"""


@contextmanager
def network_of(process: int) -> Iterator[None]:
    """Be in a process's network, where the guests' addresses are, with all threads and commands that start there."""
    enter = ctypes.CDLL(None, use_errno=True).setns
    with open("/proc/thread-self/ns/net") as ours, open(f"/proc/{process}/ns/net") as theirs:  # noqa: PTH123
        assert enter(theirs.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert enter(ours.fileno(), CLONE_NEWNET) == 0


@dataclass
class Guests:
    """The guests that the product made."""

    folder: Path
    testbed: spec.Testbed
    machines: tuple[Machine, Machine]
    warnings: list[str] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)

    @property
    def known_hosts(self) -> Path:
        return self.folder / ssh.KNOWN_HOSTS

    @property
    def server(self) -> Machine:
        return self.machines[0]

    @property
    def agent(self) -> Machine:
        return self.machines[1]

    def run(self, machine: Machine, command: str, script: str = "", *, check: bool = True) -> str:
        """Run a shell command, which may read a script, on a guest, and return what it printed."""
        words = ssh.command(machine, self.known_hosts, command)
        done = subprocess.run(words, input=script, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def root_size(self, machine: Machine) -> int:
        return int(self.run(machine, "findmnt --bytes --noheadings --output SIZE /"))

    def ansible(self, program: str, *arguments: str) -> str:
        """Run a program of Ansible's on the inventory that the product builds, and return what it printed."""
        wheels = Wheels(lite=self.folder / "lite.whl", workload=self.folder / "workload.whl")
        options = {machine.name: ssh.options(machine, self.known_hosts) for machine in self.machines}
        found = inventory.build(self.testbed, self.machines, wheels, {}, options)
        file = self.folder / "inventory.json"
        file.write_text(json.dumps(found))
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        environment |= {"ANSIBLE_HOME": str(self.folder / "ansible"), "ANSIBLE_TIMEOUT": "300"}
        command = [str(Path(sys.executable).with_name(program)), "-i", str(file), *arguments]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def play(self, *arguments: str) -> tuple[int, str]:
        """Play role common; return how many tasks changed something, and what Ansible printed."""
        said = self.ansible("ansible-playbook", str(PLAYBOOK), *arguments)
        return sum(int(count) for count in re.findall(r"changed=(\d+)", said)), said

    def grow(self, path: str, *arguments: str) -> dict[str, Any]:
        """Run the module that grows disks on the agent, and return what it told."""
        said = self.ansible("ansible", "agent-1", "-m", "testbed_grow", "-a", f"path={path}", *arguments)
        found: dict[str, Any] = json.loads(said[said.index("{") :])
        return found


class Quiet:
    """Nobody follows what is made."""

    def planned(self, plan: Plan) -> None: ...

    def told(self, action: Action, result: str) -> None: ...


@dataclass(frozen=True)
class Emulated:
    """A cloud with an emulated hypervisor; `folder` has what guests are made of, `process` is one in its network."""

    cloud: Cloud
    process: int
    folder: Path


@pytest.fixture(scope="module")
def emulated(request: pytest.FixtureRequest) -> Iterator[Emulated]:
    """A new cloud and new guests, or those that are up already.

    TESTBED_LAB_GUESTS: a folder with `clouds.yaml`, `pid` and what guest/build.sh makes.
    """
    if there := os.environ.get("TESTBED_LAB_GUESTS"):
        folder = Path(there)
        yield Emulated(Cloud(folder / "clouds.yaml"), int((folder / "pid").read_text()), folder)
        return
    engine: Engine = request.getfixturevalue("bare_engine")
    with running(engine, "libvirt", *EMULATES) as cloud:
        name = f"{NAME}-libvirt"
        process = int(engine.run("inspect", "--format", "{{.State.Pid}}", name))
        folder = engine.folder / "guest"
        script = Path(__file__).with_name("guest") / "build.sh"
        subprocess.run([str(script), f"{engine.folder}/docker.sock", str(folder), f"{NAME}:libvirt"], check=True)
        yield Emulated(cloud, process, folder)


@pytest.fixture(scope="module")
def images(emulated: Emulated) -> Iterator[str]:
    """Images and a flavor of a name of their own; the flavor has a larger disk than the images, and a second one."""
    name = f"guest-{secrets.token_hex(3)}"
    with network_of(emulated.process):
        admin = emulated.cloud.admin
        made = []
        try:
            for part, file, kind in (("kernel", "vmlinuz", "aki"), ("ramdisk", "initrd", "ari")):
                made.append(_upload(admin, f"{name}-{part}", emulated.folder / file, kind, kind))
            boot = {"kernel_id": made[0].id, "ramdisk_id": made[1].id}
            for image, file, root in ((name, "root", "/dev/vda"), (f"{name}-lvm", "lvm", "/dev/mapper/lab-root")):
                # nova's own command line ends in a console that this hypervisor does not have
                more = {**boot, "os_command_line": f"root={root} console=ttyS0"}
                made.append(_upload(admin, image, emulated.folder / f"{file}.qcow2", "qcow2", "bare", **more))
            flavor = admin.compute.create_flavor(name=name, vcpus=1, ram=768, disk=4, ephemeral=1)
            yield name
            admin.compute.delete_flavor(flavor)
        finally:
            for image in made:
                admin.image.delete_image(image)


def _upload(admin: Connection, name: str, file: Path, disk: str, container: str, **more: str) -> Any:
    return admin.create_image(
        name, filename=str(file), disk_format=disk, container_format=container, visibility="public", wait=True, **more
    )


@pytest.fixture(scope="module")
def guests(emulated: Emulated, images: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    """Two guests, made by the product, that let us in."""
    folder = tmp_path_factory.mktemp("guests")
    key = folder / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)], check=True)
    public = key.with_suffix(".pub").read_text().strip()
    (folder / "testbed.yaml").write_text(SPEC.format(cloud=ENTRY, name=images, key=public, file=key))
    testbed = spec.load(folder / "testbed.yaml")
    with (
        pytest.MonkeyPatch.context() as patch,
        network_of(emulated.process),
        emulated.cloud.project("guests") as theirs,
    ):
        patch.setenv("OS_CLIENT_CONFIG_FILE", str(theirs.clouds_yaml(folder)))
        project = Project.of(testbed, 4)
        try:
            server, agent = machines_of(testbed, project.bring_up(Quiet()))
            jump = JumpHost(host=server.address, user=server.user, key=server.key)
            found = Guests(folder, testbed, (server, replace(agent, jump_host=jump)))
            told = {"tell": lambda *what: found.told.append(what), "warn": found.warnings.append, "limit_s": WAIT_S}
            # the server first: from then on its key is pinned, also where it is the jump host
            for machine in found.machines:
                ssh.pin([machine], found.known_hosts, console=console.reader(project.connection), **told)
            ssh.wait(found.machines, found.known_hosts, **told)
            yield found
        finally:
            project.take_down(Quiet(), keep_volumes=False)


def test_host_keys_come_from_the_consoles(guests: Guests) -> None:
    assert guests.warnings == [], "nothing was trusted on first use"
    pins = parse(guests.known_hosts.read_text())
    for machine in guests.machines:
        there = guests.run(machine, "cat /etc/ssh/ssh_host_*_key.pub").splitlines()
        pinned = {pin.key for pin in pins if (pin.host, pin.id) == (machine.address, machine.id)}
        assert pinned == {" ".join(line.split()[:2]) for line in there}
        assert len(pinned) > 1


def test_the_agent_is_reached_through_the_server_alone(guests: Guests) -> None:
    assert guests.run(guests.agent, "echo $SSH_CONNECTION").split()[0] == guests.server.internal
    assert guests.agent.address == guests.agent.internal
    assert guests.server.address != guests.server.internal


@pytest.mark.parametrize("name", ["server", "agent"])
def test_there_is_no_login_by_password(guests: Guests, name: str) -> None:
    machine = getattr(guests, name)
    assert "passwordauthentication no" in guests.run(machine, "sudo sshd -T").splitlines()
    words = ["ssh", "-o", "PubkeyAuthentication=no", "-o", "BatchMode=yes"]
    words += ssh.command(machine, guests.known_hosts, "true")[1:]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stderr
    assert f"{machine.user}@{machine.address}: Permission denied (publickey)." in said


def test_user_data_is_what_everybody_may_know(guests: Guests) -> None:
    there = guests.run(guests.server, "sudo cat /var/lib/cloud/instance/user-data.txt")
    assert there == user_data(guests.testbed).strip()
    config = yaml.safe_load(there)
    assert config["ssh_authorized_keys"] == guests.testbed.administrator_lines
    assert config["ssh_pwauth"] is False
    assert set(config) == {"ssh_authorized_keys", "ssh_pwauth", "disable_root", "growpart"}


def test_a_check_tells_that_the_lvm_root_grows_and_changes_nothing(guests: Guests) -> None:
    assert guests.root_size(guests.agent) < 3 * GIB
    _, said = guests.play("--check", "--diff")
    for line in (
        "partition /dev/vda1",
        "physical volume /dev/vda1",
        "logical volume /dev/mapper/lab-root",
        "filesystem /",
    ):
        assert f"+{line} grows by 1." in said
    assert guests.root_size(guests.agent) < 3 * GIB
    assert not guests.run(guests.agent, "ls /etc/testbed", check=False)


def test_role_common_grows_the_root_and_a_second_run_changes_nothing(guests: Guests) -> None:
    changed, _ = guests.play()
    assert changed
    assert guests.root_size(guests.agent) > 3.5 * GIB
    assert guests.root_size(guests.server) > 3.5 * GIB, "cloud-init grows what is no partition"
    for machine in guests.machines:
        assert json.loads(guests.run(machine, "cat /etc/testbed/testbed.json"))["name"] == guests.testbed.name
        assert guests.run(machine, "cat ~/.ssh/authorized_keys").count(guests.testbed.administrator_lines[0]) >= 1
    assert guests.play()[0] == 0


DISK = "/dev/vdb"
CLEAN = (  # the disk is mounted by cloud-init first, then by the test before
    f"umount /mnt; umount /srv/disk; vgremove -fy lab2; pvremove -ffy {DISK}1; wipefs -qaf {DISK}1 {DISK}; "
    f"partx -d {DISK}; udevadm settle; mkdir -p /srv/disk"
)
PARTITION = f"printf 'label: gpt\\n2048,262144\\n' | sfdisk -q {DISK} && udevadm settle"  # 128 of 1024 MiB
# growpart of newer releases resizes the physical volume, too
GROWN = f"echo ', +' | sfdisk -q --force -N 1 {DISK}; partx --update {DISK} && udevadm settle"
VOLUME = f"pvcreate -qy {DISK}1 && vgcreate -q lab2 {DISK}1 && lvcreate -qy -l 100%FREE -n disk lab2"
TOP = "/dev/mapper/lab2-disk"
NOT_VOLUMES = ["partition", "filesystem"]
ALL = ["partition", "physical volume", "logical volume", "filesystem"]


@pytest.mark.parametrize(
    ("made", "device", "expected"),
    [
        pytest.param(f"{PARTITION} && mkfs.ext4 -q {DISK}1", f"{DISK}1", NOT_VOLUMES, id="ext4"),
        pytest.param(f"{PARTITION} && {VOLUME} && mkfs.ext4 -q {TOP}", TOP, ALL, id="ext4 on LVM"),
        pytest.param(
            f"{PARTITION} && {VOLUME} && mkfs.ext4 -q {TOP} && {GROWN}",
            TOP,
            ALL[1:],
            id="killed after the partition",
        ),
        pytest.param(
            f"{PARTITION} && {VOLUME} && mkfs.ext4 -q {TOP} && {GROWN} && pvresize {DISK}1",
            TOP,
            ALL[2:],
            id="killed after the physical volume",
        ),
        pytest.param(
            f"{PARTITION} && {VOLUME} && mkfs.ext4 -q {TOP} && {GROWN} && pvresize {DISK}1 "
            f"&& lvextend -l +100%FREE {TOP}",
            TOP,
            ALL[3:],
            id="killed after the logical volume",
        ),
        pytest.param(  # it wants 300 MiB to begin with
            f"printf 'label: gpt\\n2048,819200\\n' | sfdisk -q {DISK} && udevadm settle "
            f"&& {VOLUME} && mkfs.xfs -q {TOP}",
            TOP,
            ALL,
            id="XFS on LVM",
        ),
        pytest.param(
            f"printf 'label: gpt\\n2048,262144\\n264192,262144\\n' | sfdisk -q {DISK} && udevadm settle "
            f"&& mkfs.ext4 -q {DISK}1",
            f"{DISK}1",
            [],
            id="another partition behind",
        ),
        pytest.param(f"mkfs.ext4 -q {DISK}", DISK, [], id="nothing to grow"),
    ],
)
def test_a_disk_grows_as_far_as_it_goes(guests: Guests, made: str, device: str, expected: list[str]) -> None:
    guests.run(guests.agent, "sudo sh", CLEAN, check=False)
    guests.run(guests.agent, "sudo sh -e", f"{made}\nmount {device} /srv/disk\n")
    guests.run(guests.agent, "echo kept | sudo tee /srv/disk/kept")
    foretold = guests.grow("/srv/disk", "--check")
    assert [change["name"].rpartition(" ")[0] for change in foretold["testbed_changes"]] == expected
    done = guests.grow("/srv/disk")
    assert done["changed"] is bool(expected)
    assert [change["name"] for change in done["testbed_changes"]] == [
        change["name"] for change in foretold["testbed_changes"]
    ]
    assert guests.grow("/srv/disk")["changed"] is False
    size = int(guests.run(guests.agent, "findmnt --bytes --noheadings --output SIZE /srv/disk"))
    assert (size > 0.85 * GIB) is (expected != [] or device == DISK)
    assert guests.run(guests.agent, "cat /srv/disk/kept") == "kept"
