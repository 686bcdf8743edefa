"""Testbed -> the resources that it wants in the cloud. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from provision.spec import URL_SERVICES, Testbed
from provision.spec_openstack import BootVolume, Flavor, OpenStack, OwnNetwork
from provision.spec_types import GROUPS, Group

# The mark. On servers and volumes it is this metadata key with the testbed's name (servers have it as a tag, too, which
# nova can filter by); on all else it is the description, in full, as neutron filters by whole descriptions only.
KEY = "testbed"
NODE_KEY = "testbed_node"
GROUPS_KEY = "testbed_groups"
IMAGE_KEY = "testbed_image"
ASKED_KEY = "testbed_image_asked"  # as testbed.yaml says it: a name may lead to another image later
FLAVOR_KEY = "testbed_flavor_asked"  # likewise: the smallest that has it may be another later
OWN_ADDRESS = "address of "  # description of a rule for an administrator's own; her holder as in `marker` follows
SSH_PORT = 22


def mark(name: str) -> str:
    """Return the mark of testbed `name`; no other testbed's begins with it and a dot, as names have no dots."""
    return f"testbed.{name}"


@dataclass(frozen=True, order=True)
class Rule:
    """What a security group lets in, IPv4 or IPv6 by its range: TCP ports `first` to `last`; None: everything.

    `remote`: an address range; None: the group's own members. `owner`: whose address it is, where nothing is said of
    who may come in; those of other administrators stay.
    """

    first: int | None
    last: int | None
    remote: str | None
    owner: str = ""

    @property
    def what(self) -> tuple[int | None, int | None, str | None]:
        """What it lets in: no two rules of a group have the same."""
        return self.first, self.last, self.remote


@dataclass(frozen=True)
class Node:
    """A server: `name` within the testbed, the groups that live on it, and what it is made of."""

    name: str
    groups: tuple[Group, ...]
    image: str
    flavor: str | Flavor
    zone: str | None
    volume: BootVolume | None
    floating_ip: bool


@dataclass(frozen=True)
class Desired:
    """All that a testbed wants in the cloud."""

    name: str
    network: str | OwnNetwork
    pool: str | None
    nodes: tuple[Node, ...]
    rules: frozenset[Rule]
    metadata: dict[str, str]
    tags: frozenset[str]
    user_data: str
    keypair: str | None = None

    @property
    def mark(self) -> str:
        """The mark of all its resources."""
        return mark(self.name)

    @property
    def external(self) -> str | None:
        """The external network behind a router of its own; None: the only one that there is."""
        own = self.network.external if isinstance(self.network, OwnNetwork) else None
        return own or self.pool

    def named(self, thing: str) -> str:
        """Return the name in the cloud of a network, subnet, router, port, volume or security group."""
        return f"{self.mark}.{thing}"

    def server_metadata(self, node: Node, image_id: str) -> dict[str, str]:
        """Return a server's metadata: the spec's and the testbed's own."""
        return self.metadata | {
            KEY: self.name,
            NODE_KEY: node.name,
            GROUPS_KEY: ",".join(node.groups),
            IMAGE_KEY: image_id,
            ASKED_KEY: node.image,
            FLAVOR_KEY: asked(node.flavor),
        }

    def volume_metadata(self, node: Node, image_id: str) -> dict[str, str]:
        """Return a volume's metadata: the spec's and the testbed's own."""
        return self.metadata | {KEY: self.name, NODE_KEY: node.name, IMAGE_KEY: image_id, ASKED_KEY: node.image}

    @property
    def server_tags(self) -> frozenset[str]:
        """A server's tags: the spec's and the mark."""
        return self.tags | {self.mark}


def asked(flavor: str | Flavor) -> str:
    """Return what testbed.yaml says of a flavor, in words."""
    return flavor if isinstance(flavor, str) else f"{flavor.vcpus} vCPU, {flavor.ram} MiB, {flavor.disk} GiB"


def of(testbed: Testbed, own_address: str, owner: str = "me") -> Desired:
    """Return what `testbed` wants; `own_address` is that of this administrator, `owner`, as a range."""
    openstack = testbed.openstack
    if openstack is None:
        raise ValueError("the testbed has another provider than openstack")
    return Desired(
        name=testbed.name,
        network=openstack.network,
        pool=openstack.floating_ip_pool,
        nodes=tuple(nodes(openstack)),
        rules=frozenset(_rules(testbed, openstack, own_address, owner)),
        metadata=dict(openstack.metadata),
        tags=frozenset(openstack.tags),
        user_data=user_data(testbed),
        keypair=openstack.keypair,
    )


def user_data(testbed: Testbed) -> str:
    """Return what cloud-init gets on every server: the administrators' public keys, and no secret.

    Source: cloud-init's reference, modules `ssh`, `set_passwords`, `growpart`.
    """
    config = {
        "ssh_authorized_keys": testbed.administrator_lines,
        "ssh_pwauth": False,
        "disable_root": True,
        "growpart": {"mode": "auto", "devices": ["/"]},
    }
    return f"#cloud-config\n{json.dumps(config, indent=1)}\n"  # JSON is YAML


def none(name: str) -> Desired:
    """Return what a testbed wants that is to go: nothing."""
    return Desired(name, "", None, (), frozenset(), {}, frozenset(), "")


def nodes(openstack: OpenStack) -> list[Node]:
    """Return the servers that the spec asks for, by group."""
    found = []
    for group in GROUPS:
        said = openstack.nodes.of(group)
        if said.on is not None:
            continue
        with_it = tuple(other for other in GROUPS if other == group or openstack.nodes.of(other).on == group)
        pool = openstack.floating_ip_pool is not None
        for name in openstack.nodes.names(group):
            found.append(
                Node(
                    name=name,
                    groups=with_it,
                    image=said.image or openstack.image,
                    flavor=said.flavor or openstack.flavor,
                    zone=said.availability_zone or openstack.availability_zone,
                    volume=said.boot_volume or openstack.boot_volume,
                    floating_ip=pool and (group == "server" if said.floating_ip is None else said.floating_ip),
                )
            )
    return found


def _rules(testbed: Testbed, openstack: OpenStack, own_address: str, owner: str) -> set[Rule]:
    server = testbed.server
    services = () if server.is_external else URL_SERVICES
    ports = [("ssh", SSH_PORT), *((service, server.port(service)) for service in services)]
    if server.tls and server.tls.redirect_from:
        ports.append(("web", server.tls.redirect_from))
    found = {Rule(None, None, None)}
    for service, port in ports:
        ranges = getattr(openstack.security, service)
        if ranges is None:
            found.add(Rule(port, port, own_address, owner))
        else:
            found |= {Rule(port, port, each) for each in ranges}
    return found
