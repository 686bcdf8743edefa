"""The cloud -> what a testbed has there, and what the cloud offers. Reads only; one list call for each kind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from provision.cloud.connect import checked, explained, has_volumes
from provision.cloud.desired import IMAGE_KEY, KEY, NODE_KEY, OWN_ADDRESS, Desired, Rule, mark
from provision.errors import CloudError, UnreadError

if TYPE_CHECKING:
    from openstack.connection import Connection


# as which a router's port on a subnet is known: of a plain, a distributed and a highly available one (neutron-lib)
ROUTER_INTERFACES = (
    "network:router_interface",
    "network:router_interface_distributed",
    "network:ha_router_replicated_interface",
)


@dataclass(frozen=True)
class Server:
    """A server that carries the mark.

    `vcpus`, `ram` (MiB), `disk` (GiB): of its flavor as it was when the server got it. `launched`: it has run.
    """

    id: str
    name: str
    node: str
    created: str
    status: str
    flavor: str
    image: str
    zone: str
    metadata: dict[str, str]
    tags: frozenset[str]
    volumes: tuple[str, ...]
    fault: str = ""
    busy: bool = False
    vcpus: int = 0
    ram: int = 0
    disk: int = 0
    launched: bool = True


@dataclass(frozen=True)
class Volume:
    """A volume that carries the mark. `size` in GiB."""

    id: str
    node: str
    created: str
    status: str
    size: int
    type: str
    metadata: dict[str, str]

    @property
    def image(self) -> str:
        """The ID of the image that it was made of."""
        return self.metadata.get(IMAGE_KEY, "")


@dataclass(frozen=True)
class Port:
    """A port that carries the mark; `addresses`: its fixed IPs."""

    id: str
    node: str
    created: str
    network: str
    addresses: tuple[str, ...]
    groups: frozenset[str]
    server: str


@dataclass(frozen=True)
class FloatingIp:
    """A floating IP that carries the mark; `port`: the port's ID, or empty."""

    id: str
    created: str
    address: str
    network: str
    port: str


@dataclass(frozen=True)
class Thing:
    """A network, subnet, router or security group that carries the mark.

    `detail`: what else counts of it; `network`: a subnet's.
    """

    id: str
    name: str
    created: str
    detail: tuple[str, ...] = ()
    network: str = ""


@dataclass(frozen=True)
class Observed:
    """All in the project that carries the testbed's mark."""

    servers: tuple[Server, ...] = ()
    volumes: tuple[Volume, ...] = ()
    ports: tuple[Port, ...] = ()
    floating_ips: tuple[FloatingIp, ...] = ()
    networks: tuple[Thing, ...] = ()
    subnets: tuple[Thing, ...] = ()  # detail: cidr, name servers
    routers: tuple[Thing, ...] = ()  # detail: external network
    interfaces: tuple[Thing, ...] = ()  # the routers' ports; name: router; detail: subnet
    security_groups: tuple[Thing, ...] = ()  # detail: tags
    rules: dict[str, Rule] = field(default_factory=dict)  # of the first security group, by ID


@dataclass(frozen=True)
class Image:
    """An image; `least_disk` in GiB and `least_ram` in MiB is what a flavor needs for it.

    `of_volume`: it is a snapshot of a server that boots from a volume, and a boot volume can be made of it only.
    """

    id: str
    name: str
    status: str
    least_disk: int
    least_ram: int
    of_volume: bool = False


@dataclass(frozen=True)
class FlavorOffer:
    """A flavor: vCPUs, MiB, GiB; `extras`: its extra specs."""

    id: str
    name: str
    vcpus: int
    ram: int
    disk: int
    extras: dict[str, str]


@dataclass(frozen=True)
class NetworkOffer:
    """A network that the project may use."""

    id: str
    name: str
    external: bool
    subnets: tuple[str, ...]
    shared: bool = False
    port_security: bool = True


@dataclass(frozen=True)
class Quota:
    """How much of something the project may have, and has; `limit` -1: no limit."""

    used: int
    limit: int


