"""The way to hosts that are other machines: SSH to each, and one command at a time on them."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from provision import forward, leftovers, locks, ssh
from provision.console import Stage
from provision.converge import private_dir
from provision.errors import TestbedError
from provision.machines import Machine, main_machine, with_group, within
from provision.paths import state_dir
from provision.spec import URL_SERVICES, ExternalTelemetry, Testbed

# beginning of the name of a command's folder of sockets in the folder for temporary files; its process follows
FOLDER = "testbed-ssh-"
LONGEST = 16  # of the name of the folder above it: sockets' names have 108 bytes at most
MULTIPLEXED = "mux-"  # connections that are kept open, beside the forwards' sockets
# machines that are there already answer at once, or not at all
ANSWER_S = 60.0


@dataclass(frozen=True)
class Command:
    """A command on other machines, as these know it.

    `run`: its mark (see `locks`); `mine`: the part that it has in common with the administrator's other commands;
    `folder`: where its temporary files are on hosts.
    """

    run: str
    mine: str
    folder: str

    @classmethod
    def of(cls, testbed: str, verb: str) -> Command:
        """Return this process's command."""
        whose = locks.administrator(testbed)
        digest = whose[-9:-1]
        return cls(
            run=locks.this_command(testbed, verb, whose=whose),
            mine=locks.mine(whose, testbed),
            folder=f"/tmp/testbed-{digest}-{secrets.token_hex(8)}",  # noqa: S108 (made anew, or not at all)
        )

    @property
    def folders(self) -> str:
        """What the folders of the administrator's commands are named like on hosts."""
        return f"{self.folder.rpartition('-')[0]}-*"


def known_hosts(testbed: str) -> Path:
    """Return the file of the host keys of the testbed's hosts."""
    return state_dir(testbed) / ssh.KNOWN_HOSTS


def reach(
    machines: Sequence[Machine],
    known: Path,
    stage: Stage,
    console: Console,
    *,
    all_of_them: bool,
    consoles: ssh.ReadConsole | None = None,
) -> None:
    """Pin the machines' host keys and, if it is to be `all_of_them`, wait until all let us in. Raises `ReachError`.

    `consoles`: what reads those of machines that have one.
    """

    def tell(name: str, text: str) -> None:
        stage.step(f"{name}: {text}")

    def warn(text: str) -> None:
        console.print(f"Warning: {text}", markup=False, soft_wrap=True)

    ssh.pin(machines, known, tell=tell, warn=warn, console=consoles, limit_s=ANSWER_S)
    if all_of_them:
        ssh.wait(machines, known, tell=tell, warn=warn, limit_s=ANSWER_S)
    stage.result = f"{len(machines)} hosts"


@contextmanager
def opened(
    testbed: Testbed, machines: Sequence[Machine], known: Path, command: Command | None, *, take: bool = False
) -> Iterator[dict[str, list[str]]]:
    """Yield ssh's options for each host, by name, and lead to the testbed's services while the block runs.

    `command`: holds the main machine meanwhile; `take` it from another one. Raises `ReachError`, `BusyError`.
    """
    above = tempfile.gettempdir()
    above = above if len(above) <= LONGEST else "/tmp"  # noqa: S108 (a folder of our own there)
    with private_dir(Path(above), f"{FOLDER}{os.getpid()}-") as folder, ExitStack() as held:
        shared = ["ControlMaster=auto", "ControlPersist=60", f"ControlPath={folder}/{MULTIPLEXED}%C"]
        more = [word for setting in [*shared, "ServerAliveInterval=15", "BatchMode=yes"] for word in ("-o", setting)]
        options = {machine.name: [*ssh.options(machine, known), *more] for machine in machines}
        for machine, services in _services(testbed, machines):
            lock = None
            if command and machine == main_machine(machines):
                lock = forward.Lock(locks.MACHINE_LOCK, command.run, take)
            way = ["ssh", *options[machine.name], machine.address or ""]
            held.enter_context(
                forward.opened(machine.name, way, services, folder, sudo=machine.user != "root", lock=lock)
            )
        try:
            yield options
        finally:
            _close(folder)


def _close(folder: Path) -> None:
    """End the connections that are kept open for the next command of this one."""
    for socket in folder.glob(f"{MULTIPLEXED}*"):
        close = ["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "none"]
        subprocess.run(close, capture_output=True, check=False)


def _services(testbed: Testbed, machines: Sequence[Machine]) -> list[tuple[Machine, dict[str, tuple[str, int]]]]:
    """Return from which machine each service is reached, by URL: its address there, and its port."""
    server = main_machine(machines)
    if testbed.server.is_external:
        found = dict(_elsewhere(testbed.server.url(service)) for service in URL_SERVICES)
    else:
        address = within(testbed.server.bind)
        found = {testbed.server.url(service): (address, testbed.server.port(service)) for service in URL_SERVICES}
    source = testbed.telemetry
    if isinstance(source, ExternalTelemetry):
        reader = with_group(machines, "clients")[0]
        _, there = _elsewhere(source.url)
    else:
        [reader] = with_group(machines, "telemetry")
        there = (within(source.bind), source.port)
    if reader == server:
        return [(server, found | {source.url: there})]
    return [(server, found), (reader, {source.url: there})]


def _elsewhere(url: str) -> tuple[str, tuple[str, int]]:
    """Return of a service that is on no host of the testbed: the URL up to its path, and its address and port."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}", (parts.hostname or "", parts.port or forward.PORTS[parts.scheme])


@contextmanager
def alone(
    console: Console, inventory_file: Path, names: list[str], command: Command, *, check: bool, take: bool
) -> Iterator[None]:
    """End what killed commands of this administrator left on the hosts and here, and at last what this one started.

    A `check` ends nothing but what it started. Raises `BusyError` where another administrator's command works there.
    """
    hosts = {"folder": command.folder} if check else {"folder": command.folder, "folders": [command.folders]}
    whose = leftovers.EVERYBODY if take else command.mine
    if not check:
        leftovers.end(console, inventory_file, [leftovers.HERE], command.run, own=False, whose=command.mine)
    whose = leftovers.NOBODY if check else whose
    leftovers.end(console, inventory_file, names, command.run, own=False, whose=whose, **hosts)
    well = False
    try:
        yield
        well = True
    finally:
        try:
            leftovers.end(console, inventory_file, names, command.run, own=True, folders=[command.folder])
            if not well:
                leftovers.end(console, inventory_file, [leftovers.HERE], command.run, own=True)
        except TestbedError as error:  # what stopped the command is more to the point
            console.print(error.message, markup=False, soft_wrap=True)
