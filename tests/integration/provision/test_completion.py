"""Completion in a real bash, at a terminal: what a person gets who presses Tab."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pexpect
import pytest

from provision.paths import ROOT

PROMPT = "ready> "


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """`shell(TYPED, EXPECTED)` types, presses Tab and awaits the line as it is to stand then."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "my-testbed.yaml").write_text("")
    (folder / "testbed").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m provision "$@"\n')
    (folder / "testbed").chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "TERM": "dumb",
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
    }
    bash = pexpect.spawn(
        shutil.which("bash"),
        ["--norc", "--noprofile", "-i"],
        cwd=folder,
        env=environment,
        encoding="utf-8",
        timeout=60,
        dimensions=(40, 200),
    )
    # another prompt than the one that is there, and no bracketed paste between the keys
    bash.sendline("bind 'set enable-bracketed-paste off'; bind 'set bell-style none'; PS1='rea''dy> '")
    bash.expect_exact(PROMPT)
    bash.sendline("source <(testbed completion bash)")
    bash.expect_exact(PROMPT)

    def press_tab(typed: str, expected: str) -> None:
        bash.send(f"{typed}\t")
        bash.expect_exact(expected)
        bash.sendcontrol("u")  # forget the line
        bash.sendline("")
        bash.expect_exact(PROMPT)

    yield press_tab
    bash.close(force=True)


@pytest.mark.parametrize("name", ["testbed", "./testbed"])
@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("stat", "status "),
        ("smoke --lev", "--level "),
        ("smoke --level qu", "quick "),
        ("up --spec my", "my-testbed.yaml "),
    ],
)
def test_tab_completes(shell, name, typed, completed):
    shell(f"{name} {typed}", f"{name} {typed.rpartition(' ')[0]} {completed}".replace("  ", " "))


@pytest.mark.parametrize(
    ("kind", "registers"), [("zsh", "compdef _testbed_completion testbed"), ("fish", "--command testbed")]
)
def test_other_shells_have_their_script(kind, registers):
    command = [sys.executable, "-P", "-m", "provision", "completion", kind]
    assert registers in subprocess.run(command, capture_output=True, text=True, check=True).stdout
