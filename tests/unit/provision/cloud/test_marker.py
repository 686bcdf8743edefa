"""Who is said to be at work on a testbed, and until when that counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from provision.cloud.marker import LONGEST_TAG, OLD, Marker, in_the_way, mine, others, read

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ADA, BOB = Marker("ada@laptop", NOW), Marker("bob@desk", NOW)


def test_a_marker_is_read_back_from_its_tags_among_others():
    assert ADA.tags == ["testbed-holder:ada@laptop", "testbed-since:2026-03-04T05:06:07Z"]
    assert read(["team:ran", *ADA.tags]) == ADA
    assert others(["team:ran", *ADA.tags]) == ["team:ran"]
    assert str(ADA) == "ada@laptop since 2026-03-04 05:06:07 UTC"


@pytest.mark.parametrize("tags", [[], ["team:ran"], ADA.tags[:1], ADA.tags[1:], [ADA.tags[0], "testbed-since:noon"]])
def test_what_is_no_marker_is_none(tags: list[str]):
    assert read(tags) is None


@pytest.mark.parametrize(
    ("found", "me", "busy"),
    [
        (None, ADA, False),
        (BOB, ADA, True),
        (ADA, ADA, False),
        (Marker("ada@laptop", NOW - OLD / 2), ADA, False),
        (Marker("bob@desk", NOW - OLD), ADA, True),
        (Marker("bob@desk", NOW - OLD - timedelta(seconds=1)), ADA, False),
        (Marker("bob@desk", NOW + timedelta(minutes=1)), ADA, True),
    ],
    ids=["nobody", "another", "myself", "myself before", "just not old", "old", "a clock ahead"],
)
def test_somebody_else_is_in_the_way_until_the_marker_is_old(found: Marker | None, me: Marker, busy: bool):
    assert in_the_way(found, me) is busy


def test_this_administrator_is_named_in_a_tag_that_neutron_takes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("getpass.getuser", lambda: "ADA\\Domain/x,y")
    monkeypatch.setattr("socket.gethostname", lambda: "h" * 80)
    me = mine(NOW.replace(microsecond=5))
    assert me.holder.startswith("ADA_Domain_x_y@hhh")
    assert all(len(tag) <= LONGEST_TAG for tag in me.tags)
    assert read(me.tags) == me
