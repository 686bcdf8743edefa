"""What a backup and a restore refuse on the administrator's machine, with the script that runs on the server's host."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from provision import archive, backup, deploy, secrets, spec, volume
from provision.archive import BackupError
from provision.secrets import Vault

MANAGER = """#!/bin/sh
[ "$1" != --configuration ] || shift 2
echo "$1" >>"$(dirname "$0")/said"
"""
HOST = {"ansible_connection": "local", "ansible_become": False}


@pytest.fixture
def said(tmp_path, monkeypatch):
    """A service manager; what it was told so far."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("supervisorctl", "systemctl"):
        (programs / name).write_text(MANAGER)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return lambda: (programs / "said").read_text().split() if (programs / "said").exists() else []


@pytest.fixture
def place(tmp_path, said):
    """A server that answers, and its data."""
    data = tmp_path / "server"
    (data / "files").mkdir(parents=True)
    (data / "files/model.bin").write_bytes(os.urandom(100_000))
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    port = server.stdout.readline().split(" port ")[1].split()[0]
    yield {
        "path": str(data),
        "version": ["echo", "0.1.0", "1"],
        "steady": "files",
        "server": {"service": "testbed-x", "answers": f"http://127.0.0.1:{port}/", "wait_s": 20},
    }
    server.kill()
    server.wait()


@pytest.fixture
def session(tmp_path, monkeypatch, place):
    """A testbed that is up, on this machine."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(secrets, "_user_secret", lambda: {"password": "p", "password_hash": "h"})  # bcrypt takes long
    testbed = spec.load(None)
    vault = Vault(testbed.name)
    key = secrets.KeyPair(access_key="ACCESS", secret_key="secret")
    vault.save(vault.ensure(testbed).model_copy(update={"toolkit": key}))
    monkeypatch.setattr(deploy, "look_at_server", lambda *_: place)
    monkeypatch.setattr(deploy, "prepare_restore", lambda *_, **__: place)
    (tmp_path / "held").mkdir()
    return SimpleNamespace(
        testbed=testbed,
        vault=vault,
        work=tmp_path,
        inventory={"all": {"hosts": {"local": HOST}, "children": {"server": {"hosts": {"local": {}}}}}},
        ssh_options={},
        stage=lambda _: contextlib.nullcontext(SimpleNamespace(step=lambda _: None, result="")),
    )


def test_a_backup_is_made_with_the_server_away_and_its_time_told(session, said, tmp_path):
    made = backup.make(session, session.testbed, tmp_path / "backups", "first")
    assert said() == ["stop", "start"]
    assert archive.read(made.folder) == made.manifest
    assert made.manifest.downtime > 0
    assert (made.manifest.server, made.manifest.data_version, made.manifest.files) == ("0.1.0", 1, 1)
    assert made.manifest.bytes == (made.folder / archive.DATA).stat().st_size


def test_its_manifest_names_the_stores_that_are_elsewhere(session, tmp_path):
    server = "server: {backend: docker, stores: {mongo: {host: m.example}}}"
    session.testbed = spec.parse(f"name: local\nprovider: local\nusers: [{{name: alice}}]\n{server}\n", "t.yaml")
    made = backup.make(session, session.testbed, tmp_path / "backups", "first")
    assert archive.read(made.folder).elsewhere == ("mongo",)
    assert backup.here(session.testbed).elsewhere == ("mongo",)


def test_where_there_is_no_room_for_it_the_server_is_not_stopped(session, said, tmp_path, monkeypatch):
    monkeypatch.setattr(backup.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(BackupError, match=r"1\.0 MB are free, [\d.]+ MB are needed") as error:
        backup.make(session, session.testbed, tmp_path / "backups", "first")
    assert "the server was not stopped" in error.value.remedy
    assert said() == []
    assert list((tmp_path / "backups").iterdir()) == []


def test_one_that_the_disk_gives_back_otherwise_gets_no_name(session, said, tmp_path, monkeypatch):
    received = volume.receive

    def receive(source, path, tell):
        digest = received(source, path, tell)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1  # in the padding, where no file's checksum tells
        path.write_bytes(content)
        return digest

    monkeypatch.setattr(volume, "receive", receive)
    with pytest.raises(BackupError, match="reads back other than it was written"):
        backup.make(session, session.testbed, tmp_path / "backups", "first")
    assert said() == ["stop", "start"]
    assert list((tmp_path / "backups").iterdir()) == []


def test_none_is_made_of_a_testbed_that_is_not_up_or_half_changed(session, said, tmp_path):
    up = session.vault.load()
    session.vault.save(up.model_copy(update={"toolkit": None}))
    with pytest.raises(BackupError, match="is not up: it has no keys"):
        backup.make(session, session.testbed, tmp_path / "backups", "first")
    session.vault.save(up.model_copy(update={"rotating": "all"}))
    with pytest.raises(BackupError, match="was begun and has not ended") as error:
        backup.make(session, session.testbed, tmp_path / "backups", "first")
    assert "testbed up" in error.value.remedy
    assert said() == []


def test_a_restore_tells_the_files_that_are_not_as_in_the_backup(session, place, tmp_path):
    made = backup.make(session, session.testbed, tmp_path / "backups", "first")
    assert backup.compare(session, made.folder, place) == 1
    (tmp_path / "server/files/model.bin").write_text("altered")
    with pytest.raises(BackupError, match="1 files differ from the backup, such as data/files/model.bin") as error:
        backup.compare(session, made.folder, place)
    assert f"kept in {tmp_path}/server.before" in error.value.remedy


class Killed(BaseException):
    """The command is killed."""


def _killed(*_):
    raise Killed


def test_who_is_killed_before_the_secrets_of_a_backup_are_taken_has_the_old_ones(session, tmp_path, monkeypatch):
    made = backup.make(session, session.testbed, tmp_path / "backups", "first")
    opened = backup.open_secrets(made.folder, session.vault, session.testbed, None)
    session.vault.save(later := opened.secrets.model_copy(update={"id": "later"}))
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Vault, "save", _killed)
        with pytest.raises(Killed):
            backup.bring(session, made.folder, made.manifest, opened)
    assert session.vault.load() == later
    _, kept = backup.bring(session, made.folder, made.manifest, opened)
    assert session.vault.load().restoring.id == archive.short_id(made.folder)
    assert session.vault.load().id == opened.secrets.id
    session.vault.path.write_bytes(kept.read_bytes())
    assert session.vault.load() == later


def test_the_data_are_not_said_to_be_there_before_the_secrets_are(session, tmp_path, monkeypatch):
    made = backup.make(session, session.testbed, tmp_path / "backups", "first")
    opened = backup.open_secrets(made.folder, session.vault, session.testbed, None)
    taken = []

    @contextlib.contextmanager
    def stage(title):
        yield SimpleNamespace(step=lambda _: None, result="")
        taken.append((title, session.vault.load().restoring is not None))

    session.stage = stage
    backup.bring(session, made.folder, made.manifest, opened)
    assert taken == [("Bring the data to the server", True)]
