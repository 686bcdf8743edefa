"""The keys in clearml.conf files: the toolkit's own, and what the web app shows when it makes one."""

from __future__ import annotations

import re
from pathlib import Path

from provision.secrets import KeyPair

HELD_URL = re.compile(r'"?api_server"?\s*[:=]\s*"([^"]*)"')
HELD_KEY = re.compile(r'"?(access_key|secret_key)"?\s*[:=]\s*"([^"]*)"')


def read_held(folder: Path) -> dict[str, KeyPair]:
    """Return the keys in the confs that `server.yml` collected from hosts, by identity name.

    A user has the same key on all hosts; of several, the last one counts.
    """
    held = {}
    for path in sorted(folder.glob("*/*.conf")):
        key = parse_key(path.read_text(encoding="utf-8", errors="replace"))
        if key is not None:
            held[path.stem.replace("__", "/")] = key
    return held


def read_url(folder: Path) -> str | None:
    """Return the API server that the collected confs name: where it answers now, whatever the spec wants next."""
    for path in sorted(folder.glob("*/*.conf")):
        if found := HELD_URL.search(path.read_text(encoding="utf-8", errors="replace")):
            return found.group(1)
    return None


def parse_key(conf: str) -> KeyPair | None:
    """Return the key pair in the text of a clearml.conf, or None where there is none."""
    found = dict(HELD_KEY.findall(conf))
    return KeyPair(**found) if found.get("access_key") and found.get("secret_key") else None
