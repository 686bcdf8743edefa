"""clearml.conf files: rendered for a user, and read again, as the web app shows them, too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from provision.paths import TEMPLATES
from provision.secrets import KeyPair
from provision.spec import Testbed

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
            held[identity_of(path)] = key
    return held


def identity_of(path: Path) -> str:
    """Return the name of the identity whose conf `server.yml` collected as `path`; a username may have `__` in it."""
    kind, _, rest = path.stem.partition("__")
    return f"{kind}/{rest if kind == 'user' else rest.replace('__', '/')}"


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


def ca_name(testbed: Testbed) -> str:
    """Return the name that the file with the CA of the server's certificate has in a user's home."""
    return f"clearml-{testbed.name}-ca.pem"


def render(testbed: Testbed, key: KeyPair, former_files_urls: Sequence[str] = (), *, with_ca: bool) -> str:
    """Return a user's clearml.conf for any machine; `with_ca`: the CA's file is in the home there.

    `former_files_urls`: other URLs of the file server, which stored data may carry.
    """
    import jinja2

    conf = {
        "api_url": testbed.server.url("api"),
        "web_url": testbed.server.url("web"),
        "files_url": testbed.server.url("files"),
        "former_files_urls": list(former_files_urls),
        **key.model_dump(),
        **({"ca_name": ca_name(testbed)} if with_ca else {}),
    }
    loader = jinja2.FileSystemLoader(TEMPLATES)
    # what it renders is no HTML
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True)  # noqa: S701
    return environment.get_template("clearml.conf.j2").render(conf=conf)
