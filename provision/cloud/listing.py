"""The cloud -> every testbed of a project, by its marks. Reads only."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from provision.cloud import marker
from provision.cloud.connect import has_volumes
from provision.cloud.desired import KEY, mark
from provision.cloud.observed import read_all
from provision.spec_types import NAME

if TYPE_CHECKING:
    from openstack.connection import Connection


@dataclass(frozen=True)
class Resource:
    """Something that carries a mark: the server's or volume's testbed, or a description of neutron's."""

    kind: str
    marked: str
    created: str
    address: str = ""
    tags: tuple[str, ...] = ()


@dataclass
class Found:
    """A testbed of the project."""

    name: str
    servers: int = 0
    floating_ips: list[str] = field(default_factory=list)
    created: str = ""
    holder: marker.Marker | None = None


def by_testbed(resources: Iterable[Resource]) -> list[Found]:
    """Return the testbeds that the resources belong to, by name; what carries no mark is nobody's."""
    found: dict[str, list[Resource]] = defaultdict(list)
    for resource in resources:
        if name := _name(resource.marked):
            found[name].append(resource)
    return [_testbed(name, sorted(found[name], key=lambda each: each.created)) for name in sorted(found)]


def _name(marked: str) -> str:
    """Return the name in a mark; empty where it is none."""
    name = marked.removeprefix(mark(""))
    return name if name != marked and re.fullmatch(NAME, name) else ""


def _testbed(name: str, resources: list[Resource]) -> Found:
    groups = [each for each in resources if each.kind == "security group"]
    return Found(
        name=name,
        servers=sum(each.kind == "server" for each in resources),
        floating_ips=sorted(each.address for each in resources if each.kind == "floating IP"),
        created=resources[0].created,
        holder=marker.read(groups[0].tags) if groups else None,
    )


def read(connection: Connection, parallel: int) -> list[Resource]:
    """Return what the project has and a testbed may have made. Raises `CloudError`."""
    network, project = connection.network, connection.current_project_id
    found = read_all(
        {
            "servers": lambda: list(connection.compute.servers()),
            "volumes": lambda: list(connection.block_storage.volumes()) if has_volumes(connection) else [],
            "networks": lambda: list(network.networks(project_id=project)),
            "routers": lambda: list(network.routers(project_id=project)),
            "ports": lambda: list(network.ports(project_id=project)),
            "floating_ips": lambda: list(network.ips(project_id=project)),
            "security_groups": lambda: list(network.security_groups(project_id=project)),
        },
        parallel,
    )
    return [_resource(kind, each) for kind, things in found.items() for each in things]


def _resource(kind: str, each: Any) -> Resource:
    if kind in ("servers", "volumes"):
        name = (each.metadata or {}).get(KEY)
        return Resource(kind.removesuffix("s"), mark(name) if name else "", _utc(each.created_at))
    if kind == "floating_ips":
        return Resource("floating IP", each.description or "", _utc(each.created_at), address=each.floating_ip_address)
    if kind == "security_groups":
        return Resource("security group", each.description or "", _utc(each.created_at), tags=tuple(each.tags or ()))
    return Resource(kind.removesuffix("s"), each.description or "", _utc(each.created_at))


def _utc(moment: str) -> str:
    """Return a time as nova and neutron give it; cinder leaves the zone out, which is UTC, too."""
    found = datetime.fromisoformat(moment)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).strftime(marker.TIME)
