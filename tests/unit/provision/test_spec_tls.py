"""server.tls: one canonical URL per service, and where everything listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision import inventory, machines, remote, reports, spec
from provision.cloud import desired
from provision.errors import SpecError
from provision.inventory import CA_BUNDLE, Wheels

WHEELS = Wheels(lite=Path("/w/lite.whl"), workload=Path("/w/workload.whl"))
GIVEN = "certificate_file: /c.pem, key_file: /k.pem"
NAMES = "names: {api: api.lab.example, web: app.lab.example, files: files.lab.example}"
LOOPBACK = "127.0.0.1"


def _testbed(server: str, more: str = "") -> spec.Testbed:
    return spec.parse(f"name: lab\nprovider: local\nserver: {server}\nusers: [{{name: alice}}]\n{more}", "t.yaml")


def _inventory(server: str, more: str = "", environment=None):
    testbed = _testbed(server, more)
    found = inventory.build(testbed, machines.local("root"), WHEELS, environment or {})
    return found["all"]["vars"], found["all"]["children"]["server"]["vars"], found["all"]["hosts"]["local"], found


@pytest.mark.parametrize(
    ("server", "urls"),
    [
        ("{tls: {}}", ["https://127.0.0.1:8008", "https://127.0.0.1:8080", "https://127.0.0.1:8081"]),
        (
            "{host: lab.example, tls: {}, ports: {web: 443}}",
            ["https://lab.example:8008", "https://lab.example", "https://lab.example:8081"],
        ),
        (
            f"{{bind: 0.0.0.0, tls: {{{NAMES}}}}}",
            ["https://api.lab.example", "https://app.lab.example", "https://files.lab.example"],
        ),
        ("{bind: '::1', tls: {}}", ["https://[::1]:8008", "https://[::1]:8080", "https://[::1]:8081"]),
        ("{ports: {web: 443}}", ["http://127.0.0.1:8008", "http://127.0.0.1:443", "http://127.0.0.1:8081"]),
    ],
)
def test_each_service_has_one_canonical_url(server, urls):
    found = _testbed(server)
    assert [found.server.url(service) for service in spec.URL_SERVICES] == urls
    everywhere = _inventory(server)[0]
    assert [everywhere[f"clearml_conf_{service}_url"] for service in spec.URL_SERVICES] == urls


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ("{tls: {certificate_file: /c}}", "`certificate_file` and `key_file` go together"),
        ("{tls: {key_file: /c}}", "`certificate_file` and `key_file` go together"),
        ("{tls: {ca_file: /c}}", "`ca_file` is for a certificate of your own"),
        (f"{{ports: {{api: 1}}, tls: {{{NAMES}}}}}", "leave out `ports`"),
        ("{tls: {names: {api: a.b, web: a.b, files: c.d}}}", "'a.b' is there 2 times"),
        ("{tls: {upstream_ports: {api: 8080}}}", "port 8080 is there 2 times"),
        ("{tls: {redirect_from: 8008}}", "port 8008 is there 2 times"),
        ("{tls: {upstream_ports: {api: 8086}}}", "port 8086 is there 2 times"),
        (f"{{tls: {{{NAMES}, redirect_from: 443}}}}", "port 443 is there 2 times"),
        ("{bind: 0.0.0.0, tls: {}}", "set server.host"),
        ("{tls: {certificat_file: /c}}", "did you mean `certificate_file`?"),
    ],
)
def test_what_does_not_fit_is_said(server, message):
    with pytest.raises(SpecError) as error:
        _testbed(server)
    assert message in error.value.message


def test_behind_tls_the_server_listens_on_loopback_only_and_the_proxy_where_the_spec_says():
    _, group, local, found = _inventory("{bind: 127.0.0.5, tls: {redirect_from: 8000}}")
    assert group["clearml_server_bind"] == LOOPBACK
    assert [group[f"clearml_server_{service}_port"] for service in spec.URL_SERVICES] == [18008, 18080, 18081]
    assert group["tls_proxy_bind"] == "127.0.0.5"
    assert group["tls_proxy_redirect_port"] == 8000
    assert [(each["name"], each["port"], each["upstream"]) for each in group["tls_proxy_services"]] == [
        ("api", 8008, "127.0.0.1:18008"),
        ("web", 8080, "127.0.0.1:18080"),
        ("files", 8081, "127.0.0.1:18081"),
    ]
    binds = {entry["port"]: (entry["bind"], entry["service"]) for entry in local["common_ports"]}
    assert binds == {
        **dict.fromkeys((8008, 8080, 8081, 8000), ("127.0.0.5", "testbed-tls-proxy")),
        **dict.fromkeys((18008, 18080, 18081), (LOOPBACK, "testbed-clearml-lite")),
        **dict.fromkeys((8086, 8088), (LOOPBACK, "testbed-influxdb")),
    }
    assert ("local", "testbed-tls-proxy") in inventory.services(_testbed("{tls: {}}"), found)


def test_three_names_share_port_443_and_only_they_are_held_to_https():
    _, group, local, _ = _inventory(f"{{bind: 0.0.0.0, tls: {{{NAMES}}}}}")
    assert {each["port"] for each in group["tls_proxy_services"]} == {443}
    assert [each["host"] for each in group["tls_proxy_services"]] == [
        "api.lab.example",
        "app.lab.example",
        "files.lab.example",
    ]
    assert group["tls_proxy_hsts_seconds"] > 0
    assert [entry["port"] for entry in local["common_ports"] if entry["service"] == "testbed-tls-proxy"] == [443]
    assert _inventory("{tls: {}}")[1]["tls_proxy_hsts_seconds"] == 0


def test_without_tls_all_is_as_it_was():
    _, group, local, found = _inventory("{bind: 127.0.0.5}")
    assert group["tls_proxy_services"] == []
    assert (group["clearml_server_bind"], group["clearml_server_api_port"]) == ("127.0.0.5", 8008)
    assert "testbed-tls-proxy" not in {entry["service"] for entry in local["common_ports"]}
    assert ("local", "testbed-tls-proxy") not in inventory.services(_testbed("{}"), found)


def test_the_one_may_take_over_the_others_ports_when_tls_comes_or_goes():
    for server in ("{tls: {}}", "{}"):
        for entry in _inventory(server)[2]["common_ports"]:
            if entry["port"] in (8008, 8080, 8081):
                assert {entry["service"], *entry["others"]} == {"testbed-clearml-lite", "testbed-tls-proxy"}


@pytest.mark.parametrize(
    ("tls", "bundle"),
    [("{}", True), (f"{{{GIVEN}, ca_file: /ca.pem}}", True), (f"{{{GIVEN}}}", False)],
)
def test_confs_and_tasks_trust_the_ca_that_is_no_public_one(tls, bundle):
    given = {"REQUESTS_CA_BUNDLE": "/other.pem", "SSL_CERT_DIR": "/certs"}
    everywhere = _inventory(f"{{tls: {tls}}}", environment=given)[0]
    environment = everywhere["common_environment"]
    assert everywhere["clearml_conf_ca_file"] == (CA_BUNDLE if bundle else "")
    assert environment["REQUESTS_CA_BUNDLE"] == (CA_BUNDLE if bundle else "/other.pem")
    assert ("SSL_CERT_DIR" in environment) is not bundle
    assert everywhere["common_ca_files"] == (["/ca.pem"] if "ca_file" in tls else [])


def test_a_mirrors_ca_alone_is_not_the_servers():
    everywhere = _inventory("{}", "mirrors: {pip: 'https://m.example/simple', ca_file: /m.pem}\n")[0]
    assert everywhere["clearml_conf_ca_file"] == ""


def test_no_name_of_the_server_goes_by_a_proxy():
    proxy = "proxy: {http: 'http://proxy:3128'}\n"
    found = _inventory(f"{{bind: 0.0.0.0, tls: {{{NAMES}}}}}", proxy)[0]["common_environment"]["no_proxy"]
    assert {"api.lab.example", "app.lab.example", "files.lab.example"} <= {*found.split(",")}


HOSTS = """\
name: lab
provider: hosts
server: SERVER
users: [{name: alice}]
hosts:
  user: ubuntu
  machines:
    - {name: hub, address: 203.0.113.9, internal: 10.0.0.1, groups: [server, telemetry, agents, clients]}
