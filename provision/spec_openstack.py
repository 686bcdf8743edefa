"""The section `openstack` of testbed.yaml: which cloud, and what servers, network and volumes there."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic import Tag as Kind

from provision.spec_types import (
    GROUPS,
    SINGLE,
    Count,
    Group,
    JumpHost,
    MetadataKey,
    Section,
    Tag,
    UserName,
    refuse_duplicates,
)

Service = Literal["ssh", "web", "api", "files"]

# a name or an ID of the cloud's, taken as it is: it may hold spaces and `/`
CloudName = Annotated[str, StringConstraints(min_length=1, max_length=255)]
MetadataValue = Annotated[str, StringConstraints(max_length=255)]


def _network(value: Any) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except (ValueError, TypeError):
        raise ValueError("must be an address range such as 10.20.0.0/24, with no bits set behind the prefix") from None


Cidr = Annotated[str, BeforeValidator(_network)]


def _private(value: str) -> str:
    network = ipaddress.ip_network(value)
    if network.version != 4 or network.prefixlen > 28:
        raise ValueError("must be an IPv4 range of at least 16 addresses (/28 or a shorter prefix)")
    return value


# name of the server of a group, or of those in a group that may have several
STEMS: dict[Group, str] = {
    "server": "server",
    "agents": "agent",
    "clients": "client",
    "telemetry": "telemetry",
    "inference": "inference",
}


class Flavor(Section):
    """The least that a server has; the smallest flavor that has it is taken."""

    vcpus: Count = 8
    """Virtual CPUs."""
    ram: Count = 8192
    """Memory in MiB."""
    disk: Annotated[int, Field(strict=True, ge=0)] = 128
    """Root disk in GiB; 0 where there is a boot volume."""


class BootVolume(Section):
    """A volume to boot from, made in cinder out of the image."""

    size: Count = 128
    """In GiB."""
    type: CloudName | None = None
    """Volume type; without it, the cloud's default."""
    delete_on_termination: bool = True
    """Whether nova deletes the volume when its server is deleted by other means than the toolkit's. One that is booted
    from again (`down --keep-volumes`) stays then."""


