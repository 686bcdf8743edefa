"""Regular expressions of users: what they mean, and what they may cost."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from clearml_lite import patterns

ENDLESS = "^(a|aa|aaa)+$"


@pytest.fixture
def _names(call: Callable[..., Any]) -> None:
    for number in range(5):
        call("tasks.create", name="a" * 60 + f"!{number}", type="training")


@pytest.mark.usefixtures("_names")
@pytest.mark.parametrize("endpoint", ["tasks.get_all", "tasks.get_all_ex"])
def test_a_pattern_that_never_ends_is_refused_in_time(
    call: Callable[..., Any], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "LIMIT", 0.2)
    begun = time.process_time()
    code, subcode, message = call(endpoint, name=ENDLESS)
    assert time.process_time() - begun < 5  # for all names together; without the limit, for years
    assert (code, subcode) == (400, 12)
    assert "the regular expression takes more than 0.2 s: make it simpler" in message
    assert len(call("tasks.get_all", name="^a+!3$")["tasks"]) == 1


@pytest.mark.usefixtures("_names")
def test_a_pattern_over_several_fields_is_refused_too(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "LIMIT", 0.2)
    code, subcode, _ = call("tasks.get_all", _any_={"fields": ["comment", "name"], "pattern": ENDLESS})
    assert (code, subcode) == (400, 12)


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("[", "is not a regular expression"),
        ("(" * 3000 + ")" * 3000, "is not a regular expression"),
        ("a{99999999999}", "is too large"),
        ("((a{1000}){1000}){1000}", "is too large"),
        ("((a{,1000}){1000,}){1000}", "is too large"),
        ("a" * 10_001, "is too large"),
        ("x{0,0}((a{1000}){1000}){1000}", "is too large"),
        ("((a{00000000001000}){1000}){1000}", "is too large"),
        ("(?x)((a{ 1000 }){ 1000 }){ 1000 }", "the verbose mode, (?x), is not offered"),
        ("(?V1ix:((a{#c\n1000}){ 1000 }){ 1000 })", "the verbose mode, (?x), is not offered"),
        ("a" + "\\\\" + "(?x)b{ 9 }", "the verbose mode, (?x), is not offered"),
        ("a{" + "9" * 5000 + "}", "is too large"),
        ("(?u)(?L)a", "is not a regular expression"),
    ],
)
def test_what_cannot_be_used_is_refused(call: Callable[..., Any], pattern: str, told: str) -> None:
    code, subcode, message = call("tasks.get_all", name=pattern)
    assert (code, subcode) == (400, 12)
    assert told in message


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("rain", True),
        ("(?i)^TRAIN", True),
        (r"^train \d{4}-\d{2}-\d{2}$", True),
        (r"^(?!train)", False),
        (r"(\d)\1", True),
        (r"train \(?x?2026", True),
        (r"^train\ 2026\-01\-02$", True),
        ("[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}", False),
        ("", True),
    ],
)
def test_patterns_mean_what_they_mean_to_python(call: Callable[..., Any], pattern: str, found: bool) -> None:
    call("tasks.create", name="train 2026-01-22", type="training")
    call("tasks.create", name="train 2026-01-02", type="training")
    assert bool(call("tasks.get_all", name=pattern)["tasks"]) == found
