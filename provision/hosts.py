"""The testbed's hosts as checks and `status` see them: commands through testinfra, over the inventory's connection."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import testinfra
from testinfra.host import Host


@cache
def connect(inventory_file: Path, name: str) -> Host:
    """Return host `name` of the inventory; commands run on it as root."""
    return testinfra.get_host(f"ansible://{name}?ansible_inventory={inventory_file}")


def service_is_running(host: Host, name: str) -> bool:
    """Return whether the host's service manager (systemd, else supervisord) says that service `name` runs."""
    if host.file("/run/systemd/system").is_directory:
        return bool(host.run("systemctl is-active --quiet %s", name).rc == 0)
    return "RUNNING" in host.run("supervisorctl status %s", name).stdout


def run_as(host: Host, user: str, command: str, *arguments: str) -> testinfra.backend.base.CommandResult:
    """Run a command on `host` as `user`, in that user's home and with nothing else of this environment."""
    quoted = " ".join(["%s"] * (len(arguments) + 1))
    clean = f"env -i -C ~{user} HOME=$(echo ~{user}) USER={user} LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin"
    return host.run(f"runuser -u %s -- {clean} {quoted}", user, command, *arguments)
