"""(Testbed, observed) -> the machines that SSH and Ansible work on. Pure."""

from __future__ import annotations

from provision.cloud.desired import nodes
from provision.cloud.observed import Observed
from provision.machines import Machine
from provision.spec import Testbed


def machines_of(testbed: Testbed, observed: Observed) -> list[Machine]:
    """Return the wanted servers that are there and have an address, in the spec's order.

    SSH goes to a server's floating IP, else to its fixed address, by way of the spec's jump host; the testbed's own
    hosts reach it by its fixed address.
    """
    openstack = testbed.openstack
    if openstack is None:
        raise ValueError("the testbed has another provider than openstack")
    servers = {server.node: server for server in reversed(observed.servers)}  # of two, the older stays
    ports = {port.server: port for port in observed.ports if port.addresses}
    floating_ips = {ip.port: ip.address for ip in observed.floating_ips}
    found = []
    for node in nodes(openstack):
        server = servers.get(node.name)
        port = ports.get(server.id) if server else None
        if server is None or port is None:
            continue
        fixed = next((address for address in port.addresses if ":" not in address), port.addresses[0])
        found.append(
            Machine(
                name=node.name,
                groups=node.groups,
                address=floating_ips.get(port.id, fixed),
                internal=fixed,
                user=openstack.user,
                key=openstack.key.expanduser() if openstack.key else None,
                jump_host=openstack.jump_host,
                id=server.id,
            )
        )
    return found
