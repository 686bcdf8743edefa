"""Every option of `openstack` in testbed.yaml against the cloud: what was asked comes, and then planning is empty."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision import spec
from provision.cloud import listing
from provision.cloud.observed import Observed
from provision.cloud.plan import Action, Plan
from provision.cloud.run import Project as Engine
from tests.lab.openstack import proxy as front
from tests.lab.openstack.cloud import ENTRY, Cloud, Project

pytestmark = pytest.mark.drawn
KEY_LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGvxSwlNFKnjHRrbiv+0tFGoNFFaT8UB1UvOSFiSA9Vo"
ODD_NETWORK = "lab net/1"
QUOTAS = {"instances": 100, "cores": 1000, "ram": 1024 * 1024, "volumes": 20, "port": 200, "network": 50}


@dataclass
class Told:
    """What was done, a line each."""

    lines: list[str] = field(default_factory=list)

    def planned(self, plan: Plan) -> None:
        """Nothing to keep."""

    def told(self, action: Action, result: str) -> None:
        """Keep what was done."""
        self.lines.append(f"{action.verb} {action.kind} {action.name}")


@pytest.fixture(scope="module")
def project(cloud: Cloud) -> Iterator[Project]:
    """A project with a network whose name has a space and a slash."""
    with cloud.project("options", QUOTAS) as project:
        ours = project.connection
        network = ours.network.create_network(name=ODD_NETWORK)
        subnet = ours.network.create_subnet(network_id=network.id, ip_version=4, cidr="10.30.0.0/24")
        outside = {"network_id": ours.network.find_network("public").id}
        router = ours.network.create_router(name="lab router", external_gateway_info=outside)
        ours.network.add_interface_to_router(router, subnet=subnet.id)
        yield project


@pytest.fixture
def testbed(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Returns an engine for a testbed with these settings; what it made is removed afterwards."""
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(project.clouds_yaml(tmp_path)))
    name = f"opt-{secrets.token_hex(3)}"
    engines: list[Engine] = []

    def make(**openstack: Any) -> Engine:
        small = {"cloud": ENTRY, "image": "blank", "flavor": "t1.tiny", "network": ODD_NETWORK}
        text = {
            "name": name,
            "provider": "openstack",
            "openstack": small | openstack,
            "server": {},
            "users": [{"name": "alice"}],
            "administrators": [{"name": "ada", "ssh_keys": [KEY_LINE]}],
        }
        engines.append(Engine.of(spec.parse(yaml.safe_dump(text), "testbed.yaml"), 8))
        return engines[-1]

    yield make
    if engines:
        engines[-1].take_down(Told(), keep_volumes=False)
        assert not engines[-1].removal(keep_volumes=False).plan.actions


def up(engine: Engine) -> tuple[Observed, list[str]]:
    """Bring it up; planning is empty then. Return what is there, and what was done."""
    told = Told()
    observed = engine.bring_up(told)
    assert not engine.look().plan.work
    return observed, sorted(told.lines)


def todo(engine: Engine) -> list[str]:
    """What the plan says is to be done."""
    return sorted(f"{action.verb} {action.kind} {action.name}" for action in engine.look().plan.work)


def by_node(observed: Observed) -> dict[str, Any]:
    return {server.node: server for server in observed.servers}


def test_names_of_all_kinds_zone_metadata_tags_and_who_may_come_in(testbed: Any, project: Project) -> None:
    ranges = ["198.51.100.0/24", "2001:db8::/32"]
    assert not list(project.connection.compute.keypairs()), "one that nobody named"
    project.connection.compute.create_keypair(name="ada 2", public_key=KEY_LINE)
    engine = testbed(
        keypair="ada 2",
        floating_ip_pool="public",
        availability_zone="az1",
        metadata={"owner": "lab"},
        tags=["ran"],
        security={"ssh": ranges, "web": ["203.0.113.7/32"], "api": [], "files": []},
        nodes={"agents": {"count": 2, "flavor": "t1.small", "floating_ip": True}, "clients": {}},
    )
    observed, _ = up(engine)
    servers = by_node(observed)
    assert set(servers) == {"server", "agent-1", "agent-2", "client-1"}
    assert {name: server.flavor for name, server in servers.items()} == {
        "server": "t1.tiny",
        "agent-1": "t1.small",
        "agent-2": "t1.small",
        "client-1": "t1.tiny",
    }
    assert {server.zone for server in servers.values()} == {"az1"}
    assert {server.key_name for server in project.connection.compute.servers()} == {"ada 2"}
    assert all(server.metadata["owner"] == "lab" and "ran" in server.tags for server in servers.values())
    assert servers["server"].metadata["testbed_groups"] == "server,telemetry,inference"
    connection = project.connection
    with_address = {port.node for port in observed.ports for ip in observed.floating_ips if ip.port == port.id}
    assert with_address == {"server", "agent-1", "agent-2"}
    group = connection.network.get_security_group(observed.security_groups[0].id)
    ours = engine.testbed.server.ports
    rules = {
        (rule["ethertype"], rule["port_range_min"], rule["remote_ip_prefix"])
        for rule in group.security_group_rules
        if rule["direction"] == "ingress" and rule["remote_ip_prefix"]
    }
    assert rules == {("IPv4", 22, ranges[0]), ("IPv6", 22, ranges[1]), ("IPv4", ours.web, "203.0.113.7/32")}
    ports = list(connection.network.ports(network_id=connection.network.find_network(ODD_NETWORK).id))
    assert {port.device_id for port in ports if port.device_owner.startswith("compute:")} == {
        server.id for server in servers.values()
    }


