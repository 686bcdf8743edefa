"""`testbed test`: the project's own tests, as a developer and CI run them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console

from provision import spec
from provision.console import duration
from provision.errors import NoCheckoutError
from provision.paths import EXAMPLE, HOST_MARKER, INSTALLED, ROOT, state_dir

# tests side by side; more would make real servers and agents wait for each other
WORKERS = 2


def _shell_scripts() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.splitlines() if _is_shell(ROOT / name)]


def _is_shell(path: Path) -> bool:
    if not path.is_file() or path.suffix == ".j2":
        return False
    with path.open("rb") as file:
        first = file.readline(80)
    return first.startswith(b"#!") and first.rstrip().endswith((b"sh", b"bash"))


def built_in_is_up() -> bool:
    """Return whether this machine carries the built-in testbed: tests must not touch one of somebody's own."""
    built_in = spec.load(EXAMPLE)
    proven = state_dir(built_in.name) / "proven"
    return HOST_MARKER.exists() and proven.exists() and proven.read_text(encoding="utf-8") == built_in.model_dump_json()


def _chosen(lab: bool, full: bool, deployed: bool) -> str:
    """Return the markers of a tier's tests, as pytest's -m takes them."""
    left_out = ["removes"]
    left_out += [] if full else ["full"]
    left_out += [] if lab or full else ["long"]
    left_out += [] if deployed else ["deployed"]
    return " and ".join(f"not {marker}" for marker in left_out)


def run(pytest_arguments: list[str], *, lab: bool = False, full: bool = False) -> int:
    """Run lint, types and tests, all of them even after a failure; return 0 if all passed.

    `lab` adds what takes long or needs containers, `full` the campaigns without sampling.
    `pytest_arguments` choose tests; then nothing but pytest runs. Raises `NoCheckoutError` outside a checkout.
    """
    if INSTALLED:
        raise NoCheckoutError(
            "the project's own tests are in its checkout, not in the installed package",
            "Run ./testbed test in a checkout; to check a running testbed: testbed smoke",
        )
    console = Console(highlight=False)
    # a shell starts what it puts behind with Ctrl-C ignored, and the tests that press it would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    pytest = [sys.executable, "-P", "-m", "pytest"]
    if pytest_arguments:
        # a -m of the caller's own comes later, so it is the one that counts
        chosen = _chosen(lab=True, full=full, deployed=True)
        return subprocess.run([*pytest, "-m", chosen, *pytest_arguments], cwd=ROOT, check=False).returncode
    deployed = built_in_is_up()
    if not deployed:
        console.print("The built-in testbed is not up here (./testbed up --yes): tests of a deployed one are left out.")
    failed = _lint(console)
    steps = _pytest_steps(_chosen(lab, full, deployed), lab=lab or full, deployed=deployed)
    if full and deployed:  # the last: they take the testbed down
        compare = ["tests/integration/removal"] if "TESTBED_BEFORE" in os.environ else []
        steps["removal"] = ["-m", "removes", "tests/integration/docs", *compare, "tests/lab/campaigns"]
    for name, arguments in steps.items():
        console.rule(name)
        began = time.monotonic()
        if subprocess.run([*pytest, *arguments], cwd=ROOT, check=False).returncode:
            failed.append(name)
        console.print(f"{'✗' if name in failed else '✓'} {name}  {duration(time.monotonic() - began)}")
    console.rule()
    console.print(f"Failed: {', '.join(failed)}" if failed else "All passed.")
    return 1 if failed else 0


def _pytest_steps(chosen: str, *, lab: bool, deployed: bool) -> dict[str, list[str]]:
    """Return pytest's arguments, run by run: first the tests that share nothing, then those that share the machine."""
    folders, share = ["tests/unit", "tests/integration"], "(deployed or long or full)"
    steps = {
        "tests, side by side": ["-n", str(WORKERS), "--dist", "loadfile", "-m", f"{chosen} and not {share}", *folders]
    }
    if deployed or lab:
        steps["tests, one by one"] = ["-m", f"{chosen} and {share}", *folders]
    if lab:
        steps["lab"] = ["-m", chosen, "tests/lab"]
    return steps


def _lint(console: Console) -> list[str]:
    """Run linters and type checks, as many at a time as there are cores; return the names of those that failed."""
    commands = {
        "ansible-lint": ["ansible-lint", "--offline", "playbooks", "roles"],
        "mypy": ["mypy"],
        "ruff": ["ruff", "check", "."],
        "ruff format": ["ruff", "format", "--check", "."],
        "yamllint": ["yamllint", "--strict", "."],
        "shellcheck": ["shellcheck", *_shell_scripts()],
    }
    failed = []
    console.rule("lint and types")
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        running = {threads.submit(_timed, command): name for name, command in commands.items()}
        for done in as_completed(running):
            name, (code, output, seconds) = running[done], done.result()
            if code:
                failed.append(name)
                console.print(output, markup=False, soft_wrap=True)
            console.print(f"{'✗' if code else '✓'} {name}  {duration(seconds)}")
    return failed


def _timed(command: list[str]) -> tuple[int, str, float]:
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    return done.returncode, done.stdout, time.monotonic() - began
