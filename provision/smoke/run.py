"""Runs the stack checks in this process."""

from __future__ import annotations

import contextlib
from typing import Literal

import pytest

from provision.errors import TestbedError
from provision.paths import ROOT
from provision.reports import Check
from provision.session import Session
from provision.smoke import STAGE
from provision.smoke.plugin import StackPlugin

Level = Literal["quick", "full"]


def run(session: Session, level: Level) -> list[Check]:
    """Run the checks of `level` and return their results. Raises `TestbedError` where there is nothing to check."""
    secrets = session.vault.load()
    if secrets is None or secrets.toolkit is None:
        raise TestbedError(f"testbed {session.testbed.name} is not up: it has no keys", "Bring it up: testbed up")
    left_out = ["full"] if level == "quick" else []
    left_out += [] if session.testbed.server.tls else ["tls"]
    with session.stage(f"{STAGE} ({level})") as current:
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
            session.log.open("a", encoding="utf-8", buffering=1) as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
        ):

            def tell(text: str) -> None:
                if text != current.now:
                    log.write(f"STEP {text}\n")
                current.step(text)

            plugin = StackPlugin(session, secrets, tell)
            code = pytest.main(arguments, plugins=[plugin])
        if code == pytest.ExitCode.INTERRUPTED and not plugin.unreadable:
            passed = sum(check.result == "passed" for check in plugin.checks)
            current.result = f"{passed} of {len(plugin.checks)} checks passed before it was stopped"
            raise KeyboardInterrupt
        failed = sum(check.result == "failed" for check in plugin.checks)
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or not plugin.checks:
            raise TestbedError(f"the checks could not be run (pytest: {code})", f"See {session.log}.")
        current.result = f"{len(plugin.checks)} checks, {failed} failed"
    return plugin.checks