def test_boot_volumes_and_a_network_of_its_own(testbed: Any, project: Project, cloud: Cloud) -> None:
    without_disk = f"novol-{secrets.token_hex(3)}"
    flavor = cloud.admin.compute.create_flavor(name=without_disk, vcpus=1, ram=512, disk=0)
    try:
        engine = testbed(
            flavor=without_disk,
            network={"cidr": "10.40.0.0/24", "dns": ["192.0.2.53"], "external": "public"},
            boot_volume={"size": 2, "type": "__DEFAULT__", "delete_on_termination": False},
            nodes={"agents": {"boot_volume": {"size": 3}}},
        )
        observed, _ = up(engine)
        volumes = {volume.node: volume for volume in observed.volumes}
        assert {name: (volume.size, volume.status) for name, volume in volumes.items()} == {
            "server": (2, "in-use"),
            "agent-1": (3, "in-use"),
        }
        assert by_node(observed)["server"].volumes == (volumes["server"].id,)
        connection = project.connection
        (subnet,) = observed.subnets
        assert subnet.detail == ("10.40.0.0/24", "192.0.2.53")
        router = connection.network.get_router(observed.routers[0].id)
        external = connection.network.find_network("public")
        assert router.external_gateway_info["network_id"] == external.id
        told = Told()
        engine.take_down(told, keep_volumes=True)
        left = engine.observe()
        # also those that were to go with their server
        assert {volume.node: volume.id for volume in left.volumes} == {name: each.id for name, each in volumes.items()}
        assert {volume.status for volume in left.volumes} == {"available"}
        assert left == Observed(volumes=left.volumes)
        again, done = up(engine)
        assert not [line for line in done if "volume" in line]
        assert {volume.id for volume in again.volumes} == {volume.id for volume in left.volumes}
        engine.take_down(Told(), keep_volumes=False)
    finally:
        cloud.admin.compute.delete_flavor(flavor)


def test_the_smallest_flavor_that_has_it_and_no_special_hardware(testbed: Any, project: Project, cloud: Cloud) -> None:
    made = []
    for name, extra in (
        ("gpu", {"vendor:gpu": "a100"}),
        ("pinned", {"hw:cpu_policy": "dedicated"}),
        ("pci", {"pci_passthrough:alias": "a100:1"}),
        ("plain", {}),
    ):
        made.append(cloud.admin.compute.create_flavor(name=f"{name}-{secrets.token_hex(3)}", vcpus=2, ram=1024, disk=5))
        if extra:
            cloud.admin.compute.create_flavor_extra_specs(made[-1], extra)
    gpu, plain = made[0], made[-1]
    try:
        network = project.connection.network.find_network(ODD_NETWORK).id
        least = {"vcpus": 2, "ram": 700, "disk": 4}
        engine = testbed(network=network, flavor=least, nodes={"agents": {"flavor": gpu.name}})
        observed, _ = up(engine)
        assert {name: server.flavor for name, server in by_node(observed).items()} == {
            "server": plain.name,
            "agent-1": gpu.name,  # it was named
        }
        engine.take_down(Told(), keep_volumes=False)
    finally:
        for flavor in made:
            cloud.admin.compute.delete_flavor(flavor)


@pytest.mark.parametrize("volume", [None, {"size": 1}], ids=["on its own disk", "on a volume"])
def test_an_image_by_id_and_one_that_is_a_snapshot_of_a_server(testbed: Any, project: Project, volume: Any) -> None:
    connection = project.connection
    image = connection.image.find_image("blank")
    boots = {"boot_volume": volume} if volume else {}
    first, _ = up(testbed(image=image.id, **boots))
    snapshot = connection.compute.create_server_image(
        by_node(first)["server"].id, "a snapshot/of mine", wait=True, timeout=120
    )
    try:
        engine = testbed(image=image.id, nodes={"agents": {"image": "a snapshot/of mine"}}, **boots)
        assert "replace server agent-1" in todo(engine)
        assert not [line for line in todo(engine) if "server server" in line]
        observed, _ = up(engine)
        assert by_node(observed)["agent-1"].image == snapshot.id
        assert by_node(observed)["server"].id == by_node(first)["server"].id
        assert {port.node: port.id for port in observed.ports} == {port.node: port.id for port in first.ports}
        if volume:
            without = testbed(image=image.id, nodes={"agents": {"image": "a snapshot/of mine"}}).look().plan
            (problem,) = without.problems
            assert "snapshot of a server that boots from a volume" in problem.what
    finally:
        connection.image.delete_image(snapshot.id)
        for each in connection.block_storage.snapshots():
            connection.block_storage.delete_snapshot(each)


