"""What every command on one testbed works with: its spec, secrets, inventory, lock, log and private folder."""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from provision import console as progress
from provision import inventory, leftovers, locks, stopping, wheels
from provision.converge import private_dir, temporary_dir
from provision.errors import StoppedError, TestbedError
from provision.machines import local
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
        self._now = None
        self.done.append(title)

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Say what was done and what was not when the block is stopped. Raises `StoppedError`."""
        try:
            yield
        except KeyboardInterrupt:
            raise StoppedError(*self._told(), exit_code=stopping.exit_code()) from None

    @property
    def hosts(self) -> list[str]:
        """The names of all hosts."""
        return sorted(self.inventory["all"]["hosts"])

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
        machines = local(pwd.getpwuid(os.geteuid()).pw_name)
        return inventory.build(self.testbed, machines, wheels.build(self.state / "wheels"), os.environ)

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
    changes: bool = True,
    on_hosts: bool = True,
    verbosity: int = 0,
    stages: Sequence[str] = (),
) -> Iterator[Session]:
    """Yield a session on `testbed`; a command that `changes` anything holds the testbed and this machine meanwhile.

    `on_hosts`: whether it touches more than the administrator's own files. `stages`: what the command will do.
    What a killed command left is ended first, and what this one started when it does not come to its end.
    Raises `BusyError` when another command works on the testbed, `StoppedError` when this one was stopped.
    """
    state = state_dir(testbed.name)
    remove_killed_checks()
    make_private(state)
    logs = state / "logs"
    logs.mkdir(exist_ok=True)
    log = logs / f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}.log"
    run = locks.this_command(testbed.name, verb)
    with ExitStack() as held:
        if changes:
            if on_hosts:
                held.enter_context(locks.hold(locks.MACHINE_LOCK, "this machine", run, shared=True))
            held.enter_context(locks.hold(state / "lock", f"testbed {testbed.name}", run))
            held.enter_context(_mark(run))
        work = held.enter_context(private_dir(state, f"{'run' if changes else 'look'}-{os.getpid()}-"))
        held.enter_context(_ansible_at_home(work))
        vault = Vault(testbed.name, vault_password_file)
        session = Session(testbed, vault, console, state, work, log, verbosity=verbosity, to_do=list(stages))
        with session.stoppable():
            if changes and on_hosts:
                where = (console, session.inventory_file, session.hosts, run)
                leftovers.end(*where, own=False, folders=_leavings(state))
                held.enter_context(leftovers.ended_unless_well(*where, [temporary_dir(work)]))
            if changes:
                for left in _leavings(state):
                    shutil.rmtree(left, ignore_errors=True)
            yield session


@contextmanager
def open_check(
    testbed: Testbed, verb: str, console: Console, vault_password_file: Path | None, *, verbosity: int = 0
) -> Iterator[Session]:
    """Yield a session that leaves nothing behind: all that it writes is in a private folder, which goes.

    It holds this machine, and the testbed where it has a lock. Raises `BusyError` when another command works there,
    `StoppedError` when this one was stopped.
    """
    state = state_dir(testbed.name)
    remove_killed_checks()
    run = locks.this_command(testbed.name, verb)
    with (
        locks.hold(locks.MACHINE_LOCK, "this machine", run, shared=True),
        locks.hold(state / "lock", f"testbed {testbed.name}", run) if (state / "lock").exists() else nullcontext(),
        _mark(run),
        private_dir(Path(tempfile.gettempdir()), f"{CHECK_FOLDER}{os.getpid()}-") as work,
        _ansible_at_home(work),
    ):
        vault = UnsavedVault(testbed.name, vault_password_file, work)
        session = Session(testbed, vault, console, work, work, work / "log", check=True, verbosity=verbosity)
        where = (console, session.inventory_file, session.hosts, run)
        ended = leftovers.ended_unless_well(*where, [temporary_dir(work)])
        with session.stoppable(), ended:
            yield session


def remove_killed_checks() -> None:
    """Remove the private folders of this user's checks that were killed, as far as they are this user's."""
    for left in _killed_checks():
        shutil.rmtree(left, ignore_errors=True)


def _killed_checks() -> Iterator[Path]:
    for left in Path(tempfile.gettempdir()).glob(f"{CHECK_FOLDER}*"):
        process = left.name.removeprefix(CHECK_FOLDER).partition("-")[0]
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


def need_root() -> None:
    """Raise `TestbedError` unless this user is root or may become root without a password."""
    if os.geteuid() == 0:
        return
    if shutil.which("sudo") and not subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode:
        return
    raise TestbedError(
        "provider local installs packages and services, so it needs root",
        "Run it as root, or as a user with passwordless sudo.",
    )
