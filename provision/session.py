"""What every command on one testbed works with: its spec, secrets, inventory, lock, log and private folder."""

from __future__ import annotations

import glob
import json
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from provision import console as progress
from provision import inventory, leftovers, locks, remote, stopping, tls, wheels
from provision.converge import private_dir, temporary_dir
from provision.errors import StoppedError, TestbedError
from provision.machines import Machine, described, local, resolved, without_server
from provision.paths import make_private, state_dir, write_private
from provision.secrets import UnsavedVault, Vault
from provision.spec import Testbed

# beginning of the name of a check's private folder in the folder for temporary files; its process follows
CHECK_FOLDER = "testbed-check-"


@dataclass
class Session:
    """One command's work on one testbed; made by `open_session` or `open_check`."""

    testbed: Testbed
    vault: Vault
    console: Console
    state: Path
    work: Path
    log: Path
    check: bool = False
    verbosity: int = 0
    machines: tuple[Machine, ...] = ()
    # ssh's, by host, and where on hosts this command's temporary files are; without it, where they are here
    ssh_options: dict[str, list[str]] = field(default_factory=dict)
    remote_tmp: str | None = None
    # folders that go when the command has come to its end
    gone: list[Path] = field(default_factory=list)
    to_do: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    _now: tuple[str, progress.Stage] | None = None

    @contextmanager
    def stage(self, title: str) -> Iterator[progress.Stage]:
        """Show a stage while the block runs, and keep in mind what was done."""
        self.to_do = [other for other in self.to_do if not title.startswith(other)]
        with progress.stage(self.console, title) as current:
            self._now = title, current
            yield current
            self._now = None  # before it is shown: whoever sees it done may stop the command at once
            self.done.append(title)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Do not keep in mind what the block does: it puts something back after the command was stopped, or failed."""
        done, now = [*self.done], self._now
        try:
            yield
        finally:
            self.done, self._now = done, now

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Say what was done and what was not when the block is stopped. Raises `StoppedError`."""
        try:
            yield
        except KeyboardInterrupt:
            raise StoppedError(*self._told(), exit_code=stopping.exit_code()) from None

    def go_on_with(self, testbed: Testbed) -> None:
        """Go on with another description of the same testbed on the same hosts."""
        self.testbed = testbed
        for cached in ("inventory", "inventory_file"):
            self.__dict__.pop(cached, None)

    @property
    def hosts(self) -> list[str]:
        """The names of all hosts."""
        return sorted(machine.name for machine in self.machines)

    @property
    def is_local(self) -> bool:
        """Whether its only host is this machine."""
        return all(machine.is_local for machine in self.machines)

    def _told(self) -> tuple[str, str]:
        """Return what to say when the command is stopped: what was done and what was not, and the way on."""
        lines = [f"  done         {title}" for title in self.done]
        if self._now:
            title, stage = self._now
            lines.append(f"  stopped in   {title}" + (f", at {stage.now}" if stage.now else ""))
        lines += [f"  not started  {title}" for title in self.to_do]
        return "\n".join([f"stopped {stopping.reason()}", *lines]), "Run the same command again to go on."

    @cached_property
    def inventory(self) -> dict[str, Any]:
        """The Ansible inventory; building it builds the wheels that it names."""
        built = wheels.build(self.state / "wheels")
        return inventory.build(self.testbed, self.machines, built, os.environ, self.ssh_options)

    @cached_property
    def inventory_file(self) -> Path:
        """The inventory as a file, for tools that read one."""
        path = self.work / "inventory.json"
        write_private(path, json.dumps(self.inventory).encode())
        return path

    @property
    def proven(self) -> Path:
        """A file that is there while the testbed, as it stands, has passed the full checks."""
        return self.state / "proven"


