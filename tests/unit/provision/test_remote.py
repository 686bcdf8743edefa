"""From which machine each service is reached, and what tells an administrator's commands from others'."""

from __future__ import annotations

from fnmatch import fnmatch

import pytest

from provision import machines, remote, spec

BASE = """\
name: lab
provider: hosts
users: [{name: alice}]
server: {SERVER}
hosts:
  user: debian
  machines:
    - {name: hub, address: 192.0.2.1, internal: 10.0.0.1, groups: [server]}
"""
DESK = "    - {name: desk, address: 192.0.2.2, internal: 10.0.0.2, groups: [GROUPS]}\n"
OUTSIDE = "telemetry: {source: external, dialect: 2, org: o, bucket: b, url: 'URL', credentials: {token_file: t}}\n"


def _services(text, server=""):
    testbed = spec.parse(text.replace("SERVER", server), "t.yaml")
    there = machines.described(testbed.hosts)
    return {machine.name: services for machine, services in remote._services(machines.resolved(testbed, there), there)}


def _urls(host):
    return {f"http://{host}:{port}": ("127.0.0.1", port) for port in (8008, 8080, 8081)}


def test_the_servers_machine_leads_to_all_that_is_there():
    assert _services(BASE) == {"hub": _urls("10.0.0.1") | {"http://127.0.0.1:8086": ("127.0.0.1", 8086)}}


def test_a_server_that_listens_on_one_address_is_reached_there():
    found = _services(BASE, "bind: 10.0.0.1, host: lab.example")["hub"]
    assert found["http://lab.example:8008"] == ("10.0.0.1", 8008)


@pytest.mark.parametrize(
    ("groups", "url", "address"),
    [
        ("telemetry, clients", "http://127.0.0.1:8086", "127.0.0.1"),
        ("telemetry", "http://10.0.0.2:8086", "10.0.0.2"),
    ],
)
def test_influxdb_is_reached_from_its_own_machine(groups, url, address):
    found = _services(BASE + DESK.replace("GROUPS", groups + (", inference" if "clients" in groups else "")))
    assert found == {"hub": _urls("10.0.0.1"), "desk": {url: (address, 8086)}}


@pytest.mark.parametrize(
    ("url", "there"),
    [
        ("https://influx.example", ("influx.example", 443)),
        ("http://influx.example/path", ("influx.example", 80)),
        ("http://192.0.2.9:8086", ("192.0.2.9", 8086)),
    ],
)
def test_somebody_elses_influxdb_is_reached_from_where_users_are(url, there):
    found = _services(BASE + DESK.replace("GROUPS", "clients") + OUTSIDE.replace("URL", url))
    assert found["desk"] == {url: there}


def test_a_command_knows_the_folders_of_its_administrators_commands(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    first, second = (remote.Command.of("lab", "up") for _ in range(2))
    assert first.folder != second.folder
    assert fnmatch(second.folder, first.folders)
    assert first.mine == second.mine
    assert first.mine in first.run
    monkeypatch.setenv("XDG_STATE_HOME", "/another/administrator's")
    assert not fnmatch(remote.Command.of("lab", "up").folder, first.folders)
