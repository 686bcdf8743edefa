"""The server's data on its host, as streams: out of it for a backup, into it for a restore (see volume_on_host)."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from provision import on_host
from provision.archive import BackupError
from provision.session import Session
from provision.volume_on_host import CHUNK

# to start the server again, at most
END_S = 900


class Remote:
    """The script at work on the server's host."""

    def __init__(self, process: subprocess.Popen[bytes], host: str) -> None:
        assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018 (they are pipes)
        self.stdin, self.stdout = process.stdin, process.stdout
        self.process, self._host, self._said = process, host, ""
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._reader.start()

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            try:
                event = json.loads(line)
            except ValueError:  # words of ssh's or sudo's
                self._said = (self._said + line.decode(errors="replace"))[-2000:]
                continue
            self._events.put(event)
        self._events.put(None)

    def event(self, name: str) -> dict[str, Any]:
        """Await what the script tells. Raises `BackupError` with its reason when it failed instead."""
        while (found := self._events.get()) is not None:
            if found.get("event") == "failed":
                raise BackupError(f"{self._host}: {found['message']}", "Mend that and run the same command again.")
            if found.get("event") == name:
                return found
        self._events.put(None)
        said = " ".join(self._said.split()) or "it ended without a word"
        raise BackupError(f"{self._host}: its data cannot be read or written: {said}", "Mend that.")


@contextmanager
def opened(session: Session, host: str, argument: dict[str, Any]) -> Iterator[Remote]:
    """Run the script on `host` while the block runs, and let it end what it must: to start the server."""
    command = on_host.command(
        session.inventory["all"]["hosts"][host],
        session.ssh_options.get(host, ()),
        "volume",
        argument,
        mark=on_host.this_mark(),
    )
    pipe = subprocess.PIPE
    # a signal of the terminal's is for this process alone: the script ends with its streams
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    try:
        yield Remote(process, host)
    finally:
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                if stream:
                    stream.close()
        process.wait(END_S)


def receive(source: IO[bytes], path: Path, tell: Callable[[int], None]) -> str:
    """Write a stream to `path` (0600) and to its disk; return the SHA-256 of what was written."""
    found, done = hashlib.sha256(), 0
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        for chunk in iter(lambda: source.read(CHUNK), b""):
            file.write(chunk)
            found.update(chunk)
            tell(done := done + len(chunk))
        file.flush()
        os.fsync(file.fileno())
    return found.hexdigest()


def send(path: Path, target: IO[bytes], tell: Callable[[int], None]) -> None:
    """Write a file to a stream, and close that; who reads may end before, and says why itself."""
    done = 0
    with path.open("rb") as file, suppress(BrokenPipeError):
        for chunk in iter(lambda: file.read(CHUNK), b""):
            target.write(chunk)
            tell(done := done + len(chunk))
        target.close()
