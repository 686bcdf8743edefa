"""What a check leaves: nothing, also when it was killed and another command follows."""

from __future__ import annotations

import os
import subprocess
import tempfile

from provision import session, spec


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
