"""What a check leaves: nothing, also when it was killed and another command follows."""

from __future__ import annotations

import os
import subprocess
import tempfile

import pytest
from rich.console import Console

from provision import session, spec
from provision.errors import StoppedError


def test_the_folders_of_killed_checks_go_and_those_at_work_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    killed, at_work, other = (
        tmp_path / name for name in (f"testbed-check-{ended.pid}-x", f"testbed-check-{os.getpid()}-x", "testbed-x")
    )
    for folder in (killed, at_work, other):
        folder.mkdir()
        (folder / "vault-password").touch()
    session.remove_killed_checks()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([at_work.name, other.name])


def test_a_check_leaves_no_folder_and_makes_no_state(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    testbed = spec.load(spec.EXAMPLE)
    with session.open_check(testbed, "up --check", None, None) as check:
        secrets = check.vault.ensure(testbed)
        assert check.vault.encrypt("x").startswith(b"$ANSIBLE_VAULT")
        assert secrets.influxdb.admin
    assert list(tmp_path.iterdir()) == []


def test_what_puts_something_back_after_a_stop_is_not_told_as_done(tmp_path):
    testbed = spec.load(spec.EXAMPLE)
    found = session.Session(
        testbed, None, Console(quiet=True), tmp_path, tmp_path, tmp_path / "log", to_do=["one", "two"]
    )

    def work():
        try:
            with found.stage("one"):
                raise KeyboardInterrupt
        except BaseException:
            with found.aside(), found.stage("put back"):
                pass
            raise

    with pytest.raises(StoppedError) as error, found.stoppable():
        work()
    assert error.value.message.splitlines()[1:] == ["  stopped in   one", "  not started  two"]
