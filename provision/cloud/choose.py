"""(desired, offer) -> which image, flavor, network, zone exactly, and all that is missing or wrong. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from provision.cloud.desired import Desired, Node
from provision.cloud.observed import FlavorOffer, Image, NetworkOffer, Offer
from provision.spec_openstack import Flavor, OwnNetwork

# Extra specs of flavors for special hardware: GPUs and other PCI devices, and pinned CPUs (nova's flavor reference)
SPECIAL = (
    *("pci_passthrough:", "resources:VGPU", "resources:PGPU", "resources:PCPU", "resources:CUSTOM_"),
    *("accel:", "hw:pci_numa"),
)
PINNED = {"hw:cpu_policy": ("dedicated", "mixed"), "hw:emulator_threads_policy": ("isolate", "share")}
# keystone refuses tokens of a clock that is much further off, and cloud-init's certificates fail
CLOCK_OFF_S = 120
# keystone's role for those who may only look (its default roles: reader, member, admin)
READ_ONLY = {"reader"}
Found = TypeVar("Found", Image, NetworkOffer)


@dataclass(frozen=True)
class Problem:
    """What stands in the way, and what to do."""

    what: str
    remedy: str


@dataclass(frozen=True)
class Made:
    """What a node is made of."""

    image: Image
    flavor: FlavorOffer
    volume_zone: str | None = None  # cinder's, where it has the node's
    volume_type: str | None = None  # its name


@dataclass(frozen=True)
class Chosen:
    """What the cloud has for what the spec asks. `network` is None where the testbed makes its own."""

    nodes: dict[str, Made]
    network: NetworkOffer | None
    external: NetworkOffer | None
    problems: tuple[Problem, ...]


def choose(desired: Desired, offer: Offer) -> Chosen:
    """Return the cloud's resources for what is desired, and every problem at once."""
    problems = [Problem(error.message, error.remedy) for error in offer.unread.values()]
    images: dict[str, Image | None] = dict.fromkeys(node.image for node in desired.nodes)
    if "images" not in offer.unread:
        for name in images:
            there = [each for each in offer.images if name in (each.id, each.name)]
            images[name] = _one(f"image {name!r}", there, problems)
    for name, image in images.items():
        if image is not None and image.status != "active":
            problems.append(Problem(f"image {name!r} is {image.status}", "Wait until it is active, or name another."))
    nodes = {}
    for node in desired.nodes:
        image = images[node.image]
        if image is not None and image.of_volume and node.volume is None:
            # nova would make a volume of its own, which carries no mark
            what = f"image {node.image!r} is a snapshot of a server that boots from a volume"
            problems.append(Problem(what, f"Name a `boot_volume` of {image.least_disk} GiB or more."))
        flavor = None if "flavors" in offer.unread else _flavor(node, image, offer.flavors, problems)
        if image is not None and flavor is not None:
            zone = node.zone if node.zone in offer.volume_zones else None
            kind = offer.volume_types.get(node.volume.type) if node.volume and node.volume.type else None
            nodes[node.name] = Made(image, flavor, zone, kind)
        problems += _zone_and_volume(node, offer)
    network = external = None
    networks_known = "networks" not in offer.unread
    if networks_known and isinstance(desired.network, str) and desired.nodes:
        network = _network(desired.network, offer.networks, problems)
    if networks_known and (isinstance(desired.network, OwnNetwork) or desired.pool is not None):
        external = _external(desired, offer.networks, problems)
    if external is not None and desired.pool is not None and desired.pool not in (external.name, external.id):
        what = f"floating IPs of {desired.pool!r} cannot be used behind a router to {external.name!r}"
        problems.append(Problem(what, "Name one network in both, network.external and floating_ip_pool."))
    if desired.keypair is not None and desired.keypair not in offer.keypairs and "keypairs" not in offer.unread:
        what = f"keypair {desired.keypair!r} is not this login's"
        remedy = f"`openstack keypair list` shows those that are.{_near(desired.keypair, offer.keypairs)}"
        problems.append(Problem(what, remedy))
    if offer.roles and offer.roles <= READ_ONLY:
        remedy = "Have the role member in the project, or name another entry in openstack.cloud."
        problems.append(Problem("this login may only read in the project: its role is reader", remedy))
    if abs(offer.clock_off) > CLOCK_OFF_S:
        problems.append(
            Problem(
                f"this machine's clock and the cloud's are {abs(offer.clock_off):.0f} s apart",
                "Set this machine's clock (timedatectl set-ntp true), or have the cloud's set.",
            )
        )
    return Chosen(nodes, network, external, tuple(dict.fromkeys(problems)))


def _one(what: str, found: Sequence[Found], problems: list[Problem]) -> Found | None:
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(each.id for each in found)
        problems.append(Problem(f"{what} is there {len(found)} times: {ids}", "Give the ID in place of the name."))
    else:
        problems.append(Problem(f"{what} is not in this project", "`openstack image list` shows those that are."))
    return None


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def special(flavor: FlavorOffer) -> bool:
    """Return whether a flavor asks for hardware that only who names it should get."""
    return any(
        key.startswith(SPECIAL) or value in PINNED.get(key, ()) or "gpu" in key.lower()
        for key, value in flavor.extras.items()
    )


