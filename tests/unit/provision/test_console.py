"""Progress for people without a terminal: a line for each stage, and one for each step that took long."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from provision import console, reports
from provision.cli import output

CHECKS = [
    reports.Check(name=name, result=result, seconds=seconds, reference=reference, message=message)
    for name, result, seconds, reference, message in (
        ("service runs: testbed-clearml-lite on local", "passed", 0.2, "", ""),
        ("users can log in: researcher", "failed", 1.0, "", "No key. Run testbed up."),
        ("chain", "passed", 61.0, "http://127.0.0.1:8080/projects/0123456789abcdef0123456789abcdef", ""),
    )
]


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

    monkeypatch.setattr(console.time, "monotonic", lambda: Clock.now)
    return Clock


def test_a_slow_step_has_a_line_and_a_quick_one_has_none(clock):
    shown = io.StringIO()
    with console.stage(Console(file=shown, width=120), "Bring it up") as current:
        current.step("quick")
        clock.now = 1
        for second in range(2, 42):
            current.step("slow")  # told every second, as a watch does
            clock.now = second
        current.result = "ok=2"
    lines = [" ".join(line.split()) for line in shown.getvalue().splitlines()]
    assert lines == ["slow 40 s", "✓ Bring it up 41 s ok=2"]


def test_a_stage_that_fails_says_so(clock):
    shown = io.StringIO()
    with pytest.raises(ValueError, match="no"), console.stage(Console(file=shown, width=120), "Bring it up"):
        raise ValueError("no")
    assert shown.getvalue().startswith("✗ Bring it up")


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.3, "12 s"), (99.2, "99 s"), (185, "3 min 05 s")]
)
def test_durations_are_written_as_people_do(seconds, said):
    assert console.duration(seconds) == said


@pytest.mark.parametrize("columns", [20, 40, 79, 80, 200])
class TestWidth:
    def shown(self, columns, show):
        people = console.PeopleConsole(file=io.StringIO(), width=columns, highlight=False)
        show(people)
        return people.file.getvalue()

    def test_a_checks_name_and_result_can_be_read(self, columns):
        shown = self.shown(columns, lambda people: output.show_checks(people, CHECKS, "/log"))
        assert all(len(line) <= columns for line in shown.splitlines() if "Log:" not in line)
        words = " ".join(shown.split())
        joined = "".join(shown.split())
        for check in CHECKS:
            assert check.name.partition(":")[0] in words
            assert check.name.replace(" ", "") in joined, "no part of a name is lost"
            assert check.reference in joined, "no part of a URL is lost"
        assert words.count("✓ passed") == 2
        assert words.count("✗ failed") == 1
        assert "2 of 3 checks passed" in words

    def test_a_stage_is_a_line_that_says_all(self, columns):
        def show(people):
            with console.stage(people, "Bring up agents and clients") as current:
                current.result = "ok=45 changed=0"

        words = self.shown(columns, show).split()
        assert words[0] == "✓"
        assert words[-2:] == ["ok=45", "changed=0"]


def test_colours_by_force_are_no_terminal():
    assert not console.PeopleConsole(file=io.StringIO(), force_terminal=True).is_live
    shown = io.StringIO()
    with console.stage(console.PeopleConsole(file=shown, force_terminal=True, width=100), "Work") as current:
        current.step("a step")
    assert "\r" not in shown.getvalue()
    assert shown.getvalue().count("Work") == 1
