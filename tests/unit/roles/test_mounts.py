"""Folders go with all that is in them; what is mounted stays mounted, and is emptied."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROLES = Path(__file__).parents[3] / "roles"
ROOT_LINE = "1 0 8:1 / / rw - ext4 /dev/sda1 rw"


def load(path: str) -> ModuleType:
    """Return a module of a role, with its helpers where Ansible puts them."""
    file = ROLES / path
    full = f"ansible.module_utils.{file.stem}" if file.parent.name == "module_utils" else file.stem
    spec = importlib.util.spec_from_file_location(full, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    return module


mounts = load("common/module_utils/testbed_mounts.py")
load("common/module_utils/testbed_record.py")
load("common/module_utils/testbed_units.py")
load("common/module_utils/testbed_host.py")
accounts = load("common/library/testbed_accounts.py")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of data with two files, and in it one that is a mount point and has two, too."""
    inner = tmp_path / "a disk/inner"
    for folder in (inner, inner / "lost+found", inner.parent / "lost+found"):
        folder.mkdir(parents=True)
    for folder in (inner, inner.parent):
        (folder / "database").touch()
        (folder / "link").symlink_to("/etc")
    mounted(tmp_path, monkeypatch, inner)
    return inner.parent


def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *points: Path) -> None:
    lines = [ROOT_LINE, *(f"2 1 8:17 / {escaped(point)} rw - ext4 /dev/sdb1 rw" for point in points)]
    (tmp_path / "mountinfo").write_text("".join(f"{line}\n" for line in lines))
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mountinfo")


def escaped(path: Path) -> str:
    return str(path).replace(" ", "\\040")


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def changes(path: Path, check: bool = False) -> list[tuple[str, str, str]]:
    told = mounts.take_away(path, check=check)
    return [(change["action"], change["name"], change.get("detail", "")) for change in told]


def test_a_folder_without_mounts_goes_whole_and_only_once(disk: Path) -> None:
    mounts.MOUNTS.write_text(f"{ROOT_LINE}\n")
    assert changes(disk, check=True) == [("remove", str(disk), "")]
    assert disk.exists()
    assert changes(disk) == [("remove", str(disk), "")]
    assert not disk.exists()
    assert changes(disk) == []


def test_of_one_with_a_mount_point_the_contents_go_and_that_is_told(disk: Path) -> None:
    told = [("change", str(disk), f"emptied, {disk}/inner is mounted")]
    before = names(disk)
    assert changes(disk, check=True) == told
    assert names(disk) == before
    assert changes(disk) == told
    assert names(disk) == ["inner", "inner/lost+found"], "the disk's own folder is no data"
    assert Path("/etc/passwd").exists()
    assert changes(disk) == [], "the second time there is nothing to do"


def test_what_users_have_mounted_in_their_homes_keeps_what_is_in_it(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, share = disk, disk / "inner"
    in_share = names(share)
    monkeypatch.setattr(
        accounts, "load", lambda: {"accounts": {"no-such-user": {"home": str(home), "home_made": True}}}
    )
    monkeypatch.setattr(accounts, "save", lambda _: None)
    for dry in (True, False):
        told = accounts.absent(SimpleNamespace(params={"purge": True}, check_mode=dry))
        detail = f"emptied but for {share}, which is mounted"
        assert told == [{"kind": "folder", "name": str(home), "action": "change", "detail": detail}]
        assert (home / "database").exists() == dry
        assert names(share) == in_share
    assert accounts.absent(SimpleNamespace(params={"purge": True}, check_mode=False)) == []


class Failed(Exception):
    """What a module ends with."""


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("common/library/testbed_gone.py", {"paths": ["/x"]}),
        ("common/library/testbed_accounts.py", {"state": "absent", "purge": True}),
        ("common/library/testbed_claim.py", {"state": "absent", "purge": True, "data_dir": "/x"}),
        ("clearml_server/library/testbed_restored.py", {"path": "made", "purge": True, "proof": ""}),
    ],
    ids=lambda value: Path(value).stem if isinstance(value, str) else "",
)
def test_what_cannot_go_is_told_with_the_remedy(
    path: str, params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any, **__: Any) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), "/x/share")

    def failed(msg: str) -> None:
        raise Failed(msg)

    module = load(path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    record = {
        "directories": [str(tmp_path / "made")],
        "accounts": {"no-such-user": {"home": str(tmp_path / "made"), "home_made": True}},
    }
    monkeypatch.setattr(module, "load", lambda: record, raising=False)
    monkeypatch.setattr(module, "name_process", lambda _: None, raising=False)
    monkeypatch.setattr(module, "take_away", busy)
    made = SimpleNamespace(params=params, check_mode=False, fail_json=failed)
    monkeypatch.setattr(module, "AnsibleModule", lambda **_: made)
    with pytest.raises(Failed, match="^/x/share: Device or resource busy: unmount it, then run down again$"):
        module.main()


def test_a_mount_point_itself_stays(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(tmp_path, monkeypatch, disk, disk / "inner")
    assert changes(disk) == [("change", str(disk), f"emptied, {disk}, {disk}/inner is mounted")]
    assert names(disk) == ["inner", "inner/lost+found", "lost+found"]


def test_a_mounted_file_stays(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(tmp_path, monkeypatch, disk / "inner/database")
    changes(disk)
    assert names(disk) == ["inner", "inner/database"]


def test_what_is_mounted_is_known_by_a_folders_real_name(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(disk)
    assert mounts.mount_points(tmp_path / "link/inner") == {tmp_path / "link/inner"}
    changes(tmp_path / "link/inner")
    assert names(disk / "inner") == ["lost+found"]


def test_a_link_goes_and_what_it_leads_to_stays(disk: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(disk)
    before = names(disk)
    assert changes(tmp_path / "link") == [("remove", str(tmp_path / "link"), "")]
    assert not os.path.lexists(tmp_path / "link")
    assert names(disk) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, in a namespace of its own")
def test_a_disk_that_is_really_mounted_is_emptied_and_a_folder_bound_to_another_too(tmp_path: Path) -> None:
    script = """
import importlib.util, json, pathlib, subprocess, sys
spec = importlib.util.spec_from_file_location("mounts", sys.argv[1])
mounts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mounts)
data = pathlib.Path(sys.argv[2], "data")
for name in ("disk", "bound", "plain"):
    (data / name).mkdir(parents=True)
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", data / "disk"], check=True)
subprocess.run(["mount", "--bind", data / "plain", data / "bound"], check=True)
for name in ("disk", "bound", "plain"):
    (data / name / "database").touch()
told = [mounts.take_away(data, check=False) for _ in range(2)]
print(json.dumps([told, sorted(str(path.relative_to(data)) for path in data.rglob("*"))]))
"""
    command = ["unshare", "--mount", sys.executable, "-P", "-c", script, mounts.__file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: list[Any]
    told, there = json.loads(done.stdout)
    assert [len(each) for each in told] == [1, 0]
    assert there == ["bound", "disk"]