def _flavor(
    node: Node, image: Image | None, flavors: Sequence[FlavorOffer], problems: list[Problem]
) -> FlavorOffer | None:
    if isinstance(node.flavor, Flavor):
        least = node.flavor
        disk = 0 if node.volume else max(least.disk, image.least_disk if image else 0)
        ram = max(least.ram, image.least_ram if image else 0)
        fit = [
            each
            for each in flavors
            if each.vcpus >= least.vcpus
            and each.ram >= ram
            and (each.disk >= disk if each.disk else node.volume is not None)
            and not special(each)
        ]
        if fit:
            return min(fit, key=lambda each: (each.vcpus, each.ram, each.disk, each.name))
        problems.append(
            Problem(
                f"no flavor has {least.vcpus} vCPUs, {ram} MiB of RAM and {disk} GiB of disk",
                "Ask for less in openstack.flavor, name a flavor, or have one made; a boot_volume needs no disk.",
            )
        )
        return None
    found = [each for each in flavors if node.flavor in (each.name, each.id)]
    if not found:
        near = _near(node.flavor, (each.name for each in flavors))
        problems.append(
            Problem(f"flavor {node.flavor!r} is not in this cloud", f"`openstack flavor list` shows all.{near}")
        )
        return None
    flavor = found[0]
    if not node.volume and flavor.disk == 0:
        what = f"flavor {flavor.name} has no disk, and nova lets only its administrators boot from that"
        problems.append(Problem(what, "Take a boot_volume, or a flavor with a disk."))
    if image and not node.volume and 0 < flavor.disk < image.least_disk:
        problems.append(
            Problem(
                f"flavor {flavor.name} has {flavor.disk} GiB of disk, image {image.name} needs {image.least_disk}",
                "Take a larger flavor, or a boot_volume.",
            )
        )
    if image and flavor.ram < image.least_ram:
        problems.append(
            Problem(
                f"flavor {flavor.name} has {flavor.ram} MiB of RAM, image {image.name} needs {image.least_ram}",
                "Take a larger flavor.",
            )
        )
    return flavor


def _zone_and_volume(node: Node, offer: Offer) -> list[Problem]:
    found = []
    if node.zone is not None and node.zone not in offer.zones and "zones" not in offer.unread:
        zones = ", ".join(sorted(offer.zones))
        found.append(
            Problem(f"availability zone {node.zone!r} is not there, or not available", f"There are: {zones or 'none'}.")
        )
    if node.volume is not None:
        if "volumes" not in offer.quotas and "quotas of volumes" not in offer.unread:
            found.append(Problem("the cloud has no volumes (cinder)", "Leave `boot_volume` out."))
        elif (
            node.volume.type is not None
            and node.volume.type not in offer.volume_types
            and "volume_types" not in offer.unread
        ):
            found.append(
                Problem(
                    f"volume type {node.volume.type!r} is not there",
                    f"`openstack volume type list` shows all.{_near(node.volume.type, offer.volume_types)}",
                )
            )
        image_disk = max((each.least_disk for each in offer.images if node.image in (each.id, each.name)), default=0)
        if node.volume.size < image_disk:
            found.append(
                Problem(
                    f"a boot_volume of {node.volume.size} GiB is too small for image {node.image}, which needs "
                    f"{image_disk}",
                    "Make it larger.",
                )
            )
    return found


def _networks(
    name: str, networks: Sequence[NetworkOffer], fits: Callable[[NetworkOffer], bool]
) -> tuple[list[NetworkOffer], str]:
    """Return the networks of that name or ID that fit, and the nearest other name."""
    found = [each for each in networks if each.id == name] or [each for each in networks if each.name == name]
    return [each for each in found if fits(each)], _near(name, (each.name for each in networks if fits(each)))


def _network(name: str, networks: Sequence[NetworkOffer], problems: list[Problem]) -> NetworkOffer | None:
    found, near = _networks(name, networks, lambda each: True)
    if not found:
        problems.append(
            Problem(f"network {name!r} is not in this project", f"`openstack network list` shows those that are.{near}")
        )
        return None
    network = _one(f"network {name!r}", found, problems)
    if network is not None and not network.subnets:
        problems.append(
            Problem(f"network {name!r} has no subnet, so servers get no address", "Make one, or name another network.")
        )
    if network is not None and not network.port_security:
        what = f"network {name!r} has port security switched off, so no security group would guard the servers"
        problems.append(Problem(what, "Have it switched on, name another network, or let `{cidr: …}` make one."))
    if network is not None and network.external and not network.shared:
        what = f"network {name!r} is an external one that is not shared: servers get no port there"
        problems.append(Problem(what, "Name it in floating_ip_pool, and a network of the project's in `network`."))
    return network


def _external(desired: Desired, networks: Sequence[NetworkOffer], problems: list[Problem]) -> NetworkOffer | None:
    name = desired.external
    if name is None:
        there = [each for each in networks if each.external]
        if len(there) == 1:
            return there[0]
        names = ", ".join(sorted(each.name for each in there)) or "none"
        problems.append(
            Problem(
                f"the testbed's own network needs an external network for its router; there are: {names}",
                "Name one in openstack.network.external.",
            )
        )
        return None
    found, near = _networks(name, networks, lambda each: each.external)
    if not found:
        problems.append(
            Problem(f"external network {name!r} is not there", f"`openstack network list --external` shows all.{near}")
        )
        return None
    return _one(f"external network {name!r}", found, problems)
