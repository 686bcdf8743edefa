"""What the roles' modules decide, on real files, ports and processes."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROLES = Path(__file__).parents[3] / "roles"
MODULES = sorted([*ROLES.glob("*/library/*.py"), *ROLES.glob("*/module_utils/*.py")])


def load(role: str, name: str, folder: str = "library") -> ModuleType:
    """Return a module of a role, with its helpers where Ansible puts them."""
    full = f"ansible.module_utils.{name}" if folder == "module_utils" else name
    spec = importlib.util.spec_from_file_location(full, ROLES / role / folder / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    return module


record = load("common", "testbed_record", "module_utils")
mounts = load("common", "testbed_mounts", "module_utils")
units = load("common", "testbed_units", "module_utils")
host = load("common", "testbed_host", "module_utils")
apt = load("common", "testbed_apt", "module_utils")
block = load("common", "testbed_block", "module_utils")
accounts = load("common", "testbed_accounts")
check = load("common", "testbed_check")
claim = load("common", "testbed_claim")
let_in = load("common", "testbed_let_in")
names = load("common", "testbed_names")
packages = load("common", "testbed_packages")
sources = load("common", "testbed_sources")
clock = load("common", "testbed_time")
updates = load("common", "testbed_updates")
service = load("managed_service", "testbed_service")
venv = load("python_venv", "testbed_venv")


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.stem)
def test_modules_are_python_3_8(file: Path) -> None:
    ast.parse(file.read_text(), feature_version=(3, 8))


class TestPorts:
    @pytest.fixture
    def held(self) -> Iterator[tuple[int, int]]:
        """A port that another process holds, and that process."""
        code = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)"
        code += "; sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TESTBED_SERVICE": "testbed-x"},
        ) as process:
            assert process.stdout
            yield int(process.stdout.readline()), process.pid
            process.communicate()

    def test_a_free_port_is_no_problem(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        assert check.port_problem(port, "127.0.0.1", "testbed-x", None) is None

    @pytest.mark.parametrize("bind", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
    def test_the_message_names_the_holder_and_the_setting(self, held: tuple[int, int], bind: str) -> None:
        problem = check.port_problem(held[0], bind, "testbed-y", "server.ports.api")
        assert f"port {held[0]} on {bind}, wanted for testbed-y" in problem
        assert f"(pid {held[1]})" in problem
        assert "server.ports.api" in problem

    def test_our_own_service_may_hold_it(self, held: tuple[int, int]) -> None:
        assert check.port_problem(held[0], "127.0.0.1", "testbed-x", None) is None

    def test_another_service_of_ours_may_hold_it_where_it_gives_it_up(self, held: tuple[int, int]) -> None:
        assert check.port_problem(held[0], "127.0.0.1", "testbed-y", None, ("testbed-x",)) is None
        assert check.port_problem(held[0], "127.0.0.1", "testbed-y", None, ("testbed-z",)) is not None

    def test_a_process_below_our_service_may_hold_it_though_it_lost_its_environment(self) -> None:
        code = (
            "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
        )
        with subprocess.Popen(
            ["sh", "-c", 'env -i "$0" -c "$1"; true', sys.executable, code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TESTBED_SERVICE": "testbed-x"},
        ) as process:
            assert process.stdout
            port = int(process.stdout.readline())
            assert check.port_problem(port, "127.0.0.1", "testbed-x", None) is None
            assert check.port_problem(port, "127.0.0.1", "testbed-y", None) is not None
            process.communicate("\n")

    def test_an_address_that_is_not_this_machines_is_named(self) -> None:
        assert "address of this machine" in check.port_problem(8008, "192.0.2.1", "testbed-x", None)


class TestRecord:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (record, check, claim):
            monkeypatch.setattr(module, "RECORD", tmp_path / "record/installed.json")
            monkeypatch.setattr(module, "MARKER", tmp_path / "testbed.json")

    def test_it_is_readable_by_root_only_and_comes_back_whole(self) -> None:
        record.save({**record.load(), "packages": ["a"]})
        assert record.load()["packages"] == ["a"]
        assert record.RECORD.stat().st_mode & 0o777 == 0o600
        assert [path.name for path in record.RECORD.parent.iterdir()] == ["installed.json"]

    def test_another_testbeds_machine_is_refused(self) -> None:
        record.MARKER.write_text(json.dumps({"name": "theirs"}))
        assert "carries the testbed 'theirs'" in check.owner_problem("ours")
        assert check.owner_problem("theirs") is None

    def test_another_testbeds_kept_data_is_refused(self) -> None:
        record.save({**record.load(), "testbed": "theirs"})
        assert "testbed down --purge" in check.owner_problem("ours")

    def test_a_data_folder_that_was_there_keeps_its_mode(self, tmp_path: Path) -> None:
        data, settings = tmp_path / "data", tmp_path / "settings"
        data.mkdir(mode=0o700)
        params = {"name": "ours", "id": "1", "data_dir": str(data), "directories": {str(settings): "0750"}}
        claim.claim(SimpleNamespace(params=params, check_mode=False, exit_json=lambda **_: None))
        assert data.stat().st_mode & 0o777 == 0o700
        assert settings.stat().st_mode & 0o777 == 0o750
        assert record.load()["directories"] == [str(settings)]

    def claimed(self, data: Path, *directories: Path) -> None:
        given = {str(path): "0755" for path in directories}
        params = {"name": "ours", "id": "1", "data_dir": str(data), "directories": given}
        claim.claim(SimpleNamespace(params=params, check_mode=False, exit_json=lambda **_: None))

    def released(self, data: Path, purge: bool) -> bool:
        """Give the machine back; tell whether something is kept."""
        told: dict[str, Any] = {}
        params = {"name": "ours", "data_dir": str(data), "purge": purge}
        claim.release(SimpleNamespace(params=params, check_mode=False, exit_json=told.update))
        return bool(told["kept"])

    @pytest.mark.parametrize("purge", [False, True])
    def test_after_a_change_of_the_data_folder_the_old_data_are_data_still(self, tmp_path: Path, purge: bool) -> None:
        old, new, settings = tmp_path / "disk/old/data", tmp_path / "new", tmp_path / "settings"
        self.claimed(old, settings)
        (old / "database").touch()
        (tmp_path / "disk/theirs").touch()
        self.claimed(new, settings)
        assert record.load()["data_dirs"] == sorted([str(new), str(old)])
        assert self.released(new, purge) == (not purge)
        assert (old / "database").exists() == (not purge)
        assert old.parent.exists() == (not purge), "what was made on the way goes when it is empty"
        assert (tmp_path / "disk/theirs").exists(), "somebody else's"
        assert not new.exists()
        assert not settings.exists()
        assert record.RECORD.exists() == (not purge)

    def test_a_data_folder_that_was_there_is_written_down_too(self, tmp_path: Path) -> None:
        self.claimed(tmp_path / "old")
        (tmp_path / "old/database").touch()
        (tmp_path / "new").mkdir()
        self.claimed(tmp_path / "new")
        assert record.load()["data_dirs"] == sorted([str(tmp_path / "new"), str(tmp_path / "old")])

    @pytest.mark.parametrize("purge", [False, True])
    def test_data_within_the_data_folder_from_before_stay(self, tmp_path: Path, purge: bool) -> None:
        self.claimed(tmp_path / "old")
        self.claimed(tmp_path / "old/new")
        (tmp_path / "old/new/file").touch()
        assert self.released(tmp_path / "old/new", purge)
        assert (tmp_path / "old/new/file").exists()

    @pytest.mark.parametrize("theirs", [False, True])
    def test_a_data_folder_that_is_a_mount_point_by_now_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theirs: bool
    ) -> None:
        data, cache = tmp_path / "disk/data", tmp_path / "cache"
        self.claimed(data, cache)
        (data / "lost+found").mkdir()
        (cache / "inner").mkdir()
        (cache / "file").touch()
        if theirs:
            (data / "file").touch()
        lines = ["1 0 8:1 / /", *(f"2 1 8:17 / {path}" for path in (data, cache / "inner"))]
        (tmp_path / "mountinfo").write_text("".join(f"{line} rw - ext4 x rw\n" for line in lines))
        monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mountinfo")
        told: dict[str, Any] = {}
        params = {"name": "ours", "data_dir": str(data), "purge": True}
        claim.release(SimpleNamespace(params=params, check_mode=False, exit_json=told.update))
        details = {
            change["name"]: change["detail"] for change in told["testbed_changes"] if change["action"] != "remove"
        }
        assert details == {str(data): "it is mounted", str(cache): f"emptied, {cache}/inner is mounted"}
        assert sorted(path.name for path in data.iterdir()) == ["file", "lost+found"][not theirs :]
        assert [path.name for path in cache.iterdir()] == ["inner"]
        assert not record.RECORD.exists()
        claim.release(SimpleNamespace(params=params, check_mode=False, exit_json=told.update))
        assert not told["changed"]

    def test_a_link_in_the_place_of_a_data_folder_stays(self, tmp_path: Path) -> None:
        data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
        self.claimed(data)
        data.rename(elsewhere)
        data.symlink_to(elsewhere)
        self.released(data, purge=True)
        assert data.is_dir()

    @pytest.mark.parametrize("kept", [False, True])
    def test_secrets_of_another_id_are_refused_with_the_two_ways_out(self, kept: bool) -> None:
        if kept:  # after `down`, data without a marker
            record.save({**record.load(), "testbed": "ours", "id": "1"})
        else:
            record.MARKER.write_text(json.dumps({"name": "ours", "id": "1"}))
        for wanted in ("2", ""):
            problem = check.secrets_problem("ours", wanted, False)
            assert "secrets import FILE" in problem
            assert "secrets rekey" in problem
        assert check.secrets_problem("ours", "1", False) is None
        assert check.secrets_problem("ours", "2", True) is None, "a re-key takes the testbed over"
        assert check.secrets_problem("theirs", "2", False) is None, "that is said by owner_problem"

    def test_a_testbed_from_before_there_were_ids_is_adopted_but_not_by_new_secrets(self) -> None:
        record.MARKER.write_text(json.dumps({"name": "ours"}))
        assert check.secrets_problem("ours", "1", False) is None
        assert "are not there" in check.secrets_problem("ours", "", False)

    def test_a_free_machine_takes_any_secrets(self) -> None:
        assert check.secrets_problem("ours", "", False) is None
        assert check.secrets_problem("ours", "1", False) is None

    @pytest.mark.parametrize("before", [{}, {"name": "ours"}, {"name": "ours", "id": "0"}])
    def test_the_marker_and_the_record_carry_the_id(self, tmp_path: Path, before: dict[str, str]) -> None:
        if before:
            record.MARKER.write_text(json.dumps(before))
        params = {"name": "ours", "id": "1", "data_dir": str(tmp_path / "data"), "directories": {}}
        changed: list[bool] = []
        for _ in range(2):
            told = SimpleNamespace(
                params=params, check_mode=False, exit_json=lambda **result: changed.append(result["changed"])
            )
            claim.claim(told)
        assert changed == [True, False]
        assert json.loads(record.MARKER.read_text()) == {"name": "ours", "id": "1"}
        assert (record.load()["testbed"], record.load()["id"]) == ("ours", "1")


def administrators(keys: dict[str, list[str]], others: list[str], dry: bool) -> list[dict[str, Any]]:
    """Converge the administrators' keys."""
    return let_in.converge("administrators", keys, others, dry)  # type: ignore[no-any-return]


