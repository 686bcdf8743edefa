"""The inventory says what the spec says, and holds no secret."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from provision import deploy, inventory, machines, spec
from provision.credentials import identities
from provision.errors import SpecError
from provision.inventory import Wheels
from provision.paths import ROLES

EVERYWHERE = "0.0.0.0"  # noqa: S104
WHEELS = Wheels(lite=Path("/w/lite.whl"), workload=Path("/w/workload.whl"))


def _build(text="", environment=None, account="root"):
    base = "name: lab\nprovider: local\nusers: [{name: alice}, {name: bob, full_name: Bob B}]\n"
    testbed = spec.parse(base + (text or "server: {}\n"), "t.yaml")
    return testbed, inventory.build(testbed, machines.local(account), WHEELS, environment or {})


def test_the_local_host_is_in_every_group():
    testbed, found = _build()
    assert list(found["all"]["hosts"]) == ["local"]
    assert {group: inventory.hosts(found, group) for group in found["all"]["children"]} == {
        **{group: ["local"] for group in ("server", "telemetry", "agents", "clients", "watchdogs")},
        "inference": [],
        "former_inference": ["local"],
        "former_servers": [],
    }


def test_settings_reach_the_roles():
    _, found = _build(
        "server: {bind: 127.0.0.5, ports: {api: 1008}}\ndata_dir: /srv/testbed\n"
        "telemetry: {port: 1086, points: 5000}\n",
        account="ada",
    )
    groups = found["all"]["children"]
    assert found["all"]["vars"]["clearml_conf_api_url"] == "http://127.0.0.5:1008"
    assert found["all"]["vars"]["common_data_dir"] == "/srv/testbed"
    assert groups["server"]["vars"]["clearml_server_bind"] == "127.0.0.5"
    assert groups["telemetry"]["vars"]["influxdb_port"] == 1086
    assert found["all"]["vars"]["telemetry_points"] == 5000
    local = found["all"]["hosts"]["local"]
    assert (local["ansible_connection"], local["ansible_become"], local["common_account"]) == ("local", True, "ada")
    assert [user["name"] for user in groups["clients"]["vars"]["clearml_conf_users"]] == ["alice", "bob"]
    assert {1008, 8080, 8081, 1086, 8088} == {entry["port"] for entry in local["common_ports"]}


CLOUD = """\
name: lab
provider: openstack
users: [{name: alice}]
administrators:
  - {name: ada, ssh_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGvxSwlNFKnjHRrbiv+0tFGoNFFaT8UB1UvOSFiSA9Vo]}
