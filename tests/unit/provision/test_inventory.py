"""The inventory says what the spec says, and holds no secret."""

from __future__ import annotations

from pathlib import Path

from provision import inventory, spec
from provision.credentials import identities
from provision.inventory import Wheels

WHEELS = Wheels(lite=Path("/w/lite.whl"), workload=Path("/w/workload.whl"))


def _build(text="", environment=None, become=False):
    base = "name: lab\nprovider: local\nusers: [{name: alice}, {name: bob, full_name: Bob B}]\n"
    testbed = spec.parse(base + (text or "server: {}\n"), "t.yaml")
    return testbed, inventory.build(testbed, WHEELS, environment or {}, become=become)


def test_the_local_host_is_in_every_group():
    testbed, found = _build()
    assert list(found["all"]["hosts"]) == ["local"]
    assert {group: inventory.hosts(found, group) for group in found["all"]["children"]} == {
        group: ["local"] for group in ("server", "telemetry", "agents", "clients")
    }


def test_settings_reach_the_roles():
    _, found = _build(
        "server: {bind: 127.0.0.5, ports: {api: 1008}}\ndata_dir: /srv/testbed\n"
        "telemetry: {port: 1086, points: 5000}\n",
        become=True,
    )
    groups = found["all"]["children"]
    assert found["all"]["vars"]["clearml_conf_api_url"] == "http://127.0.0.5:1008"
    assert found["all"]["vars"]["common_data_dir"] == "/srv/testbed"
    assert groups["server"]["vars"]["clearml_server_bind"] == "127.0.0.5"
    assert groups["telemetry"]["vars"]["influxdb_port"] == 1086
    assert groups["telemetry"]["vars"]["telemetry_points"] == 5000
    assert found["all"]["hosts"]["local"]["ansible_become"] is True
    assert [user["name"] for user in groups["clients"]["vars"]["clearml_conf_users"]] == ["alice", "bob"]
    assert {1008, 8080, 8081, 1086, 8088} == {entry["port"] for entry in found["all"]["vars"]["common_ports"]}


def test_an_external_source_needs_no_port_and_no_service():
    testbed, found = _build(
        "server: {}\ntelemetry: {source: external, dialect: 1, url: 'http://influx.example:8086', database: eventsdb}\n"
    )
    assert {entry["service"] for entry in found["all"]["vars"]["common_ports"]} == {"testbed-clearml-lite"}
    assert "influxdb_port" not in found["all"]["children"]["telemetry"]["vars"]
    assert ("local", "testbed-influxdb") not in inventory.services(testbed, found)


def test_only_what_reaches_package_indexes_is_handed_on_and_no_password():
    given = {
        "https_proxy": "http://proxy:3128",
        "HTTP_PROXY": "http://user:secret@proxy:3128",
        "all_proxy": "user:secret@proxy:3128",
        "PIP_INDEX_URL": "https://token:secret@index/simple",
        "PIP_CERT": "/ca.pem",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "PATH": "/bin",
    }
    direct = "localhost,127.0.0.1,server.example"
    assert inventory.network_environment(given, ["server.example"]) == {
        "PIP_CERT": "/ca.pem",
        "https_proxy": "http://proxy:3128",
        "no_proxy": direct,
        "NO_PROXY": direct,
    }


def test_without_a_proxy_nothing_is_said_of_one():
    assert inventory.network_environment({"PIP_CERT": "/ca.pem"}) == {"PIP_CERT": "/ca.pem"}


def test_an_ipv6_address_is_bracketed_in_urls():
    testbed, _ = _build("server: {bind: '::1'}\n")
    assert testbed.server.url("api") == "http://[::1]:8008"


def test_every_holder_has_an_identity_and_a_label_of_its_own():
    testbed, found = _build()
    everybody = identities.of(testbed, found)
    assert [identity.name for identity in everybody] == [
        "toolkit",
        "user/alice",
        "user/bob",
        "agent/local/default",
        "agent/local/prepared",
    ]
    labels = [identity.label("lab") for identity in everybody]
    assert len(set(labels)) == len(labels)
    assert labels[1] == "testbed:lab user:alice purpose:client"
