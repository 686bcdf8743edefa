"""The label of a key says whose, what for, since when and until when; what others wrote into one is not believed."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.credentials import labels
from provision.credentials.identities import of_label
from provision.credentials.keys import Key, read_key
from provision.credentials.labels import Label
from provision.errors import InputError

TODAY = datetime.date(2026, 11, 23)
DAYS = st.none() | st.dates(datetime.date(2000, 1, 1))
WORDS = st.from_regex(r"\A[a-z][a-z0-9-]{0,31}\Z")


@given(WORDS, WORDS, WORDS, DAYS, DAYS, st.booleans())
def test_a_label_is_read_back_as_it_was_written(testbed, user, purpose, issued, expires, unwritten):
    label = Label(testbed, user, purpose, issued, expires, unwritten)
    assert labels.parse(label.text) == label


def test_the_label_of_a_key_is_this_text():
    label = Label("lab", "alice", "laptop", TODAY, datetime.date(2027, 2, 21), unwritten=True)
    assert label.text == ("testbed:lab user:alice purpose:laptop issued:2026-11-23 expires:2027-02-21 unwritten")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "my laptop",
        "testbed:lab user:alice",
        "testbed:lab user:alice purpose:laptop and more",
        "testbed:lab user:alice purpose:laptop expires:2027-02-31",
        "testbed:lab user:alice purpose:laptop expires:9999",
        "testbed:lab user:alice purpose:laptop issued:2026-11-23 unwritten expires:2027-02-21",
    ],
)
def test_what_the_toolkit_has_not_written_so_is_no_label(text):
    assert labels.parse(text) is None


def test_up_knows_whose_key_it_is_whatever_else_the_label_says():
    label = Label("lab", "alice", "laptop", TODAY, TODAY, unwritten=True)
    holder = of_label(label.text, "lab")
    assert (holder.user, holder.purpose) == ("alice", "laptop")


@pytest.mark.parametrize(
    ("words", "day"),
    [("1d", "2026-11-24"), ("90d", "2027-02-21"), ("2w", "2026-12-07"), ("2026-11-24", "2026-11-24")],
)
def test_a_time_is_a_span_or_a_date(words, day):
    assert str(labels.expiry(words, TODAY)) == day


def test_never_is_no_day():
    assert labels.expiry("never", TODAY) is None


@pytest.mark.parametrize("words", ["2026-11-23", "2020-01-01", "0d", "-1d", "", "soon", "90", "99999w", "9d\n"])
def test_a_time_that_is_past_or_none_is_refused(words):
    with pytest.raises(InputError) as error:
        labels.expiry(words, TODAY)
    assert error.value.remedy


@pytest.mark.parametrize(
    "purpose", ["client", "toolkit", "", "Laptop", "my laptop", "agent@gpu/default", "a" * 33, "ü", "laptop\n"]
)
def test_a_purpose_is_one_word_and_none_of_the_testbeds_own(purpose):
    with pytest.raises(InputError):
        labels.check_purpose(purpose)


def _key(text, names=("alice",), services=("testbed-agent",)):
    return read_key({"access_key": "K", "label": text}, "lab", "somebody", "id", names, services)


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("testbed:lab user:alice purpose:laptop issued:2026-11-23 expires:2026-11-24", "good"),
        ("testbed:lab user:alice purpose:laptop issued:2026-11-23", "good"),
        ("testbed:lab user:alice purpose:client", "good"),
        ("testbed:lab user:alice purpose:laptop issued:2026-11-01 expires:2026-11-23", "expired"),
        ("testbed:lab user:alice purpose:laptop issued:2026-11-01 expires:2026-11-23 unwritten", "unwritten"),
        ("testbed:lab user:alice purpose:laptop forever", "edited"),
        ("testbed:lab user:bob purpose:laptop", "edited"),
        ("testbed:lab-2 user:alice purpose:laptop", "other"),
        ("my laptop", "own"),
        (None, "own"),
    ],
)
def test_the_state_of_a_key_is_told_by_its_label(text, state):
    assert _key(text).state(TODAY) == state


@pytest.mark.parametrize("purpose", ["toolkit", "agent@gpu/default", "watchdog@gpu"])
def test_the_label_of_a_service_counts_on_keys_of_its_user_alone(purpose):
    theirs = _key(f"testbed:lab user:alice purpose:{purpose}")
    assert (theirs.state(TODAY), theirs.purpose, theirs.is_service) == ("edited", "", False)
    own = _key(f"testbed:lab user:testbed-agent purpose:{purpose}", names=["testbed-agent"])
    assert (own.state(TODAY), own.purpose, own.is_service) == ("good", purpose, True)


def test_a_key_is_reported_without_a_secret():
    entry = {
        "access_key": "K",
        "label": "testbed:lab user:alice purpose:laptop issued:2026-11-01 expires:2026-12-01",
        "last_used": "2026-11-21T19:44:09.345000",
        "last_used_from": "192.0.2.7",
    }
    assert read_key(entry, "lab", "Alice A", "id", ["alice"]).report(TODAY).model_dump() == {
        "user": "alice",
        "purpose": "laptop",
        "access_key": "K",
        "issued": "2026-11-01",
        "expires": "2026-12-01",
        "last_used": "2026-11-21T19:44:09Z",
        "last_used_from": "192.0.2.7",
        "state": "good",
        "label": entry["label"],
    }


@pytest.mark.parametrize(
    ("purpose", "service"),
    [("toolkit", True), ("agent@gpu/default", True), ("watchdog@gpu", True), ("client", False), ("laptop", False)],
)
def test_what_services_work_with_is_told_from_what_people_do(purpose, service):
    key = Key("alice", "id", "K", label=Label("lab", "alice", purpose), labelled_for="lab", testbed="lab")
    assert key.is_service == service