server: {}
openstack: {cloud: lab, image: focal, network: lab-net}
"""


def test_only_servers_that_are_ours_have_their_disk_grown():
    machine = machines.Machine("server", ("server",), "192.0.2.1", "192.0.2.1", "ubuntu")
    found = inventory.build(spec.parse(CLOUD, "t.yaml"), [machine], WHEELS, {})
    assert found["all"]["vars"]["common_grow_root"] is True
    for there in (_build()[1], _hosts(ONE)[1]):
        assert there["all"]["vars"]["common_grow_root"] is False


def test_an_external_source_needs_no_port_and_no_service():
    testbed, found = _build(
        "server: {}\ntelemetry: {source: external, dialect: 1, url: 'http://influx.example:8086', database: eventsdb}\n"
    )
    assert {entry["service"] for entry in found["all"]["hosts"]["local"]["common_ports"]} == {"testbed-clearml-lite"}
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


PROXY = "proxy: {http: 'http://proxy:3128', no_proxy: [.inside.example]}\n"
MIRROR = "mirrors: {apt: 'http://m.inside.example/debian', pip: 'https://m.inside.example/simple', ca_file: ca.pem}\n"
ADMINISTRATORS = {
    "https_proxy": "http://other:1",
    "ALL_PROXY": "socks5://other:1",
    "no_proxy": "somewhere",
    "PIP_PROXY": "http://other:1",
    "PIP_INDEX_URL": "https://other/simple",
    "PIP_EXTRA_INDEX_URL": "https://other/extra",
    "PIP_FIND_LINKS": "/wheels",
    "PIP_CERT": "/other.pem",
    "SSL_CERT_DIR": "/certs",
    "PIP_DEFAULT_TIMEOUT": "9",
}


def _everywhere(text, environment=None):
    return _build("server: {host: server.example}\n" + text, environment)[1]["all"]["vars"]


def test_what_the_spec_says_of_a_proxy_wins_over_the_administrators_environment():
    found = _everywhere(PROXY, ADMINISTRATORS)["common_environment"]
    proxies = {name for name in found if "proxy" in name.lower()} - {"no_proxy", "NO_PROXY"}
    assert proxies == {"http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"}
    assert {found[name] for name in proxies} == {"http://proxy:3128"}
    # the index is not the spec's business then
    assert found["PIP_INDEX_URL"] == "https://other/simple"
    assert found["PIP_CERT"] == "/other.pem"


def test_the_testbeds_own_services_never_go_by_a_proxy():
    external = "telemetry: {source: external, dialect: 1, url: 'http://influx.example:8086', database: d}\n"
    for environment in ({}, ADMINISTRATORS):
        found = _everywhere(PROXY + external, environment)["common_environment"]
        hosts = [".inside.example", "localhost", "127.0.0.1", "::1", "server.example", "influx.example"]
        assert found["no_proxy"].split(",") == found["NO_PROXY"].split(",") == hosts
    assert "influx.example" in _everywhere(external, {"http_proxy": "http://other:1"})["common_environment"]["no_proxy"]


def test_a_mirror_in_the_spec_is_the_only_index():
    found = _everywhere(MIRROR, ADMINISTRATORS)
    environment = found["common_environment"]
    assert {name: value for name, value in environment.items() if name.startswith("PIP_")} == {
        "PIP_INDEX_URL": "https://m.inside.example/simple",
        "PIP_CONFIG_FILE": "/dev/null",  # whatever the host's pip.conf adds
        "PIP_CERT": inventory.CA_BUNDLE,
        "PIP_DEFAULT_TIMEOUT": "9",
        "PIP_PROXY": "http://other:1",
    }
    assert "SSL_CERT_DIR" not in environment
    assert environment["REQUESTS_CA_BUNDLE"] == environment["SSL_CERT_FILE"] == inventory.CA_BUNDLE
    assert found["common_apt_mirror"] == "http://m.inside.example/debian"
    assert found["common_ca_files"] == [str(Path("ca.pem").absolute())]


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", {}),
        (PROXY, {"proxy": "http://proxy:3128"}),
        ("proxy: {http: 'http://p:1', https: 'http://q:2', ca_file: x}\n", {"proxy": "http://q:2", "cert": "CA"}),
        (MIRROR, {"index-url": "https://m.inside.example/simple", "cert": "CA"}),
        (PROXY + MIRROR, {"index-url": "https://m.inside.example/simple", "cert": "CA"}),
        (
            "proxy: {http: 'http://p:1', no_proxy: [side.example]}\n" + MIRROR,
            {"index-url": "https://m.inside.example/simple", "cert": "CA", "proxy": "http://p:1"},
        ),
        (
            "proxy: {https: 'http://p:1'}\nmirrors: {pip: 'http://m/simple'}\n",
            {"index-url": "http://m/simple"},
        ),
    ],
)
def test_a_users_pip_goes_the_same_way(text, settings):
    found = {
        key: value.replace(inventory.CA_BUNDLE, "CA") for key, value in inventory.pip_settings(_testbed(text)).items()
    }
    assert found == settings


def test_apt_is_told_each_host_that_it_reaches_directly():
    assert _everywhere(PROXY + MIRROR)["common_apt_direct"] == ["m.inside.example"]
    assert _everywhere(PROXY)["common_apt_direct"] == _everywhere(MIRROR)["common_apt_direct"] == []
    assert _everywhere("proxy: {http: 'http://p:1', no_proxy: [a.example]}\n")["common_apt_direct"] == ["a.example"]


def _testbed(text):
    return _build("server: {}\n" + text)[0]


def test_the_role_and_the_inventory_agree_on_where_certificates_lie():
    defaults = yaml.safe_load((ROLES / "common/defaults/main.yml").read_text())
    assert defaults["common_ca_bundle"] == inventory.CA_BUNDLE


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
        "watchdog/local",
    ]
    labels = [identity.label("lab") for identity in everybody]
    assert len(set(labels)) == len(labels)
    assert labels[1] == "testbed:lab user:alice purpose:client"


HOSTS = """\
name: lab
provider: hosts
users: [{name: alice}]
server: {}
hosts:
  user: debian
  key: /keys/lab
  jump_host: {host: gate.example, user: ada}
  machines:
