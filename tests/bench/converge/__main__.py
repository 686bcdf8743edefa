"""`second_run` on hosts that it makes: containers with systemd, reached over SSH, with the embedded server.

    .venv/bin/python -P -m tests.bench.converge --hosts 4 [--rounds 3] [--copied 0]

One host is the server, one the telemetry source, one the client; the rest are agents. TESTBED_LAB_ENGINE is as for the
lab's tests. An agent's environments take 2.5 GB and minutes: `--copied N` begins the last N agents as copies of the
first one's disk, after it came up with the others. The first run is not theirs then.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.converge.second_run import measure
from tests.lab import gateway as lab
from tests.lab import hosts
from tests.lab.conftest import HERE, IMAGE, Engine, furnish

NAME, SUBNET = "bench", "10.214.0"
COPY = f"{NAME}:agent"
SINGLE = {"server": "server", "telemetry": "telemetry", "client": "clients"}
SPEC = """\
name: bench
provider: hosts
hosts:
  user: {account}
  key: {key}
  machines:
{machines}
server: {{backend: lite}}
users: [{{name: researcher}}]
"""


def names(count: int) -> list[str]:
    """Return the names of so many hosts."""
    return [*SINGLE, *(f"agent{number}" for number in range(1, count - len(SINGLE) + 1))]


def machine_lines(addresses: dict[str, str]) -> str:
    """Return the machines as a spec has them."""
    line = "    - {{name: {}, address: {}, groups: [{}]}}"
    return "\n".join(line.format(name, address, SINGLE.get(name, "agents")) for name, address in addresses.items())


@contextmanager
def engine() -> Iterator[Engine]:
    """Yield the lab's engine: the one that runs, or one of our own."""
    if there := os.environ.get("TESTBED_LAB_ENGINE"):
        yield furnish(Engine(Path(there), NAME, SUBNET))
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([str(HERE / "dockerd.sh"), "start", folder], check=True)
        try:
            yield furnish(Engine(Path(folder), NAME, SUBNET))
        finally:
            subprocess.run([str(HERE / "dockerd.sh"), "stop", folder], check=True)


def main() -> None:
    """Make the hosts, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--copied", type=int, default=0)
    given = parser.parse_args()
    with ExitStack() as stack:
        there = stack.enter_context(engine())
        gateway = stack.enter_context(lab.running(there))
        own = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("CONFIG", "STATE", "DATA"):  # no testbed of whoever runs this is concerned
            os.environ[f"XDG_{name}_HOME"] = str(own / name.lower())
        addresses: dict[str, str] = {}

        def start(name: str, image: str) -> None:
            stack.callback(there.run, "rm", "--force", "--volumes", f"{there.name}-{name}")
            _, addresses[name] = hosts.machine(there, name, gateway, image)

        def described() -> Path:
            mirrors = hosts.MIRRORS.format(mirror=gateway.mirror, index=gateway.mirror_index)
            machines = machine_lines(addresses)
            text = SPEC.format(account=hosts.ACCOUNT, key=there.folder / "key", machines=machines) + mirrors
            (own / "mirror.crt").write_bytes((gateway.folder / "mirror.crt").read_bytes())
            (own / "testbed.yaml").write_text(text.replace("./mirror.crt", str(own / "mirror.crt")), encoding="utf-8")
            return own / "testbed.yaml"

        wanted = names(given.hosts)
        alone = len(wanted) - given.copied
        for name in wanted[:alone]:
            start(name, IMAGE)
        measure(described(), 0 if given.copied else given.rounds)
        if given.copied:
            there.run("commit", f"{there.name}-agent1", COPY)
            stack.callback(there.run, "rmi", "--force", COPY)
            for name in wanted[alone:]:
                start(name, COPY)
            measure(described(), given.rounds)


if __name__ == "__main__":
    main()
