"""What a backup, a restore and an upgrade say, above all of stores elsewhere, which no backup of the toolkit's has."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from provision import archive, backup, session, spec, upgrade, upgrade_begun
from provision.archive import Manifest
from provision.cli import main, operations
from provision.errors import Exit
from provision.reports import UpReport

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


@pytest.fixture
def done(asked, tmp_path, monkeypatch):
    """Run a command to its end, with a testbed that does what it is told; what it said."""

    @contextlib.contextmanager
    def opened(*_, **__):
        yield SimpleNamespace(vault=SimpleNamespace(password_source="file"), log=tmp_path / "log")  # noqa: S106

    up = UpReport.model_construct(healthy=True, checks=[], log="log")
    monkeypatch.setattr(session, "open_session", opened)
    monkeypatch.setattr(session, "need_root", lambda _: None)
    monkeypatch.setattr(backup, "make", lambda *_: backup.Made(tmp_path, MANIFEST))
    monkeypatch.setattr(backup, "open_secrets", lambda *_: None)
    monkeypatch.setattr(operations, "put_back", lambda *_: operations.PutBack(up, 1, None, None))
    monkeypatch.setattr(upgrade, "run", lambda *_: (up, tmp_path))

    def run(*words):
        code, said = asked(*words, "--yes")
        assert code == 0, said
        return said

    return run


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["backup"], f"Nor what is in {WORDS}."),
        (["restore", "lab"], f"Not restored, for it was not in the backup: {WORDS}."),
    ],
)
def test_the_end_of_a_command_says_so_too(done, words, told):
    assert told in done(*words)


@pytest.mark.parametrize(
    "words", [["backup"], ["restore", "lab"], ["upgrade", "--server", "2.4.0", "--stores-backed-up"]]
)
def test_a_script_is_told_of_them(done, words):
    said = done(*words, "--json")
    assert json.loads(said[said.index("{ ") :])["elsewhere"] == ["mongo", "elasticsearch"]


def test_who_goes_on_with_an_upgrade_is_told_what_going_back_loses(asked):
    begun = "it was begun before: where 2.4.0 has the data already, no other backup is made"
    assert begun not in asked("upgrade", "--server", "2.4.0", stores="")[1]
    upgrade_begun.write("lab", upgrade_begun.Begun("2.3.0", "2.4.0", "/b", 1_800_000_000.0))
    said = asked("upgrade", "--server", "2.4.0", stores="")[1]
    assert f"{begun}, and to go back loses what came after 2027-01-15 08:00 UTC" in said


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
