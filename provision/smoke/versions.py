"""The version of each service on each host, as the host itself says it."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from provision import hosts, inventory, status, version
from provision.paths import ROLES
from provision.reports import Service
from provision.session import Session
from provision.smoke.problem import HostService

AT_ONCE = 16
OF_PACKAGE = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
WATCHDOG = "/opt/testbed/watchdog/watchdog.py"
# services that are one file of this toolkit's
OURS = {
    "testbed-watchdog": ROLES / "clearml_watchdog" / "files" / "watchdog.py",
    inventory.EXPIRY: ROLES / "clearml_expiry" / "files" / "expire.py",
}
COMMANDS = {
    inventory.LITE: f"/opt/testbed/venvs/clearml-lite/bin/python -I -c {shlex.quote(OF_PACKAGE)} clearml-lite",
    inventory.TLS_PROXY: "/usr/sbin/nginx -v 2>&1",
    "testbed-influxdb": "influxd version",
    inventory.INFERENCE: f"/opt/testbed/venvs/prepared/bin/python -I -c {shlex.quote(OF_PACKAGE)} testbed-workload",
    "testbed-watchdog": f"sha256sum {WATCHDOG}",
    inventory.EXPIRY: "sha256sum /opt/testbed/expiry/expire.py",
}
AGENT = f"/opt/testbed/venvs/clearml-agent/bin/python -I -c {shlex.quote(OF_PACKAGE)} clearml-agent"
NUMBER = re.compile(r"\d+\.\d[\w.~+-]*")


def command(service: str) -> str:
    """Return the command that says a service's version on its host; of a container it is its image. Pure."""
    if service.startswith("testbed-agent-"):
        return AGENT
    return COMMANDS.get(service) or f"docker inspect --format '{{{{.Config.Image}}}}' {shlex.quote(service)}"


def read(service: str, said: str) -> str:
    """Return the version in what `command` printed; empty where there is none.

    A service that is a file of this toolkit's has its version as long as it is the same.
    """
    words = said.split()
    if not words:
        return ""
    if service in OURS:
        ours = hashlib.sha256(OURS[service].read_bytes()).hexdigest()
        return version.current() if words[0] == ours else f"another than this toolkit's ({words[0][:12]})"
    if service not in COMMANDS and not service.startswith("testbed-agent-"):
        return words[0]
    found = NUMBER.search(said)
    return found.group() if found else ""


def of_services(session: Session, services: Sequence[Service]) -> dict[HostService, str]:
    """Return the version of every service whose host can be asked, by host and name."""

    def ask(each: HostService) -> str:
        host, service = each
        done = hosts.connect(session.inventory_file, host).run("sh -c %s", command(service))
        return read(service, done.stdout) if done.rc == 0 else ""

    there = [(each.host, each.name) for each in services if each.state != status.UNASKED]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(there, pool.map(ask, there), strict=True))
