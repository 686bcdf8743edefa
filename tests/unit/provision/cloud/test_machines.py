"""Which machines SSH and Ansible work on, and how they are reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision import spec
from provision.cloud.machines import machines_of
from provision.cloud.observed import FloatingIp, Observed, Port, Server
from provision.machines import Machine

SPEC = """\
name: ran
provider: openstack
openstack:
  cloud: lab
  image: focal
  network: lab-net
  floating_ip_pool: public
MORE
server: {}
users: [{name: alice}]
administrators:
  - name: ada
    ssh_keys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGvxSwlNFKnjHRrbiv+0tFGoNFFaT8UB1UvOSFiSA9Vo"]
"""
JUMP = "  jump_host: {host: gate.example, user: ada}\n  security: {ssh: [192.0.2.1/32]}"


def wanted(more: str = "") -> spec.Testbed:
    return spec.parse(SPEC.replace("MORE", more), "testbed.yaml")


def server(node: str, server_id: str = "", created: str = "1") -> Server:
    return Server(server_id or f"s-{node}", "", node, created, "ACTIVE", "", "", "", {}, frozenset(), ())


def port(node: str, *addresses: str, of: str = "") -> Port:
    return Port(f"p-{node}", node, "1", "n-1", addresses, frozenset(), of or f"s-{node}")


def both(**more: object) -> Observed:
    servers = (server("agent-1"), server("server"))
    ports = (port("agent-1", "10.0.0.6"), port("server", "10.0.0.5"))
    return Observed(servers=servers, ports=ports, **more)  # type: ignore[arg-type]


def test_a_floating_ip_is_where_ssh_goes_and_the_fixed_address_is_for_the_other_hosts():
    there = both(floating_ips=(FloatingIp("f-1", "1", "203.0.113.9", "n-pub", "p-server"),))
    assert machines_of(wanted(), there) == [
        Machine(
            "server",
            ("server", "clients", "telemetry", "inference"),
            "203.0.113.9",
            internal="10.0.0.5",
            user="ubuntu",
            id="s-server",
        ),
        Machine("agent-1", ("agents",), "10.0.0.6", internal="10.0.0.6", user="ubuntu", id="s-agent-1"),
    ]


def test_every_machine_gets_the_account_the_key_and_the_jump_host_of_the_spec():
    testbed = wanted(f"  user: debian\n  key: ~/.ssh/lab\n{JUMP}")
    found = machines_of(testbed, both())
    assert {machine.user for machine in found} == {"debian"}
    assert {machine.key for machine in found} == {Path.home() / ".ssh/lab"}
    assert testbed.openstack is not None
    assert {machine.jump_host for machine in found} == {testbed.openstack.jump_host} != {None}


@pytest.mark.parametrize(
    ("there", "names"),
    [
        (Observed(), []),
        (Observed(servers=(server("server"),)), []),
        (Observed(servers=(server("server"),), ports=(port("server"),)), []),
        (Observed(servers=(server("server"),), ports=(port("server", "10.0.0.5", of="s-other"),)), []),
        (Observed(servers=(server("agent-7"),), ports=(port("agent-7", "10.0.0.5"),)), []),
        (both(), ["server", "agent-1"]),
    ],
    ids=["nothing", "no port", "no address", "another's port", "not wanted", "all"],
)
def test_a_machine_is_a_wanted_server_with_an_address(there: Observed, names: list[str]):
    assert [machine.name for machine in machines_of(wanted(), there)] == names


def test_of_two_servers_for_a_node_the_older_one_counts_as_in_the_plan():
    there = Observed(
        servers=(server("server", "s-old"), server("server", "s-new", created="2")),
        ports=(port("server", "10.0.0.9", of="s-new"), port("server", "10.0.0.5", of="s-old")),
    )
    assert [machine.internal for machine in machines_of(wanted(), there)] == ["10.0.0.5"]


def test_the_fixed_address_is_ipv4_where_there_is_one():
    there = Observed(servers=(server("server"),), ports=(port("server", "2001:db8::5", "10.0.0.5"),))
    assert [machine.internal for machine in machines_of(wanted(), there)] == ["10.0.0.5"]
    there = Observed(servers=(server("server"),), ports=(port("server", "2001:db8::5"),))
    assert [machine.internal for machine in machines_of(wanted(), there)] == ["2001:db8::5"]
