"""Files and folders are kept as they are wanted, in one step; a check tells what that changes and changes nothing."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.roles.test_modules import load

files = load("common", "testbed_files")
fetch = load("common", "testbed_fetch")
plugin = load("common", "testbed_fetch", "action_plugins")
ME = pwd.getpwuid(os.getuid()).pw_name


def file(path: Path | str, content: str | None = None, **more: Any) -> dict[str, Any]:
    return {"path": str(path), "content": content, "owner": ME, "mode": None, "secret": False, "needs": [], **more}


def keep(*wanted: dict[str, Any], dry: bool = False, unwanted: Any = (), kept: Any = ()) -> list[dict[str, Any]]:
    changes: list[dict[str, Any]] = files.keep({"files": wanted, "unwanted": unwanted, "kept": kept}, dry)
    return changes


def test_what_is_missing_is_made_and_then_nothing_changes(tmp_path: Path) -> None:
    wanted = [file(tmp_path / "a"), file(tmp_path / "a/b", "text\n", mode="0600"), file(tmp_path / "c", "")]
    changes = keep(*wanted)
    assert [(change["kind"], change["action"]) for change in changes] == [
        ("folder", "add"),
        ("file", "add"),
        ("file", "add"),
    ]
    assert (tmp_path / "a/b").read_text() == "text\n"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o644
    before = (tmp_path / "a/b").stat().st_ino
    assert keep(*wanted) == []
    assert (tmp_path / "a/b").stat().st_ino == before, "what is as it is wanted is not written again"


def test_a_check_tells_the_same_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("before\n")
    wanted = [file(tmp_path / "new"), file(tmp_path / "new/file", "x\n"), file(tmp_path / "old", "after\n")]
    told = keep(*wanted, dry=True, unwanted=[f"{tmp_path}/o*"])
    assert not (tmp_path / "new").exists()
    assert (tmp_path / "old").read_text() == "before\n"
    assert told == keep(*wanted, unwanted=[f"{tmp_path}/o*"])
    assert told[-1]["diff"] == {"before": "before\n", "after": "after\n"}
    assert told[-1]["action"] == "change"


@pytest.mark.parametrize("mode", ["0600", "0644"])
def test_another_mode_is_a_change(tmp_path: Path, mode: str) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").chmod(0o640)
    assert len(keep(file(tmp_path / "a", "x", mode=mode))) == 1
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == int(mode, 8)
    (tmp_path / "b").mkdir(mode=0o700)
    [change] = keep(file(tmp_path / "b"))
    assert (change["kind"], change["action"]) == ("folder", "change")


def test_the_text_of_a_secret_is_in_no_change(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old-word")
    [told] = keep(file(tmp_path / "a", "new-word", mode="0600", secret=True, needs=["key x"]))
    assert told["detail"] == "its text is secret"
    assert "-word" not in str(told)
    assert "key x" in told["needs"]


def test_a_link_where_the_file_is_to_be_leads_nowhere(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("text\n")
    (tmp_path / "a").symlink_to(victim)
    [told] = keep(file(tmp_path / "a", "text\n"))
    assert told["action"] == "add"
    assert not (tmp_path / "a").is_symlink()
    keep(file(tmp_path / "a", "other\n"))
    assert victim.read_text() == "text\n"
    (tmp_path / "folder").symlink_to(tmp_path)
    with pytest.raises(files.FilesError, match="Put that right"):
        keep(file(tmp_path / "folder"))


def test_a_pipe_where_the_file_is_to_be_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    keep(file(tmp_path / "a", "x"))
    assert (tmp_path / "a").read_text() == "x"


def test_what_matches_a_pattern_and_is_neither_wanted_nor_kept_goes(tmp_path: Path) -> None:
    for name in ("agent-a.conf", "agent-b.conf", "agent-c.conf", "else"):
        (tmp_path / name).write_text("x")
    where = {"unwanted": [f"{tmp_path}/agent-*.conf"], "kept": [f"{tmp_path}/agent-b.conf"]}
    told = keep(file(tmp_path / "agent-a.conf", "x"), **where)
    assert [(change["name"], change["action"]) for change in told] == [(f"{tmp_path}/agent-c.conf", "remove")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent-a.conf", "agent-b.conf", "else"]


def test_an_account_that_is_only_to_come_is_awaited_in_a_check_alone(tmp_path: Path) -> None:
    wanted = file("~nobody-here/x", "x", owner="nobody-here")
    [told] = keep(wanted, dry=True)
    assert told["name"] == "~nobody-here/x"
    assert told["needs"] == ["account nobody-here"]
    with pytest.raises(files.FilesError, match="no account nobody-here"):
        keep(wanted)


def test_the_error_names_the_file_and_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(files.FilesError, match=f"{tmp_path}/none/a: No such file or directory. Put that right"):
        keep(file(tmp_path / "none/a", "x"))


def test_files_that_are_not_there_are_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"key \xff")
    assert fetch.text_of(str(tmp_path / "a")) == "key \ufffd"
    assert fetch.text_of(str(tmp_path / "b")) is None
    assert fetch.text_of(str(tmp_path / "a/b")) is None
    assert fetch.text_of("~nobody-here/clearml.conf") is None


def test_what_is_no_file_of_the_users_own_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of root's")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    assert [fetch.text_of(str(tmp_path / name)) for name in ("link", "pipe", "folder")] == [None, None, None]
    (tmp_path / "huge").write_bytes(b"x" * (fetch.LARGEST + 1))
    assert len(fetch.text_of(str(tmp_path / "huge"))) == fetch.LARGEST


def test_what_is_fetched_is_private_and_stays_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin.ActionBase, "run", lambda *_: {})
    action = plugin.ActionModule.__new__(plugin.ActionModule)
    action._task = SimpleNamespace(args={"dest": str(tmp_path / "held/host")})
    texts = {"user__ada.conf": "secret", "../../escaped": "x"}
    monkeypatch.setattr(action, "_execute_module", lambda **_: {"changed": False, "texts": dict(texts)}, raising=False)
    for _ in range(2):
        assert action.run() == {"changed": False}, "the texts go no further"
    written = tmp_path / "held/host/user__ada.conf"
    assert written.read_text() == "secret"
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert stat.S_IMODE(written.parent.stat().st_mode) == 0o700
    assert not (tmp_path / "escaped").exists()
