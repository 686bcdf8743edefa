"""Runs the stack checks in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from provision.console import Stage
from provision.errors import InputError, TestbedError
from provision.paths import ROOT
from provision.reports import Check
from provision.session import Session
from provision.smoke import STAGE, target, training
from provision.smoke.plugin import Options, StackPlugin
from provision.smoke.target import Target

Level = Literal["quick", "full"]
SHOWN_NAMES = 60


@dataclass
class Outcome:
    """What the checks found, in all runs; `figures`: what the last run's saw that a report draws."""

    checks: list[Check] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether no check failed."""
        return all(check.result != "failed" for check in self.checks)


def run(session: Session, level: Level, options: Options | None = None, repeat: int = 1) -> Outcome:
    """Run the checks of `level` on a testbed, `repeat` times, and return their results.

    Raises `TestbedError` where there is nothing to check.
    """
    secrets = session.vault.load()
    if secrets is None or secrets.toolkit is None:
        raise TestbedError(f"testbed {session.testbed.name} is not up: it has no keys", "Bring it up: testbed up")
    server = target.of_testbed(session, secrets.toolkit)
    left_out = ["conf", *(["full"] if level == "quick" else []), *([] if session.testbed.server.tls else ["tls"])]

    def make(tell: Callable[[str], None], number: int) -> StackPlugin:
        return StackPlugin(server, tell, session, secrets, options or Options(), number)

    outcome = Outcome()
    for number in range(1, repeat + 1):
        title = f"{STAGE} ({level})" + (f" {number} of {repeat}" if repeat > 1 else "")
        with session.stage(title) as current:
            _once(outcome, current, session.log, left_out, make, number)
    return outcome


def run_conf(
    server: Target,
    level: Level,
    options: Options,
    repeat: int,
    log: Path,
    stage: Callable[[str], contextlib.AbstractContextManager[Stage]],
) -> Outcome:
    """Run the checks of `level` that need no testbed on any server, `repeat` times, and return their results.

    Raises `TestbedError` where they cannot be run.
    """
    left_out = ["hosts", *(["full"] if level == "quick" else [])]
    left_out += ["training"] if level == "full" and training.left_out(server) else []
    left_out += [] if server.url("api").startswith("https:") else ["tls"]
    outcome = Outcome()
    for number in range(1, repeat + 1):
        title = f"Check {server.url('api')} ({level})" + (f" {number} of {repeat}" if repeat > 1 else "")
        with stage(title) as current:
            _once(
                outcome,
                current,
                log,
                left_out,
                lambda tell, number: StackPlugin(server, tell, options=options, run=number),
                number,
            )
    return outcome


def _once(
    outcome: Outcome,
    current: Stage,
    log_file: Path,
    left_out: list[str],
    make: Callable[[Callable[[str], None], int], StackPlugin],
    number: int,
) -> None:
    """Run the checks once, and add what they found to `outcome`. Raises `TestbedError`."""
    arguments = [
        str(ROOT / "tests" / "stack"),
        f"--rootdir={ROOT / 'tests' / 'stack'}",
        f"--config-file={ROOT / 'tests' / 'stack' / 'pytest.ini'}",
        "--import-mode=importlib",
        "-p", "no:cacheprovider",
        "--color=no", "--capture=sys",
        "-m", " and ".join(f"not {marker}" for marker in left_out),
    ]  # fmt: skip
    with (
        log_file.open("a", encoding="utf-8", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):

        def tell(text: str) -> None:
            if text != current.now:
                log.write(f"STEP {text}\n")
            current.step(text)

        plugin = make(tell, number)
        code = pytest.main(arguments, plugins=[plugin])
    if code == pytest.ExitCode.INTERRUPTED and not plugin.unreadable:
        passed = sum(check.result == "passed" for check in plugin.checks)
        current.result = f"{passed} of {len(plugin.checks)} checks passed before it was stopped"
        raise KeyboardInterrupt
    failed = sum(check.result == "failed" for check in plugin.checks)
    if code == pytest.ExitCode.NO_TESTS_COLLECTED and plugin.options.only and plugin.names:
        names = "; ".join(plugin.names[:SHOWN_NAMES])
        raise InputError(f"--only {plugin.options.only}: no check has that in its name", f"There are: {names}.")
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or not plugin.checks:
        raise TestbedError(f"the checks could not be run (pytest: {code})", f"See {log_file}.")
    current.result = f"{len(plugin.checks)} checks, {failed} failed"
    outcome.checks += plugin.checks
    outcome.figures = plugin.figures
    outcome.kept += [plugin.kept] if plugin.kept else []