class OwnNetwork(Section):
    """A network, subnet and router made for the testbed."""

    cidr: Annotated[Cidr, AfterValidator(_private)]
    """The subnet's range."""
    dns: tuple[str, ...] = ()
    """Name servers for the subnet; without them, the cloud's."""
    external: CloudName | None = None
    """The external network behind the router; without it, `floating_ip_pool`, else the only one that there is."""

    @field_validator("dns")
    @classmethod
    def _are_addresses(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(str(ipaddress.ip_address(value)) for value in values)
        except ValueError:
            raise ValueError("must hold IP addresses of name servers") from None


UNION_TAGS = (BY_NAME, BY_KEYS) = ("by name", "by keys")


def _kind(value: Any) -> str:
    return BY_NAME if isinstance(value, str) else BY_KEYS


# each is a name, or holds keys: told apart first, so that a mistake is explained once
FlavorOrName = Annotated[Annotated[CloudName, Kind(BY_NAME)] | Annotated[Flavor, Kind(BY_KEYS)], Discriminator(_kind)]
NetworkOrName = Annotated[
    Annotated[CloudName, Kind(BY_NAME)] | Annotated[OwnNetwork, Kind(BY_KEYS)], Discriminator(_kind)
]


class Security(Section):
    """Who may reach the servers from outside: address ranges for each service.

    Without a list: this administrator's own address, as it is seen on the way to the cloud. 0.0.0.0/0 only if it is
    written here.
    """

    ssh: tuple[Cidr, ...] | None = None
    """SSH, on servers with a floating IP or on a network that is reached directly."""
    web: tuple[Cidr, ...] | None = None
    """The web app."""
    api: tuple[Cidr, ...] | None = None
    """The API server."""
    files: tuple[Cidr, ...] | None = None
    """The file server."""


class NodeGroup(Section):
    """The servers of a group; what is not said is as in `openstack`."""

    on: Group | None = None
    """Live on the servers of another group, and have none of one's own."""
    count: Count | None = None
    """How many servers (groups `agents`, `clients` and `inference`); default 1."""
    image: CloudName | None = None
    """Image, by name or ID."""
    flavor: FlavorOrName | None = None
    """Flavor, by name, or the least that it has."""
    availability_zone: CloudName | None = None
    """Availability zone."""
    boot_volume: BootVolume | None = None
    """Boot volume."""
    floating_ip: bool | None = None
    """Whether each gets a floating IP; default: the server does, where there is a `floating_ip_pool`."""

    @model_validator(mode="after")
    def _is_here_or_there(self) -> Self:
        if self.on is not None and self.model_fields_set - {"on"}:
            raise ValueError("lives on another group's servers, so it can say nothing else but `on`")
        return self


class Nodes(Section):
    """The groups of servers. Default: `server` and one `agents`; all else lives on the server."""

    server: NodeGroup = NodeGroup()
    """The ClearML server; one."""
    agents: NodeGroup = NodeGroup()
    """Agent hosts."""
    clients: NodeGroup = NodeGroup(on="server")
    """Where users log in."""
    telemetry: NodeGroup = NodeGroup(on="server")
    """InfluxDB; one."""
    inference: NodeGroup = NodeGroup(on="server")
    """Where models are used."""

    def of(self, group: Group) -> NodeGroup:
        """Return the settings of `group`."""
        found: NodeGroup = getattr(self, group)
        return found

    def names(self, group: Group) -> tuple[str, ...]:
        """Return the names of the servers on which `group` lives."""
        said = self.of(group)
        if said.on is not None:
            return self.names(said.on)
        if group in SINGLE:
            return (STEMS[group],)
        return tuple(f"{STEMS[group]}-{number}" for number in range(1, (said.count or 1) + 1))

    @model_validator(mode="after")
    def _are_consistent(self) -> Self:
        if self.server.on is not None:
            raise ValueError("server has a host of its own; others may live on it")
        for single in SINGLE:
            if self.of(single).count not in (None, 1):
                raise ValueError(f"{single} is one host: leave `count` out")
        for group in GROUPS:
            host = self.of(group).on
            if host is not None and self.of(host).on is not None:
                raise ValueError(f"{group} cannot live on {host}, which has no servers of its own")
        return self


class OpenStack(Section):
    """A project in an OpenStack cloud, and what the testbed has there."""

    cloud: CloudName
    """Entry of clouds.yaml: where the cloud is, and how to log in."""
    image: CloudName
    """Image of the servers, by name or ID; an instance snapshot will do."""
    flavor: FlavorOrName = Flavor()
    """Flavor by name, or the least that it has: the smallest such is taken, and none with PCI devices, GPUs or pinned
    CPUs."""
    boot_volume: BootVolume | None = None
    """Boot from a volume; without it, from the flavor's own disk."""
    network: NetworkOrName
    """A network that is there, by name or ID, or `{cidr: …}` for one of the testbed's own."""
    floating_ip_pool: CloudName | None = None
    """External network for floating IPs, by name or ID."""
    availability_zone: CloudName | None = None
    """Availability zone; without it, the cloud's default."""
    security: Security = Security()
    """Who may reach the servers from outside."""
    user: UserName = "ubuntu"
    """The image's account with sudo: where SSH goes."""
    keypair: CloudName | None = None
    """A keypair that this login has in nova: servers that are made get its public key beside the administrators'."""
    key: Path | None = None
    """The private key file for SSH to the servers; without it, what ssh offers by itself."""
    jump_host: JumpHost | None = None
    """The SSH gateway to the servers, if there is one."""
    metadata: dict[MetadataKey, MetadataValue] = {}
    """Metadata of every server and volume, beside the testbed's own."""
    tags: tuple[Tag, ...] = ()
    """Tags of every server, beside the testbed's own."""
    nodes: Nodes = Nodes()
    """The groups of servers."""

    @field_validator("metadata")
    @classmethod
    def _leaves_ours_alone(cls, values: dict[str, str]) -> dict[str, str]:
        if ours := [key for key in values if key == "testbed" or key.startswith("testbed_")]:
            raise ValueError(f"key {ours[0]!r} is one of the testbed's own marks; take another")
        return values

    @field_validator("tags")
    @classmethod
    def _are_distinct(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        refuse_duplicates("tag", list(values))
        if ours := [tag for tag in values if tag.startswith("testbed.")]:
            raise ValueError(f"tag {ours[0]!r} could be a testbed's own mark; take one that does not begin so")
        return values

    @model_validator(mode="after")
    def _lets_the_jump_host_in(self) -> Self:
        if self.jump_host is not None and self.security.ssh is None:
            raise ValueError("has a `jump_host`: say in `security.ssh` from which addresses it reaches the servers")
        return self

    @model_validator(mode="after")
    def _has_a_pool(self) -> Self:
        if self.floating_ip_pool is None:
            for group in GROUPS:
                if self.nodes.of(group).floating_ip:
                    raise ValueError(f"nodes.{group}.floating_ip needs `floating_ip_pool`")
        return self
