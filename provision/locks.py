"""Locks: one command at a time on a testbed, and one on a machine. Who holds one is written into it."""

from __future__ import annotations

import fcntl
import getpass
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from provision.errors import BusyError, TestbedError

# for all users of the machine: root's command and one through sudo exclude each other
MACHINE_LOCK = Path("/run/lock/clearml-testbed.lock")
LONGEST_HOLDER = 200
# the environment variable by which the processes of a command are known
VARIABLE = "TESTBED_RUN"


def this_command(testbed: str, verb: str) -> str:
    """Return what a lock says of its holder, and what the command's processes carry."""
    since = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    command = f"testbed {verb.replace('-', ' ')}"
    return f"`{command}` of {getpass.getuser()} on testbed {testbed}, process {os.getpid()}, since {since}"


@contextmanager
def hold(path: Path, what: str, holder: str, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock `path` on `what` while the block runs; `shared`: users of this machine share it.

    Raises `BusyError` with the words of the one who holds it.
    """
    descriptor = _take(path, what, 0o666 if shared else 0o600)
    try:
        with suppress(OSError):  # another user's file that this one may lock, but not write
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode(), 0)
        yield
    finally:
        if shared:
            with suppress(OSError):  # another user's, in a folder that is sticky
                path.unlink()
        os.close(descriptor)


def _take(path: Path, what: str, mode: int) -> int:
    while True:
        descriptor = _open(path, mode)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise TestbedError(f"{path}: is no file", "Remove it and run the same command again.")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                said = os.pread(descriptor, LONGEST_HOLDER, 0).decode(errors="replace")
                holder = "".join(letter for letter in said if letter.isprintable()) or "a command that just began"
                raise BusyError(f"{what}: another command works on it: {holder}", "Wait until it has ended.") from None
            if _is_there(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it between our opening and our locking


def _open(path: Path, mode: int) -> int:
    # the folder is everybody's: follow no link, and make the file only where there is none (fs.protected_regular)
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        with suppress(FileNotFoundError):
            try:
                return os.open(path, os.O_RDWR | flags)
            except PermissionError:
                return os.open(path, os.O_RDONLY | flags)
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, mode)
            os.fchmod(descriptor, mode)  # whatever the umask
            return descriptor


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False
