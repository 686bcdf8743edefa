"""What the modules of the Docker Engine and of the official server decide, on real files and texts."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROLES = Path(__file__).parents[3] / "roles"


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


record = load("common/module_utils/testbed_record.py")
mounts = load("common/module_utils/testbed_mounts.py")
load("common/module_utils/testbed_units.py")
load("common/module_utils/testbed_host.py")
check = load("common/library/testbed_check.py")
engine = load("docker/library/testbed_engine.py")
compose = load("clearml_server/library/testbed_compose.py")
capacity = load("clearml_server/library/testbed_capacity.py")
sysctl = load("clearml_server/library/testbed_sysctl.py")
made_of = load("clearml_server/filter_plugins/clearml_server_compose.py")


class Ended(Exception):
    """A module's run has ended; its result is the argument."""


class Module:
    """What a module's functions are called with: parameters, and how a run ends."""

    def __init__(self, check_mode: bool = False, **params: Any) -> None:
        self.params, self.check_mode = params, check_mode

    def exit_json(self, **result: Any) -> None:
        raise Ended(result)

    def fail_json(self, **result: Any) -> None:
        raise Ended({"failed": True, **result})

    def warn(self, text: str) -> None:
        self.warned = text


def result(function: Any, module: Module) -> dict[str, Any]:
    with pytest.raises(Ended) as ended:
        function(module)
    found: dict[str, Any] = ended.value.args[0]
    return found


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the whole PATH: real programs, as small as a test wants them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(engine, "PLUGINS", [])
    monkeypatch.setattr(engine, "CONTAINERDS", (str(folder / "containerd"),))
    monkeypatch.setattr(engine, "NETWORKS", tmp_path / "cni")
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mountinfo")
    (tmp_path / "mountinfo").write_text("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n")
    for module in (record, engine, compose):
        monkeypatch.setattr(module, "RECORD", tmp_path / "record/installed.json", raising=False)
    return folder


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def of_the_role(name: str, given: dict[str, Any]) -> Any:
    """A variable of role docker as Ansible works it out, with what a playbook gives."""
    loader = DataLoader()
    files = [str(ROLES / "docker" / folder / "main.yml") for folder in ("defaults", "vars")]
    said, own = (loader.load_from_file(file, trusted_as_template=True) for file in files)
    return Templar(loader=loader, variables={**said, **given, **own}).template(own.get(name, said.get(name)))


ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
docker0\t0000D50A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
br-0123456789ab\t0001D50A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


class TestPools:
    def test_the_hosts_own_networks_are_its_routes_but_for_those_of_containers(self) -> None:
        assert engine.parse_routes(ROUTES) == ["192.168.1.0/24"]

    @pytest.mark.parametrize(
        ("pools", "taken", "expected"),
        [
            ([], [], ["10.213.0.0/16"]),
            ([], ["10.0.0.0/8"], ["172.29.0.0/16"]),
            ([], ["10.213.7.9", "172.29.0.0/24"], []),
            (["192.168.0.0/16"], ["10.0.0.0/8"], ["192.168.0.0/16"]),
        ],
    )
    def test_one_is_chosen_that_covers_up_nothing(self, pools: list, taken: list, expected: list) -> None:
        assert engine.choose_pools(pools, ["10.213.0.0/16", "172.29.0.0/16"], taken) == expected

    def test_addresses_of_hosts_count_and_names_do_not(self) -> None:
        assert engine.addresses(["10.213.7.9", "lab.example", "2001:db8::1"]) == ["10.213.7.9"]
        assert engine.overlapping("10.213.0.0/16", ["10.213.7.9", "2001:db8::1"]) == ["10.213.7.9"]


