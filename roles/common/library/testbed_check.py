#!/usr/bin/python
"""Finds what would stop a testbed on this machine, before anything is changed."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_record import MARKER, RECORD, claimed_by, claimed_id, load

DOCUMENTATION = r"""
module: testbed_check
short_description: Find what would stop a testbed on this machine
description: Reports every problem at once, each with its remedy. Changes nothing.
options:
  name: {type: str, description: Name of the testbed that wants this machine}
  id: {type: str, description: 'The id of its secrets; empty: there are none yet. Left out: any will do'}
  rekeying: {type: bool, default: false, description: 'These secrets are to replace those that the testbed has'}
  ports:
    type: list
    elements: dict
    default: []
    description: Ports that the testbed's services will listen on
    suboptions:
      port: {type: int, required: true, description: TCP port}
      bind: {type: str, default: 127.0.0.1, description: Address to listen on}
      service: {type: str, required: true, description: The service of ours that may hold it already}
      others: {type: list, elements: str, default: [], description: 'Those that may, too, and give it up for it'}
      setting: {type: str, description: The key of the spec that chooses the port}
  memory_mb: {type: int, default: 0, description: Memory that the machine must have, in MiB}
  disk_mb: {type: int, default: 0, description: 'Free MiB needed below each of the paths, until the machine is claimed'}
  growth_mb: {type: int, default: 0, description: MiB by which the root filesystem will grow before}
  paths: {type: list, elements: str, default: [], description: Where that space is needed}
author: [The testbed's authors (@clearml-testbed)]
"""

LISTEN = "0A"


def port_is_free(bind: str, port: int) -> bool:
    """Tell whether a service could listen there; OSError when the address is not this machine's."""
    family, kind, proto, _, address = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, proto) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def listening_inodes(port: int) -> set[str]:
    """Return the socket inodes that listen on the port, on any address."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        lines = Path(table).read_text().splitlines()[1:] if Path(table).exists() else []
        for fields in map(str.split, lines):
            if fields[3] == LISTEN and int(fields[1].rsplit(":", 1)[1], 16) == port:
                inodes.add(fields[9])
    return inodes


def processes_with(inodes: set[str]) -> list[Path]:
    """Return the /proc folders of the processes that hold one of the sockets."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(fd) in wanted for fd in (process / "fd").iterdir()):
                found.append(process)
        except OSError:  # it ended meanwhile, or is another's
            continue
    return sorted(found, key=lambda path: int(path.name))


def is_service(process: Path, services: list[str]) -> bool:
    """Tell whether managed_service started the process, or one above it, as one of these services.

    nginx writes its title over its environment; the process above it has one.
    """
    wanted = {f"TESTBED_SERVICE={service}".encode() for service in services}
    while process.name not in ("0", "1"):
        try:
            if wanted & {*(process / "environ").read_bytes().split(b"\0")}:
                return True
            lines = (process / "status").read_text().splitlines()
        except OSError:  # it ended meanwhile, or is another's
            return False
        process = process.with_name(next(line.split()[1] for line in lines if line.startswith("PPid:")))
    return False