@pytest.fixture
def without_volumes(proxy: front.Proxy, project: Project, tmp_path: Path, monkeypatch: Any) -> Iterator[front.Proxy]:
    """A cloud that has no cinder in its catalogue, and its proxy, which has the calls."""

    def without_cinder(call: front.Call, reply: front.Reply) -> front.Reply:
        said = json.loads(reply.body)
        said["token"]["catalog"] = [each for each in said["token"]["catalog"] if each["name"] != "cinder"]
        return dataclasses.replace(reply, body=json.dumps(said).encode())

    proxy.forget()  # what tests before have called
    at_login = front.at("keystone", "POST", "/auth/tokens")
    proxy.add(front.Fault(at_login, after=without_cinder, times=float("inf")))
    (tmp_path / "front").mkdir()
    clouds = project.clouds_yaml(tmp_path / "front", auth_url=proxy.auth_url)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(clouds))
    yield proxy
    proxy.forget()


def test_a_cloud_without_volumes(testbed: Any, without_volumes: front.Proxy) -> None:
    problems = testbed(boot_volume={"size": 1}).look().plan.problems
    assert {each.what for each in problems} == {"the cloud has no volumes (cinder)"}
    engine = testbed(floating_ip_pool="public")
    observed, _ = up(engine)
    assert len(observed.servers) == 2
    rows = {row.name for row in engine.look().plan.quotas}
    assert {"instances", "ports"} <= rows
    assert "volumes" not in rows
    listed = listing.by_testbed(listing.read(engine.connection, 8))
    assert [each.servers for each in listed if each.name == engine.testbed.name] == [2]
    engine.take_down(Told(), keep_volumes=False)
    assert not [call for call in without_volumes.calls if call.service == "cinder"]


def test_one_thing_changed_is_all_that_is_planned_and_done(testbed: Any, project: Project) -> None:
    first, _ = up(testbed())
    ids = {name: server.id for name, server in by_node(first).items()}
    wanted: dict[str, Any] = {}
    steps: list[tuple[dict[str, Any], list[str] | None]] = [
        ({"nodes": {"agents": {"count": 2}}}, ["create port agent-2", "create server agent-2"]),
        ({"metadata": {"owner": "lab"}}, [f"change server {name}" for name in ("agent-1", "agent-2", "server")]),
        ({"tags": ["ran"]}, [f"change server {name}" for name in ("agent-1", "agent-2", "server")]),
        ({"security": {"ssh": ["198.51.100.0/24"]}}, None),
        ({"floating_ip_pool": "public"}, ["create floating IP server"]),
        (
            {"nodes": {"agents": {"count": 2, "flavor": "t1.small"}}},
            ["change server agent-1", "change server agent-2"],
        ),
        ({"nodes": {"agents": {"flavor": "t1.small"}}}, ["delete port agent-2", "delete server agent-2"]),
    ]
    for change, expected in steps:
        wanted |= change
        engine = testbed(**wanted)
        planned = todo(engine)
        if expected is None:
            assert [line.split(" from ")[0] for line in planned] == [
                "create security group rule TCP 22",
                "delete security group rule TCP 22",
            ]
        else:
            assert planned == expected
        observed, done = up(engine)
        assert set(done) == set(planned)
        assert {name: by_node(observed)[name].id for name in ids} == ids, "no server was made anew"
    assert by_node(observed)["agent-1"].flavor == "t1.small"


def test_floating_ips_of_its_own_are_used_again(testbed: Any, project: Project) -> None:
    first, _ = up(testbed(floating_ip_pool="public"))
    (address,) = [ip.address for ip in first.floating_ips]
    connection = project.connection
    connection.compute.delete_server(by_node(first)["server"].id)
    connection.compute.wait_for_delete(connection.compute.get_server(by_node(first)["server"].id))
    foreign = connection.network.create_ip(floating_network_id=connection.network.find_network("public").id)
    again, done = up(testbed(floating_ip_pool="public"))
    assert [ip.address for ip in again.floating_ips] == [address]
    assert not [line for line in done if "floating IP" in line and line.startswith("create")]
    assert connection.network.get_ip(foreign.id).port_id is None, "somebody else's free address is not ours to take"