class TestLetIn:
    """People's keys in authorized_keys."""

    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        home = tmp_path / "home"
        home.mkdir()
        monkeypatch.setattr(record, "RECORD", tmp_path / "record/installed.json")
        account = SimpleNamespace(pw_name="ada", pw_dir=str(home), pw_uid=os.getuid(), pw_gid=os.getgid())

        def getpwnam(name: str) -> SimpleNamespace:
            if name != "ada":
                raise KeyError(name)
            return account

        monkeypatch.setattr(let_in, "pwd", SimpleNamespace(getpwnam=getpwnam))
        return home

    @staticmethod
    def text(home: Path) -> str:
        return (home / ".ssh/authorized_keys").read_text()

    def test_what_was_made_for_the_keys_goes_with_them(self, home: Path) -> None:
        assert administrators({"ada": ["k1 ada", "k2 bob"]}, ["k1 ada", "k2 bob"], False)
        assert administrators({"ada": ["k1 ada", "k2 bob"]}, ["k1 ada", "k2 bob"], False) == []
        assert self.text(home).splitlines()[1:-1] == ["k1 ada", "k2 bob"]
        assert (home / ".ssh").stat().st_mode & 0o777 == 0o700
        assert (home / ".ssh/authorized_keys").stat().st_mode & 0o777 == 0o600
        assert administrators({}, [], False)
        assert list(home.iterdir()) == []
        assert record.load()["let_in"] == {}

    def test_a_key_that_left_the_spec_leaves_and_those_before_stay(self, home: Path) -> None:
        (home / ".ssh").mkdir(mode=0o755)
        file = home / ".ssh/authorized_keys"
        file.write_bytes(b"old key \xff")
        file.chmod(0o640)
        administrators({"ada": ["k1 ada", "k2 bob"]}, ["k1 ada", "k2 bob"], False)
        administrators({"ada": ["k2 bob"]}, ["k2 bob"], False)
        assert b"k1" not in file.read_bytes()
        assert file.read_bytes().startswith(b"old key \xff\n")
        administrators({"ada": []}, [], False)
        assert file.read_bytes() == b"old key \xff\n"
        assert file.stat().st_mode & 0o777 == 0o640

    def test_an_account_of_an_earlier_run_follows_too(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        administrators({"ada": ["k1 ada"]}, ["k1 ada"], False)
        other = home.parent / "other"
        other.mkdir()
        accounts = {"ada": str(home), "bob": str(other)}
        own = {"pw_uid": os.getuid(), "pw_gid": os.getgid()}
        found = {name: SimpleNamespace(pw_name=name, pw_dir=folder, **own) for name, folder in accounts.items()}
        monkeypatch.setattr(let_in, "pwd", SimpleNamespace(getpwnam=found.__getitem__))
        administrators({"bob": ["k2 bob"]}, ["k2 bob"], False)
        assert self.text(home) == self.text(other)
        assert "k1" not in self.text(home)

    def test_check_mode_says_it_and_does_nothing(self, home: Path) -> None:
        [change] = administrators({"ada": ["k1 ada"]}, ["k1 ada"], True)
        assert "k1 ada" in change["diff"]["after"]
        assert list(home.iterdir()) == []
        assert not record.RECORD.exists()

    def test_without_administrators_nothing_is_made(self, home: Path) -> None:
        assert administrators({"ada": []}, [], False) == []
        assert list(home.iterdir()) == []
        assert not record.RECORD.exists()

    def test_a_block_without_its_end_is_not_guessed(self, home: Path) -> None:
        administrators({"ada": ["k1 ada"]}, ["k1 ada"], False)
        file = home / ".ssh/authorized_keys"
        file.write_text(self.text(home).replace(let_in.MARKS["administrators"][1], "k9 mine"))
        with pytest.raises(block.DamagedError, match="authorized_keys: the line .* has no"):
            administrators({"ada": []}, [], False)
        assert "k9 mine" in self.text(home)

    def test_an_account_that_is_gone_is_forgotten(self, home: Path) -> None:
        record.save({**record.load(), "let_in": {"gone": {"file_made": True, "folder_made": True}}})
        assert administrators({"ada": []}, [], False) == []
        assert record.load()["let_in"] == {}


class TestUsersKeys:
    """Users' keys go into their own homes, with their own rights."""

    @pytest.fixture
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The home of nobody, which this process (root) is not."""
        monkeypatch.setattr(record, "RECORD", tmp_path / "record/installed.json")
        for folder in (path for path in [tmp_path, *tmp_path.parents] if not path.stat().st_mode & 0o001):
            folder.chmod(0o755)  # pytest's own
        home = tmp_path / "home"
        home.mkdir()
        entry = pwd.getpwnam("nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
        os.chown(home, entry.pw_uid, entry.pw_gid)
        account = SimpleNamespace(pw_name="ada", pw_dir=str(home), pw_uid=entry.pw_uid, pw_gid=entry.pw_gid)

        def getpwnam(name: str) -> SimpleNamespace:
            if name != "ada":
                raise KeyError(name)
            return account

        monkeypatch.setattr(let_in, "pwd", SimpleNamespace(getpwnam=getpwnam))
        return home

    def test_they_belong_to_the_user_and_go_again(self, home: Path) -> None:
        assert users({"ada": ["k1 ada"]})
        assert users({"ada": ["k1 ada"]}) == []
        file = home / ".ssh/authorized_keys"
        assert {path.stat().st_uid for path in (file, file.parent)} == {home.stat().st_uid}
        assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        assert users({}), "who left the spec is let in no more"
        assert list(home.iterdir()) == []
        assert record.load()["user_keys"] == {}

    def test_keys_of_their_own_stay(self, home: Path) -> None:
        users({"ada": ["k1 ada"]})
        file = home / ".ssh/authorized_keys"
        file.write_text(f"own above\n{file.read_text()}own below\n")
        assert users({"ada": ["k2 ada"]})
        lines = file.read_text().splitlines()
        assert (lines[0], lines[2], lines[-1]) == ("own above", "k2 ada", "own below")
        users({"ada": []})
        assert file.read_text() == "own above\nown below\n"

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root could write another's file")
    @pytest.mark.parametrize("linked", [".ssh", ".ssh/authorized_keys"])
    def test_a_link_out_of_the_home_opens_nothing(self, home: Path, linked: str, tmp_path: Path) -> None:
        target = tmp_path / "roots"
        target.mkdir(mode=0o700)
        (target / "authorized_keys").write_text("root's\n")
        link = home / linked
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target if linked == ".ssh" else target / "authorized_keys")
        with pytest.raises(let_in.RefusedError, match="of the account ada: Permission denied"):
            users({"ada": ["k1 ada"]})
        assert (target / "authorized_keys").read_text() == "root's\n"
        assert os.geteuid() == 0

    def test_an_account_that_manages_the_machine_may_be_a_users_too(self, home: Path) -> None:
        for _ in range(2):
            changes = [*administrators({"ada": ["k1 eve"]}, [], False), *users({"ada": ["k2 ada"]})]
        assert changes == [], "the two blocks do not move each other"
        users({})
        administrators({}, [], False)
        assert list(home.iterdir()) == []

    def test_before_the_account_is_made_check_mode_says_what_comes(self, home: Path) -> None:
        [change] = let_in.converge("users", {"new": ["k1 new"]}, [], True)
        assert (change["action"], change["needs"]) == ("add", ["account new"])
        assert let_in.converge("users", {"new": []}, [], True) == []
        with pytest.raises(let_in.RefusedError, match="no account new"):
            let_in.converge("users", {"new": ["k1 new"]}, [], False)


def users(keys: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Converge the users' keys."""
    return let_in.converge("users", keys, [], False)  # type: ignore[no-any-return]


class TestNames:
    """The names of the testbed's hosts in /etc/hosts."""

    LINES = ["10.0.0.1 server", "10.0.0.2 agent-1"]

    @pytest.fixture
    def file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(record, "RECORD", tmp_path / "record/installed.json")
        file = tmp_path / "hosts"
        file.write_text("127.0.0.1 localhost\n")
        monkeypatch.setattr(names, "HOSTS", file)
        return file

    def test_the_block_comes_follows_and_goes_and_other_lines_stay(self, file: Path) -> None:
        assert names.converge(self.LINES, True)
        assert file.read_text() == "127.0.0.1 localhost\n", "check mode writes nothing"
        assert names.converge(self.LINES, False)
        assert names.converge(self.LINES, False) == []
        file.write_text(file.read_text() + "10.9.9.9 own\n")
        [change] = names.converge(self.LINES[:1], False)
        assert "agent-1" in change["diff"]["before"]
        assert "own" not in str(change["diff"]), "other lines are none of ours"
        assert names.converge([], False)
        assert file.read_text() == "127.0.0.1 localhost\n10.9.9.9 own\n"
        assert record.load()["names"] == []

    def test_where_cloud_init_writes_the_file_its_template_has_the_block_too(self, file: Path, tmp_path: Path) -> None:
        template = tmp_path / "hosts.debian.tmpl"
        template.write_text("## template:jinja\n127.0.1.1 {{fqdn}}\n")
        file.write_text(f"# a.) make changes to the master file in {template}\n127.0.0.1 localhost\n")
        before = file.read_text()
        assert len(names.converge(self.LINES, False)) == 2
        assert "10.0.0.2 agent-1\n" in template.read_text()
        file.write_text(before)  # a boot
        assert len(names.converge(self.LINES, False)) == 1
        file.write_text("127.0.0.1 localhost\n")  # cloud-init manages it no more
        names.converge([], False)
        assert template.read_text() == "## template:jinja\n127.0.1.1 {{fqdn}}\n"

    def test_names_for_addresses_are_looked_up_and_the_unknown_left_out(self) -> None:
        given = {"a": "10.0.0.1", "b": "localhost", "c": "no-such-host.invalid", "d": "d", "e": "fd00::0:1"}
        lines, unknown = names.lines_for(given)
        assert lines[0] == "10.0.0.1 a"
        assert lines[1] in ("127.0.0.1 b", "::1 b")
        assert lines[2] == "fd00::1 e"
        assert unknown == ["c"]


class FakeUnits:
    """systemd's folders, and a systemctl that does in them what the real one does."""

    def __init__(self, folder: Path) -> None:
        self.etc, self.lib = folder / "etc", folder / "lib"
        self.etc.mkdir()
        self.lib.mkdir()
        self.active: set[str] = set()
        self.calls: list[str] = []

    def add(self, unit: str, on: bool = True) -> None:
        (self.lib / unit).touch()
        if on:
            self("enable", unit)
            self.active.add(unit)

    def __call__(self, verb: str, *words: str) -> str:
        self.calls.append(" ".join([verb, *words]))
        for unit in (word for word in words if not word.startswith("-")):
            link = self.etc / "multi-user.target.wants" / unit
            if verb == "enable":
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(self.lib / unit)
            if verb == "disable":
                link.unlink()
            if verb in ("start", "restart") or (verb == "enable" and "--now" in words):
                self.active.add(unit)
        return ""


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeUnits:
    """A machine, no container, with systemd's folders elsewhere."""
    fake = FakeUnits(tmp_path)
    monkeypatch.setattr(record, "RECORD", tmp_path / "record/installed.json")
    monkeypatch.setattr(units, "UNIT_DIRS", [fake.etc, fake.lib])
    for module in (clock, updates):
        monkeypatch.setattr(module, "systemctl", fake)
    monkeypatch.setattr(clock, "is_active", fake.active.__contains__)
    monkeypatch.setattr(host, "RUNS_SYSTEMD", tmp_path)
    monkeypatch.setattr(host, "CONTAINER", tmp_path / "container")
    monkeypatch.setattr(host, "may_set_clock", lambda: True)
    return fake


class TestTime:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, systemd: FakeUnits) -> None:
        monkeypatch.setattr(clock, "TIMESYNCD", tmp_path / "timesyncd.conf.d/testbed.conf")
        (tmp_path / "chrony/conf.d").mkdir(parents=True)
        monkeypatch.setattr(clock, "CHRONY", tmp_path / "chrony/chrony.conf")
        monkeypatch.setattr(clock, "CHRONY_DROP_IN", tmp_path / "chrony/conf.d/testbed.conf")

    @pytest.mark.parametrize(
        ("there", "on", "found"),
        [
            ([], [], "missing"),
            (["systemd-timesyncd"], [], "systemd-timesyncd"),
            (["chrony", "systemd-timesyncd"], ["systemd-timesyncd"], "systemd-timesyncd"),
            (["ntpsec"], ["ntpsec"], "ntpsec"),
        ],
    )
    def test_the_service_that_the_machine_has_keeps_the_clock(
        self, systemd: FakeUnits, there: list[str], on: list[str], found: str
    ) -> None:
        for service in there:
            systemd.add(f"{service}.service", service in on)
        assert host.clock() == found

    def test_a_containers_clock_is_not_its_own(
        self, systemd: FakeUnits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        systemd.add("chrony.service")
        monkeypatch.setattr(host, "may_set_clock", lambda: False)
        assert host.clock() == "beneath"
        monkeypatch.setattr(host, "may_set_clock", lambda: True)
        (tmp_path / "container").write_text("docker")
        assert host.clock() == "beneath"

    def test_the_right_to_set_the_clock_is_read_from_the_kernel(self) -> None:
        assert host.may_set_clock() in (True, False)

    def test_timesyncd_gets_the_servers_and_loses_them(self, systemd: FakeUnits, tmp_path: Path) -> None:
        systemd.add("systemd-timesyncd.service")
        changes = clock.converge("systemd-timesyncd", ["a", "b"], False)
        assert [change["action"] for change in changes] == ["add", "restart"]
        assert clock.TIMESYNCD.read_text().endswith("[Time]\nNTP=\nNTP=a b\n")
        assert clock.converge("systemd-timesyncd", ["a", "b"], False) == []
        assert clock.remove(False)
        assert not clock.TIMESYNCD.parent.exists(), "the folder was made for it"
        assert systemd.calls[-1] == "try-restart systemd-timesyncd.service"
        assert record.load()["time"] == {}
        assert clock.remove(False) == []

    def test_a_run_that_was_killed_before_the_restart_is_completed(
        self, systemd: FakeUnits, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        systemd.add("systemd-timesyncd.service")

        def killed(*_: str) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(clock, "systemctl", killed)
        with pytest.raises(KeyboardInterrupt):
            clock.converge("systemd-timesyncd", ["a"], False)
        monkeypatch.setattr(clock, "systemctl", systemd)
        assert [change["action"] for change in clock.converge("systemd-timesyncd", ["a"], False)] == ["restart"]
        assert clock.converge("systemd-timesyncd", ["a"], False) == []

    @pytest.mark.parametrize("old", [True, False])
    def test_chrony_gets_them_in_its_folder_or_before_it_had_one_in_a_block(
        self, systemd: FakeUnits, old: bool
    ) -> None:
        systemd.add("chrony.service")
        text = "pool x iburst\n" + ("" if old else f"confdir {clock.CHRONY_DROP_IN.parent}\n")
        clock.CHRONY.write_text(text)
        clock.converge("chrony", ["a", "b"], False)
        file = clock.CHRONY if old else clock.CHRONY_DROP_IN
        assert "server a iburst prefer\nserver b iburst\n" in file.read_text()
        assert clock.CHRONY.read_text().startswith(text)
        clock.remove(False)
        assert clock.CHRONY.read_text() == text
        assert not clock.CHRONY_DROP_IN.exists()

    def test_check_mode_says_it_and_does_nothing(self, systemd: FakeUnits) -> None:
        systemd.add("systemd-timesyncd.service")
        calls = list(systemd.calls)
        assert clock.converge("systemd-timesyncd", ["a"], True)
        [change] = clock.converge("missing", ["a"], True)
        assert change["needs"] == ["package chrony"]
        assert not clock.TIMESYNCD.exists()
        assert systemd.calls == calls

    def test_one_that_is_off_stays_off_unless_servers_are_named(self, systemd: FakeUnits) -> None:
        systemd.add("systemd-timesyncd.service", on=False)
        assert clock.converge("systemd-timesyncd", [], False) == []
        clock.converge("systemd-timesyncd", ["a"], False)
        assert units.is_on("systemd-timesyncd.service")
        clock.remove(False)
        assert not units.is_on("systemd-timesyncd.service")

    def test_a_service_that_is_not_ours_to_set_up_is_refused_only_with_servers(self, systemd: FakeUnits) -> None:
        assert clock.converge("ntpsec", [], False) == []
        with pytest.raises(clock.ClockError, match="take `time` out of testbed.yaml"):
            clock.converge("ntpsec", ["a"], False)


class TestUpdates:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, systemd: FakeUnits) -> None:
        monkeypatch.setattr(updates, "SETTINGS", tmp_path / "apt.conf.d/95testbed")
        monkeypatch.setattr(updates, "WAY", tmp_path / "way.conf")
        monkeypatch.setattr(updates, "drop_in", lambda unit: tmp_path / f"{unit}.service.d/testbed.conf")

    @staticmethod
    def apt_says(key: str) -> list[str]:
        """Return apt's own reading of a list, with the distribution's file before ours."""
        before = updates.SETTINGS.with_name("50unattended-upgrades")
        before.write_text(
            'Unattended-Upgrade::Origins-Pattern { "origin=Debian,codename=${distro_codename},label=Debian"; };\n'
            'Unattended-Upgrade::Allowed-Origins { "${distro_id}:${distro_codename}"; };\n'
            'Unattended-Upgrade::Package-Blacklist { "mine"; };\nUnattended-Upgrade::Automatic-Reboot "true";\n'
        )
        main = updates.SETTINGS.with_name("main")
        main.write_text(f'Dir::Etc::parts "{updates.SETTINGS.parent}";\nDir::Etc::main "";\n')
        dump = subprocess.check_output(["apt-config", "dump"], text=True, env={**os.environ, "APT_CONFIG": str(main)})
        lines = [line.partition(" ") for line in dump.splitlines()]
        return [value.strip('";') for name, _, value in lines if name in (key, f"{key}::") and value != '"";']

    def test_security_origins_alone_no_containers_and_no_reboot(self) -> None:
        assert updates.converge(updates.texts([]), True)
        assert not updates.SETTINGS.exists()
        updates.converge(updates.texts([]), False)
        assert updates.converge(updates.texts([]), False) == []
        origins = self.apt_says("Unattended-Upgrade::Origins-Pattern")
        assert len(origins) == 5
        assert all("ecurity" in origin for origin in origins)
        assert self.apt_says("Unattended-Upgrade::Allowed-Origins") == []
        assert self.apt_says("Unattended-Upgrade::Package-Blacklist") == ["mine", "docker", "containerd", "runc$"]
        assert self.apt_says("Unattended-Upgrade::Automatic-Reboot") == ["false"]
        assert self.apt_says("APT::Periodic::Unattended-Upgrade") == ["1"]

    def test_they_come_the_specs_way_and_the_machines_own_apt_stays_as_it_is(self, tmp_path: Path) -> None:
        way = apt.options({"http": "http://p:1"}, ["m"], True, "/ca")
        changes = updates.converge(updates.texts(way), False)
        assert len(changes) == 4
        assert 'Acquire::http::Proxy "http://p:1";\nAcquire::http::Proxy::m "DIRECT";\n' in updates.WAY.read_text()
        for unit in ("apt-daily", "apt-daily-upgrade"):
            assert f"APT_CONFIG={updates.WAY}\n" in (tmp_path / f"{unit}.service.d/testbed.conf").read_text()
        assert "Proxy" not in updates.SETTINGS.read_text()
        assert len(updates.converge(updates.texts([]), False)) == 3, "without a proxy they go again"
        assert not (tmp_path / "apt-daily.service.d").exists()

    def test_timers_that_are_off_are_switched_on_and_off_again(self, systemd: FakeUnits) -> None:
        systemd.add("apt-daily.timer")
        systemd.add("apt-daily-upgrade.timer", on=False)
        changes, masked = updates.switch_on(False)
        assert [change["name"] for change in changes] == ["apt-daily-upgrade.timer"]
        assert masked == []
        assert updates.switch_on(False) == ([], [])
        updates.switch_off(False)
        assert units.is_on("apt-daily.timer")
        assert not units.is_on("apt-daily-upgrade.timer")

    def test_masked_timers_are_told(self, systemd: FakeUnits) -> None:
        systemd.add("apt-daily.timer")
        (systemd.etc / "apt-daily-upgrade.timer").symlink_to("/dev/null")
        assert updates.switch_on(False) == ([], ["apt-daily-upgrade.timer"])


class TestKilledHalfWay:
    """What a kill left half made is made anew, and nobody sees it half made."""

    @pytest.mark.parametrize("mode", [0o600, 0o755])
    def test_a_file_is_replaced_whole_with_its_mode(self, tmp_path: Path, mode: int) -> None:
        path = tmp_path / "file"
        path.write_text("old")
        (tmp_path / "file.testbed-new").write_text("half of a kil")
        record.replace_file(path, "new", mode)
        assert path.read_text() == "new"
        assert path.stat().st_mode & 0o777 == mode
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]

    @pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
    def test_a_file_goes_to_the_owner_that_is_named(self, tmp_path: Path) -> None:
        record.replace_file(tmp_path / "file", "new", 0o640, (65534, 65533))
        found = (tmp_path / "file").stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (65534, 65533, 0o640)

    def test_a_file_that_cannot_be_written_stays_as_it_was(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_text("old")
        with pytest.raises(UnicodeEncodeError):
            record.replace_file(path, "half and \ud800", 0o644)
        assert path.read_text() == "old"

    @pytest.mark.parametrize("system", [True, False])
    def test_a_home_is_there_whole_or_not_at_all(self, tmp_path: Path, system: bool) -> None:
        home = tmp_path / "home"
        (tmp_path / "home.testbed-new/half").mkdir(parents=True)
        accounts.make_home({"name": pwd.getpwuid(os.getuid()).pw_name, "home": str(home), "system": system})
        there = {entry.name for entry in home.iterdir()}
        assert there == (set() if system else {entry.name for entry in Path("/etc/skel").iterdir()})
        assert home.stat().st_mode & 0o777 == (0o700 if system else 0o750)
        assert [entry.name for entry in tmp_path.iterdir()] == ["home"]

    def test_a_services_folders_are_its_own(self, tmp_path: Path) -> None:
        me = pwd.getpwuid(os.getuid()).pw_name
        home = tmp_path / "home"
        account = {"name": me, "home": str(home), "folders": ["tmp", "tmp/a"]}
        home.mkdir(mode=0o755)
        told = accounts.keep_folders(account, True)
        assert [change["action"] for change in told] == ["change", "add", "add"]
        assert list(home.iterdir()) == [], "check mode makes none"
        assert accounts.keep_folders(account, False) == told
        assert accounts.keep_folders(account, False) == []
        assert {path.stat().st_mode & 0o7777 for path in (home, home / "tmp", home / "tmp/a")} == {0o700}
        (home / "tmp/a").chmod(0o777)
        assert [change["name"] for change in accounts.keep_folders(account, False)] == [str(home / "tmp/a")]

    def test_a_link_that_a_service_put_in_a_folders_place_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "home").mkdir(mode=0o700)
        (tmp_path / "home/tmp").symlink_to(tmp_path / "roots")
        (tmp_path / "roots").mkdir(mode=0o755)
        account = {"name": pwd.getpwuid(os.getuid()).pw_name, "home": str(tmp_path / "home"), "folders": ["tmp"]}
        with pytest.raises(OSError, match="home/tmp"):
            accounts.keep_folders(account, False)
        assert (tmp_path / "roots").stat().st_mode & 0o777 == 0o755

    def test_an_environment_in_a_home_is_found_also_before_there_is_an_account(self) -> None:
        entry = pwd.getpwuid(os.getuid())
        assert venv.expanded(f"~{entry.pw_name}/clearml-venv") == f"{entry.pw_dir}/clearml-venv"
        assert venv.expanded("~no-such-account/clearml-venv") == "/home/no-such-account/clearml-venv"
        assert venv.expanded("/opt/x") == "/opt/x"

    def test_a_record_that_was_removed_half_way_is_forgotten(self, tmp_path: Path, monkeypatch: Any) -> None:
        for module in (record, claim):
            monkeypatch.setattr(module, "RECORD", tmp_path / "record/installed.json")
        record.RECORD.parent.mkdir()
        params = {"name": "ours", "data_dir": str(tmp_path / "data"), "purge": True}
        claim.release(SimpleNamespace(params=params, check_mode=False, exit_json=lambda **_: None))
        assert not record.RECORD.parent.exists()