def containers_on(port: int) -> set[str]:
    """Return the names of the containers that publish the port; without Docker there are none."""
    command = ["docker", "ps", "--filter", f"publish={port}", "--format", "{{.Names}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return set()
    return {*done.stdout.split()}


def is_docker(process: Path) -> bool:
    """Tell whether the process holds a port for a container."""
    return (process / "comm").read_text().strip() in ("docker-proxy", "dockerd")


def port_problem(port: int, bind: str, service: str, setting: str | None, others: tuple[str, ...] = ()) -> str | None:
    """Return what is wrong with the port and what to do, or None."""
    where = f"port {port} on {bind}, wanted for {service},"
    choose = f"choose another port in testbed.yaml ({setting})" if setting else "choose another port in testbed.yaml"
    try:
        if port_is_free(bind, port):
            return None
    except OSError as error:
        return f"{where} cannot be opened: {error}. Use an address of this machine, or 0.0.0.0 for all"
    holders = processes_with(listening_inodes(port))
    if holders and all(is_service(process, [service, *others]) for process in holders):
        return None
    containers = containers_on(port) if any(map(is_docker, holders)) else set()
    if containers and containers <= {service, *others}:
        return None
    found = [f"container {name}" for name in sorted(containers)]
    found += [
        f"{(p / 'comm').read_text().strip()} (pid {p.name})" for p in holders if not (containers and is_docker(p))
    ]
    names = ", ".join(found)
    return f"{where} is held by {names or 'a process that this account cannot see'}. Stop that process, or {choose}"


def owner_problem(name: str) -> str | None:
    """Return why a testbed of this name may not have the machine, or None."""
    there, kept = claimed_by(), load()["testbed"]
    if there and there != name:
        return (
            f"this machine already carries the testbed '{there}' ({MARKER}), and a machine carries one. "
            f"Run `testbed down` with the spec of '{there}', or use another machine"
        )
    if kept and kept != name:
        return (
            f"this machine keeps the data of the testbed '{kept}' ({RECORD}). "
            f"Run `testbed down --purge` with the spec of '{kept}', or use that name"
        )
    return None


def secrets_problem(name: str, wanted: str, rekeying: bool) -> str | None:
    """Return why secrets with the id `wanted` (empty: none yet) are not those of the testbed that is here, or None."""
    there = claimed_by() or load()["testbed"]
    found = claimed_id() if MARKER.exists() else load()["id"]
    if rekeying or there != name or (wanted and found in (wanted, None)):  # None: claimed before there were ids
        return None
    here = "others" if wanted else "not there"
    return (
        f"the testbed '{name}' is on this machine with secrets of its own{f' (id {found})' if found else ''}, "
        f"and those of the account that runs this command are {here}. "
        "Take them from a colleague or a backup with `testbed secrets import FILE`; "
        "where they are lost, `testbed secrets rekey` makes new ones and keeps the data"
    )


def memory_mb() -> int:
    """Return the machine's memory in MiB."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    return int(line.split()[1]) // 1024


def free_mb(path: Path, growth_mb: int) -> int:
    """Return the free space in MiB below the path, or below its nearest parent that exists.

    `growth_mb`: how much more the root filesystem will have.
    """
    while not path.exists():
        path = path.parent
    room = os.statvfs(path)
    on_root = path.stat().st_dev == Path("/").stat().st_dev
    return room.f_bavail * room.f_frsize // 2**20 + (growth_mb if on_root else 0)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "id": {"type": "str"},
            "rekeying": {"type": "bool", "default": False},
            "ports": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "port": {"type": "int", "required": True},
                    "bind": {"type": "str", "default": "127.0.0.1"},
                    "service": {"type": "str", "required": True},
                    "setting": {"type": "str"},
                    "others": {"type": "list", "elements": "str", "default": []},
                },
            },
            "memory_mb": {"type": "int", "default": 0},
            "disk_mb": {"type": "int", "default": 0},
            "growth_mb": {"type": "int", "default": 0},
            "paths": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    problems = [owner_problem(wanted["name"])] if wanted["name"] else []
    if wanted["id"] is not None:
        problems.append(secrets_problem(wanted["name"], wanted["id"], wanted["rekeying"]))
    problems += [port_problem(**port) for port in wanted["ports"]]
    if memory_mb() < wanted["memory_mb"]:
        problems.append(f"{memory_mb()} MiB of memory, and {wanted['memory_mb']} are needed. Use a larger machine")
    for path in wanted["paths"] if claimed_by() is None else []:
        free = free_mb(Path(path), wanted["growth_mb"])
        if free < wanted["disk_mb"]:
            need = f"{free} MiB are free for {path}, and {wanted['disk_mb']} are needed"
            problems.append(f"{need}. Free some space, or set data_dir to a larger disk")
    problems = [problem for problem in problems if problem]
    if problems:
        module.fail_json(msg=". ".join(problems) + ". Nothing was changed.", problems=problems)
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
