"""Which tests a tier runs."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from provision import selftest

MARKERS = ("deployed", "long", "full", "removes")


@pytest.mark.parametrize(
    ("lab", "full", "deployed", "ran"),
    [
        (False, False, False, {""}),
        (False, False, True, {"", "deployed"}),
        (True, False, True, {"", "deployed", "long"}),
        (True, True, True, {"", "deployed", "long", "full"}),
        (False, True, False, {"", "long", "full"}),
    ],
)
def test_a_tier_has_the_tests_of_those_below_it(lab, full, deployed, ran):
    chosen = selftest._chosen(lab, full, deployed)
    # pytest reads -m as Python reads it: each marker is true where the test has it
    found = {one for one in ("", *MARKERS) if eval(chosen, {}, {name: name == one for name in MARKERS})}  # noqa: S307
    assert found == ran


def test_arguments_choose_tests_and_take_nothing_down(monkeypatch):
    calls = []

    def run(command, **_):
        calls.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(selftest.subprocess, "run", run)
    selftest.run(["tests/integration", "-m", "long"])
    pytest_itself = [sys.executable, "-P", "-m", "pytest"]
    assert calls == [[*pytest_itself, "-m", "not removes and not full", "tests/integration", "-m", "long"]]