class TestPackages:
    def test_a_simulated_run_tells_new_packages_from_upgraded_ones(self) -> None:
        said = "Reading...\nInst git (1:2.39 Debian)\nInst libc6:amd64 [2.36-1] (2.36-2 Debian)\nConf git (x)\n"
        assert packages.planned(said, "Inst") == [("git", True), ("libc6", False)]

    @pytest.fixture
    def policy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(packages, "POLICY", tmp_path / "policy-rc.d")
        monkeypatch.setattr(packages, "POLICY_ASIDE", tmp_path / "aside")
        return tmp_path / "policy-rc.d"

    @pytest.mark.parametrize("own", ["exit 0\n", None])
    def test_the_machines_policy_comes_back_also_after_a_kill(self, policy: Path, own: str | None) -> None:
        if own:
            policy.write_text(own)
        killed = packages.services_stay_down()
        killed.__enter__()
        assert "exit 101" in policy.read_text()
        with packages.services_stay_down():
            assert "exit 101" in policy.read_text()
        assert (policy.read_text() if policy.exists() else None) == own
        assert not packages.POLICY_ASIDE.exists()


def a_service(**changes: Any) -> dict[str, Any]:
    """Return a service's definition."""
    values = {key: spec.get("default") for key, spec in service.SPEC.items()}
    values |= {"name": "testbed-x", "description": "100% x", "command": ["/bin/x", "a b", "$HOME", "50%"], "log": "/l"}
    return values | {"environment": {"A": "1%", "B": "x y"}} | changes