@dataclass(frozen=True)
class Offer:
    """What the cloud offers to the project; `unread`: what of it could not be read, and why."""

    images: tuple[Image, ...]
    flavors: tuple[FlavorOffer, ...]
    networks: tuple[NetworkOffer, ...]
    zones: frozenset[str]
    volume_types: dict[str, str]  # their names, by name and by ID
    quotas: dict[str, Quota]
    clock_off: float  # seconds that the cloud's clock is ahead of this machine's
    unread: dict[str, CloudError] = field(default_factory=dict)
    roles: frozenset[str] = frozenset()  # of the login in the project
    volume_zones: frozenset[str] = frozenset()  # cinder's, where a server with a volume names one
    default_volume_type: str = ""  # where a boot volume names none
    keypairs: frozenset[str] = frozenset()  # of the login, where the testbed names one


OF_TYPE = " of type "  # in the names of quotas that count for one volume type alone

Calls = dict[str, Callable[[], Any]]


def _tried(calls: Calls, parallel: int) -> tuple[dict[str, Any], dict[str, CloudError]]:
    """Return what each call gives, and why others gave nothing; all at once, at most `parallel` at a time."""

    def one(name: str, call: Callable[[], Any]) -> Any:
        with explained(f"reading the project's {name.replace('_', ' ')}"):
            return call()

    found, errors = {}, {}
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        futures = {name: pool.submit(one, name, call) for name, call in calls.items()}
        for name, future in futures.items():
            try:
                found[name] = future.result()
            except CloudError as error:
                errors[name] = error
    return found, errors


def read_all(calls: Calls, parallel: int) -> dict[str, Any]:
    """Return what each call gives. Raises `UnreadError` with every reason."""
    found, errors = _tried(calls, parallel)
    if errors:
        raise UnreadError(list(errors.values()))
    return found


def observe(connection: Connection, name: str, parallel: int) -> Observed:
    """Return what testbed `name` has in the project. Raises `CloudError`."""
    with explained():
        marked = {"description": mark(name), "project_id": connection.current_project_id}
    network = connection.network
    found = read_all(
        _listed(connection, name)
        | {
            "ports": lambda: list(network.ports(**marked)),
            "floating_ips": lambda: list(network.ips(**marked)),
            "networks": lambda: list(network.networks(**marked)),
            "subnets": lambda: list(network.subnets(**marked)),
            "routers": lambda: list(network.routers(**marked)),
            "security_groups": lambda: list(network.security_groups(**marked)),
        },
        parallel,
    )
    more: Calls = {f"interfaces {router.id}": partial(_interfaces, network, router.id) for router in found["routers"]}
    interfaces = read_all(more, parallel) if more else {}
    groups = _groups(found["security_groups"])
    return Observed(
        servers=_sorted(map(_server, found["servers"])),
        volumes=_sorted(map(_volume, found["volumes"])),
        ports=_sorted(_port(each, name) for each in found["ports"]),
        floating_ips=_sorted(
            FloatingIp(each.id, each.created_at, each.floating_ip_address, each.floating_network_id, each.port_id or "")
            for each in found["floating_ips"]
        ),
        networks=_sorted(Thing(each.id, each.name, each.created_at) for each in found["networks"]),
        subnets=_sorted(
            Thing(each.id, each.name, each.created_at, (each.cidr, *each.dns_nameservers), each.network_id)
            for each in found["subnets"]
        ),
        routers=_sorted(
            Thing(each.id, each.name, each.created_at, ((each.external_gateway_info or {}).get("network_id") or "",))
            for each in found["routers"]
        ),
        interfaces=_sorted(
            Thing(port.id, router.removeprefix("interfaces "), port.created_at, (fixed["subnet_id"],))
            for router, ports in interfaces.items()
            for port in ports
            for fixed in port.fixed_ips
        ),
        security_groups=groups,
        rules={
            rule["id"]: found_rule
            for each in found["security_groups"]
            if groups and each.id == groups[0].id
            for rule in each.security_group_rules
            if (found_rule := _rule(rule, each.id)) is not None
        },
    )