class TestEngine:
    @pytest.mark.parametrize(
        ("version", "enough"),
        [("2.26.1-4", True), ("2.20.2", True), ("5.6.1", True), ("2.19.0", False), ("1.29.2", False), ("", False)],
    )
    def test_compose_must_start_by_health(self, version: str, enough: bool) -> None:
        assert engine.is_new_enough(version) == enough

    def test_a_plugin_counts_before_the_command_is_there(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert engine.compose_version() == ""
        plugins = tmp_path / "cli-plugins"
        plugins.mkdir()
        program(plugins, "docker-compose", "echo v2.26.1")
        monkeypatch.setattr(engine, "PLUGINS", [plugins])
        assert engine.compose_version() == "2.26.1"
        program(commands, "docker", "echo 2.30.0")
        assert engine.compose_version() == "2.30.0"

    def look(self, monkeypatch: pytest.MonkeyPatch, **params: Any) -> dict[str, Any]:
        monkeypatch.setattr(engine, "service_manager", lambda: params.pop("manager", "systemd"))
        given = {"reached": [], "pools": [], "candidates": ["203.0.113.0/24"], "compose_comes": True, **params}
        with pytest.raises(Ended) as ended:
            raise Ended(engine.look(Module(**given)))
        found: dict[str, Any] = ended.value.args[0]
        return found

    def test_where_systemd_runs_all_can_come(self, commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = self.look(monkeypatch)
        assert (found["compose"], found["pools"]) == (False, ["203.0.113.0/24"])

    @pytest.mark.parametrize(
        ("params", "words"),
        [
            ({"compose_comes": False}, "Set server.engine.source to docker"),
            ({"manager": "supervisord"}, "no engine answers. Use a host with systemd"),
            ({"pools": ["203.0.113.0/24"], "reached": ["203.0.113.9"]}, "203.0.113.0/24 covers up 203.0.113.9"),
            ({"candidates": []}, "Set server.engine.address_pools"),
        ],
    )
    def test_what_cannot_work_is_refused_with_a_remedy(
        self, commands: Path, monkeypatch: pytest.MonkeyPatch, params: dict[str, Any], words: str
    ) -> None:
        found = self.look(monkeypatch, **params)
        assert found["failed"]
        assert words in found["msg"]
        assert found["msg"].endswith("Nothing was changed.")

    def test_an_engine_that_answers_will_do_without_systemd(
        self, commands: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program(commands, "docker", "echo 2.30.0")
        assert "failed" not in self.look(monkeypatch, manager="supervisord", compose_comes=False)

    @pytest.mark.parametrize(
        ("site", "given", "expected"),
        [
            ({}, {}, {"log-driver": "json-file", "log-opts": {"max-size": "20m", "max-file": "3"}}),
            ({"log-driver": "journald"}, {}, {}),
            ({"log-opts": {"max-size": "1g"}}, {"docker_log_size": "5m"}, {}),
            (
                {"data-root": "/big"},
                {"docker_log_size": "5m", "docker_log_files": 2},
                {"log-driver": "json-file", "log-opts": {"max-size": "5m", "max-file": "2"}},
            ),
            (
                {"registry-mirrors": ["https://site.example"], "log-driver": "local"},
                {"docker_registry_mirrors": ["https://hub.example"]},
                {"registry-mirrors": ["https://hub.example"]},
            ),
            ({"registry-mirrors": ["https://site.example"], "log-driver": "local"}, {}, {}),
        ],
    )
    def test_the_role_sets_what_is_given_and_rotates_logs_where_the_site_says_nothing_of_them(
        self, site: dict[str, Any], given: dict[str, Any], expected: dict[str, Any]
    ) -> None:
        settings, defaults = of_the_role("docker_settings", given), of_the_role("docker_defaults", given)
        assert engine.own_settings(site, settings, defaults, []) == expected

    def test_given_networks_go_before_the_sites(self) -> None:
        found = engine.own_settings({engine.POOLS: "theirs"}, {}, {}, ["10.213.0.0/16"])
        assert found == {"default-address-pools": [{"base": "10.213.0.0/16", "size": 24}]}

    @pytest.mark.parametrize(
        ("environment", "expected"),
        [
            ({}, {}),
            (
                {
                    "HTTP_PROXY": "http://proxy:3128",
                    "HTTPS_PROXY": "http://proxy:3128",
                    "NO_PROXY": "localhost,.lab.example",
                    "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
                    "http_proxy": "http://proxy:3128",
                    "PIP_INDEX_URL": "https://user:password@pypi.example/simple",
                    "PIP_CONFIG_FILE": "/etc/testbed/pip.conf",
                },
                {
                    "HTTP_PROXY": "http://proxy:3128",
                    "HTTPS_PROXY": "http://proxy:3128",
                    "NO_PROXY": "localhost,.lab.example",
                    "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
                },
            ),
        ],
    )
    def test_the_engine_goes_by_the_proxy_and_the_certificates_and_gets_nothing_else(
        self, environment: dict[str, str], expected: dict[str, str]
    ) -> None:
        assert of_the_role("docker_environment", {"common_environment": environment}) == expected

    def test_another_proxy_or_other_settings_are_another_digest(self) -> None:
        given = (({}, {"a": 1}), ({}, {"a": 2}), ({"HTTP_PROXY": "http://p%20:1"}, {"a": 1}))
        texts = [engine.drop_in(*each) for each in given]
        assert len({text.rpartition("=")[2] for text in texts}) == 3
        assert 'Environment="HTTP_PROXY=http://p%%20:1"' in texts[2]
        assert engine.drop_in({}, {"a": 1, "b": 2}) == engine.drop_in({}, {"b": 2, "a": 1})

    def files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
        settings, drop_in = tmp_path / "docker/daemon.json", tmp_path / "docker.service.d/testbed.conf"
        monkeypatch.setattr(engine, "SETTINGS", settings)
        monkeypatch.setattr(engine, "ASIDE", settings.with_name("daemon.json.before-testbed"))
        monkeypatch.setattr(engine, "DROP_IN", drop_in)
        monkeypatch.setattr(engine, "service_manager", lambda: "systemd")
        return settings, drop_in

    PARAMS = {
        "settings": {}, "defaults": {"log-driver": "json-file", "log-opts": {"max-file": "3"}},
        "environment": {}, "pools": [], "candidates": ["203.0.113.0/24"],
        "reached": [], "compose_comes": True, "package": "docker.io", "purge": False,
    }  # fmt: skip

    @pytest.mark.parametrize("before", [None, '{"data-root": "/big"}'])
    def test_what_was_there_comes_back(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
    ) -> None:
        settings, drop_in = self.files(tmp_path, monkeypatch)
        program(commands, "systemctl", f'echo "$@" >>{tmp_path}/asked')
        program(commands, "docker", "echo 2.30.0")
        settings.parent.mkdir()
        if before is not None:
            settings.write_text(before)
        assert result(engine.set_up, Module(check_mode=True, **self.PARAMS))["changed"]
        assert (settings.read_text() if settings.exists() else None) == before, "check mode writes nothing"
        for _ in range(2):
            assert result(engine.set_up, Module(**self.PARAMS))["changed"]
        assert json.loads(settings.read_text()).get("data-root") == (before and "/big")
        assert drop_in.exists()
        assert "restart docker.service" in (tmp_path / "asked").read_text()
        told = result(engine.give_back, Module(check_mode=True, **self.PARAMS))
        assert {change["name"] for change in told["testbed_changes"]} == {str(settings), str(drop_in)}
        assert drop_in.exists()
        result(engine.give_back, Module(**self.PARAMS))
        assert (settings.read_text() if settings.exists() else None) == before
        assert not drop_in.parent.exists()
        assert not result(engine.give_back, Module(**self.PARAMS))["changed"]

    def engine_here(self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **before: Any) -> Path:
        """An engine that runs with what it was told last, and settings that were there before; returns daemon.json."""
        settings, drop_in = self.files(tmp_path, monkeypatch)
        program(commands, "systemctl", f'echo "$@" >>{tmp_path}/asked')
        program(commands, "docker", "echo 2.30.0")
        settings.parent.mkdir()
        if before:
            settings.write_text(json.dumps(before))
        last = lambda: drop_in.read_text().rpartition("=")[2].strip() if drop_in.exists() else ""  # noqa: E731
        monkeypatch.setattr(engine, "running_digest", last)
        return settings

    SITE: ClassVar[dict[str, Any]] = {
        "registry-mirrors": ["https://hub.site.example"],
        "default-address-pools": [{"base": "172.30.0.0/16", "size": 26}],
        "log-driver": "journald",
        "proxies": {"http-proxy": "http://user:PASSWORD@proxy:3128"},
    }

    def test_a_site_that_has_settings_of_its_own_keeps_all_of_them(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = self.engine_here(commands, tmp_path, monkeypatch, **self.SITE)
        before = settings.read_text()
        assert result(engine.set_up, Module(**{**self.PARAMS, "candidates": []}))["changed"], "the drop-in is new"
        assert settings.read_text() == before
        given = {"settings": {"registry-mirrors": ["https://hub.example"]}, "pools": ["203.0.113.0/24"]}
        result(engine.set_up, Module(**{**self.PARAMS, **given}))
        assert json.loads(settings.read_text()) == {
            **self.SITE,
            "registry-mirrors": ["https://hub.example"],
            "default-address-pools": [{"base": "203.0.113.0/24", "size": 24}],
        }
        result(engine.set_up, Module(**{**self.PARAMS, "candidates": []}))
        assert json.loads(settings.read_text()) == self.SITE, "what is given no longer gives way to the site's"
        result(engine.give_back, Module(**self.PARAMS))
        assert settings.read_text() == before

    @pytest.mark.parametrize("before", [{}, {"data-root": "/big"}])
    def test_what_an_administrator_sets_later_stays_without_a_restart_and_beyond_the_testbed(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, Any]
    ) -> None:
        settings = self.engine_here(commands, tmp_path, monkeypatch, **before)
        result(engine.set_up, Module(**self.PARAMS))
        later = {"insecure-registries": ["old.site.example"], "log-driver": "local"}
        settings.write_text(json.dumps({**json.loads(settings.read_text()), **later}))
        found = result(engine.set_up, Module(**self.PARAMS))
        assert [each["name"] for each in found["testbed_changes"]] != []
        now = json.loads(settings.read_text())
        assert now["insecure-registries"] == ["old.site.example"]
        assert (now["log-driver"], "log-opts" in now) == ("local", False), "its log settings are the site's now"
        edited = {**now, "debug": True}
        settings.write_text(json.dumps(edited))
        (tmp_path / "asked").unlink()
        assert not result(engine.set_up, Module(**self.PARAMS))["changed"]
        assert "restart" not in self.asked(tmp_path)
        result(engine.give_back, Module(**self.PARAMS))
        assert json.loads(settings.read_text()) == {**before, **later, "debug": True}

    def test_a_file_that_is_closed_stays_closed_and_its_passwords_are_not_shown(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site = {key: value for key, value in self.SITE.items() if key != "log-driver"}
        settings = self.engine_here(commands, tmp_path, monkeypatch, **site)
        settings.chmod(0o600)
        found = result(engine.set_up, Module(**self.PARAMS))
        assert "log-opts" in settings.read_text()
        assert settings.stat().st_mode & 0o777 == 0o600
        assert "json-file" in json.dumps(found)
        assert "PASSWORD" not in json.dumps(found)
        result(engine.give_back, Module(**self.PARAMS))
        assert settings.stat().st_mode & 0o777 == 0o600

    @pytest.mark.parametrize("killed", ["write_settings", "save", "drop_in"])
    def test_a_run_that_is_killed_forgets_nothing_of_the_sites(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str
    ) -> None:
        site = {"data-root": "/big", "registry-mirrors": ["https://hub.site.example"]}
        settings = self.engine_here(commands, tmp_path, monkeypatch, **site)
        before = settings.read_text()
        params = [
            {**self.PARAMS, "settings": {"registry-mirrors": [f"https://hub{number}.example"]}} for number in (1, 2)
        ]
        result(engine.set_up, Module(**params[0]))
        saved, replace = [], engine.replace_file

        def save(told: dict[str, Any]) -> None:
            if killed == "save" and saved:
                raise KeyboardInterrupt
            saved.append(told)
            record.save(told)

        def replaced(path: Path, *words: Any) -> None:
            if (killed, path) in (("write_settings", settings), ("drop_in", engine.DROP_IN)):
                raise KeyboardInterrupt
            replace(path, *words)

        with monkeypatch.context() as patched:
            patched.setattr(engine, "save", save)
            patched.setattr(engine, "replace_file", replaced)
            with pytest.raises(KeyboardInterrupt):
                engine.set_up(Module(**params[1]))
        assert result(engine.set_up, Module(**params[1]))["changed"]
        assert json.loads(settings.read_text())["registry-mirrors"] == ["https://hub2.example"]
        result(engine.give_back, Module(**self.PARAMS))
        assert settings.read_text() == before

    def test_what_an_earlier_version_wrote_is_taken_for_the_testbeds(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = self.engine_here(commands, tmp_path, monkeypatch)
        site = {"data-root": "/big", "registry-mirrors": ["https://hub.site.example"]}
        engine.ASIDE.write_text(json.dumps(site))
        settings.write_text(json.dumps({**site, "log-driver": "json-file", "registry-mirrors": [], "debug": True}))
        record.save({**record.load(), "engine_settings": True})
        result(engine.set_up, Module(**self.PARAMS))
        now = json.loads(settings.read_text())
        assert (now["registry-mirrors"], now["log-opts"]) == (site["registry-mirrors"], {"max-file": "3"})
        result(engine.give_back, Module(**self.PARAMS))
        assert json.loads(settings.read_text()) == {**site, "debug": True}

    def test_settings_that_are_no_json_are_left_to_who_wrote_them(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings = self.engine_here(commands, tmp_path, monkeypatch, debug=True)
        result(engine.set_up, Module(**self.PARAMS))
        for text in ("{", "[1]"):
            settings.write_text(text)
            for function in (engine.set_up, engine.give_back):
                found = result(function, Module(**self.PARAMS))
                assert found["failed"]
                assert f"{settings} is no JSON" in found["msg"]
                assert "Mend it" in found["msg"]
            assert settings.read_text() == text

    def test_networks_of_the_site_that_cover_up_a_host_of_the_testbed_are_refused(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.engine_here(commands, tmp_path, monkeypatch, **self.SITE)
        found = self.look(monkeypatch, candidates=[], reached=["172.30.4.5", "server.example"])
        assert "172.30.0.0/16 covers up 172.30.4.5, a host of the testbed. Set server.engine" in found["msg"]
        assert self.look(monkeypatch, candidates=[], reached=["192.0.2.5"])["pools"] == []
        engine.SETTINGS.write_text(json.dumps({engine.POOLS: [{"base": "fd00:1::/64", "size": 80}]}))
        assert self.look(monkeypatch, reached=["192.0.2.5"])["pools"] == [], "it has chosen"

    def test_an_engine_that_runs_with_the_settings_is_left_alone(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.files(tmp_path, monkeypatch)
        program(commands, "systemctl", "true")
        program(commands, "docker", "echo 2.30.0")
        result(engine.set_up, Module(**self.PARAMS))
        digest = engine.DROP_IN.read_text().rpartition("=")[2].strip()
        monkeypatch.setattr(engine, "running_digest", lambda: digest)
        found = result(engine.set_up, Module(**self.PARAMS))
        assert (found["changed"], found["testbed_changes"]) == (False, [])

    def test_folders_of_an_engine_that_came_with_the_testbed_go_with_purge(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = self.files(tmp_path, monkeypatch)
        folders = [tmp_path / name for name in ("docker", "var-lib-docker", "there-before")]
        folders[2].mkdir()
        monkeypatch.setattr(engine, "FOLDERS", tuple(map(str, folders)))
        monkeypatch.setattr(engine, "ENGINES", (str(commands / "dockerd"),))
        for name in ("systemctl", "ip", "umount"):
            program(commands, name, "true")
        program(commands, "docker", "echo 2.30.0")
        result(engine.write_down, Module())
        result(engine.set_up, Module(**self.PARAMS))
        folders[1].mkdir()
        result(engine.give_back, Module(**self.PARAMS))
        assert folders[1].exists(), "images stay without purge"
        result(engine.give_back, Module(**{**self.PARAMS, "purge": True}))
        assert [folder.exists() for folder in folders] == [False, False, True]

    def test_a_folder_that_was_there_and_empty_such_as_a_disk_is_emptied_again(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = self.files(tmp_path, monkeypatch)
        disk, used = tmp_path / "disk", tmp_path / "used"
        (disk / "lost+found").mkdir(parents=True)
        used.mkdir()
        (used / "somebody's").touch()
        monkeypatch.setattr(engine, "FOLDERS", (str(disk), str(used), str(used / "key.json")))
        monkeypatch.setattr(engine, "ENGINES", (str(commands / "dockerd"),))
        for name in ("systemctl", "ip", "umount"):
            program(commands, name, "true")
        program(commands, "docker", "echo 2.30.0")
        assert result(engine.write_down, Module())["changed"]
        result(engine.set_up, Module(**self.PARAMS))
        (disk / "overlay2").mkdir()
        (disk / "engine-id").touch()
        (used / "key.json").touch()
        result(engine.give_back, Module(**self.PARAMS))
        assert (disk / "engine-id").exists(), "images stay without purge"
        told = result(engine.give_back, Module(check_mode=True, **{**self.PARAMS, "purge": True}))
        assert {"kind": "folder", "name": str(disk), "action": "change", "detail": "empty again"} in told[
            "testbed_changes"
        ]
        result(engine.give_back, Module(**{**self.PARAMS, "purge": True}))
        assert [path.name for path in disk.iterdir()] == ["lost+found"]
        assert [path.name for path in used.iterdir()] == ["somebody's"]

    @pytest.fixture
    def brought(self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Folders of an engine and a containerd that came with the testbed; one of them was there, empty."""
        self.files(tmp_path, monkeypatch)
        folders = {name: tmp_path / name for name in ("var-lib-docker", "var-lib-containerd", "cni", "disk")}
        folders["disk"].mkdir()
        monkeypatch.setattr(engine, "FOLDERS", tuple(map(str, folders.values())))
        monkeypatch.setattr(engine, "CONTAINERDS_DATA", str(folders["var-lib-containerd"]))
        monkeypatch.setattr(engine, "CONTAINERDS_FOLDERS", (str(folders["var-lib-containerd"]), str(folders["cni"])))
        monkeypatch.setattr(engine, "ENGINES", (str(commands / "dockerd"),))
        monkeypatch.setattr(engine, "GROUP", "nobody-has-this")
        program(commands, "systemctl", f'echo "$@" >>{tmp_path}/asked')
        for name in ("ip", "umount"):
            program(commands, name, "true")
        program(commands, "dpkg-query", 'for path; do :; done; echo "its-package:amd64: $path"')
        result(engine.write_down, Module())
        for name in ("var-lib-docker", "var-lib-containerd", "disk"):
            folders[name].mkdir(exist_ok=True)
            (folders[name] / "image").touch()
        (folders["cni"] / "net.d").mkdir(parents=True)
        return tmp_path

    def asked(self, folder: Path) -> str:
        return (folder / "asked").read_text() if (folder / "asked").exists() else ""

    @pytest.mark.parametrize("recorded", ["packages", "dependencies", None])
    def test_an_engine_that_an_administrator_has_installed_since_is_theirs(
        self, commands: Path, brought: Path, recorded: str | None
    ) -> None:
        program(commands, "dockerd", "true")
        record.save({**record.load(), **({recorded: ["its-package"]} if recorded else {})})
        result(engine.give_back, Module(**self.PARAMS))
        assert ("disable --now docker.service" in self.asked(brought)) == bool(recorded)
        result(engine.give_back, Module(**{**self.PARAMS, "purge": True}))
        assert (brought / "var-lib-docker/image").exists() == (not recorded)
        assert (brought / "disk/image").exists() == (not recorded)
        assert not record.load().get("engine")
        assert recorded or record.load()["groups"] == {}

    def test_a_containerd_that_is_not_ours_stays_when_our_engine_goes(self, commands: Path, brought: Path) -> None:
        program(commands, "containerd", "true")
        result(engine.give_back, Module(**{**self.PARAMS, "purge": True}))
        assert (brought / "var-lib-containerd/image").exists()
        assert not (brought / "var-lib-docker").exists()
        assert "docker.service" in self.asked(brought)
        assert "containerd.service" not in self.asked(brought)

    def test_a_containerd_whose_data_were_there_before_is_not_stopped(self, commands: Path, brought: Path) -> None:
        result(engine.give_back, Module(**{**self.PARAMS, "purge": True}))
        assert "disable --now containerd.service" in self.asked(brought)
        (brought / "asked").unlink()
        (brought / "var-lib-containerd").mkdir()
        (brought / "var-lib-containerd/theirs").touch()
        result(engine.write_down, Module())
        (brought / "var-lib-docker").mkdir()
        result(engine.give_back, Module(**{**self.PARAMS, "purge": True}))
        assert "disable --now docker.service" in self.asked(brought)
        assert "containerd.service" not in self.asked(brought)

    @pytest.mark.parametrize("others", [None, "cni/theirs", "cni/net.d/10-theirs.conf"])
    def test_settings_of_networks_go_only_where_there_are_none(self, brought: Path, others: str | None) -> None:
        if others:
            (brought / others).touch()
        told = result(engine.give_back, Module(check_mode=True, **{**self.PARAMS, "purge": True}))
        result(engine.give_back, Module(**{**self.PARAMS, "purge": True}))
        gone = {str(path) for path in (brought / "cni", brought / "cni/net.d") if not path.exists()}
        assert len(gone) == {None: 2, "cni/theirs": 1, "cni/net.d/10-theirs.conf": 0}[others]
        assert {change["name"] for change in told["testbed_changes"]} & {
            str(brought / "cni"), str(brought / "cni/net.d"),
        } == gone  # fmt: skip
        assert not others or (brought / others).exists()

    def mounts(self, *lines: str) -> None:
        mounts.MOUNTS.write_text("".join(f"{line} rw - ext4 x rw\n" for line in ("1 0 8:1 / /", *lines)))

    def test_what_is_still_mounted_below_is_not_removed(self, commands: Path, brought: Path) -> None:
        volume = f"{brought}/var-lib-docker/a\\040volume"
        self.mounts(f"2 1 0:9 / {volume}")
        program(commands, "umount", f'echo "$1" >>{brought}/asked; echo target is busy >&2; exit 32')
        found = result(engine.give_back, Module(**{**self.PARAMS, "purge": True}))
        assert found["failed"]
        assert f"{brought}/var-lib-docker/a volume cannot be unmounted (target is busy)" in found["msg"]
        assert f"{brought}/var-lib-docker/a volume\n" in self.asked(brought)
        assert (brought / "var-lib-docker/image").exists()
        assert record.load()["engine"], "the next run makes it good"
        program(commands, "umount", f"echo '1 0 8:1 / / rw' >{mounts.MOUNTS}")
        assert result(engine.give_back, Module(**{**self.PARAMS, "purge": True}))["changed"]
        assert not (brought / "var-lib-docker").exists()

    def test_a_folder_that_became_a_mount_point_stays_with_what_is_in_it(self, commands: Path, brought: Path) -> None:
        self.mounts(f"2 1 8:17 / {brought}/var-lib-docker", f"3 1 8:1 /elsewhere {brought}/disk")
        module = Module(**{**self.PARAMS, "purge": True})
        result(engine.give_back, module)
        assert (brought / "var-lib-docker/image").exists()
        assert (brought / "disk/image").exists()
        assert f"{brought}/disk stays" in module.warned
        assert not (brought / "var-lib-containerd").exists()

    def test_a_folder_that_was_a_mount_point_is_emptied(self, commands: Path, brought: Path) -> None:
        self.mounts(f"2 1 8:17 / {brought}/disk")
        (brought / "disk/image").unlink()
        record.RECORD.unlink()
        result(engine.write_down, Module())
        (brought / "disk/image").touch()
        result(engine.give_back, Module(**{**self.PARAMS, "purge": True}))
        assert (brought / "disk").exists()
        assert not (brought / "disk/image").exists()

    def test_a_folder_that_a_killed_engine_mounted_in_its_own_place_goes(self, commands: Path, brought: Path) -> None:
        folder = f"{brought}/var-lib-docker"
        self.mounts(f"2 1 8:1 {folder} {folder}")
        program(commands, "umount", f"echo '1 0 8:1 / / rw' >{mounts.MOUNTS}")
        told = result(engine.give_back, Module(check_mode=True, **{**self.PARAMS, "purge": True}))
        assert folder in {change["name"] for change in told["testbed_changes"]}
        result(engine.give_back, Module(**{**self.PARAMS, "purge": True}))
        assert not Path(folder).exists()

    @pytest.mark.parametrize("killed", ["run", "save"])
    def test_settings_that_are_back_stay_though_the_run_was_killed_then(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str
    ) -> None:
        settings, _ = self.files(tmp_path, monkeypatch)
        program(commands, "systemctl", "true")
        program(commands, "docker", "echo 2.30.0")
        settings.parent.mkdir()
        settings.write_text('{"data-root": "/big"}')
        settings.chmod(0o640)
        result(engine.set_up, Module(**self.PARAMS))

        def kill(*words: Any) -> Any:
            if killed == "save" or words[:2] == ("systemctl", "restart"):
                raise KeyboardInterrupt
            return run(*words)

        run = engine.run
        with monkeypatch.context() as patched:
            patched.setattr(engine, killed, kill)
            with pytest.raises(KeyboardInterrupt):
                engine.give_back(Module(**self.PARAMS))
        result(engine.give_back, Module(**self.PARAMS))
        assert settings.read_text() == '{"data-root": "/big"}'
        assert settings.stat().st_mode & 0o777 == 0o640
        assert not engine.ASIDE.exists()

    def test_settings_that_a_killed_run_left_aside_are_not_taken_for_those_of_now(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings, _ = self.files(tmp_path, monkeypatch)
        program(commands, "systemctl", "true")
        program(commands, "docker", "echo 2.30.0")
        settings.parent.mkdir()
        engine.ASIDE.write_text('{"data-root": "/long-ago"}')
        result(engine.set_up, Module(**self.PARAMS))
        assert "data-root" not in json.loads(settings.read_text())
        result(engine.set_up, Module(**self.PARAMS))
        assert "data-root" not in json.loads(settings.read_text())
        result(engine.give_back, Module(**self.PARAMS))
        assert not settings.exists()
        engine.ASIDE.write_text("{}")
        told = result(engine.give_back, Module(**self.PARAMS))
        assert [change["name"] for change in told["testbed_changes"]] == [str(engine.ASIDE)]
        assert not engine.ASIDE.exists()

    def test_a_group_that_comes_with_the_engine_is_written_down_and_one_that_was_there_is_not(
        self, commands: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine, "FOLDERS", ())
        monkeypatch.setattr(engine, "ENGINES", (str(commands / "dockerd"),))
        monkeypatch.setattr(engine, "GROUP", "root")
        assert not result(engine.write_down, Module())["changed"]
        assert record.load()["groups"] == {}
        monkeypatch.setattr(engine, "GROUP", "nobody-has-this")
        assert result(engine.write_down, Module(check_mode=True))["changed"]
        assert record.load()["groups"] == {}
        assert result(engine.write_down, Module())["changed"]
        assert record.load()["groups"] == {"nobody-has-this": [str(commands / "dockerd")]}
        program(commands, "dockerd", "true")
        assert not result(engine.write_down, Module())["changed"], "the engine is there now, and its group is its"


def container(digest: str, status: str = "running", health: str | None = "healthy", code: int = 0) -> dict[str, Any]:
    state: dict[str, Any] = {"Status": status, "ExitCode": code}
    if health:
        state["Health"] = {"Status": health}
    return {"Config": {"Labels": {"testbed.digest": digest}}, "State": state}


class TestCompose:
    @pytest.mark.parametrize(
        ("there", "expected"),
        [
            ({}, {"a": "add"}),
            ({"a": container("1")}, {}),
            ({"a": container("1", health=None)}, {}),
            ({"a": container("1", health="starting")}, {}),
            ({"a": container("0")}, {"a": "restart"}),
            ({"a": container("1", "exited")}, {"a": "start"}),
            ({"a": container("1", health="unhealthy")}, {"a": "restart"}),
            ({"a": container("1"), "b": container("1")}, {"b": "remove"}),
        ],
    )
    def test_what_differs_is_what_is_done(self, there: dict[str, Any], expected: dict[str, str]) -> None:
        assert compose.plan({"a": "1"}, there) == expected

    @pytest.mark.parametrize(
        ("found", "word"),
        [
            (container("1"), "healthy"),
            (container("1", health="unhealthy"), "unhealthy"),
            (container("1", "exited", code=137), "exited (137)"),
            (container("1", "restarting"), "restarting"),
        ],
    )
    def test_a_containers_state_is_a_word(self, found: dict[str, Any], word: str) -> None:
        assert compose.health(found) == word

    PARAMS = {
        "project": "p", "file": "/x/compose.yaml", "services": {"a": "1"}, "images": ["new:1"], "needs": [],
        "timeout": 5, "purge": False,
    }  # fmt: skip

    def docker(self, folder: Path, tmp_path: Path, found: dict[str, Any], up: int = 0) -> None:
        told = {**found, "Config": {"Labels": {**found["Config"]["Labels"], compose.SERVICE: "a"}}}
        (tmp_path / "inspected").write_text(json.dumps([told]))
        program(
            folder,
            "docker",
            f'echo "$@" >>{tmp_path}/asked\n'
            'case "$*" in\n'
            '"ps "*) echo c1;;\n'
            f'"inspect c1") /bin/cat {tmp_path}/inspected;;\n'
            '"image inspect"*) exit 1;;\n'
            f'*" up "*) echo broken >&2; exit {up};;\n'
            '*" logs "*) echo "last words";;\n'
            "esac",
        )

    def test_nothing_is_done_where_all_is_as_wanted(self, commands: Path, tmp_path: Path) -> None:
        self.docker(commands, tmp_path, container("1"))
        found = result(compose.bring_up, Module(**self.PARAMS))
        assert (found["changed"], found["testbed_changes"]) == (False, [])
        assert " up " not in (tmp_path / "asked").read_text()

    def test_check_mode_tells_and_does_nothing(self, commands: Path, tmp_path: Path) -> None:
        self.docker(commands, tmp_path, container("0"))
        found = result(compose.bring_up, Module(check_mode=True, **self.PARAMS))
        assert [(each["name"], each["action"]) for each in found["testbed_changes"]] == [("p-a", "restart")]
        assert " up " not in (tmp_path / "asked").read_text()

    def test_before_there_is_an_engine_check_mode_tells_what_would_come(self, commands: Path) -> None:
        found = result(compose.bring_up, Module(check_mode=True, **self.PARAMS))
        assert [each["action"] for each in found["testbed_changes"]] == ["add"]
        with pytest.raises(compose.ComposeError, match="no docker command"):
            compose.bring_up(Module(**self.PARAMS))

    def test_it_starts_by_health_and_records_images_first(self, commands: Path, tmp_path: Path) -> None:
        self.docker(commands, tmp_path, container("0"))
        assert result(compose.bring_up, Module(**self.PARAMS))["changed"]
        asked = (tmp_path / "asked").read_text()
        assert "compose --project-name p --file /x/compose.yaml up --detach" in asked
        assert "--remove-orphans --wait --wait-timeout 5" in asked
        assert record.load()["images"] == ["new:1"]

    def test_an_unhealthy_one_is_made_anew(self, commands: Path, tmp_path: Path) -> None:
        self.docker(commands, tmp_path, container("1", health="unhealthy"))
        result(compose.bring_up, Module(**self.PARAMS))
        asked = (tmp_path / "asked").read_text()
        assert asked.index("rm --stop --force a") < asked.index(" up ")

    def test_one_that_does_not_become_healthy_is_named_with_its_last_words(
        self, commands: Path, tmp_path: Path
    ) -> None:
        self.docker(commands, tmp_path, container("0", "exited", code=3), up=1)
        with pytest.raises(compose.ComposeError) as error:
            compose.bring_up(Module(**self.PARAMS))
        assert "p-a is exited (3); the end of its log:\nlast words" in str(error.value)

    def test_images_go_with_purge_only(self, commands: Path, tmp_path: Path) -> None:
        self.docker(commands, tmp_path, container("1"))
        record.save({**record.load(), "images": ["new:1"]})
        result(compose.take_down, Module(**self.PARAMS))
        assert "image rm" not in (tmp_path / "asked").read_text()
        result(compose.take_down, Module(**{**self.PARAMS, "purge": True}))
        assert "image rm new:1" in (tmp_path / "asked").read_text()
        assert "images" not in record.load()

    def images(self, commands: Path, tmp_path: Path, *here: str, used: str = "") -> Path:
        """An engine that has these images; returns the folder that has a file for each."""
        folder = tmp_path / "images"
        folder.mkdir()
        for image in here:
            (folder / image).touch()
        program(
            commands,
            "docker",
            f'echo "$@" >>{tmp_path}/asked; cd {folder}\n'
            'case "$*" in\n'
            '"ps "*) ;;\n'
            '"image inspect"*) [ -e "$5" ] ;;\n'
            f'"image rm "*) [ "$3" != "{used}" ] && /bin/rm "$3" ;;\n'
            '"pull --quiet absent:1") echo no such image >&2; exit 1;;\n'
            '"pull "*) : >"$3";;\n'
            "esac",
        )
        return folder

    def test_images_come_without_anything_being_started_and_only_those_that_are_missing(
        self, commands: Path, tmp_path: Path
    ) -> None:
        folder = self.images(commands, tmp_path, "there:1")
        module = {**self.PARAMS, "images": ["there:1", "new:2"]}
        assert result(compose.fetch, Module(check_mode=True, **module))["fetched"] == ["new:2"]
        assert [path.name for path in folder.iterdir()] == ["there:1"]
        assert result(compose.fetch, Module(**module)) == {"changed": True, "fetched": ["new:2"]}
        asked = (tmp_path / "asked").read_text()
        assert "pull --quiet new:2\n" in asked
        assert "pull --quiet there:1" not in asked
        assert " up " not in asked
        assert record.load()["images"] == ["new:2"], "purge removes it again"
        assert result(compose.fetch, Module(**module))["changed"] is False
        with pytest.raises(compose.ComposeError, match="docker pull --quiet absent:1: no such image"):
            compose.fetch(Module(**{**module, "images": ["absent:1"]}))

    def test_only_images_that_came_with_the_project_and_that_it_needs_no_longer_are_removed(
        self, commands: Path, tmp_path: Path
    ) -> None:
        folder = self.images(commands, tmp_path, "old:1", "new:2", "theirs:1", "used:1", used="used:1")
        record.save({**record.load(), "images": ["gone:1", "new:2", "old:1", "used:1"]})
        module = {**self.PARAMS, "images": ["new:2"]}
        assert result(compose.trim, Module(check_mode=True, **module))["removed"] == ["old:1", "used:1"]
        assert len([*folder.iterdir()]) == 4
        assert result(compose.trim, Module(**module)) == {"changed": True, "removed": ["old:1"]}
        assert {path.name for path in folder.iterdir()} == {"new:2", "theirs:1", "used:1"}
        assert record.load()["images"] == ["new:2", "used:1"], "what another container uses is tried again later"
        assert result(compose.trim, Module(**module))["changed"] is False

    @pytest.mark.parametrize("config", ["", "/etc/testbed/clearml/docker"])
    def test_docker_logs_in_with_the_settings_that_are_given_else_with_the_users(
        self, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("DOCKER_CONFIG", "the user's")
        program(commands, "docker", f'echo "$DOCKER_CONFIG" >>{tmp_path}/told')
        given = Module(**{**self.PARAMS, "state": "fetched", "config": config, "images": ["new:1"]})
        monkeypatch.setattr(compose, "AnsibleModule", lambda **_: given)
        result(lambda _: compose.main(), given)
        assert {*(tmp_path / "told").read_text().splitlines()} == {config or "the user's"}

    def test_without_docker_there_is_nothing_to_take_down(self, commands: Path) -> None:
        assert result(compose.take_down, Module(**self.PARAMS))["changed"] is False

    def test_containers_of_an_engine_that_does_not_answer_are_not_forgotten(
        self, commands: Path, tmp_path: Path
    ) -> None:
        program(commands, "docker", "echo Cannot connect to the Docker daemon >&2; exit 1")
        assert result(compose.take_down, Module(**self.PARAMS))["changed"] is False, "the project is not here"
        file = tmp_path / "compose.yaml"
        file.write_text("")
        with pytest.raises(compose.ComposeError, match=r"Cannot connect.*\. Start the Docker Engine"):
            compose.take_down(Module(**{**self.PARAMS, "file": str(file)}))


class TestCapacity:
    @pytest.mark.parametrize(
        ("flags", "machine", "expected"),
        [
            ("flags\t\t: fpu avx avx2\n", "x86_64", True),
            ("flags\t\t: fpu sse4_2 avx2\n", "x86_64", False),
            ("flags\t: avx\nflags\t: sse\n", "x86_64", False),
            ("", "x86_64", False),
            ("Features\t: fp asimd\n", "aarch64", True),
        ],
    )
    def test_avx_is_a_flag_of_every_processor(self, flags: str, machine: str, expected: bool) -> None:
        assert capacity.has_avx(flags, machine) == expected

    @pytest.mark.parametrize(("effective", "may"), [("000001ffffffffff", True), ("000001fffeffffff", False)])
    def test_limits_may_be_raised_with_the_capability(self, effective: str, may: bool) -> None:
        assert capacity.may_raise_limits(f"Name:\tx\nCapEff:\t{effective}\n") == may

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ((65536, True, 1024, 65536), {"nofile": 65536, "memlock": True}),
            ((65536, False, 20000, 65536), {"nofile": 20000, "memlock": False}),
            ((65536, False, 1 << 20, -1), {"nofile": 65536, "memlock": True}),
        ],
    )
    def test_containers_get_no_more_than_the_host_may_give(self, given: Any, expected: dict[str, Any]) -> None:
        assert capacity.limits(*given) == expected

    @pytest.mark.parametrize(
        ("engine_says", "settings", "expected"),
        [
            ("/big/docker", "{}", "/big/docker"),
            (None, '{"data-root": "/big"}', "/big"),
            (None, '{"debug": true}', "/var/lib/docker"),
            (None, "{", "/var/lib/docker"),
            (None, None, "/var/lib/docker"),
        ],
    )
    def test_images_are_where_the_engine_says_or_its_settings(
        self,
        commands: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        engine_says: str | None,
        settings: str | None,
        expected: str,
    ) -> None:
        monkeypatch.setattr(capacity, "SETTINGS", tmp_path / "daemon.json")
        if settings is not None:
            (tmp_path / "daemon.json").write_text(settings)
        script = f'case "$*" in "info --format {{{{.DockerRootDir}}}}") echo {engine_says};; *) exit 1;; esac'
        program(commands, "docker", script if engine_says else "echo Cannot connect; exit 1")
        given = Module(nofile=1, paths=[], sizes=[], images=["redis"])
        monkeypatch.setattr(capacity, "AnsibleModule", lambda **_: given)
        found = result(lambda _: capacity.main(), given)
        assert (found["images_folder"], found["engine_answers"]) == (expected, bool(engine_says))
        assert [*found["free_mb"]] == [expected]
        assert found["images_missing"] == ["redis"]

    def test_it_reads_this_machine(self) -> None:
        assert capacity.memory_mb() > 0
        assert capacity.free_mb(Path("/no/such/folder")) == capacity.free_mb(Path("/"))


class TestSizes:
    ALL = ["redis", "mongo", "elasticsearch", "apiserver", "fileserver", "webserver", "async_delete"]

    @pytest.mark.parametrize("memory_mb", [5800, 7950, 15900, 64000, 250000])
    def test_together_they_leave_room_for_the_system(self, memory_mb: int) -> None:
        found = made_of.clearml_sizes(memory_mb, self.ALL)
        assert sum(size["limit"] for size in found.values()) <= memory_mb - max(1024, memory_mb // 8)
        heap, limit = found["elasticsearch"]["heap"], found["elasticsearch"]["limit"]
        assert heap == limit // 2
        assert heap <= 30 * 1024, "more would cost the JVM its short pointers"

    def test_the_norm_is_enough_and_half_of_it_is_not(self) -> None:
        assert 4096 < made_of.needed_mb(self.ALL) < 7950

    def test_a_store_elsewhere_leaves_its_share_to_the_others(self) -> None:
        fewer = [name for name in self.ALL if name != "elasticsearch"]
        assert made_of.needed_mb(fewer) < made_of.needed_mb(self.ALL)
        less, more = (made_of.clearml_sizes(7950, services)["mongo"]["limit"] for services in (self.ALL, fewer))
        assert more > less

    def test_gunicorns_workers_fit_into_their_limit(self) -> None:
        for memory_mb in (5800, 7950, 64000):
            size = made_of.clearml_sizes(memory_mb, self.ALL)["apiserver"]
            assert 2 <= size["workers"] <= min(8, size["limit"] // made_of.WORKER_MB)

    def test_the_docs_show_the_sizes(self) -> None:
        page = (ROLES.parent / "docs/official-server.md").read_text()
        for name, memory_mb in {"8": 7950, "16": 15900, "64": 64000}.items():
            [row] = [line for line in page.splitlines() if line.startswith(f"| {name} GB |")]
            shown = [float(cell.split()[0]) for cell in row.strip("|").split("|")[1:]]
            limits = {service: size["limit"] for service, size in made_of.clearml_sizes(memory_mb, self.ALL).items()}
            named = [limits.pop(service) for service in ("elasticsearch", "mongo", "apiserver")]
            for gigabytes, limit in zip(shown, [*named, sum(limits.values())], strict=True):
                assert abs(gigabytes * 1000 - limit) <= max(100, limit * 0.03)


class TestSysctl:
    def test_the_former_value_is_in_its_file(self) -> None:
        assert sysctl.former(sysctl.text("vm.max_map_count", 524288, 65530)) == 65530
        assert "vm.max_map_count = 524288\n" in sysctl.text("vm.max_map_count", 524288, 65530)

    @pytest.mark.parametrize(("now", "then"), [(65530, 524288), (524288, 524288), (1048576, 1048576)])
    def test_elasticsearch_may_map_its_files_and_the_value_of_before_comes_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: int, then: int
    ) -> None:
        monkeypatch.setattr(sysctl, "KERNEL", tmp_path)
        setting, file = tmp_path / "vm/max_map_count", tmp_path / "60-testbed.conf"
        setting.parent.mkdir()
        setting.write_text(f"{now}\n")

        def run(check: bool = False, state: str = "present") -> bool:
            params = {"name": "vm.max_map_count", "at_least": 524288, "file": str(file), "state": state}
            return bool(result(sysctl.converge, Module(check, **params))["changed"])

        assert run(check=True) == (now != then)
        assert (setting.read_text(), file.exists()) == (f"{now}\n", False)
        assert [run(), run()] == [now != then, False]
        assert (int(setting.read_text()), file.exists()) == (then, now != then), "also after a boot"
        assert [run(state="absent"), run(state="absent")] == [now != then, False]
        assert (int(setting.read_text()), file.exists()) == (now, False)


class TestPorts:
    def test_the_container_that_is_wanted_there_may_hold_the_port(
        self, commands: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        process = tmp_path / "7"
        process.mkdir()
        (process / "comm").write_text("docker-proxy\n")
        monkeypatch.setattr(check, "port_is_free", lambda *_: False)
        monkeypatch.setattr(check, "processes_with", lambda _: [process])
        program(commands, "docker", "echo testbed-clearml-apiserver")
        assert check.port_problem(8008, "127.0.0.1", "testbed-clearml-apiserver", None) is None
        problem = check.port_problem(8008, "127.0.0.1", "testbed-clearml-lite", "server.ports.api")
        assert "is held by container testbed-clearml-apiserver. Stop" in problem
