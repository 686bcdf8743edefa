"""The testbed's hosts as checks and `status` see them: commands through testinfra, over the inventory's connection."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import testinfra
from testinfra.backend.base import CommandResult
from testinfra.backend.ssh import SshBackend
from testinfra.host import Host

from provision.errors import ReachError
from provision.inventory import is_container
from provision.locks import VARIABLE
from provision.spec import bracketed

RUNS = "runs"
CONTAINER_STATE = "{{.State.Status}} {{with .State.Health}}{{.Status}}{{end}}"


@cache
def connect(inventory_file: Path, name: str) -> Host:
    """Return host `name` of the inventory; commands run on it as root."""
    variables = json.loads(inventory_file.read_text(encoding="utf-8"))["all"]["hosts"][name]
    become = variables["ansible_become"]
    # not testinfra's own way by the inventory: it would ask ansible-inventory, which takes a second
    if variables.get("ansible_connection") == "local":
        return testinfra.get_host("local://", sudo=become)
    arguments = variables["ansible_ssh_common_args"]
    backend = _Ssh(name, bracketed(variables["ansible_host"]), ssh_extra_args=arguments, sudo=become)
    host = Host(backend)
    backend.set_host(host)
    return host


class _Ssh(SshBackend):  # type: ignore[misc]
    """Commands by ssh; what ssh itself fails at is told in its own words."""

    def __init__(self, name: str, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._name = name

    def run_ssh(self, command: str) -> CommandResult:
        try:
            return super().run_ssh(command)
        except RuntimeError as error:
            [done] = error.args
            raise ReachError(f"{self._name}: SSH to it failed: {done.stderr.strip()}", "Mend that.") from None


def service_state(host: Host, name: str) -> str:
    """Return how service `name` is: `runs`, or what is wrong with it, as `does not run`.

    A container runs when Docker says so and its health check passes; others are their service manager's (systemd, else
    supervisord) to tell of.
    """
    if is_container(name):
        return container_state(host.run("docker inspect --format %s %s", CONTAINER_STATE, name).stdout.split())
    if host.file("/run/systemd/system").is_directory:
        runs = host.run("systemctl is-active --quiet %s", name).rc == 0
    else:
        runs = "RUNNING" in host.run("supervisorctl status %s", name).stdout
    return RUNS if runs else "does not run"


def container_state(words: Sequence[str]) -> str:
    """Return how a container is, from Docker's words for its state and its health; none where there is no such."""
    match [*words]:
        case []:
            return "is not there"
        case ["running", "healthy"] | ["running"]:
            return RUNS
        case ["running", health]:
            return f"is {health}"
        case _:
            return f"is {words[0]}"


def service_is_running(host: Host, name: str) -> bool:
    """Return whether service `name` runs; a container, whether it is healthy, too."""
    return service_state(host, name) == RUNS


def run_as(host: Host, user: str, command: str, *arguments: str) -> CommandResult:
    """Run a command on `host` as `user`, in that user's home and with nothing else of this environment."""
    quoted = " ".join(["%s"] * (len(arguments) + 1))
    clean = f"env -i -C ~{user} HOME=$(echo ~{user}) USER={user} LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin"
    mark = f"{VARIABLE}={os.environ.get(VARIABLE, '')}"  # a command that is killed is known by it (leftovers)
    return host.run(f"runuser -u %s -- {clean} %s {quoted}", user, mark, command, *arguments)