@contextmanager
def open_session(
    testbed: Testbed,
    verb: str,
    console: Console,
    vault_password_file: Path | None,
    *,
    machines: Sequence[Machine] | None = None,
    changes: bool = True,
    on_hosts: bool = True,
    verbosity: int = 0,
    stages: Sequence[str] = (),
    break_lock: bool = False,
) -> Iterator[Session]:
    """Yield a session on `testbed`; a command that `changes` anything holds the testbed and its machine meanwhile.

    `machines`: the hosts, where they are known already. `on_hosts`: whether it touches more than the administrator's
    own files. `stages`: what the command will do. `break_lock`: end other administrators' commands on the hosts.
    What a killed command left is ended first, and what this one started when it does not come to its end.
    Raises `BusyError` when another command works on the testbed, `StoppedError` when this one was stopped.
    """
    state = state_dir(testbed.name)
    remove_killed_checks()
    there = machines_of(testbed, machines) if on_hosts else ()
    make_private(state)
    logs = state / "logs"
    logs.mkdir(exist_ok=True)
    log = logs / f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    command = None if testbed.provider == "local" else remote.Command.of(testbed.name, verb)
    run = command.run if command else locks.this_command(testbed.name, verb)
    with ExitStack() as held:
        if changes:
            if on_hosts and not command:
                held.enter_context(locks.hold(locks.MACHINE_LOCK, "this machine", run, shared=True))
            held.enter_context(locks.hold(state / "lock", f"testbed {testbed.name}", run))
            held.enter_context(_mark(run))
        gone: list[Path] = []
        held.callback(_remove, gone)
        work = held.enter_context(private_dir(state, f"{'run' if changes else 'look'}-{os.getpid()}-"))
        held.enter_context(_ansible_at_home(work))
        vault = Vault(testbed.name, vault_password_file)
        testbed = resolved(testbed, there) if there else testbed
        tls.trust(testbed, vault)
        session = Session(testbed, vault, console, state, work, log, verbosity=verbosity, to_do=list(stages))
        session.machines, session.gone = there, gone
        with session.stoppable():
            if on_hosts and command:
                known = remote.known_hosts(testbed.name)
                _go(session, held, command, known, changes=changes, take=break_lock)
            elif on_hosts and changes:
                where = (console, session.inventory_file, session.hosts, run)
                leftovers.end(*where, own=False, folders=[glob.escape(str(left)) for left in _leavings(state)])
                here = glob.escape(str(temporary_dir(work)))
                held.enter_context(leftovers.ended_unless_well(*where, [here]))
            if changes:
                for left in _leavings(state):
                    shutil.rmtree(left, ignore_errors=True)
            yield session


@contextmanager
def open_check(
    testbed: Testbed,
    verb: str,
    console: Console,
    vault_password_file: Path | None,
    *,
    machines: Sequence[Machine] | None = None,
    verbosity: int = 0,
) -> Iterator[Session]:
    """Yield a session that leaves nothing behind: all that it writes is in private folders, which go.

    It holds this machine (or the server's, where that is another), and the testbed where it has a lock. Raises
    `BusyError` when another command works there, `StoppedError` when this one was stopped.
    """
    state = state_dir(testbed.name)
    remove_killed_checks()
    there = machines_of(testbed, machines)
    command = None if testbed.provider == "local" else remote.Command.of(testbed.name, verb)
    run = command.run if command else locks.this_command(testbed.name, verb)
    with ExitStack() as held:
        if not command:
            held.enter_context(locks.hold(locks.MACHINE_LOCK, "this machine", run, shared=True))
        if (state / "lock").exists():
            held.enter_context(locks.hold(state / "lock", f"testbed {testbed.name}", run))
        held.enter_context(_mark(run))
        work = held.enter_context(private_dir(Path(tempfile.gettempdir()), f"{CHECK_FOLDER}{os.getpid()}-"))
        held.enter_context(_ansible_at_home(work))
        vault = UnsavedVault(testbed.name, vault_password_file, work)
        testbed = resolved(testbed, there)
        tls.trust(testbed, vault)
        session = Session(testbed, vault, console, work, work, work / "log", check=True, verbosity=verbosity)
        session.machines = there
        with session.stoppable():
            if command:
                known, copy = remote.known_hosts(testbed.name), work / "known_hosts"
                if known.exists():
                    write_private(copy, known.read_bytes())
                _go(session, held, command, copy, changes=True, take=False)
            else:
                where = (console, session.inventory_file, session.hosts, run)
                here = glob.escape(str(temporary_dir(work)))
                held.enter_context(leftovers.ended_unless_well(*where, [here]))
            yield session