"""
ONE = "    - {name: one, address: 192.0.2.1, groups: [server]}\n"
SPLIT = """\
    - {name: server, address: 192.0.2.1, internal: 10.0.0.1, groups: [server, telemetry], user: root}
    - {name: desk, address: 192.0.2.2, internal: 10.0.0.2, groups: [clients], port: 2222}
    - {name: gpu, address: 192.0.2.3, groups: [agents], key: /keys/gpu}
    - {name: try, address: 192.0.2.4, groups: [inference]}
"""


def _hosts(text, more="", environment=None):
    testbed = spec.parse(HOSTS + text + more, "t.yaml")
    there = machines.described(testbed.hosts)
    testbed = machines.resolved(testbed, there)
    options = {machine.name: ["-o", "UserKnownHostsFile=/a b"] for machine in there}
    return testbed, inventory.build(testbed, there, WHEELS, environment or {}, options)


def test_what_no_machine_has_lives_on_the_servers():
    _, found = _hosts(ONE)
    assert {group: inventory.hosts(found, group) for group in found["all"]["children"]} == {
        **{group: ["one"] for group in ("server", "telemetry", "agents", "clients", "watchdogs")},
        "inference": [],
        "former_inference": ["one"],
        "former_servers": [],
    }


def test_each_host_has_its_groups_its_way_there_and_its_ports():
    testbed, found = _hosts(SPLIT, environment={"https_proxy": "http://laptops:1", "PIP_CERT": "/laptop.pem"})
    assert {group: inventory.hosts(found, group) for group in found["all"]["children"]} == {
        "server": ["server"],
        "telemetry": ["server"],
        "agents": ["gpu"],
        "clients": ["desk", "try"],
        "inference": [],
        "former_inference": ["try"],
        "watchdogs": ["gpu", "server"],
        "former_servers": [],
    }
    there = found["all"]["hosts"]
    shown = ("ansible_host", "ansible_port", "ansible_user", "ansible_become", "common_account")
    assert {name: tuple(host[key] for key in shown) for name, host in there.items()} == {
        "server": ("192.0.2.1", 22, "root", False, "root"),
        "desk": ("192.0.2.2", 2222, "debian", True, "debian"),
        "gpu": ("192.0.2.3", 22, "debian", True, "debian"),
        "try": ("192.0.2.4", 22, "debian", True, "debian"),
    }
    assert there["gpu"]["ansible_ssh_common_args"] == "-o 'UserKnownHostsFile=/a b'"
    assert [(entry["port"], entry["bind"]) for entry in there["server"]["common_ports"]] == [
        (8008, EVERYWHERE),
        (8080, EVERYWHERE),
        (8081, EVERYWHERE),
        (8086, "10.0.0.1"),
        (8088, "127.0.0.1"),
    ]
    assert there["gpu"]["common_ports"] == []
    everywhere = found["all"]["vars"]
    assert everywhere["clearml_conf_api_url"] == "http://10.0.0.1:8008"
    assert everywhere["telemetry_url"] == "http://10.0.0.1:8086"
    assert everywhere["common_environment"] == {}, "a laptop's proxy and files are not the hosts'"
    assert ("gpu", "testbed-agent-prepared") in inventory.services(testbed, found)
    assert "agent/gpu/prepared" in [identity.name for identity in identities.of(testbed, found)]


@pytest.mark.parametrize(
    ("text", "more", "server", "telemetry"),
    [
        (ONE, "", (EVERYWHERE, "192.0.2.1"), ("127.0.0.1", "127.0.0.1")),
        (SPLIT, "", (EVERYWHERE, "10.0.0.1"), ("10.0.0.1", "10.0.0.1")),
        (SPLIT.replace("10.0.0.1", "lab.example"), "", (EVERYWHERE, "lab.example"), (EVERYWHERE, "lab.example")),
        (SPLIT.replace("10.0.0.1", "'fd00::1'"), "", (EVERYWHERE, "fd00::1"), ("fd00::1", "fd00::1")),
        (SPLIT, "telemetry: {host: 10.9.9.9}\n", (EVERYWHERE, "10.0.0.1"), ("10.9.9.9", "10.9.9.9")),
    ],
)
def test_addresses_that_only_the_machines_tell(text, more, server, telemetry):
    testbed, _ = _hosts(text, more)
    assert (testbed.server.bind, testbed.server.host) == server
    assert (testbed.telemetry.bind, testbed.telemetry.host) == telemetry


@pytest.mark.parametrize(
    ("said", "bind", "url"),
    [
        ("{bind: 192.0.2.1}", "192.0.2.1", "http://192.0.2.1:8008"),
        (f"{{bind: {EVERYWHERE}}}", EVERYWHERE, "http://10.0.0.1:8008"),
        ("{host: lab.example}", EVERYWHERE, "http://lab.example:8008"),
        ("{bind: '::'}", "::", "http://10.0.0.1:8008"),
    ],
)
def test_what_the_spec_says_of_the_server_stays(said, bind, url):
    testbed = spec.parse(HOSTS.replace("server: {}", f"server: {said}") + SPLIT, "t.yaml")
    found = machines.resolved(testbed, machines.described(testbed.hosts))
    assert (found.server.bind, found.server.url("api")) == (bind, url)
    assert machines.resolved(found, machines.described(testbed.hosts)) == found


def test_a_machine_overrides_what_hosts_says():
    testbed = spec.parse(HOSTS + SPLIT, "t.yaml")
    there = {machine.name: machine for machine in machines.described(testbed.hosts)}
    assert {name: str(machine.key) for name, machine in there.items()} == {
        "server": "/keys/lab",
        "desk": "/keys/lab",
        "gpu": "/keys/gpu",
        "try": "/keys/lab",
    }
    assert {machine.jump_host.host for machine in there.values()} == {"gate.example"}


def test_a_machine_may_have_another_python_for_ansible_and_for_the_environments():
    _, found = _hosts(SPLIT.replace("key: /keys/gpu", "python: /usr/bin/python3.8"))
    there = {name: host["ansible_python_interpreter"] for name, host in found["all"]["hosts"].items()}
    other = "/usr/bin/python3"
    assert there == {"server": other, "desk": other, "gpu": "/usr/bin/python3.8", "try": other}
    defaults = yaml.safe_load((ROLES / "python_venv/defaults/main.yml").read_text())
    assert defaults["python_venv_interpreter"] == "{{ ansible_python_interpreter }}"


AGENTS = """\
    - {name: server, address: 192.0.2.1, groups: [server]}
    - {name: big, address: 192.0.2.2, groups: [agents]}
    - {name: small, address: 192.0.2.3, groups: [agents]}