def observe_servers(connection: Connection, name: str) -> tuple[Server, ...]:
    """Return the testbed's servers as they are now; for those who wait for them. Raises `CloudError`."""
    with explained("listing servers"):
        return tuple(_sorted(map(_server, _servers(connection, name))))


def observe_volumes(connection: Connection, name: str) -> tuple[Volume, ...]:
    """Return the testbed's volumes as they are now. Raises `CloudError`."""
    with explained("listing volumes"):
        return tuple(_sorted(map(_volume, _volumes(connection, name))))


def observe_security_groups(connection: Connection, name: str) -> tuple[Thing, ...]:
    """Return the testbed's security groups as they are now. Raises `CloudError`."""
    with explained("listing security groups"):
        marked = {"description": mark(name), "project_id": connection.current_project_id}
        return _groups(connection.network.security_groups(**marked))


def _groups(found: Iterable[Any]) -> tuple[Thing, ...]:
    things = (Thing(each.id, each.name, each.created_at, tuple(each.tags or ())) for each in found)
    return _sorted(things)  # type: ignore[no-any-return]


def _interfaces(network: Any, router: str) -> list[Any]:
    return [port for port in network.ports(device_id=router) if port.device_owner in ROUTER_INTERFACES]


def _listed(connection: Connection, name: str) -> Calls:
    calls: Calls = {"servers": lambda: _servers(connection, name), "volumes": list}
    if has_volumes(connection):
        calls["volumes"] = lambda: _volumes(connection, name)
    return calls


def _servers(connection: Connection, name: str) -> list[Any]:
    # nova filters by tag; the mark as a tag and the name in the metadata are made in one call with the server
    servers = connection.compute.servers(tags=mark(name))
    return [each for each in servers if (each.metadata or {}).get(KEY) == name]


def _volumes(connection: Connection, name: str) -> list[Any]:
    volumes = connection.block_storage.volumes(properties=str({KEY: name}))
    return [each for each in volumes if (each.metadata or {}).get(KEY) == name]


def offered(connection: Connection, desired: Desired, parallel: int) -> Offer:
    """Return what the cloud offers of what the testbed asks for, as far as it could be read."""
    network, compute = connection.network, connection.compute
    with explained():
        project = connection.current_project_id
    names = sorted({node.image for node in desired.nodes})
    calls: Calls = {
        "flavors": lambda: list(compute.flavors(get_extra_specs=False)),
        "zones": lambda: list(compute.availability_zones()),
        "networks": lambda: list(network.networks()),
        "quotas of servers": lambda: checked(compute.get("/limits", microversion=compute.default_microversion)).json()[
            "limits"
        ]["absolute"],
        "quotas of networks": lambda: _neutron_quotas(network, project),
        "clock": lambda: _clock_off(connection),
        "roles": lambda: _roles(connection),
    }
    for name in names:
        calls[f"image {name}"] = partial(_images, connection, name)
    if desired.keypair is not None:
        calls["keypairs"] = lambda: list(compute.keypairs())
    if has_volumes(connection):
        if any(node.zone and node.volume for node in desired.nodes):
            block: Any = connection.block_storage
            calls["volume zones"] = lambda: list(block.availability_zones())
        if any(node.volume and not node.volume.type for node in desired.nodes):
            calls["default volume type"] = lambda: _default_volume_type(connection.block_storage)
        calls["volume_types"] = lambda: list(connection.block_storage.types())
        calls["quotas of volumes"] = lambda: _cinder_quotas(connection.block_storage, project)
    found, errors = _tried(calls, parallel)
    unread = {"images" if name.startswith("image ") else name: error for name, error in errors.items()}
    return Offer(
        images=tuple({each.id: each for name in names for each in found.get(f"image {name}", ())}.values()),
        flavors=tuple(
            FlavorOffer(each.id, each.name, each.vcpus, each.ram, each.disk, dict(each.extra_specs or {}))
            for each in found.get("flavors", ())
        ),
        networks=tuple(
            NetworkOffer(
                each.id,
                each.name,
                bool(each.is_router_external),
                tuple(each.subnet_ids),
                bool(each.is_shared),
                each.is_port_security_enabled is not False,  # None: the cloud has no such extension
            )
            for each in found.get("networks", ())
        ),
        zones=frozenset(each.name for each in found.get("zones", ()) if (each.state or {}).get("available", True)),
        volume_types={word: each.name for each in found.get("volume_types", ()) for word in (each.name, each.id)},
        quotas=_quotas(
            found.get("quotas of servers", {}), found.get("quotas of networks", {}), found.get("quotas of volumes", {})
        ),
        clock_off=found.get("clock", 0.0),
        unread=unread,
        roles=found.get("roles", frozenset()),
        volume_zones=frozenset(each.name for each in found.get("volume zones", ())),
        keypairs=frozenset(each.name for each in found.get("keypairs", ())),
        default_volume_type=found.get("default volume type", ""),
    )


