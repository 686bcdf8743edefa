#!/usr/bin/python
"""Lets this machine find the testbed's hosts by name: a marked block in /etc/hosts."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_block import DamagedError, replaced, split
from ansible.module_utils.testbed_record import load, replace_file, save

DOCUMENTATION = r"""
module: testbed_names
short_description: Keep the names of the testbed's hosts in /etc/hosts
description:
  - Where cloud-init writes /etc/hosts anew at every boot, the file says which template it is made from.
  - The block is kept there, too.
options:
  addresses:
    type: dict
    default: {}
    description: 'Address by name; a name as the address is looked up. None: the block goes'
author: [The testbed's authors (@clearml-testbed)]
"""

HOSTS = Path("/etc/hosts")
# cloud-init's own words, with manage_etc_hosts
MASTER = re.compile(r"^#.* master file in (/\S+)$", re.MULTILINE)
MARKS = (
    "# BEGIN hosts of the ClearML testbed: `testbed up` overwrites changes made here",
    "# END hosts of the ClearML testbed",
)


def looked_up(address: str) -> str | None:
    """Return the address itself, or the one that the name has here; None where it has none."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(address, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return None


def lines_for(addresses: dict[str, str]) -> tuple[list[str], list[str]]:
    """Return the block's lines, and the names that cannot be there because their address is not known here."""
    # a host whose address is its own name is found by that already
    found = {name: looked_up(address) for name, address in addresses.items() if address != name}
    return [f"{address} {name}" for name, address in found.items() if address], [
        name for name, address in found.items() if not address
    ]


def read(path: Path) -> str:
    """Return the file's text, whatever bytes it has; empty where there is none."""
    return path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""


def write(path: Path, text: str) -> None:
    """Replace the file in one step; one that a container has mounted can only be written over."""
    if os.path.ismount(path):
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        return
    found = path.stat() if path.exists() else None
    replace_file(
        path, text, found.st_mode & 0o7777 if found else 0o644, (found.st_uid, found.st_gid) if found else None
    )


def converge(lines: list[str], dry: bool) -> list[dict]:
    """Bring the files to the wanted state; return the changes. Raises DamagedError."""
    master = MASTER.search(read(HOSTS))
    files = [str(HOSTS)] + ([master.group(1)] if master and Path(master.group(1)).exists() else [])
    wanted = dict.fromkeys(files, lines)
    # cloud-init may have stopped to manage the file since
    wanted.update({path: [] for path in load()["names"] if path not in wanted})
    changes = []
    for path in map(Path, wanted):
        before = read(path)
        try:
            after = replaced(before, *MARKS, wanted[str(path)])
        except DamagedError as error:
            raise DamagedError(f"{path}: {error}") from None
        if after == before:
            continue
        diff = {"before": split(before, *MARKS)[1], "after": split(after, *MARKS)[1]}
        header = {"before_header": str(path), "after_header": str(path)}
        changes.append({"kind": "file", "name": str(path), "action": "change", "diff": {**header, **diff}})
        if not dry:
            remember([*load()["names"], str(path)])
            write(path, after)
    if not dry:
        remember(files if lines else [])
    return changes


def remember(paths: list[str]) -> None:
    """Write down which files have the block."""
    record = load()
    if set(record["names"]) != set(paths):
        save({**record, "names": sorted(set(paths))})


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec={"addresses": {"type": "dict", "default": {}}}, supports_check_mode=True)
    lines, unknown = lines_for(module.params["addresses"])
    for name in unknown:
        module.warn(
            f"the address of {name}, {module.params['addresses'][name]}, is not known here: {name} is left out of "
            f"{HOSTS}. Give the machine an IP address in testbed.yaml (hosts.machines, internal)"
        )
    try:
        changes = converge(lines, module.check_mode)
    except DamagedError as error:
        module.fail_json(msg=f"{error}, then run this again")
    module.exit_json(changed=bool(changes), testbed_changes=changes, diff=[change["diff"] for change in changes])


if __name__ == "__main__":
    main()
