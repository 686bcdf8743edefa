"""The mirrors of packages and images that the spec names, and whether they answer the hosts that use them."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from provision import hosts, inventory
from provision.machines import PYTHON
from provision.reports import MirrorState
from provision.session import Session
from provision.spec import Testbed

ANSWER_S = 5.0
AT_ONCE = 16
LOOPBACK = ("127.", "localhost", "[::1]")
_SCRIPT = Path(__file__).parent / "mirrors_on_host.py"


@dataclass(frozen=True)
class Mirror:
    """A mirror that the spec names: its key there, its URL, and a small page that it should have."""

    key: str
    url: str
    page: str


def named(testbed: Testbed, *, with_server: bool) -> list[Mirror]:
    """Return the mirrors that a host uses; `with_server`: whether the ClearML server is on it."""
    found = []
    if given := testbed.mirrors:
        archives = {"mirrors.apt": given.apt, "mirrors.apt_security": given.apt_security}
        found += [_mirror(key, url, "dists/") for key, url in archives.items() if url]
        # the index itself may have megabytes
        found += [_mirror("mirrors.pip", given.pip, "pip/")] if given.pip else []
    server, engine = testbed.server, testbed.server.engine
    if with_server and server.backend == "docker":
        if server.registry:
            # as Docker does, which trusts its own machine without TLS
            scheme = "http" if server.registry.startswith(LOOPBACK) else "https"
            found.append(_mirror("server.registry", f"{scheme}://{server.registry.partition('/')[0]}", "v2/"))
        found += [_mirror("server.engine.registry_mirrors", url, "v2/") for url in engine.registry_mirrors]
        if engine.source == "docker" and "repository" in engine.model_fields_set:
            found.append(_mirror("server.engine.repository", engine.repository, ""))
    return found


def _mirror(key: str, url: str, page: str) -> Mirror:
    return Mirror(key, url, urllib.parse.urljoin(f"{url.rstrip('/')}/", page))


def look(session: Session, away: Collection[str]) -> list[MirrorState]:
    """Return for each host that is not `away` how the mirrors are that it uses; some hosts are asked at once."""
    everywhere = session.inventory["all"]["vars"]["common_environment"]
    servers = inventory.hosts(session.inventory, "server")

    def ask(host: str) -> list[MirrorState]:
        mirrors = named(session.testbed, with_server=host in servers)
        if not mirrors:
            return []
        wanted = {"urls": [mirror.page for mirror in mirrors], "environment": everywhere, "seconds": ANSWER_S}
        done = hosts.connect(session.inventory_file, host).run(
            f"{PYTHON} -I -c %s %s", _SCRIPT.read_text(encoding="utf-8"), json.dumps(wanted)
        )
        said = json.loads(done.stdout) if done.rc == 0 else {}
        unknown = f"it cannot be asked: {done.stderr.strip()[-300:]}"
        return [
            MirrorState(host=host, key=mirror.key, url=mirror.url, problem=said.get(mirror.page, unknown))
            for mirror in mirrors
        ]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        there = [host for host in session.hosts if host not in away]
        return [found for states in pool.map(ask, there) for found in states]
