"""What is not well with keys is told, each with what to do; what is well is not."""

from __future__ import annotations

import datetime

import pytest

from provision.credentials.audit import findings
from provision.credentials.keys import read_key

NOW = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC)
HOSTS = {"127.0.0.1", "10.0.0.5"}
GOOD = "testbed:lab user:alice purpose:laptop issued:2026-11-20 expires:2027-02-21"


def _key(label, access_key="KEY", used="2026-11-22T10:00:00", place="192.0.2.1", services=("alice",)):
    entry = {"access_key": access_key, "label": label}
    if used:
        entry |= {"last_used": used, "last_used_from": place}
    return read_key(entry, "lab", "alice", "id", ["alice"], services)


def _kinds(*keys, hosts=HOSTS):
    return [finding.kind for finding in findings(keys, NOW, 30, hosts)]


def test_a_key_of_somebody_whom_testbed_yaml_has_no_more_is_told():
    key = _key(GOOD)
    assert [found.kind for found in findings([key], NOW, 30, HOSTS, users=["bob"])] == ["left"]
    assert findings([key], NOW, 30, HOSTS, users=["alice", "bob"]) == []


@pytest.mark.parametrize(
    ("label", "used", "place", "kinds"),
    [
        (GOOD, "2026-11-22T10:00:00", "192.0.2.1", []),
        (GOOD, None, None, []),  # issued three days ago
        (GOOD, "2026-10-24T12:00:00", "192.0.2.1", ["unused"]),
        (GOOD, "2026-10-24T12:00:01", "192.0.2.1", []),
        (GOOD.replace("issued:2026-11-20", "issued:2026-10-24"), None, None, ["never used"]),
        (GOOD.replace("2027-02-21", "2026-11-23"), "2026-11-22T10:00:00", "192.0.2.1", ["expired"]),
        (f"{GOOD} unwritten", None, None, ["unwritten"]),
        (f"{GOOD} for ever", "2026-11-22T10:00:00", "192.0.2.1", ["edited"]),
        ("my laptop", "2026-11-22T10:00:00", "192.0.2.1", ["unlabelled"]),
        (None, None, None, ["unlabelled"]),
        ("testbed:lab-2 user:alice purpose:client", "2026-01-01T10:00:00", "192.0.2.1", ["other"]),
        ("testbed:lab user:alice purpose:client", "2026-11-22T10:00:00", "10.0.0.5", []),
        ("testbed:lab user:alice purpose:client", "2026-11-22T10:00:00", "192.0.2.1", ["elsewhere"]),
        ("testbed:lab user:alice purpose:agent@gpu/default", "2026-11-22T10:00:00", "192.0.2.1", ["elsewhere"]),
        ("testbed:lab user:alice purpose:agent@gpu/default", "2026-01-01T10:00:00", "10.0.0.5", []),
    ],
)
def test_each_kind_is_told(label, used, place, kinds):
    assert _kinds(_key(label, used=used, place=place)) == kinds


def test_keys_of_other_testbeds_are_told_unless_the_server_is_somebody_elses():
    key = _key("testbed:lab-2 user:alice purpose:client", "THE-KEY")
    [found] = findings([key], NOW, 30, HOSTS)
    assert "testbed:lab-2" in found.message
    assert "testbed credentials revoke THE-KEY" in found.remedy
    assert findings([key], NOW, 30, HOSTS, shared=True) == []


@pytest.mark.parametrize("purpose", ["toolkit", "agent@gpu/default", "watchdog@gpu"])
def test_a_user_who_writes_the_label_of_a_service_is_told(purpose):
    assert _kinds(_key(f"testbed:lab user:alice purpose:{purpose}", services=())) == ["edited"]


def test_two_keys_for_one_purpose_are_told():
    other = _key(GOOD.replace("laptop", "ci"), "C")
    assert _kinds(_key(GOOD, "A"), _key(GOOD, "B"), other) == ["twice", "twice"]


def test_without_hosts_that_the_server_sees_no_place_is_told():
    assert _kinds(_key("testbed:lab user:alice purpose:client"), hosts=()) == []


def test_each_says_which_key_and_what_to_do():
    [found] = findings([_key("my laptop", "THE-KEY")], NOW, 30, HOSTS)
    assert "THE-KEY" in found.message
    assert "my laptop" in found.message
    assert "testbed credentials issue alice" in found.remedy
