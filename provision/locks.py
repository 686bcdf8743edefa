"""Locks: one command at a time on a testbed, and one on a machine. Who holds one is written into it."""

from __future__ import annotations

import getpass
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from provision import lock_file
from provision.errors import BusyError, TestbedError
from provision.paths import state_dir

# for all users of the machine: root's command and one through sudo exclude each other
MACHINE_LOCK = Path("/run/lock/clearml-testbed.lock")
# the environment variable by which the processes of a command are known
VARIABLE = "TESTBED_RUN"
TAKE_OVER = "`testbed up --break-lock` ends it, and goes ahead"


def this_command(testbed: str, verb: str, *, whose: str = "") -> str:
    """Return what a lock says of its holder, and what the command's processes carry.

    `whose`: the administrator, on a testbed of other machines; else it is the account on this one.
    """
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    command = f"testbed {verb.replace('-', ' ')}"
    return f"`{command}`{_of(whose or getpass.getuser(), testbed)} process {os.getpid()}, since {since}"


def administrator(testbed: str) -> str:
    """Return who works on a testbed of other machines from here: account, this machine's name, and a digest.

    The digest tells machines and accounts of the same name apart.
    """
    with suppress(OSError):
        machine = Path("/etc/machine-id").read_text(encoding="utf-8").strip()
        return f"{getpass.getuser()}@{socket.gethostname()} ({_digest(machine, str(state_dir(testbed)))})"
    return f"{getpass.getuser()}@{socket.gethostname()} ({_digest(str(state_dir(testbed)))})"


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]


def mine(whose: str, testbed: str) -> str:
    """Return the part of `this_command` that all commands of one administrator on one testbed have in common."""
    return _of(whose, testbed)


def _of(whose: str, testbed: str) -> str:
    return f" of {whose} on testbed {testbed},"


@contextmanager
def hold(path: Path, what: str, holder: str, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock `path` on `what` while the block runs; `shared`: users of this machine share it.

    Raises `BusyError` with the words of the one who holds it.
    """
    try:
        descriptor = lock_file.take(path, 0o666 if shared else 0o600)
    except lock_file.NoFile:
        raise TestbedError(f"{path}: is no file", "Remove it and run the same command again.") from None
    except lock_file.Held as held:
        raise busy(what, str(held)) from None
    try:
        lock_file.sign(descriptor, holder)
        yield
    finally:
        if shared:
            with suppress(OSError):  # another user's, in a folder that is sticky
                path.unlink()
        os.close(descriptor)


def busy(what: str, holder: str, remedy: str = "Wait until it has ended.") -> BusyError:
    """Return the error of a command that finds another one at work."""
    return BusyError(f"{what}: another command works on it: {holder}", remedy)
