"""`server.backend: external`: what the spec takes, and what of a server of the testbed's own is left out then."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from provision import deploy, inventory, machines, remote, session, spec
from provision.cli import main
from provision.cloud import desired
from provision.credentials import identities, issuer
from provision.errors import SpecError
from provision.inventory import Wheels
from provision.machines import main_machine
from provision.paths import ROLES

WHEELS = Wheels(lite=ROLES / "lite.whl", workload=ROLES / "workload.whl")
URLS = "urls: {api: 'https://c.example/api/', web: 'https://c.example', files: 'http://files.example:8081'}"
SERVER = f"{{backend: external, {URLS}, ca_file: ca.pem, credentials_file: key.conf}}"
BASE = "name: lab\nusers: [{name: alice}, {name: bob}]\n"
MACHINES = """\
hosts:
  user: debian
  machines:
    - {name: desk, address: 192.0.2.1, internal: 10.0.0.1, groups: [clients]}
    - {name: gpu, address: 192.0.2.2, groups: [agents]}
"""


def _local(server=SERVER, more=""):
    return spec.parse(f"{BASE}provider: local\nserver: {server}\n{more}", "t.yaml")


def _hosts(text=MACHINES, server=SERVER):
    testbed = spec.parse(f"{BASE}provider: hosts\nserver: {server}\n{text}", "t.yaml")
    there = session.machines_of(testbed)
    return machines.resolved(testbed, there), there


def test_urls_are_taken_as_they_are():
    server = _local().server
    assert [server.url(name) for name in ("api", "web", "files")] == [
        "https://c.example/api",
        "https://c.example",
        "http://files.example:8081",
    ]


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ("{backend: external}", "backend external needs `urls` and `credentials_file`"),
        (f"{{backend: external, {URLS}}}", "backend external needs `credentials_file`"),
        (SERVER.replace("backend", "bind: 0.0.0.0, backend"), "backend external has no use for `bind`"),
        (SERVER.replace("backend", "ports: {}, backend"), "backend external has no use for `ports`"),
        ("{credentials_file: key.conf}", "backend lite has no use for `credentials_file`"),
        (f"{{{URLS}}}", "backend lite has no use for `urls`"),
        (SERVER.replace("web:", "wep:"), "did you mean `web`?"),
    ],
)
def test_a_wrong_section_is_told(server, told):
    with pytest.raises(SpecError, match=told):
        _local(server)


@pytest.mark.parametrize(
    ("text", "server", "told"),
    [
        (MACHINES.replace("[clients]", "[server]"), SERVER, "desk has group `server`, and the server is external"),
        (MACHINES, "{}", "no machine has group `server`; give it to one"),
    ],
)
def test_machines_have_a_server_where_it_is_the_testbeds_own(text, server, told):
    with pytest.raises(SpecError, match=told):
        _hosts(text, server)


def test_the_first_machine_stands_in_for_the_servers():
    testbed, there = _hosts()
    assert {machine.name: machine.groups for machine in there} == {
        "desk": ("clients", "telemetry", "inference"),
        "gpu": ("agents",),
    }
    assert main_machine(there).name == "desk"
    found = inventory.build(testbed, there, WHEELS, {})
    assert inventory.hosts(found, "server") == []
    assert _hosts(MACHINES.replace("agents", "inference"))[0].hosts.with_agents == ("desk",)


def test_hosts_are_told_where_it_is_and_whom_to_trust_and_run_none_themselves():
    testbed = _local()
    there = session.machines_of(testbed)
    assert "server" not in there[0].groups
    found = inventory.build(testbed, there, WHEELS, {})
    everywhere = found["all"]["vars"]
    assert everywhere["clearml_conf_api_url"] == "https://c.example/api"
    assert everywhere["clearml_server_backend"] == "external"
    assert [path.rpartition("/")[2] for path in everywhere["common_ca_files"]] == ["ca.pem"]
    assert everywhere["clearml_conf_ca_file"] == inventory.CA_BUNDLE
    assert everywhere["common_environment"]["REQUESTS_CA_BUNDLE"] == inventory.CA_BUNDLE
    assert found["all"]["children"]["server"] == {"hosts": {}, "vars": {}}
    assert inventory.hosts(found, "former_servers") == ["local"], "one of the testbed's own goes from there"
    assert {entry["service"] for entry in found["all"]["hosts"]["local"]["common_ports"]} == {"testbed-influxdb"}
    assert "testbed-clearml-lite" not in {name for _, name in inventory.services(testbed, found)}


def test_without_a_ca_the_systems_is_trusted():
    found = inventory.build(_local(SERVER.replace("ca_file: ca.pem, ", "")), machines.local("root"), WHEELS, {})
    assert found["all"]["vars"]["clearml_conf_ca_file"] == ""
    assert found["all"]["vars"]["common_ca_files"] == []


def test_it_is_reached_without_the_proxy_for_packages():
    testbed = _local(more="proxy: {http: 'http://p:1'}\n")
    found = inventory.build(testbed, machines.local("root"), WHEELS, {})["all"]["vars"]["common_environment"]
    assert {"c.example", "files.example"} < {*found["no_proxy"].split(",")}


def test_from_here_it_is_reached_through_the_main_machine():
    testbed, there = _hosts()
    [(machine, services)] = remote._services(testbed, there)
    assert machine.name == "desk"
    assert services == {
        "https://c.example": ("c.example", 443),
        "http://files.example:8081": ("files.example", 8081),
        "http://127.0.0.1:8086": ("127.0.0.1", 8086),
    }


def test_keys_are_of_users_whom_the_server_has():
    testbed, there = _hosts()
    found = identities.of(testbed, inventory.build(testbed, there, WHEELS, {}))
    assert {identity.name: identity.user for identity in found} == {
        "toolkit": "alice",
        "user/alice": "alice",
        "user/bob": "bob",
        "agent/gpu/default": "alice",
        "agent/gpu/prepared": "alice",
        "watchdog/gpu": "alice",
    }


@pytest.mark.parametrize(
    ("there", "found"),
    [
        ([{"id": issuer.user_id("bob"), "name": "anything"}], issuer.user_id("bob")),
        ([{"id": "1", "name": "bob"}], "1"),
        ([{"id": "1", "name": "Bob B"}], "1"),
        ([{"id": "1", "name": "bob"}, {"id": "2", "name": "Bob B"}], "1"),
        ([{"id": "1", "name": "bob"}, {"id": "2", "name": "bob"}], None),
        ([{"id": "1", "name": "Bobby"}], None),
    ],
)
def test_a_user_is_found_by_username_or_by_a_name_that_nobody_else_has(there, found):
    testbed = spec.parse(
        f"name: lab\nusers: [{{name: bob, full_name: Bob B}}]\nprovider: local\nserver: {SERVER}\n", "t"
    )
    assert issuer._match(testbed, there).get("bob") == found


def test_in_a_cloud_its_ports_are_not_opened():
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGvxSwlNFKnjHRrbiv+0tFGoNFFaT8UB1UvOSFiSA9Vo"
    testbed = spec.parse(
        f"{BASE}provider: openstack\nserver: {SERVER}\nadministrators: [{{name: ada, ssh_keys: [{key}]}}]\n"
        "openstack: {cloud: lab, image: focal, network: lab-net}\n",
        "t.yaml",
    )
    rules = desired._rules(testbed, testbed.openstack, "192.0.2.9/32", "me")
    assert {rule.first for rule in rules} == {None, 22}


@pytest.mark.parametrize(
    ("found", "warned"),
    [
        (_local("{backend: lite}"), False),
        (_local("{backend: lite, bind: 0.0.0.0, host: lab.example}"), True),
        (_local("{backend: lite, bind: 0.0.0.0, host: lab.example, tls: {}}"), False),
        (_local(), False),
        (_hosts(MACHINES.replace("[clients]", "[server]"), "{}")[0], True),
    ],
    ids=["this machine alone", "everybody", "with TLS", "somebody else's", "hosts"],
)
def test_up_says_that_a_server_for_all_has_no_tls(found, warned):
    assert any(line.startswith("No TLS: ") for line in deploy.describe(found)) == warned


def test_up_says_that_nothing_is_changed_there():
    lines = "\n".join(deploy.describe(_local()))
    assert "somebody else's" in lines
    assert "https://c.example/api" in lines
    assert deploy.stages(_local())[1] == "Prepare the hosts"
    assert deploy.stages(_local("{}"))[1] == "Bring up the server"


VERBS = [["backup"], ["restore", "any"], ["upgrade", "--server", "2.4.0"], ["secrets", "rotate", "--tokens-only"]]


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_somebody_elses_is_refused_before_anything_is_looked_at(verb, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "open_session", None)
    (tmp_path / "t.yaml").write_text(f"{BASE}provider: local\nserver: {SERVER.replace('ca_file: ca.pem, ', '')}\n")
    done = CliRunner().invoke(main, [*verb, "--yes", "--spec", str(tmp_path / "t.yaml")])
    assert done.exit_code == 1, done.output
    assert "https://c.example/api is somebody else's" in done.stderr


@pytest.mark.parametrize("text", ["no certificate", "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n"])
def test_a_ca_file_without_certificates_is_told(tmp_path, text):
    (tmp_path / "ca.pem").write_text(text)
    with pytest.raises(SpecError, match="server.ca_file: .* holds no certificates"):
        spec.certificates(tmp_path / "ca.pem", "server.ca_file")