class TestSources:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(packages, "SOURCES", tmp_path / "etc/mirror.sources")
        monkeypatch.setattr(packages, "LISTS", tmp_path / "lists")
        monkeypatch.setattr(apt, "SYSTEM_BUNDLE", tmp_path / "system.crt")

    def test_without_settings_apt_is_left_to_the_machine(self) -> None:
        assert apt.options({}, [], False, "") == []

    def test_a_mirror_is_the_only_source_and_the_machines_lists_are_left_alone(self) -> None:
        words = apt.options({"http": "http://proxy:1"}, ["m.example"], True, "/ca.crt")
        asked = ["apt-config", *words, "dump", "--format", "%F=%v%n"]
        settings = dict(
            line.split("=", 1) for line in subprocess.check_output(asked, text=True).splitlines() if "=" in line
        )
        assert settings["Acquire::http::Proxy"] == "http://proxy:1"
        assert settings["Acquire::http::Proxy::m.example"] == "DIRECT"
        assert settings["Acquire::https::CAInfo"] == "/ca.crt"
        assert settings["Dir::Etc::sourcelist"] == "/dev/null"
        assert settings["Dir::Etc::sourceparts"] == "/etc/testbed/apt"
        assert settings["Dir::State::lists"] == "/opt/testbed/apt/lists"
        assert settings["Dir::Cache::pkgcache"] == settings["Dir::Cache::srcpkgcache"] == ""

    def test_another_mirrors_index_is_too_old(self) -> None:
        assert packages.index_age(mirror=True) > 86400
        (packages.LISTS / "partial").mkdir(parents=True)
        assert packages.index_age(mirror=True) < 60
        packages.SOURCES.parent.mkdir()
        packages.SOURCES.write_text("Types: deb\n")
        later = (packages.LISTS / "partial").stat().st_mtime + 1
        os.utime(packages.SOURCES, (later, later))
        assert packages.index_age(mirror=True) > 86400

    def test_the_systems_certificates_stay_trusted(self) -> None:
        assert apt.bundle("ours") == "ours\n"
        apt.SYSTEM_BUNDLE.write_text("system\n")
        assert apt.bundle("ours\n") == "system\nours\n"

    @pytest.mark.parametrize("there", [None, "Types: deb\nURIs: file:///nowhere\nSuites: ./\nTrusted: yes\n"])
    def test_check_asks_the_mirror_that_is_not_written_yet(self, tmp_path: Path, there: str | None) -> None:
        archive, private = tmp_path / "archive", tmp_path / "private"
        for folder in (archive, private, packages.SOURCES.parent, packages.LISTS / "partial"):
            folder.mkdir(parents=True)
        fields = "Version: 1\nArchitecture: all\nMaintainer: x\nDescription: x\nSize: 1\nFilename: ./x.deb\n"
        fields += f"SHA256: {'0' * 64}\n"
        asked, needed = "testbed-test-asked", "testbed-test-needed"
        index = f"Package: {asked}\nDepends: {needed}\n{fields}\nPackage: {needed}\n{fields}"
        (archive / "Packages").write_text(index)
        if there:  # written, but of another mirror
            packages.SOURCES.write_text(there)
        before = sorted(tmp_path.rglob("*"))
        params = {"proxy": {}, "direct": [], "ca": "ours", "ca_bundle": "/etc/ca.crt", "index_age": 86400}
        params["sources"] = f"Types: deb\nURIs: file://{archive}\nSuites: ./\nTrusted: yes\n"
        found = packages.to_come([asked], params, str(private), 0)
        needs = [f"file {packages.SOURCES}", "file /etc/ca.crt"]
        assert {change["name"]: (change["action"], change["detail"]) for change in found} == {
            asked: ("add", ""),
            needed: ("add", f"for {asked}"),
        }
        assert all(change["needs"] == needs for change in found)
        assert [path for path in sorted(tmp_path.rglob("*")) if private not in path.parents] == before


