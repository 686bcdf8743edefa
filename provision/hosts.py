"""The testbed's hosts as checks and `status` see them: commands through testinfra, over the inventory's connection."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import testinfra
from testinfra.host import Host

from provision.locks import VARIABLE


@cache
def connect(inventory_file: Path, name: str) -> Host:
    """Return host `name` of the inventory; commands run on it as root."""
    variables = json.loads(inventory_file.read_text(encoding="utf-8"))["all"]["hosts"][name]
    if variables.get("ansible_connection") == "local":  # testinfra would ask ansible-inventory, which takes a second
        return testinfra.get_host("local://", sudo=variables["ansible_become"])
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
    mark = f"{VARIABLE}={os.environ.get(VARIABLE, '')}"  # a command that is killed is known by it (leftovers)
    return host.run(f"runuser -u %s -- {clean} %s {quoted}", user, mark, command, *arguments)
