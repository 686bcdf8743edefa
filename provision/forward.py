"""HTTP to the testbed's services from the administrator's machine, which may reach their hosts by SSH only.

A forward is one ssh that leads from sockets in a private folder to ports of a host, for as long as the command runs. On
the host it holds the lock of that machine, if it is asked to.
"""

from __future__ import annotations

import functools
import json
import os
import shlex
import socket
import ssl
import subprocess
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from provision import locks
from provision.errors import ReachError
from provision.spec import bracketed

END_S = 5
_SCRIPT = (Path(__file__).parent / "lock_file.py").read_text(encoding="utf-8")
CONNECT_S = 10.0
PORTS = {"http": 80, "https": 443}
_SOCKETS: dict[str, Path] = {}  # by the URL of a service
_TRUSTED: dict[str, str] = {}  # certificates of CAs, by the testbed that they are for


@dataclass(frozen=True)
class Lock:
    """The lock of a host: its file, the words of its holder, and whether to end who holds it."""

    path: Path
    holder: str
    take: bool = False


def client(**options: Any) -> httpx.Client:
    """Return a client that goes to services through the forwards that are open, and else directly.

    It heeds no proxy: those are for package indexes. Certificates are checked against the names in URLs either way.
    """
    trust = trusted()
    transports = {url: httpx.HTTPTransport(uds=str(path), verify=trust) for url, path in _SOCKETS.items()}
    return httpx.Client(trust_env=False, verify=trust, mounts=transports, **options)


def direct(**options: Any) -> httpx.Client:
    """Return a client that goes to services as a browser on this machine would, through no forward."""
    return httpx.Client(trust_env=False, verify=trusted(), **options)


def trust(testbed: str, certificates: str) -> None:
    """From now on, trust the CAs whose `certificates` (PEM) these are, for `testbed`, beside the public ones."""
    _TRUSTED[testbed] = certificates


def trusted() -> ssl.SSLContext:
    """Return what checks certificates: those of public CAs, of the system's, and of testbeds' own."""
    return _context("".join(_TRUSTED.values()))


@functools.cache
def _context(certificates: str) -> ssl.SSLContext:
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    if certificates:
        context.load_verify_locations(cadata=certificates)
    return context


def connect(url: str) -> socket.socket:
    """Return a connection to the service with that URL, through its forward where one is open. Raises `OSError`."""
    if url in _SOCKETS:
        found = socket.socket(socket.AF_UNIX)
        found.settimeout(CONNECT_S)
        try:
            found.connect(str(_SOCKETS[url]))
        except OSError:
            found.close()
            raise
        return found
    parts = urllib.parse.urlsplit(url)
    return socket.create_connection((parts.hostname or "", parts.port or PORTS[parts.scheme]), CONNECT_S)


@contextmanager
def opened(
    name: str,
    ssh: Sequence[str],
    services: Mapping[str, tuple[str, int]],
    folder: Path,
    *,
    sudo: bool,
    lock: Lock | None = None,
) -> Iterator[None]:
    """Lead `services` (URL: address and port, as host `name` reaches them) through `ssh` while the block runs.

    `ssh` is its command up to the host's address; `folder` is private, with a short path, as sockets need.
    Raises `ReachError`, `BusyError` with the words of the one who holds the lock.
    """
    sockets = {url: folder / f"{name}-{number}" for number, url in enumerate(services)}
    arguments = [str(lock.path), lock.holder, "take" if lock.take else ""] if lock else ["", "", ""]
    there = [*(["sudo", "-n"] if sudo else []), "/usr/bin/python3", "-I", "-c", _SCRIPT, *arguments]
    options = ["-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes", "-T"]
    for url, (address, port) in services.items():
        options += ["-L", f"{sockets[url]}:{bracketed(address)}:{port}"]
    # without the command's mark, so that it is not ended with what the command started; a signal of the terminal's does
    # not reach it either. It ends with its input, which is this process's alone.
    environment = {key: value for key, value in os.environ.items() if key != locks.VARIABLE}
    errors = folder / f"{name}.log"
    with errors.open("w+", encoding="utf-8", errors="replace") as log:
        process = subprocess.Popen(
            [ssh[0], *options, *ssh[1:], shlex.join(there)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            start_new_session=True,
        )
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                process.wait()
                log.seek(0)
                said = " ".join(log.read().split())[-500:]
                raise ReachError(f"{name}: SSH to it failed: {said or 'it ended without a word'}", "Mend that.")
            if (holder := json.loads(line)["held"]) is not None:
                raise locks.busy(name, holder, f"Wait until it has ended; {locks.TAKE_OVER}.")
            _SOCKETS.update(sockets)
            yield
        finally:
            for url in sockets:
                _SOCKETS.pop(url, None)
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe:
            pipe.close()
    try:
        process.wait(timeout=END_S)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
