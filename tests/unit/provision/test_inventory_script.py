"""The hosts as an inventory script tells them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provision.errors import SpecError
from provision.inventory_script import listed, of_host
from provision.machines import Machine, local
from provision.spec_types import JumpHost

KNOWN = Path("/state/known_hosts")
MACHINES = (
    Machine("server", ("server", "clients"), "203.0.113.9", internal="10.0.0.5", user="ubuntu", key=Path("/keys/lab")),
    Machine(
        "agent-1",
        ("agents",),
        "10.0.0.6",
        internal="10.0.0.6",
        user="root",
        jump_host=JumpHost(host="gate", user="ada"),
    ),
)


def test_groups_hold_hosts_and_all_holds_groups():
    found = listed(MACHINES, KNOWN)
    assert {name: found[name] for name in found if name != "_meta"} == {
        "server": {"hosts": ["server"]},
        "agents": {"hosts": ["agent-1"]},
        "clients": {"hosts": ["server"]},
        "all": {"children": ["server", "agents", "clients"]},
    }


def test_a_host_has_the_way_to_it_with_its_own_known_hosts_key_and_jump_host():
    server, agent = (listed(MACHINES, KNOWN)["_meta"]["hostvars"][name] for name in ("server", "agent-1"))
    assert (server["ansible_host"], server["ansible_user"], server["ansible_become"]) == ("203.0.113.9", "ubuntu", True)
    assert server["testbed_address"] == "10.0.0.5"
    assert str(KNOWN) in server["ansible_ssh_common_args"]
    assert "/keys/lab" in server["ansible_ssh_common_args"]
    assert agent["ansible_become"] is False
    assert "ada" in agent["ansible_ssh_common_args"]


def test_a_single_host_has_the_same_variables():
    assert of_host(MACHINES, KNOWN, "agent-1") == listed(MACHINES, KNOWN)["_meta"]["hostvars"]["agent-1"]
    with pytest.raises(SpecError) as error:
        of_host(MACHINES, KNOWN, "agent-7")
    assert error.value.message == "the testbed has no host agent-7"
    assert error.value.remedy == "There are: server, agent-1."


def test_this_machine_needs_no_ssh():
    found = of_host(local("root"), KNOWN, "local")
    assert found["ansible_connection"] == "local"
    assert "ssh" not in json.dumps(found)
