"""The existing clusters that the official server is told to use, and whether they answer its host."""

from __future__ import annotations

import json
from collections.abc import Collection

from provision import hosts, inventory
from provision.machines import PYTHON
from provision.reports import StoreState
from provision.session import Session
from provision.spec import Testbed

# what is wrong with each address, as the host finds it; all are tried at once
_TRY = """
import concurrent.futures, json, socket, sys
def wrong(address):
    try:
        socket.create_connection(tuple(address), 5).close()
    except OSError as error:
        return str(error) or type(error).__name__
    return ""
addresses = json.loads(sys.argv[1])
with concurrent.futures.ThreadPoolExecutor() as pool:
    print(json.dumps(list(pool.map(wrong, addresses))))
"""


def named(testbed: Testbed) -> list[tuple[str, str, int]]:
    """Return name, host and port of each store that is not on the server's host, and of all members of a set."""
    if testbed.server.backend != "docker":
        return []
    found = []
    for name, store in testbed.server.stores:
        if store is not None:
            members = [store.host, *getattr(store, "further_hosts", ())]
            found += [(name, host, store.port) for host in members]
    return found


def look(session: Session, away: Collection[str]) -> list[StoreState]:
    """Return for each of them whether the server's host reaches it; none where that host is `away`."""
    stores = named(session.testbed)
    [server] = inventory.hosts(session.inventory, "server") if stores else [""]
    if not stores or server in away:
        return []
    addresses = [(host, port) for _, host, port in stores]
    done = hosts.connect(session.inventory_file, server).run(f"{PYTHON} -I -c %s %s", _TRY, json.dumps(addresses))
    unknown = f"{server} cannot be asked: {done.stderr.strip()[-300:]}"
    problems = json.loads(done.stdout) if done.rc == 0 else [unknown] * len(stores)
    return [
        StoreState(name=name, host=host, port=port, problem=problem)
        for (name, host, port), problem in zip(stores, problems, strict=True)
    ]