agents:
  workers:
    - {name: all-over, queues: [urgent, later], environment: prepared}
    - {name: gpu, queues: [gpu], environment: prepared, hosts: [big], gpus: 0}
"""


def test_a_worker_runs_on_the_hosts_that_it_names_and_sees_its_gpus():
    testbed, found = _hosts(AGENTS)
    everywhere = {"name": "all-over", "queues": ["urgent", "later"], "prepared": True}
    gpu = {"name": "gpu", "queues": ["gpu"], "prepared": True, "gpus": "0"}
    hosts = found["all"]["hosts"]
    assert hosts["big"]["clearml_agent_workers"] == [everywhere, gpu]
    assert hosts["small"]["clearml_agent_workers"] == [everywhere]
    assert "clearml_agent_workers" not in hosts["server"]
    pairs = [("big", "all-over"), ("big", "gpu"), ("small", "all-over")]
    assert [(host, worker.name) for host, worker in inventory.workers(testbed, found)] == pairs
    services = [service for service in inventory.services(testbed, found) if "agent" in service[1]]
    assert services == [(host, f"testbed-agent-{name}") for host, name in pairs]
    keys = {identity.name for identity in identities.of(testbed, found) if identity.name.startswith("agent")}
    assert keys == {f"agent/{host}/{name}" for host, name in pairs}


def test_a_machine_without_agents_runs_no_worker():
    with pytest.raises(SpecError, match=r"no agent host: take one of big, small"):
        _hosts(AGENTS.replace("hosts: [big]", "hosts: [server]"))
    _hosts(AGENTS.replace("groups: [agents]", "groups: [clients]").replace("hosts: [big]", "hosts: [server]"))


def test_hosts_learn_each_others_names_and_one_alone_learns_none():
    assert _build()[1]["all"]["vars"]["common_names"] == {}
    assert _hosts(ONE)[1]["all"]["vars"]["common_names"] == {}
    found = _hosts(SPLIT)[1]["all"]["vars"]["common_names"]
    assert found == {"server": "10.0.0.1", "desk": "10.0.0.2", "gpu": "192.0.2.3", "try": "192.0.2.4"}


def test_time_updates_and_users_keys_reach_the_roles():
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGvxSwlNFKnjHRrbiv+0tFGoNFFaT8UB1UvOSFiSA9Vo"
    text = CLOUD.replace("{name: alice}", f"{{name: alice, ssh_keys: [{key} a@b]}}, {{name: bob}}")
    machine = machines.Machine("server", ("server",), "192.0.2.1", "192.0.2.1", "ubuntu")
    found = inventory.build(spec.parse(text + "time: {servers: [ntp.example]}\n", "t.yaml"), [machine], WHEELS, {})
    everywhere = found["all"]["vars"]
    assert everywhere["common_time_servers"] == ["ntp.example"]
    assert everywhere["common_security_updates"] is True
    assert found["all"]["children"]["clients"]["vars"]["clearml_conf_let_in"] == {"alice": [f"{key} alice"], "bob": []}
    assert _build()[1]["all"]["vars"]["common_time_servers"] == []
    assert _build()[1]["all"]["vars"]["common_security_updates"] is False


DOCKER = "server: {backend: docker}\n"
CONTAINERS = ["redis", "mongo", "elasticsearch", "apiserver", "fileserver", "webserver", "async_delete"]


def test_the_official_server_is_a_container_for_each_of_its_services():
    testbed, found = _build(DOCKER)
    names = [name for _, name in inventory.services(testbed, found) if inventory.is_container(name)]
    assert names == [f"testbed-clearml-{service}" for service in CONTAINERS]
    assert inventory.api_service(testbed) == "testbed-clearml-apiserver"
    assert ("local", "testbed-clearml-lite") not in inventory.services(testbed, found)


def test_the_embedded_server_is_no_container():
    testbed, found = _build()
    assert not any(inventory.is_container(name) for _, name in inventory.services(testbed, found))
    assert inventory.api_service(testbed) == "testbed-clearml-lite"
    assert not any(name.startswith("docker_") for name in found["all"]["children"]["server"]["vars"])


def test_each_port_of_the_official_server_is_its_containers():
    local = _build(DOCKER)[1]["all"]["hosts"]["local"]
    assert {entry["port"]: entry["service"] for entry in local["common_ports"] if "server" in entry["setting"]} == {
        8008: "testbed-clearml-apiserver",
        8080: "testbed-clearml-webserver",
        8081: "testbed-clearml-fileserver",
    }


def test_stores_elsewhere_are_no_services_here_and_their_passwords_are_not_in_the_inventory(tmp_path):
    mongo = "host: m, further_hosts: [n, o], username: u, password_file: pw, ca_file: ca.pem, query: replicaSet=b"
    testbed, found = _build(f"server: {{backend: docker, stores: {{mongo: {{{mongo}}}, redis: {{host: r}}}}}}\n")
    names = {name for _, name in inventory.services(testbed, found)}
    assert {"testbed-clearml-mongo", "testbed-clearml-redis"} & names == set()
    assert "testbed-clearml-elasticsearch" in names
    assert found["all"]["children"]["server"]["vars"]["clearml_server_stores"] == {
        "mongo": {
            "host": "m",
            "further_hosts": ["n", "o"],
            "port": 27017,
            "username": "u",
            "query": "replicaSet=b",
            "ca_file": str(Path("ca.pem").absolute()),
        },
        "redis": {"host": "r", "port": 6379},
    }


def test_who_logs_in_at_the_registry_is_told_and_the_password_is_not_in_the_inventory(tmp_path):
    (tmp_path / "pw").write_text("a-registry-password\n")
    login = f"registry: r.example, registry_login: {{username: robot, password_file: {tmp_path}/pw}}"
    testbed, found = _build(f"server: {{backend: docker, {login}}}\n")
    told = found["all"]["children"]["server"]["vars"]
    assert (told["clearml_server_registry"], told["clearml_server_registry_username"]) == ("r.example", "robot")
    assert "a-registry-password" not in str(found)
    secrets = SimpleNamespace(model_dump=lambda **_: {})
    passed = deploy._secret_variables(testbed, secrets, None)["testbed_secrets"]
    assert passed["registry_password"] == "a-registry-password"
    _, found = _build("server: {backend: docker}\n")
    assert found["all"]["children"]["server"]["vars"]["clearml_server_registry_username"] == ""


def test_the_services_agent_is_a_service_when_it_is_asked_for():
    image = "clearml/clearml-agent-services@sha256:" + "a" * 64
    testbed, found = _build(
        f"server: {{backend: docker, agent_services: true, images: {{agent_services: '{image}'}}}}\n"
    )
    assert ("local", "testbed-clearml-agent-services") in inventory.services(testbed, found)
    assert found["all"]["children"]["server"]["vars"]["clearml_server_images"] == {"agent-services": image}


def test_a_server_that_shares_its_host_with_agents_takes_half_of_the_memory():
    assert _build(DOCKER)[1]["all"]["children"]["server"]["vars"]["clearml_server_memory_share"] == 50
    alone = [
        machines.Machine("hub", ("server",), "192.0.2.1", "192.0.2.1", "ubuntu"),
        machines.Machine("gpu", ("agents", "clients", "telemetry"), "192.0.2.2", "192.0.2.2", "ubuntu"),
    ]
    testbed = spec.parse(f"name: lab\nprovider: local\nusers: [{{name: alice}}]\n{DOCKER}", "t.yaml")
    found = inventory.build(testbed, alone, WHEELS, {})["all"]["children"]["server"]["vars"]
    assert found["clearml_server_memory_share"] == 100
    assert found["docker_reached"] == ["192.0.2.1", "192.0.2.2"]


def test_the_engine_is_installed_as_the_spec_says():
    engine = (
        "source: docker, key_file: docker.asc, registry_mirrors: ['https://hub.example'], address_pools: [10.9.0.0/16]"
    )
    found = _build(f"server: {{backend: docker, engine: {{{engine}}}}}\n")[1]["all"]["children"]["server"]["vars"]
    assert found["docker_source"] == "docker"
    assert found["docker_key_file"] == str(Path("docker.asc").absolute())
    assert found["docker_registry_mirrors"] == ["https://hub.example"]
    assert found["docker_address_pools"] == ["10.9.0.0/16"]


def test_each_agent_host_has_a_watchdog_and_the_servers_looks_after_all_tasks():
    testbed, found = _hosts(AGENTS.replace("workers:", "lost_tasks: fail\n  workers:"))
    hosts = found["all"]["hosts"]
    assert inventory.hosts(found, "watchdogs") == ["big", "server", "small"]
    assert hosts["big"]["clearml_watchdog_workers"] == ["all-over", "gpu"]
    assert hosts["small"]["clearml_watchdog_workers"] == ["all-over"]
    assert not {"clearml_watchdog_all_workers", "clearml_watchdog_queues"} & {*hosts["big"], *hosts["small"]}
    assert hosts["server"]["clearml_watchdog_all_workers"] == ["big:all-over", "big:gpu", "small:all-over"]
    assert hosts["server"]["clearml_watchdog_queues"] == ["urgent", "later", "gpu"]
    assert hosts["server"]["clearml_watchdog_lost_tasks"] == "fail"
    assert "clearml_watchdog_workers" not in hosts["server"]
    services = [host for host, service in inventory.services(testbed, found) if service == "testbed-watchdog"]
    assert services == ["big", "server", "small"]


def test_a_watchdog_of_a_host_that_is_gone_is_known_by_its_key():
    testbed, found = _hosts(AGENTS)
    [watchdog] = [identity for identity in identities.of(testbed, found) if identity.name == "watchdog/big"]
    assert watchdog.user == "testbed-agent"
    assert identities.of_label(watchdog.label("lab"), "lab") == watchdog
    assert watchdog.is_service
    assert not identities.of(testbed, found)[0].is_service


INFERENCE = "inference: {project: lab/models, model: rapp_model, bind: '::', port: 9090, keep_days: 7}\n"


def test_the_inference_service_runs_where_its_group_lives_and_testbed_yaml_asks_for_it():
    testbed, found = _hosts(SPLIT, INFERENCE)
    assert (inventory.hosts(found, "inference"), inventory.hosts(found, "former_inference")) == (["try"], [])
    assert "try" in inventory.hosts(found, "clients")
    assert found["all"]["children"]["inference"]["vars"] == {
        "inference_project": "lab/models",
        "inference_model": "rapp_model",
        "inference_bind": "::",
        "inference_port": 9090,
        "inference_keep_days": 7,
    }
    assert [entry["port"] for entry in found["all"]["hosts"]["try"]["common_ports"]] == [9090]
    assert [host for host, name in inventory.services(testbed, found) if name == "testbed-inference"] == ["try"]
    said = "Predictions on [::]:9090 by the newest published model of lab/models"
    assert said in deploy.describe(testbed)
    assert said not in deploy.describe(_hosts(SPLIT)[0])


def test_the_inference_service_has_a_key_of_its_own_that_is_known_when_it_is_gone():
    testbed, found = _hosts(SPLIT, INFERENCE)
    [service] = [identity for identity in identities.of(testbed, found) if identity.name == "inference/try"]
    assert service.user == "testbed-agent"
    assert identities.of_label(service.label("lab"), "lab") == service
    assert service.is_service
    without, found = _hosts(SPLIT)
    assert "inference/try" not in [identity.name for identity in identities.of(without, found)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inference: {port: 8008}\n", "port 8008 is there 2 times"),
        ("inference: {project: ab}\n", "`inference.project` must be 3 or more letters"),
        ("inference: {project: lab//x}\n", "`inference.project` must be 3 or more letters"),
        ("inference: {bind: localhost}\n", "must be an IP address"),
        ("inference: {keep_days: 0}\n", "`inference.keep_days`"),
        ("inference: {queue: x}\n", "`inference.queue` is unknown"),
    ],
)
def test_an_inference_service_that_cannot_be_is_refused(text, message):
    with pytest.raises(SpecError, match=message):
        _hosts(SPLIT, text)
