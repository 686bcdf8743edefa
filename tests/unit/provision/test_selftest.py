"""Which tests a tier runs."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

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


@pytest.mark.parametrize("lab", [False, True])
@pytest.mark.parametrize("markers", [set(), {"deployed"}, {"long"}, {"deployed", "long"}, {"full"}])
def test_a_test_runs_in_one_step_only_and_what_shares_the_machine_runs_alone(lab, markers):
    has = {name: name in markers for name in MARKERS}
    steps = selftest._pytest_steps(selftest._chosen(lab, lab, deployed=True), lab=lab, deployed=True)
    steps.pop("lab", None)  # another folder
    found = [arguments for arguments in steps.values() if eval(arguments[arguments.index("-m") + 1], {}, has)]  # noqa: S307
    assert len(found) == (lab or not markers & {"long", "full"})
    assert all(("-n" in arguments) == (not markers) for arguments in found)


def test_lint_names_what_failed_and_shows_why(monkeypatch):
    monkeypatch.setattr(selftest, "_shell_scripts", list)
    monkeypatch.setattr(selftest, "_timed", lambda command: (command[0] == "mypy", f"words of {command[0]}", 0.0))
    console = Console(file=io.StringIO())
    assert selftest._lint(console) == ["mypy"]
    assert "words of mypy" in console.file.getvalue()
    assert "words of ruff" not in console.file.getvalue()
