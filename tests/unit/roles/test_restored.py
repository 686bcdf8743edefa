"""The data of a backup take the place of the server's; whatever is killed, neither the old nor the new are lost."""

from __future__ import annotations

import importlib.util
import os
import pwd
import sys
from pathlib import Path

import jinja2
import pytest
import yaml

ROLES = Path(__file__).parents[3] / "roles"
ME = pwd.getpwuid(os.geteuid()).pw_name


def _module(path):
    file = ROLES / path
    full = f"ansible.module_utils.{file.stem}" if file.parent.name == "module_utils" else file.stem
    spec = importlib.util.spec_from_file_location(full, file)
    module = sys.modules[full] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mounts = _module("common/module_utils/testbed_mounts.py")
restored = _module("clearml_server/library/testbed_restored.py")


class Killed(BaseException):
    """The module is killed."""


@pytest.fixture
def path(tmp_path):
    """Data of a server that is there."""
    _make(tmp_path / "server", "old")
    return tmp_path / "server"


def _make(folder, text):
    folder.mkdir()
    (folder / "database").write_text(text)
    return folder


def _beside(path, identifier="abc", text="new"):
    return _make(path.with_name(f"{path.name}.restored-{identifier}"), text)


def _settle(path, identifier, owner=ME, check=False):
    return restored.settle(path, identifier, owner, check=check)


def _there(path):
    return {each.name: (each / "database").read_text() for each in path.parent.iterdir()}


def test_data_beside_come_in_and_the_old_ones_are_kept(path):
    _beside(path)
    assert [change["action"] for change in _settle(path, "abc")] == ["replace"]
    assert _there(path) == {"server": "new", "server.before": "old"}
    assert _settle(path, "abc") == []


def test_when_they_are_proven_the_old_ones_go(path):
    _beside(path)
    _settle(path, "abc")
    assert [change["action"] for change in _settle(path, "")] == ["remove", "remove"]
    assert _there(path) == {"server": "new"}
    assert not (path / restored.MARK).exists()
    assert _settle(path, "") == []


def test_on_a_new_host_there_is_nothing_to_keep(path):
    _beside(path)
    (path / "database").unlink()
    path.rmdir()
    _settle(path, "abc")
    assert _there(path) == {"server": "new"}


def test_check_mode_tells_and_changes_nothing(path):
    _beside(path)
    _beside(path, "killed")
    told = _settle(path, "abc", check=True)
    assert [(change["action"], Path(change["name"]).name) for change in told] == [
        ("remove", "server.restored-killed"),
        ("replace", "server"),
    ]
    assert _there(path) == {"server": "old", "server.restored-abc": "new", "server.restored-killed": "new"}


@pytest.mark.parametrize("step", [1, 2])
def test_a_kill_at_any_rename_is_made_good(path, monkeypatch, step):
    _beside(path)
    whole, count = Path.rename, 0

    def rename(self, target):
        nonlocal count
        count += 1
        if count == step:
            raise Killed
        return whole(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(Killed):
        _settle(path, "abc")
    monkeypatch.undo()
    texts = {(each / "database").read_text() for each in path.parent.iterdir()}
    assert texts == {"old", "new"}, "neither is lost"
    _settle(path, "abc")
    assert _there(path) == {"server": "new", "server.before": "old"}


def test_another_backup_over_an_unproven_one_keeps_the_data_from_before_both(path):
    _beside(path, "abc", "unproven")
    _settle(path, "abc")
    _beside(path, "def", "second")
    _settle(path, "def")
    assert _there(path) == {"server": "second", "server.before": "old"}


def test_what_a_restore_that_never_began_left_goes_with_the_next_up(path):
    _beside(path)
    _make(path.with_name("server.restoring-abc"), "half")
    _settle(path, "")
    assert _there(path) == {"server": "old"}


def test_data_that_are_neither_here_nor_beside_are_missed(path):
    with pytest.raises(restored.MissingError, match="Run `testbed restore` with that backup again"):
        _settle(path, "abc")
    assert _there(path) == {"server": "old"}


def test_with_purge_the_data_go_and_what_restores_left(path):
    for what in ("before", "restored-abc", "restoring-abc"):
        _make(path.with_name(f"server.{what}"), what)
    told = restored.clear(path, "", check=True)
    assert len(told) == len(_there(path)) == 4
    assert restored.clear(path, "", check=False) == told
    assert list(path.parent.iterdir()) == []
    assert restored.clear(path, "", check=False) == []


def test_with_purge_folders_that_are_not_proven_to_be_ours_stay(path):
    for what in ("before", "restored-abc", "restoring-abc"):
        _make(path.with_name(f"server.{what}"), what)
    (path.with_name("server.restored-abc") / "server-version").touch()
    _make(path.with_name("server.restoring-abc") / "data", "new")
    (path.with_name("server.restoring-abc") / "data/server-version").touch()
    restored.clear(path, "server-version", check=False)
    assert _there(path) == {"server": "old", "server.before": "before"}
    (path / "server-version").touch()
    restored.clear(path, "server-version", check=False)
    assert _there(path) == {"server.before": "before"}


def test_with_purge_the_disk_that_the_data_are_on_stays_where_it_is_mounted(path, monkeypatch):
    (path.parent / "mountinfo").write_text(f"1 0 8:1 / / rw - ext4 x rw\n2 1 8:17 / {path} rw - ext4 x rw\n")
    monkeypatch.setattr(mounts, "MOUNTS", path.parent / "mountinfo")
    [told] = restored.clear(path, "", check=False)
    assert (told["action"], told["detail"]) == ("change", f"emptied, {path} is mounted")
    assert list(path.iterdir()) == []


@pytest.mark.parametrize(
    ("data_dir", "item", "proof"),
    [
        ("/data/clearml", "/data/clearml", ""),
        ("/data/clearml-lite", "/data/clearml", "server-version"),
        ("/data/clearml-lite", "/data/clearml-lite", ""),
        ("/elsewhere", "/data/clearml", "server-version"),
        ("/elsewhere", "/elsewhere", ""),
    ],
)
def test_data_of_the_official_server_need_a_proof_where_another_one_ran(data_dir, item, proof):
    tasks = yaml.safe_load((ROLES / "clearml_server/tasks/remove.yml").read_text())
    [asked] = [task["testbed_restored"] for task in tasks if "testbed_restored" in task]
    known = {"common_data_dir": "/data", "clearml_server_data_dir": data_dir, "item": item}
    known["clearml_server_version_file"] = f"{data_dir}/server-version"
    environment = jinja2.Environment(autoescape=False)  # noqa: S701 (no HTML)
    environment.filters["basename"] = os.path.basename
    assert environment.from_string(asked["proof"]).render(known) == proof


def test_all_of_them_are_given_to_the_account_of_the_server(path, monkeypatch):
    given = {}
    monkeypatch.setattr(os, "chown", lambda each, uid, gid, follow_symlinks: given.update({str(each): (uid, gid)}))
    beside = _beside(path)
    (beside / "link").symlink_to("/etc/passwd")
    _settle(path, "abc")
    account = pwd.getpwnam(ME)
    assert {Path(each).name: owner for each, owner in given.items()} == dict.fromkeys(
        ["server.restored-abc", "database", "link"], (account.pw_uid, account.pw_gid)
    )
    given.clear()
    _beside(path)
    _settle(path, "abc", owner="")
    assert given == {}