def _mapping(said: Any) -> list[dict[str, Any]]:
    """Return nova's description of an image's volumes; whoever owns the image may have written something else there."""
    try:
        found = json.loads(said) if isinstance(said, str) else said
    except ValueError:
        return []
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _roles(connection: Connection) -> frozenset[str]:
    """Return the roles that the login has in the project, by its token."""
    login: Any = connection.session.auth
    access = getattr(login, "get_access", None)  # not every way to log in has one
    return frozenset(access(connection.session).role_names) if access else frozenset()


def _neutron_quotas(network: Any, project: str | None) -> dict[str, Any]:
    """Return what is used of neutron's quotas, or nothing where it cannot tell (its extension `quota_details`)."""
    answer = network.get(f"/quotas/{project}/details.json")
    return {} if answer.status_code == 404 else dict(checked(answer).json()["quota"])


def _cinder_quotas(block: Any, project: str | None) -> dict[str, Any]:
    """Return what is used of cinder's quotas, with those of each volume type, or without, where it does not tell."""
    answer = block.get(f"/os-quota-sets/{project}", params={"usage": "True"})
    if answer.ok:
        return dict(answer.json()["quota_set"])
    limits = checked(block.get("/limits")).json()["limits"]["absolute"]
    return {
        name: {"in_use": limits[used], "limit": limits[limit]}
        for name, used, limit in (
            ("volumes", "totalVolumesUsed", "maxTotalVolumes"),
            ("gigabytes", "totalGigabytesUsed", "maxTotalVolumeGigabytes"),
        )
        if used in limits and limit in limits
    }


def _default_volume_type(block: Any) -> str:
    answer = block.get("/types/default")
    return "" if answer.status_code == 404 else str(checked(answer).json()["volume_type"]["name"])


def _images(connection: Connection, name: str) -> list[Image]:
    images = {each.id: each for each in connection.image.images(name=name)}
    if not images:
        from openstack.exceptions import BadRequestException, NotFoundException

        try:
            by_id = connection.image.get_image(name)
        except (NotFoundException, BadRequestException):  # glance says 400 where it can be no ID
            return []
        images = {by_id.id: by_id}
    return [_image(each, name) for each in images.values()]


