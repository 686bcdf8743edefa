"""Host keys of servers from their consoles, where cloud-init prints them at the end of the first boot."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from provision.cloud.connect import explained
from provision.known_hosts import is_key
from provision.machines import Console, Machine

if TYPE_CHECKING:
    from openstack.connection import Connection

# Source: cloud-init's reference, module `keys_to_console`; lines may have a prefix of syslog's
BLOCK = re.compile(r"-----BEGIN SSH HOST KEY KEYS-----(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL)
KEY = re.compile(r"(?:^|\s)([a-z0-9@.-]+ AAAA\S+)")
FINISHED = re.compile(r"Cloud-init v\. \S+ finished at")


def read(output: str) -> Console:
    """Return what a console's output tells of host keys: those of the last boot that printed any."""
    blocks = BLOCK.findall(output)
    keys = tuple(filter(is_key, KEY.findall(blocks[-1]))) if blocks else ()
    return Console(keys, final=bool(keys) or FINISHED.search(output) is not None)


def reader(connection: Connection) -> Callable[[Machine], Console]:
    """Return a function that reads a server's console. It raises `CloudError`."""

    def console(machine: Machine) -> Console:
        from openstack import exceptions

        with explained(f"the console of {machine.name}"):
            try:
                found = connection.compute.get_server_console_output(machine.id)
            except (exceptions.NotFoundException, exceptions.ConflictException):
                return Console((), final=False)  # it has not begun to boot
            except (exceptions.ForbiddenException, exceptions.BadRequestException):
                return Console((), final=True)  # not for this project, or no console at all
            except exceptions.HttpException as error:
                if error.status_code != 501:  # this hypervisor has none
                    raise
                return Console((), final=True)
        return read(found.get("output") or "")

    return console
