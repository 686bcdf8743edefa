"""Which testbeds a project has, by the marks of what is there."""

from __future__ import annotations

from datetime import UTC, datetime

from provision.cloud.listing import Resource, by_testbed
from provision.cloud.marker import Marker


def test_a_testbed_is_what_carries_its_mark_and_no_other():
    found = by_testbed(
        [
            Resource("server", "testbed.ran", "2026-03-02T00:00:00Z"),
            Resource("server", "testbed.ran", "2026-03-03T00:00:00Z"),
            Resource("server", "testbed.ran-2", "2026-03-04T00:00:00Z"),
            Resource("server", "", "2020-01-01T00:00:00Z"),
            Resource("floating IP", "testbed.ran", "2026-03-05T00:00:00Z", address="203.0.113.9"),
            Resource("network", "testbed.ran", "2026-03-01T00:00:00Z"),
            Resource("network", "testbed.ran.network", "2020-01-01T00:00:00Z"),
            Resource("port", "a testbed.ran", "2020-01-01T00:00:00Z"),
        ]
    )
    assert [(each.name, each.servers, each.floating_ips, each.created) for each in found] == [
        ("ran", 2, ["203.0.113.9"], "2026-03-01T00:00:00Z"),
        ("ran-2", 1, [], "2026-03-04T00:00:00Z"),
    ]


def test_who_works_on_it_is_told_by_its_first_security_group():
    marker = Marker("ada@laptop", datetime(2026, 3, 4, tzinfo=UTC))
    older = Resource("security group", "testbed.ran", "2026-03-01T00:00:00Z", tags=("team:ran", *marker.tags))
    newer = Resource("security group", "testbed.ran", "2026-03-02T00:00:00Z")
    (found,) = by_testbed([newer, older])
    assert found.holder == marker
    assert by_testbed([newer])[0].holder is None


def test_what_was_left_over_without_a_server_is_a_testbed_too():
    (found,) = by_testbed([Resource("port", "testbed.left", "2026-03-01T00:00:00Z")])
    assert (found.name, found.servers) == ("left", 0)