"""


@pytest.mark.parametrize(
    ("server", "ports"),
    [
        ("{tls: {}}", {"https://10.0.0.1:8008": 8008, "https://10.0.0.1:8080": 8080, "https://10.0.0.1:8081": 8081}),
        (
            f"{{tls: {{{NAMES}}}}}",
            dict.fromkeys(("https://api.lab.example", "https://app.lab.example", "https://files.lab.example"), 443),
        ),
    ],
)
def test_forwards_lead_to_the_proxy(server, ports):
    testbed = spec.parse(HOSTS.replace("SERVER", server), "t.yaml")
    there = machines.described(testbed.hosts)
    [(_, services)] = remote._services(machines.resolved(testbed, there), there)
    assert {url: port for url, (_, port) in services.items() if url.startswith("https")} == ports


def test_the_way_from_outside_has_tls_too():
    testbed = spec.parse(HOSTS.replace("SERVER", "{tls: {}}"), "t.yaml")
    there = machines.described(testbed.hosts)
    assert reports.Urls.of(machines.resolved(testbed, there), there).outside == "https://203.0.113.9:8080"
    named = spec.parse(HOSTS.replace("SERVER", f"{{tls: {{{NAMES}}}}}"), "t.yaml")
    assert reports.Urls.of(machines.resolved(named, there), there).outside is None


CLOUD = """\
name: lab
provider: openstack
users: [{name: alice}]
administrators:
  - {name: ada, ssh_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGvxSwlNFKnjHRrbiv+0tFGoNFFaT8UB1UvOSFiSA9Vo]}
server: SERVER
openstack: {cloud: lab, image: focal, network: lab-net, security: {web: [192.0.2.0/24]}}
"""


@pytest.mark.parametrize(
    ("server", "ports"),
    [
        ("{tls: {redirect_from: 80}}", {22, 80, 8008, 8080, 8081}),
        (f"{{tls: {{{NAMES}}}}}", {22, 443}),
        ("{}", {22, 8008, 8080, 8081}),
    ],
)
def test_the_cloud_lets_in_to_the_proxy_and_not_behind_it(server, ports):
    testbed = spec.parse(CLOUD.replace("SERVER", server), "t.yaml")
    rules = desired._rules(testbed, testbed.openstack, "198.51.100.1/32", "ada@desk")
    assert {rule.first for rule in rules} - {None} == ports
    if 80 in ports:
        assert {rule.remote for rule in rules if rule.first == 80} == {"192.0.2.0/24"}
