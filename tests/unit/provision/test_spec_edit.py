"""A count, or who is among the users, is changed in testbed.yaml, and nothing else of its text."""

from __future__ import annotations

import pytest

from provision.errors import SpecError
from provision.spec_edit import with_count, with_users, without_users


def spec(openstack: str) -> str:
    return f"name: ran   # mine\nprovider: openstack\n{openstack}\nusers: [{{name: alice}}]  # she\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "openstack:\n  nodes:\n    agents:\n      count: 2   # two\n      flavor: big",
            "openstack:\n  nodes:\n    agents:\n      count: 6   # two\n      flavor: big",
        ),
        ("openstack: {nodes: {agents: {count: 2}}}", "openstack: {nodes: {agents: {count: 6}}}"),
        ("openstack: {cloud: lab}", "openstack: {nodes: {agents: {count: 6}}, cloud: lab}"),
        ("openstack: {nodes: {}}", "openstack: {nodes: {agents: {count: 6}}}"),
        (
            "openstack:\n  cloud: lab  # ours\n\n# the server",
            "openstack:\n  cloud: lab  # ours\n  nodes: {agents: {count: 6}}\n\n# the server",
        ),
        (
            "openstack:\n  nodes:\n    server:\n      flavor: big\n  # agents\n  cloud: lab",
            "openstack:\n  nodes:\n    server:\n      flavor: big\n    agents: {count: 6}\n  # agents\n  cloud: lab",
        ),
        (
            "openstack:\n  nodes:\n    agents:\n      flavor: big\n      image: focal\n  cloud: lab",
            "openstack:\n  nodes:\n    agents:\n      flavor: big\n      image: focal\n      count: 6\n  cloud: lab",
        ),
        (
            "openstack:\n  nodes:\n    agents:\n  cloud: lab",
            "openstack:\n  nodes:\n    agents: {count: 6}\n  cloud: lab",
        ),
        (
            "openstack:\n  tags:\n  - a\n  - b\n  image: |\n    focal",
            "openstack:\n  tags:\n  - a\n  - b\n  image: |\n    focal\n  nodes: {agents: {count: 6}}",
        ),
    ],
    ids=["block", "flow", "flow without", "empty flow", "no nodes", "no group", "no count", "no value", "block scalar"],
)
def test_only_the_count_changes(before: str, after: str):
    assert with_count(spec(before), "testbed.yaml", "agents", 6) == spec(after)


def test_a_last_line_without_an_end_gets_one():
    assert with_count("openstack:\n  cloud: lab", "f", "agents", 6) == (
        "openstack:\n  cloud: lab\n  nodes: {agents: {count: 6}}\n"
    )


def test_a_count_that_two_groups_share_is_left_to_the_person():
    shared = spec("openstack:\n  nodes:\n    clients: &both\n      count: 2\n    agents: *both")
    with pytest.raises(SpecError) as error:
        with_count(shared, "lab.yaml", "agents", 6)
    assert error.value.message == "lab.yaml: the count of agents cannot be changed without changing more"
    assert "openstack.nodes.agents.count: 6" in error.value.remedy


BLOCK = (
    "users:   # ours\n  # the first\n  - name: alice  # she\n    full_name: Alice A\n  # the second\n  - name: bob\n"
    "\n# more\nname: ran\n"
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (BLOCK, BLOCK.replace("bob\n", 'bob\n  - {name: "carol", full_name: "C: \\"Ü\\" # 1"}\n')),
        (
            "users: [{name: alice}]  # she\n",
            'users: [{name: alice}, {name: "carol", full_name: "C: \\"Ü\\" # 1"}]  # she\n',
        ),
        ("users:\n- name: alice", 'users:\n- name: alice\n- {name: "carol", full_name: "C: \\"Ü\\" # 1"}\n'),
        ("users:\n- {name: alice}\n", 'users:\n- {name: alice}\n- {name: "carol", full_name: "C: \\"Ü\\" # 1"}\n'),
    ],
    ids=["block", "flow", "without an end", "flow in a block"],
)
def test_users_come_at_the_end(before, after):
    assert with_users(before, "f", [{"name": "carol", "full_name": 'C: "Ü" # 1'}]) == after
    assert without_users(after, "f", ["carol"]).rstrip("\n") == before.rstrip("\n")


def test_a_user_goes_and_comments_stay():
    assert without_users(BLOCK, "f", ["alice"]) == (
        "users:   # ours\n  # the first\n  # the second\n  - name: bob\n\n# more\nname: ran\n"
    )
    assert without_users(BLOCK, "f", ["bob"]) == BLOCK.replace("  - name: bob\n", "")
    assert without_users("users: [{name: a}, {name: b}, {name: c}]", "f", ["b", "c"]) == "users: [{name: a}]"
    assert without_users("users: [{name: a}, {name: b}, {name: c}]", "f", ["a"]) == "users: [{name: b}, {name: c}]"
    assert without_users(BLOCK, "f", ["nobody"]) == BLOCK


def test_users_that_something_else_refers_to_are_left_to_the_person():
    shared = "team: &team\n- name: alice\n- name: bob\nusers: *team\n"
    for change in (
        lambda: with_users(shared, "f", [{"name": "carol"}]),
        lambda: without_users(shared, "f", ["bob"]),
    ):
        with pytest.raises(SpecError, match="without changing more"):
            change()