class TestSupervisor:
    def test_what_a_killed_supervisord_leaves_goes_with_its_package(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        left = [tmp_path / "log", tmp_path / "supervisord.pid", tmp_path / "supervisor.sock"]
        monkeypatch.setattr(packages, "SUPERVISOR_LEAVINGS", left)
        packages.clear_supervisor()  # it ended by itself: there is nothing
        left[0].mkdir()
        (left[0] / "supervisord.log").touch()
        left[1].write_text("4711\n")
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(left[2]))
        packages.clear_supervisor()
        assert list(tmp_path.iterdir()) == []


class TestGroups:
    def test_a_group_that_packages_leave_goes_when_no_program_uses_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program, asked, command = tmp_path / "dockerd", tmp_path / "asked", tmp_path / "bin" / "groupdel"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\necho "$@" >>{asked}\n')
        command.chmod(0o755)
        monkeypatch.setenv("PATH", str(command.parent))
        monkeypatch.setattr(record, "RECORD", tmp_path / "record/installed.json")
        record.save({**record.load(), "groups": {"docker": [str(program)]}})
        program.touch()
        packages.remove_groups(record.load())
        assert not asked.exists(), "the package stays: something else on the machine needs it"
        program.unlink()
        packages.remove_groups(record.load())
        assert asked.read_text() == "docker\n"
        assert record.load()["groups"] == {}


