"""What every command on one testbed works with: its spec, secrets, inventory, lock, log and private folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from provision import inventory, wheels
from provision.converge import private_dir
from provision.errors import BusyError, TestbedError
from provision.paths import make_private, state_dir, write_private
from provision.secrets import UnsavedVault, Vault
from provision.spec import Testbed

# beginning of the name of a check's private folder in the folder for temporary files; its process follows
CHECK_FOLDER = "testbed-check-"


@dataclass
class Session:
    """One command's work on one testbed; made by `open_session`."""

    testbed: Testbed
    vault: Vault
    console: Console
    state: Path
    work: Path
    log: Path
    check: bool = False
    verbosity: int = 0

    @cached_property
    def inventory(self) -> dict[str, Any]:
        """The Ansible inventory; building it builds the wheels that it names."""
        return inventory.build(
            self.testbed,
            wheels.build(self.state / "wheels"),
            os.environ,
            become=os.geteuid() != 0,
            account=pwd.getpwuid(os.geteuid()).pw_name,
        )

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
    verbosity: int = 0,
) -> Iterator[Session]:
    """Yield a session on `testbed`, locked on this machine if the command `changes` anything.

    Raises `BusyError` when another command works on it.
    """
    state = state_dir(testbed.name)
    remove_killed_checks()
    make_private(state)
    with _lock(state, testbed.name, verb) if changes else contextlib.nullcontext():
        logs = state / "logs"
        logs.mkdir(exist_ok=True)
        log = logs / f"{verb}-{time.strftime('%Y%m%d-%H%M%S')}.log"
        with private_dir(state, "run-" if changes else "look-") as work, _ansible_at_home(work):
            vault = Vault(testbed.name, vault_password_file)
            yield Session(testbed, vault, console, state, work, log, verbosity=verbosity)


@contextmanager
def open_check(
    testbed: Testbed, verb: str, console: Console, vault_password_file: Path | None, *, verbosity: int = 0
) -> Iterator[Session]:
    """Yield a session that leaves nothing behind: all that it writes is in a private folder, which goes.

    It takes the testbed's lock where there is one. Raises `BusyError`.
    """
    state = state_dir(testbed.name)
    remove_killed_checks()
    with (
        _lock(state, testbed.name, verb) if (state / "lock").exists() else contextlib.nullcontext(),
        private_dir(Path(tempfile.gettempdir()), f"{CHECK_FOLDER}{os.getpid()}-") as work,
        _ansible_at_home(work),
    ):
        vault = UnsavedVault(testbed.name, vault_password_file, work)
        yield Session(testbed, vault, console, work, work, work / "log", check=True, verbosity=verbosity)


def remove_killed_checks() -> None:
    """Remove the private folders of this user's checks that were killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{CHECK_FOLDER}*"):
        process = left.name.removeprefix(CHECK_FOLDER).partition("-")[0]
        with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
            if left.lstat().st_uid == os.geteuid() and not Path("/proc", process).exists():
                shutil.rmtree(left, ignore_errors=True)


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
def _lock(state: Path, testbed: str, verb: str) -> Iterator[None]:
    with (state / "lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BusyError(
                f"testbed {testbed}: another command works on it: {file.read().strip()}", "Wait until it has ended."
            ) from None
        file.truncate(0)
        file.write(f"`{verb}`, process {os.getpid()}, since {time.strftime('%H:%M:%S')}\n")
        file.flush()
        for left in state.glob("run-*"):  # of a command that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield


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
