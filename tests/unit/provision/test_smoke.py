"""How the stack checks are run."""

from __future__ import annotations

import io
import types

import pytest
from rich.console import Console

from provision import console
from provision.errors import TestbedError
from provision.smoke import run as smoke


@pytest.fixture
def session(tmp_path):
    def stage(title):
        return console.stage(Console(file=io.StringIO()), title)

    server = types.SimpleNamespace(tls=None)
    testbed = types.SimpleNamespace(server=server)
    vault = types.SimpleNamespace(load=lambda: types.SimpleNamespace(toolkit="a key"))
    return types.SimpleNamespace(testbed=testbed, vault=vault, stage=stage, log=tmp_path / "log")


def test_checks_that_cannot_be_read_are_no_ctrl_c(session, tmp_path, monkeypatch):
    (tmp_path / "tests/stack").mkdir(parents=True)
    (tmp_path / "tests/stack/pytest.ini").write_text("[pytest]\nmarkers = full\n  tls\n")
    (tmp_path / "tests/stack/test_broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.setattr(smoke, "ROOT", tmp_path)
    with pytest.raises(TestbedError, match="the checks could not be run"):
        smoke.run(session, "quick")
    assert "a_module_that_is_not_there" in session.log.read_text()
