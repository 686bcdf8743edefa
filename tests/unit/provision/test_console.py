"""Progress for people without a terminal: a line for each stage, and one for each step that took long."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from provision import console


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