def _image(each: Any, name: str) -> Image:
    # nova describes the volumes of the server that such an image was made of; its own size is nothing
    boot = [
        volume
        for volume in _mapping((each.properties or {}).get("block_device_mapping"))
        if volume.get("boot_index") == 0 and volume.get("snapshot_id")
    ]
    sizes = [each.min_disk or 0, -(-(each.virtual_size or each.size or 0) // 2**30)]
    return Image(
        each.id,
        name if each.id == name else each.name,
        each.status,
        max(sizes + [volume.get("volume_size") or 0 for volume in boot]),
        each.min_ram or 0,
        bool(boot),
    )


def _clock_off(connection: Connection) -> float:
    from email.utils import parsedate_to_datetime

    answer = connection.session.get(connection.network.get_endpoint() or "", authenticated=False, raise_exc=False)
    said = answer.headers.get("Date")
    return parsedate_to_datetime(said).timestamp() - time.time() if said else 0.0


def _quotas(nova: dict[str, Any], neutron: dict[str, Any], cinder: dict[str, Any]) -> dict[str, Quota]:
    found = {
        name: Quota(nova[f"total{used}Used"], nova[f"maxTotal{limit}"])  # some clouds tell only some of them
        for name, used, limit in (
            ("instances", "Instances", "Instances"),
            ("cores", "Cores", "Cores"),
            ("ram", "RAM", "RAMSize"),
        )
        if f"total{used}Used" in nova and f"maxTotal{limit}" in nova
    }
    for name, theirs in (
        ("networks", "network"),
        ("subnets", "subnet"),
        ("routers", "router"),
        ("ports", "port"),
        ("floating IPs", "floatingip"),
        ("security groups", "security_group"),
        ("security group rules", "security_group_rule"),
    ):
        if theirs in neutron:
            quota = neutron[theirs]
            found[name] = Quota(quota["used"] + quota.get("reserved", 0), quota["limit"])
    for theirs, quota in cinder.items():
        name, _, kind = theirs.partition("_")  # volumes_ssd: those of volume type ssd
        if name in ("volumes", "gigabytes") and not (kind and quota["limit"] < 0):
            used = quota["in_use"] + quota.get("reserved", 0)
            found[f"{name}{OF_TYPE}{kind}" if kind else name] = Quota(used, quota["limit"])
    return found


def _sorted(found: Any) -> Any:
    """The oldest first: of two that are the same, that one stays."""
    return tuple(sorted(found, key=lambda each: (each.created, each.id)))


def _server(each: Any) -> Server:
    metadata = dict(each.metadata or {})
    return Server(
        id=each.id,
        name=each.name,
        node=metadata.get(NODE_KEY, ""),
        created=each.created_at,
        status=each.status,
        flavor=(each.flavor or {}).get("original_name") or (each.flavor or {}).get("name") or "",
        image=metadata.get(IMAGE_KEY, ""),
        zone=each.availability_zone or "",
        metadata=metadata,
        tags=frozenset(each.tags or ()),
        volumes=tuple(volume["id"] for volume in each.attached_volumes or ()),
        fault=((each.fault or {}).get("message") or "") if each.status == "ERROR" else "",
        busy=each.task_state is not None,
        vcpus=(each.flavor or {}).get("vcpus") or 0,
        ram=(each.flavor or {}).get("ram") or 0,
        disk=(each.flavor or {}).get("disk") or 0,
        launched=each.launched_at is not None,
    )


def _volume(each: Any) -> Volume:
    metadata = dict(each.metadata or {})
    return Volume(
        each.id, metadata.get(NODE_KEY, ""), each.created_at, each.status, each.size, each.volume_type or "", metadata
    )


def _port(each: Any, name: str) -> Port:
    return Port(
        id=each.id,
        node=each.name.removeprefix(f"{mark(name)}."),
        created=each.created_at,
        network=each.network_id,
        addresses=tuple(fixed["ip_address"] for fixed in each.fixed_ips),
        groups=frozenset(each.security_group_ids),
        server=each.device_id or "",
    )


def _rule(rule: dict[str, Any], group: str) -> Rule | None:
    """Return an ingress rule as the testbed writes them; None for egress."""
    if rule["direction"] != "ingress":
        return None
    remote = None if rule["remote_group_id"] == group else (rule["remote_ip_prefix"] or rule["ethertype"])
    said = rule["description"] or ""
    owner = said.removeprefix(OWN_ADDRESS) if said.startswith(OWN_ADDRESS) else ""
    return Rule(rule["port_range_min"], rule["port_range_max"], remote, owner)
