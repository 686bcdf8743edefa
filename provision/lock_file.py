"""A lock that is a file with its holder's words in it. Also runs on hosts, as root: Python 3.8, no library of ours.

Run as a program, it holds a host's lock for a command on the administrator's machine until its input ends, as it does
when that command ends, is killed, or its SSH is cut. Arguments: the file (empty: no lock, only stay); the holder's
words; `take` to end who holds it. Prints one line: a JSON object with the words of the one who holds it, or of nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import stat
import sys
import time
from pathlib import Path

LONGEST_HOLDER = 400
TAKING_S = 10


class Held(Exception):
    """Somebody else holds the lock; the text is theirs."""


class NoFile(Exception):
    """Something else is where the lock should be."""


def take(path: Path, mode: int) -> int:
    """Return a descriptor of the lock, which is held for as long as it is open. Raises `Held`, `NoFile`."""
    while True:
        descriptor = _open(path, mode)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NoFile
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                said = os.pread(descriptor, LONGEST_HOLDER, 0).decode(errors="replace")
                words = "".join(letter for letter in said if letter.isprintable())
                raise Held(words or "a command that just began") from None
            if _is_there(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it between our opening and our locking


def sign(descriptor: int, holder: str) -> None:
    """Write who holds the lock into it."""
    with contextlib.suppress(OSError):  # another user's file that this one may lock, but not write
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)


def _open(path: Path, mode: int) -> int:
    # the folder is everybody's: follow no link, and make the file only where there is none (fs.protected_regular)
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        with contextlib.suppress(FileNotFoundError):
            try:
                return os.open(str(path), os.O_RDWR | flags)
            except PermissionError:
                return os.open(str(path), os.O_RDONLY | flags)
        with contextlib.suppress(FileExistsError):
            descriptor = os.open(str(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | flags, mode)
            os.fchmod(descriptor, mode)  # whatever the umask
            return descriptor


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(str(path)), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def holders(path: Path) -> list[int]:
    """Return the processes of this machine that have the lock open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            # Path.readlink is of Python 3.9
            if any(os.readlink(str(entry)) == str(path) for entry in folder.iterdir()):  # noqa: PTH115
                found.append(int(folder.parent.name))
    return found


def take_over(path: Path, mode: int) -> int:
    """Take the lock, and end who holds it. Raises `Held` where that does not end."""
    end = time.monotonic() + TAKING_S
    while True:
        try:
            return take(path, mode)
        except Held:
            if time.monotonic() > end:
                raise
        for process in holders(path):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        time.sleep(0.2)


def main(name: str, holder: str, how: str) -> None:
    """Take the lock, tell, and hold it until the input ends."""
    path, descriptor = Path(name), None
    try:
        if name:
            descriptor = (take_over if how == "take" else take)(path, 0o666)
            sign(descriptor, holder)
    except Held as held:
        print(json.dumps({"held": str(held)}), flush=True)
        return
    print(json.dumps({"held": None}), flush=True)
    while sys.stdin.read(1024):
        pass
    if descriptor is not None:
        with contextlib.suppress(OSError):
            path.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
