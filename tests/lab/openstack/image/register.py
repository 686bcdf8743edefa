"""Wait for the cloud, then register what its users find there: flavors, an image, an external network, zones.

Runs in the container, with Debian's openstacksdk, and can be run again.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openstack

LIMIT_S = 300
BEGAN = time.monotonic()
# name: vCPUs, MiB, GiB
FLAVORS = {
    "t1.tiny": (1, 512, 1),
    "t1.guest": (1, 768, 3),
    "t1.small": (1, 2048, 20),
    "t1.medium": (4, 8192, 64),
    "t1.large": (8, 8192, 128),
    "t1.impossible": (1, 512, 100_000_000),
}
GUEST = Path("/guest")  # kernel, ramdisk and root filesystem of a real guest, where there is one


def until(what: str, done: Callable[[], Any]) -> None:
    """Wait until `done` returns something true; a service that is not up yet may fail in any way."""
    last: Exception | None = None
    while time.monotonic() - BEGAN < LIMIT_S:
        try:
            if done():
                print(f"{time.monotonic() - BEGAN:5.1f} s  {what}", flush=True)
                return
        except Exception as error:
            last = error
        time.sleep(0.3)
    sys.exit(f"gave up on: {what}: {last!r}")


def listens() -> bool:
    """Return whether keystone does."""
    with socket.create_connection(("127.0.0.1", 5000), timeout=2):
        return True


def connect() -> Any:
    """Log in as the administrator."""
    return openstack.connect(
        auth_url="http://127.0.0.1:5000/v3",
        username="admin",
        password="admin",
        project_name="admin",
        user_domain_name="Default",
        project_domain_name="Default",
        region_name="RegionOne",
    )


def images(cloud: Any) -> None:
    """Upload an image of a few bytes, which is enough for fake hypervisors, and the real guest's."""
    shown = {"visibility": "public", "wait": True}
    if not cloud.image.find_image("blank"):
        cloud.create_image("blank", data=bytes(65536), disk_format="raw", container_format="bare", **shown)
    if (GUEST / "root.qcow2").exists() and not cloud.image.find_image("debian"):
        parts = {}
        for part, file, kind in (("kernel_id", "vmlinuz", "aki"), ("ramdisk_id", "initrd", "ari")):
            made = cloud.create_image(
                f"debian {file}", filename=f"{GUEST}/{file}", disk_format=kind, container_format=kind, **shown
            )
            parts[part] = made.id
        cloud.create_image(
            "debian",
            filename=f"{GUEST}/root.qcow2",
            disk_format="qcow2",
            container_format="bare",
            min_disk=2,
            **parts,
            **shown,
        )


def network(cloud: Any) -> None:
    """Make the external network, out of which floating IPs come."""
    if cloud.network.find_network("public"):
        return
    external = cloud.network.create_network(
        name="public", is_router_external=True, provider_network_type="flat", provider_physical_network="public"
    )
    cloud.network.create_subnet(
        network_id=external.id,
        ip_version=4,
        cidr="172.31.240.0/22",
        gateway_ip="172.31.240.1",
        is_dhcp_enabled=False,
        allocation_pools=[{"start": "172.31.240.10", "end": "172.31.243.250"}],
    )


def zones(cloud: Any) -> None:
    """Wait for every hypervisor, as servers find no valid host before, and put it into its zone."""
    programs = [each.stem for each in Path("/etc/lab/programs.d").glob("*.conf")]
    wanted = {name.removeprefix("compute-") for name in programs if name.startswith("compute-")}

    def ready() -> bool:
        up = {each.host for each in cloud.compute.services() if each.binary == "nova-compute" and each.state == "up"}
        return wanted <= up and wanted <= {each.name for each in cloud.compute.hypervisors()}

    until(f"hypervisors {' '.join(sorted(wanted))}", ready)
    there = {each.name: each for each in cloud.compute.aggregates()}
    for host in sorted(wanted):
        # servers that name no zone go to az1, by nova's default_schedule_zone
        zone = "broken" if host.startswith("broken-") else "fake" if "lab" in wanted and host != "lab" else "az1"
        if zone not in there:
            there[zone] = cloud.compute.create_aggregate(name=zone, availability_zone=zone)
        if host not in (there[zone].hosts or []):
            cloud.compute.add_host_to_aggregate(there[zone], host)


until("keystone listens", listens)
until("keystone", lambda: connect().authorize())
cloud = connect()
until("placement", lambda: cloud.placement.get("/").ok)
until("glance", lambda: list(cloud.image.images()) is not None)
until("nova", lambda: list(cloud.compute.flavors()) is not None)
for name, (vcpus, ram, disk) in FLAVORS.items():
    if not cloud.compute.find_flavor(name):
        cloud.compute.create_flavor(name=name, vcpus=vcpus, ram=ram, disk=disk)
images(cloud)
until("neutron", lambda: list(cloud.network.networks()) is not None)
network(cloud)
until("cinder", lambda: list(cloud.block_storage.volumes()) is not None)
zones(cloud)
print(f"{time.monotonic() - BEGAN:5.1f} s  ready")