def machines_of(testbed: Testbed, given: Sequence[Machine] | None = None) -> tuple[Machine, ...]:
    """Return the testbed's hosts, those of a cloud as they are there now. Raises `TestbedError`."""
    if given is not None:
        found = tuple(given)
    elif testbed.hosts is not None:
        found = described(testbed.hosts)
    elif testbed.provider == "local":
        found = local(pwd.getpwuid(os.geteuid()).pw_name)
    else:
        from provision.cloud import run  # takes long to import, and only one provider needs it

        found = run.machines(testbed)
    return without_server(found) if testbed.server.is_external else found


def _go(session: Session, held: ExitStack, command: remote.Command, known: Path, *, changes: bool, take: bool) -> None:
    """Reach the session's hosts, and have them for its command alone where it changes anything."""
    consoles = None
    if session.testbed.openstack is not None:
        from provision.cloud import run

        consoles = run.consoles(session.testbed)
    with session.stage("Reach the hosts") as current:
        remote.reach(session.machines, known, current, session.console, all_of_them=changes, consoles=consoles)
    holder = command if changes else None
    session.ssh_options = held.enter_context(remote.opened(session.testbed, session.machines, known, holder, take=take))
    if changes:
        session.remote_tmp = command.folder
        where = (session.console, session.inventory_file, session.hosts, command)
        held.enter_context(remote.alone(*where, check=session.check, take=take))


def _remove(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def remove_killed_checks() -> None:
    """Remove the private folders of this user's checks, and of sockets, whose command was killed."""
    for left in _killed_checks():
        shutil.rmtree(left, ignore_errors=True)


def _killed_checks() -> Iterator[Path]:
    folders = [*Path(tempfile.gettempdir()).glob(f"{CHECK_FOLDER}*"), *Path("/tmp").glob(f"{remote.FOLDER}*")]  # noqa: S108
    for left in dict.fromkeys([*folders, *Path(tempfile.gettempdir()).glob(f"{remote.FOLDER}*")]):
        process = left.name.removeprefix(CHECK_FOLDER).removeprefix(remote.FOLDER).partition("-")[0]
        with suppress(FileNotFoundError):  # it has ended meanwhile
            if left.lstat().st_uid == os.geteuid() and not Path("/proc", process).exists():
                yield left


@contextmanager
def _ansible_at_home(work: Path) -> Iterator[None]:
    """Have Ansible, which is also used as a library, keep its files in `work`, not in ~/.ansible."""
    names = {"ANSIBLE_HOME": str(work / "ansible"), "ANSIBLE_LOCAL_TEMP": str(work / "ansible" / "tmp")}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _mark(run: str) -> Iterator[None]:
    """Let every process that this one starts carry whose it is."""
    os.environ[locks.VARIABLE] = run
    try:
        yield
    finally:
        del os.environ[locks.VARIABLE]


def _leavings(state: Path) -> list[Path]:
    """Return the private folders of commands that were killed."""
    found = []
    for left in [*state.glob("run-*"), *state.glob("look-*")]:
        of = re.match(r"(run|look)-(\d+)-", left.name)
        if of is None or not Path("/proc", of[2]).exists():
            found.append(left)
    return found + list(_killed_checks())


def need_root(testbed: Testbed) -> None:
    """Raise `TestbedError` unless this user is root or may become root without a password, for provider local."""
    if testbed.provider != "local" or os.geteuid() == 0:
        return
    if shutil.which("sudo") and not subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode:
        return
    raise TestbedError(
        "provider local installs packages and services, so it needs root",
        "Run it as root, or as a user with passwordless sudo.",
    )
