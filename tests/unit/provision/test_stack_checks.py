"""A stack check whose command fails on a host is a failed check that says why, and no stumble over its output."""

from __future__ import annotations

import configparser
import contextlib
import importlib
import types
from pathlib import Path

import pytest

from provision.smoke.problem import Broken

ROOT = Path(__file__).parents[3]
STACK = types.SimpleNamespace(
    testbed=types.SimpleNamespace(data_dir="/srv/data"),
    inventory={"all": {"hosts": {"h1": {}}, "children": {"agents": {"hosts": {"h1": {}}}}}},
)


def _on(rc, stdout, stderr=""):
    done = types.SimpleNamespace(rc=rc, stdout=stdout, stderr=stderr)
    return lambda name: types.SimpleNamespace(run=lambda command, *arguments: done)


def _record(key, value):
    pass


@pytest.fixture(scope="module")
def checks(pytestconfig):
    """The checks by a short name; their modules have markers of their own."""
    own = configparser.ConfigParser()
    own.read(ROOT / "tests/stack/pytest.ini")
    for line in own["pytest"]["markers"].split("\n"):
        pytestconfig.addinivalue_line("markers", line)
    services, workers = (importlib.import_module(f"tests.stack.test_{name}") for name in ("services", "workers"))
    return {
        "twins": lambda on: workers.test_worker_ids_are_used_once(on, STACK),
        "disk": lambda on: services.test_disk_has_room(on, STACK, _record),
        "clock": lambda on: services.test_clock_agrees_on_every_host(on, STACK, _record),
    }


@pytest.mark.parametrize("name", ["twins", "disk", "clock"])
@pytest.mark.parametrize("stdout", ["", "[]"])
def test_a_command_that_fails_on_a_host_is_told(checks, name, stdout):
    with pytest.raises(Broken) as failed:
        checks[name](_on(127, stdout, "df:\nno such thing"))
    assert str(failed.value.seen).startswith("h1: ")
    assert "no such thing" in failed.value.seen
    assert failed.value.remedy


def test_what_the_commands_say_is_read(checks):
    checks["twins"](_on(0, '["h1:a"]'))
    checks["disk"](_on(0, "     Avail\n9000000000\n"))
    with pytest.raises(Broken, match=r"two agents work as h1:a"):
        checks["twins"](_on(0, '["h1:a", "h1:a"]'))
    with pytest.raises(Broken, match=r"/srv/data has 1.0 GB left"):
        checks["disk"](_on(0, "     Avail\n1000000000\n"))


def _canonical(run, monkeypatch) -> None:
    canonical = importlib.import_module("tests.stack.test_tls")
    monkeypatch.setattr(canonical.tls, "is_open_here", lambda testbed, machines: False)
    inventory = {"all": {"children": {"server": {"hosts": {"h1": {}}}, "agents": {"hosts": {"h2": {}}}}}}
    server = types.SimpleNamespace(url=lambda of: "http://lab.example:8081")
    stack = types.SimpleNamespace(testbed=types.SimpleNamespace(server=server), machines=[], inventory=inventory)
    host = types.SimpleNamespace(run=run)
    canonical.test_canonical_url_answers_on_every_host(lambda name: host, stack, "files", _record)


def test_a_port_that_is_closed_for_the_agents_account_is_told(monkeypatch):
    def run(command, account, *arguments):
        refused = account == "clearml-agent"
        return types.SimpleNamespace(rc=0, stdout="" if refused else "200", stderr="Connection refused")

    with pytest.raises(Broken, match=r"h2, as clearml-agent, does not reach http://lab.example:8081: Connection ref"):
        _canonical(run, monkeypatch)


def test_what_every_host_reaches_is_fine(monkeypatch):
    _canonical(lambda command, *arguments: types.SimpleNamespace(rc=0, stdout="200", stderr=""), monkeypatch)


@pytest.mark.parametrize(
    ("versions", "said", "found"),
    [
        ("clearml 2.1\ntensorflow-cpu missing\nkeras 3.1\n", "", "h1: the prepared environment has no tensorflow-cpu"),
        (
            "clearml 2.1\ntensorflow-cpu 2.21\nkeras 2.13.1\n",
            "tensorflow-cpu 2.21 has requirement keras>=3, but you have keras 2.13.1.",
            "h1: the prepared environment: tensorflow-cpu 2.21 has requirement keras>=3, but you have keras 2.13.1.",
        ),
        ("clearml 2.1\ntensorflow-cpu 2.21\nkeras 3.1\n", "", ""),
    ],
    ids=["missing", "wrong line", "good"],
)
def test_a_prepared_environment_that_is_not_whole_is_told(checks, versions, said, found):
    environments = importlib.import_module("tests.stack.test_environments")

    def run(command, *arguments):
        check = "pip" in command
        return types.SimpleNamespace(rc=bool(check and said), stdout=said if check else versions, stderr="")

    on = lambda name: types.SimpleNamespace(run=run)  # noqa: E731
    if found:
        with pytest.raises(Broken) as failed:
            environments.test_prepared_environment_is_whole(on, STACK, _record)
        assert failed.value.seen == found
        assert failed.value.remedy
    else:
        environments.test_prepared_environment_is_whole(on, STACK, _record)


def test_a_name_that_means_nothing_on_this_machine_is_told_although_ssh_leads_there(checks, monkeypatch):
    canonical = importlib.import_module("tests.stack.test_tls")
    said = {"answer": "[Errno -2] Name or service not known"}
    monkeypatch.setattr(canonical, "_answer_here", lambda url: said["answer"])
    monkeypatch.setattr(canonical.tls, "is_open_here", lambda testbed, machines: True)
    server = types.SimpleNamespace(url=lambda of: "https://lab.example:8008")
    inventory = {"all": {"children": {"server": {"hosts": {"h1": {}}}, "agents": {"hosts": {}}}}}
    stack = types.SimpleNamespace(testbed=types.SimpleNamespace(server=server), machines=[], inventory=inventory)
    with pytest.raises(Broken, match=r"this machine reaches https://lab.example:8008 through SSH only: .*not known"):
        canonical.test_canonical_url_answers_on_every_host(_on(0, "200"), stack, "api", _record)
    said["answer"] = "200"
    canonical.test_canonical_url_answers_on_every_host(_on(0, "200"), stack, "api", _record)


@pytest.mark.parametrize(("status", "good"), [(401, True), (429, True), (200, False), (500, False)])
def test_a_server_that_slows_down_who_guesses_keeps_strangers_out(checks, monkeypatch, status, good):
    server = importlib.import_module("tests.stack.test_server")
    monkeypatch.setattr(server, "_status", lambda http, url, auth=None: status if auth else 401)
    target = types.SimpleNamespace(url=lambda of: "https://lab.example:8008")
    with contextlib.nullcontext() if good else pytest.raises(Broken, match="takes a guessed password"):
        server.test_strangers_stay_out(None, target)