class TestServiceManager:
    @pytest.fixture(autouse=True)
    def _elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(host, "RUNS_SYSTEMD", tmp_path / "run/systemd/system")
        monkeypatch.setattr(service, "SUPERVISOR_CONF", str(tmp_path / "supervisord.conf"))

    def test_systemd_counts_when_it_runs_and_not_when_it_is_only_installed(self) -> None:
        assert host.service_manager() == "supervisord"
        host.RUNS_SYSTEMD.mkdir(parents=True)
        assert host.service_manager() == "systemd"

    def test_a_supervisord_that_would_not_see_our_programs_is_told_before_anything_is_changed(self) -> None:
        service.Supervisord().validate()  # not installed yet: its package's own settings are fine
        Path(service.SUPERVISOR_CONF).write_text("[include]\nfiles = /etc/supervisor/conf.d/*.conf\n")
        service.Supervisord().validate()
        Path(service.SUPERVISOR_CONF).write_text("[include]\nfiles = /srv/programs/*.conf\n")
        with pytest.raises(service.ServiceError, match="does not include .* Nothing was changed"):
            service.Supervisord().validate()

    def test_a_systemd_that_does_not_answer_is_told_before_anything_is_changed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "systemctl").write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2; exit 1\n")
        (tmp_path / "systemctl").chmod(0o755)
        monkeypatch.setattr(service, "PATH", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(service.ServiceError, match="Failed to connect to bus.* Nothing was changed"):
            service.Systemd().validate()


class TestService:
    def test_systemd_gets_every_argument_unchanged(self) -> None:
        [(unit, mode), (environment, secret)] = service.systemd_files(a_service()).values()
        assert 'ExecStart="/bin/x" "a b" "$$HOME" "50%%"' in unit
        assert "Description=100%% x" in unit
        assert 'A="1%"\nB="x y"\n' in environment
        assert (mode, secret) == (0o644, 0o600)
        assert "x y" not in unit

    def test_supervisord_gets_every_argument_unchanged(self) -> None:
        [(program, mode)] = service.supervisord_files(a_service()).values()
        assert "command=/bin/x 'a b' '$HOME' 50%%\n" in program
        assert 'A="1%%",B="x y"' in program
        assert mode == 0o600

    @pytest.mark.parametrize("value", ['a"b', "a'b", "a\nb", "a\\b", "a ;b", "a #b"])
    def test_what_a_manager_would_garble_is_refused_without_showing_it(self, value: str) -> None:
        with pytest.raises(service.ServiceError, match="testbed-x: SECRET has") as refusal:
            service.refuse_what_cannot_be_written(a_service(environment={"SECRET": value}))
        assert value not in str(refusal.value)

    def test_a_diff_shows_no_environment(self) -> None:
        [(program, _)] = service.supervisord_files(a_service()).values()
        assert "x y" not in service.comparable(program)

    @pytest.mark.parametrize(
        ("changes", "same"),
        [
            ({}, True),
            ({"health_timeout": 7}, True),
            ({"command": ["/bin/y"]}, False),
            ({"environment": {}}, False),
            ({"trigger": 1}, False),
        ],
    )
    def test_the_digest_tells_what_needs_a_restart(self, changes: dict[str, Any], same: bool) -> None:
        assert (service.digest(a_service()) == service.digest(a_service(**changes))) is same

    def test_a_changed_file_needs_a_restart(self, tmp_path: Path) -> None:
        settings = tmp_path / "x.conf"
        digests = set()
        for content in (None, "a", "b"):
            if content:
                settings.write_text(content)
            digests.add(service.digest(a_service(files=[str(settings)])))
        assert len(digests) == 3

    def test_several_are_described_by_what_differs(self) -> None:
        params = {
            **a_service(),
            "log": "",
            "instances": [{"name": "testbed-a"}, {"name": "testbed-b", "command": ["/b"]}],
        }
        first, second = service.services_of(params)
        assert (first["name"], first["command"], first["log"]) == (
            "testbed-a",
            a_service()["command"],
            "/var/log/testbed/testbed-a.log",
        )
        assert (second["command"], second["environment"]) == (["/b"], a_service()["environment"])
        assert service.services_of({**params, "instances": []})[0]["name"] == "testbed-x"

    def test_half_a_description_is_refused(self) -> None:
        params = {**a_service(), "log": "", "command": None, "instances": [{"name": "testbed-a"}]}
        with pytest.raises(service.ServiceError, match="testbed-a: say command of it, too"):
            service.services_of(params)

    def test_it_works_when_all_of_its_urls_answer(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        described = {"health_urls": [], "health_port": 0}
        assert service.healthy(described)
        assert not service.healthy({**described, "health_urls": [f"http://127.0.0.1:{port}/"]})

    def test_what_runs_tells_what_it_was_started_with(self) -> None:
        with subprocess.Popen(
            ["/bin/cat"], stdin=subprocess.PIPE, env={"TESTBED_DIGEST": "d", "TESTBED_SERVICE": "testbed-unit"}
        ) as process:
            assert service.wait_until(lambda: service.running_digest(process.pid) == "d", 10)
            assert service.processes_of("testbed-unit", []) == [process.pid]
            assert service.processes_of("testbed-unit", ["testbed-unit"]) == []
            service.end_processes("testbed-unit", [])
            assert process.wait() == -15
        assert service.running_digest(0) is None

    @pytest.mark.skipif(os.geteuid() != 0, reason="makes a namespace, as a container has one")
    def test_a_containers_services_are_not_this_machines(self) -> None:
        inside = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "echo there; exec cat"]
        variables = {"PATH": os.environ["PATH"], "TESTBED_SERVICE": "testbed-unit"}
        with subprocess.Popen(inside, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables) as process:
            assert process.stdout
            assert process.stdout.readline() == b"there\n"
            # unshare itself is on this side
            assert service.processes_of("testbed-unit", []) == [process.pid]


class TestVenv:
    @pytest.fixture
    def params(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """An environment with nothing in it."""
        monkeypatch.setattr(venv, "STAMPS", tmp_path / "stamps")
        values = {"path": str(tmp_path / "venv"), "owner": "root", "interpreter": sys.executable, "requirements": []}
        values |= {"wheels": [], "constraints": "c.txt", "digests": {"c.txt": "1"}, "environment": {}}
        values |= {"pip_settings": {}}
        return values

    def test_a_half_made_environment_has_no_stamp(self, params: dict[str, Any]) -> None:
        folder = Path(params["path"])
        (folder / "bin").mkdir(parents=True)
        (folder / "bin/python").touch()
        assert venv.read_stamp(folder) is None

    def test_its_pip_conf_says_what_the_spec_says_until_it_says_nothing(self, params: dict[str, Any]) -> None:
        folder = Path(params["path"])
        (folder / "bin").mkdir(parents=True)
        (folder / "bin/python").symlink_to(sys.executable)
        settings = {"index-url": "https://mirror.example/simple", "cert": "/ca.crt"}
        venv.write_pip_conf(folder, {}, {**params, "pip_settings": settings})
        listed = subprocess.check_output(
            [sys.executable, "-m", "pip", "config", "list"],
            text=True,
            env={"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": str(folder / "pip.conf"), "HOME": "/nowhere"},
        )
        assert "global.index-url='https://mirror.example/simple'" in listed
        assert "global.cert='/ca.crt'" in listed
        venv.write_pip_conf(folder, settings, params)
        assert not (folder / "pip.conf").exists()

    def test_check_tells_what_becomes_of_pip_conf(self, params: dict[str, Any]) -> None:
        mirror, certificate = {"index-url": "https://mirror.example/simple"}, {"PIP_CERT": "/ca.crt"}
        name, header = f"{params['path']}/pip.conf", f"{venv.PIP_CONF_HEADER}\n[global]\n"

        def files(before: dict[str, str] | None, after: dict[str, str]) -> list[dict[str, Any]]:
            there = None if before is None else {"pip_settings": before} if before else {}
            found = venv.changes_of({**params, "pip_settings": after, "environment": certificate}, there, {})
            assert "file /ca.crt" in found[0]["needs"]
            return [change for change in found if change["kind"] == "file"]

        for before in (None, {}):
            [added] = files(before, mirror)
            assert added == {
                "kind": "file",
                "name": name,
                "action": "add",
                "needs": [f"environment {params['path']}"],
                "diff": {"before": "", "after": f"{header}index-url = https://mirror.example/simple\n"},
            }
        assert [change["action"] for change in files({"cert": "/ca.crt"}, mirror)] == ["change"]
        assert [change["action"] for change in files(mirror, {})] == ["remove"]
        assert files(mirror, mirror) == files(None, {}) == []

    def test_other_pip_settings_fetch_nothing_anew_for_users(
        self, params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(venv, "FETCHER", tmp_path / ".fetcher")  # this machine may carry a testbed
        monkeypatch.setattr(venv, "FETCHED", tmp_path / "fetched")
        params["owner"] = "alice"
        stamp = {"requirements": ["clearml"]}
        for fetched, told in (({**stamp, "pip_settings": {"cert": "/x"}}, 1), ({"requirements": []}, 3), (None, 3)):
            monkeypatch.setattr(venv, "read_stamp", lambda _, fetched=fetched: fetched)
            assert len(venv.changes_of(params, stamp, stamp)) == told

    def test_one_whose_python_is_gone_counts_as_half_made(self, params: dict[str, Any]) -> None:
        folder = Path(params["path"])
        venv.STAMPS.mkdir()
        venv.stamp_file(folder).write_text("{}")
        assert venv.read_stamp(folder) is None

    def test_a_package_that_somebody_removed_is_missed(self, params: dict[str, Any]) -> None:
        site = Path(params["path"]) / "lib/python3.11/site-packages"
        (site / "clearml_agent-3.0.3.dist-info").mkdir(parents=True)
        wanted = {
            "requirements": ["clearml-agent", "numpy>1; python_version>'3'"],
            "wheels": [{"src": "/x/Test_bed-1-py3-none-any.whl"}],
        }
        assert venv.missing_names(Path(params["path"]), params | wanted) == ["numpy", "Test_bed"]

    @pytest.mark.parametrize(
        "change", [{"requirements": ["a"]}, {"digests": {"c.txt": "2"}}, {"wheels": [{"src": "/x/w.whl"}]}]
    )
    def test_the_stamp_tells_what_it_was_made_from(self, params: dict[str, Any], change: dict[str, Any]) -> None:
        digests = {"c.txt": "1", "w.whl": "3"} | change.get("digests", {})
        assert venv.wanted_stamp(params) != venv.wanted_stamp(params | change | {"digests": digests})
