"""The testbed's own `known_hosts`: a line for each host and key. The comment on a line is the ID of the server that had
the key, so that a server made anew is told from another machine in its place. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

SSH_PORT = 22


@dataclass(frozen=True)
class Pin:
    """A line: the host as ssh writes it, `TYPE BASE64`, and the ID of the server that had the key, where it has one."""

    host: str
    key: str
    id: str = ""

    def __str__(self) -> str:
        return f"{self.host} {self.key} {self.id}".rstrip()


def entry(host: str, port: int) -> str:
    """Return the name by which `known_hosts` has a host."""
    return host.lower() if port == SSH_PORT else f"[{host.lower()}]:{port}"


def parse(text: str) -> list[Pin]:
    """Return the lines of a `known_hosts` whose names are plain; no comments, and none marked with `@`."""
    found = []
    for line in text.splitlines():
        words = line.split(maxsplit=3)
        if len(words) >= 3 and line[0] not in "#@|":
            found += [Pin(host, " ".join(words[1:3]), " ".join(words[3:])) for host in words[0].split(",")]
    return found


def render(pins: Iterable[Pin]) -> str:
    """Return `pins` as the text of a `known_hosts`."""
    return "".join(f"{pin}\n" for pin in pins)


def pinned(pins: Iterable[Pin], host: str, server: str) -> list[str]:
    """Return the keys that hold for `host`; none where they were those of a server before the one with ID `server`."""
    return [pin.key for pin in pins if pin.host == host and (not server or pin.id == server)]


def replaced(pins: Iterable[Pin], host: str, keys: Iterable[str], server: str) -> list[Pin]:
    """Return `pins` with these keys for `host`, and no others."""
    return [pin for pin in pins if pin.host != host] + [Pin(host, key, server) for key in dict.fromkeys(keys)]


def fingerprint(key: str) -> str:
    """Return the fingerprint of `TYPE BASE64`, as OpenSSH shows it."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def is_key(text: str) -> bool:
    """Return whether `text` is a whole `TYPE BASE64`: fields of their announced lengths, the type first (RFC 4253)."""
    kind, _, encoded = text.partition(" ")
    try:
        blob = base64.b64decode(encoded, validate=True)
    except ValueError:
        return False
    fields = []
    while blob:
        size = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + size:
            return False
        fields.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    return len(fields) > 1 and fields[0] == kind.encode()
