"""The tasks for a server alone carry the workload's code, as it is here; where nothing can train, it is said."""

from __future__ import annotations

import base64
import io
import re
import sys
import zipfile

import pytest

from provision.paths import ROOT
from provision.secrets import KeyPair
from provision.smoke import training
from provision.smoke.target import Target

URLS = dict.fromkeys(("api", "web", "files"), "http://127.0.0.1:1")


def _target(*queues: str) -> Target:
    return Target("x.conf", URLS, KeyPair(access_key="a", secret_key="b"), theirs=True, queues=queues)


@pytest.fixture
def lacking(monkeypatch):
    """No Python has what training needs."""
    training.python.cache_clear()
    monkeypatch.setattr(training, "MODULES", ("json", "a_module_that_is_not_there"))
    yield
    training.python.cache_clear()


@pytest.mark.parametrize("step", training.STEPS)
def test_a_step_carries_its_code(step):
    text = training.script(step)
    compile(text, f"{step}.py", "exec")
    assert text.endswith(f"from workload import {step}\n\n{step}.main()\n")
    [code] = re.findall(r'b64decode\("([^"]+)"\)', text)
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(code))) as archive:
        carried = {name: archive.read(name).decode() for name in archive.namelist()}
    for name in ("workload/__init__.py", f"workload/{step}.py", "workload/step.py"):
        assert carried[name] == (ROOT / name).read_text(encoding="utf-8")
    assert len(text) < 200_000, "a server keeps it in the task's document"


def test_steps_take_results_of_earlier_ones_only():
    seen = {"dataset"}
    for step, (_, inputs) in training.STEPS.items():
        assert set(inputs.values()) <= seen
        seen.add(step)


@pytest.mark.usefixtures("lacking")
def test_without_queue_and_python_it_is_left_out_and_said():
    assert training.python() is None
    assert "no --queue is named" in training.left_out(_target())
    assert "a_module_that_is_not_there" in training.left_out(_target())
    assert training.left_out(_target("train")) == "", "an agent of the queue has what it needs, or gets it"


@pytest.mark.usefixtures("lacking")
def test_a_python_of_the_path_that_has_it_is_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "MODULES", ("json",))
    monkeypatch.setattr(training.sys, "executable", str(tmp_path / "none"), raising=True)
    monkeypatch.setattr(training, "_lacks", lambda path: "" if path == "/venv/bin/python3" else "tensorflow")
    monkeypatch.setattr(training.shutil, "which", lambda name: f"/venv/bin/{name}")
    assert training.python() == "/venv/bin/python3"


def test_this_python_goes_first(monkeypatch):
    training.python.cache_clear()
    monkeypatch.setattr(training, "MODULES", ("json",))
    assert training.python() == sys.executable
    training.python.cache_clear()
