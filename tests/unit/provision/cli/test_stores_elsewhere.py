"""What is in existing clusters is in no backup: every command that could be taken to have it says so before it asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from provision import archive, backup, session, spec
from provision.archive import Manifest
from provision.cli import main
from provision.errors import Exit

SERVER = """\
name: lab
provider: local
users: [{name: alice}]
server:
  backend: docker
  version: 2.3.0
"""
STORES = "  stores: {mongo: {host: m.example}, elasticsearch: {host: e.example}}\n"
WORDS = "MongoDB (tasks, models, users) and Elasticsearch (scalars, logs, plots)"
MANIFEST = Manifest(
    format=archive.FORMAT,
    testbed="lab",
    id="1",
    made="2026-11-22T14:00:00Z",
    toolkit="0.1.0",
    backend="docker",
    server="2.3.0",
    data_version=None,
    bytes=3,
    files=1,
    downtime=1.0,
    elsewhere=("mongo", "elasticsearch"),
)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Run a command as far as to its question; its exit code, and what it said by then in one line."""
    monkeypatch.setattr(session, "open_session", None)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(backup, "find", lambda *_: tmp_path)
    monkeypatch.setattr(archive, "read", lambda *_: MANIFEST)

    def run(*words, stores=STORES):
        (tmp_path / "t.yaml").write_text(SERVER + stores)
        done = CliRunner().invoke(main, [*words, "--spec", str(tmp_path / "t.yaml")])
        return done.exit_code, " ".join(done.output.split())

    return run


def test_a_backup_says_that_they_are_not_in_it(asked):
    assert f"Not in it: what is in {WORDS}, which server.stores has elsewhere" in asked("backup")[1]
    assert "Not in it" not in asked("backup", stores="")[1]


def test_a_restore_says_that_they_stay_as_they_are(asked):
    code, said = asked("restore", "lab")
    assert code == Exit.DECLINED
    assert f"leaves {WORDS} as it is; put there what it held at 2026-11-22T14:00:00Z, before this" in said


def test_a_backup_without_them_is_not_restored_to_a_server_that_has_them_itself(asked):
    code, said = asked("restore", "lab", stores="")
    assert code == 1
    assert f"the backup is of a server with {WORDS} elsewhere, and testbed.yaml names no store" in said
    assert "Restoring it" not in said


def test_an_upgrade_wants_to_be_told_that_they_were_backed_up_and_says_what_stays(asked):
    code, said = asked("upgrade", "--server", "2.4.0")
    assert code == 1
    assert "add --stores-backed-up" in said
    assert "Upgrade of testbed" not in said
    said = asked("upgrade", "--server", "2.4.0", "--stores-backed-up")[1]
    assert f"what it changed in {WORDS} stays, and is yours to restore" in said


def test_the_runbook_shows_what_an_upgrade_says_before_it_asks(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "/home/ada/.local/share")
    said = asked("upgrade", "--server", "2.4.0", stores="")[1].partition(" testbed: there is no terminal")[0]
    runbook = (Path(spec.__file__).parents[1] / "docs/operations.md").read_text()
    assert said.startswith("Upgrade of testbed lab from server 2.3.0 to 2.4.0: - ")
    assert said in " ".join(runbook.split())


def test_the_manifest_names_them_and_one_of_before_that_has_none_is_read():
    told = json.loads(MANIFEST.model_dump_json())
    assert told["elsewhere"] == ["mongo", "elasticsearch"]
    del told["elsewhere"]
    assert Manifest.model_validate(told).elsewhere == ()
