"""testbed.yaml: what is accepted, and what a wrong one is told."""

from __future__ import annotations

import json
import os
import re
import stat

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from provision import spec
from provision.cli import main
from provision.errors import SpecError
from provision.paths import ROOT

GOOD = """\
name: lab
provider: local
server: {}
users:
  - name: alice
"""


def test_the_built_in_testbed_is_the_example():
    assert spec.load(None) == spec.parse(spec.EXAMPLE.read_text(), "example")


def test_commented_lines_of_the_example_show_the_defaults():
    lines = spec.EXAMPLE.read_text().splitlines()
    # the alternative, an external InfluxDB, is not a default
    end = next(number for number, line in enumerate(lines) if line.startswith("# Or an InfluxDB"))
    start = next(number for number, line in enumerate(lines) if line.startswith("agents:"))
    # nor are administrators, proxy and mirrors, of which only their owner knows
    last = next(number for number, line in enumerate(lines) if line.startswith("# Administrators"))
    shown = [
        line.replace("# ", "", 1)
        if line.lstrip().startswith("# ") and ":" in line and not re.search("full_name|ssh_keys", line)
        else line
        for line in lines[1:end] + lines[start:last]
    ]
    shown.remove(next(line for line in shown if line.lstrip().startswith("host:")))
    assert spec.parse("\n".join(shown), "shown") == spec.load(None)


def test_a_testbed_yaml_in_the_current_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "testbed.yaml").write_text(GOOD)
    assert spec.load(None).name == "lab"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.yaml: is empty"),
        ("# only a comment\n", "t.yaml: is empty"),
        ("[" * 3000, "t.yaml: bad YAML"),
        (
            GOOD + "proxy: {http: 'http://me:pass-word@p:1'}\n",
            "t.yaml:6: `proxy.http` must not hold a user or a",
        ),
        (GOOD + "mirrors: {pip: 'https://token@m/simple'}\n", "t.yaml:6: `mirrors.pip` must not hold a user or a"),
        (GOOD + "proxy: {http: 'socks5://p:1'}\n", "`proxy.http` must be http://HOST[:PORT]"),
        (GOOD + "proxy: {no_proxy: [a]}\n", "`proxy` needs `http` or `https`"),
        (GOOD + "proxy: {http: 'http://p:1', no_proxy: ['a b']}\n", "`proxy.no_proxy.0` must be a host name"),
        (GOOD + "mirrors: {ca_file: ca.pem}\n", "`mirrors` needs `apt` or `pip`"),
        (GOOD + "mirrors: {apt_security: 'http://m/x', pip: 'http://m/y'}\n", "`mirrors` has `apt_security` but no"),
        (GOOD + "mirrors: {pip: 'https://192.0.2.7:8443/x'}\n", "pip refuses https to a bare address"),
        (GOOD + "mirrors: {pypi: 'http://m/y'}\n", "`mirrors.pypi` is unknown; allowed here: apt, apt_security, pip"),
        (GOOD + "external: 1\n", "t.yaml:6: `external` is unknown"),
        (GOOD + "telemetry: {source: external, external: {}}\n", "`telemetry.external` is unknown"),
        ("- a\n", "t.yaml:1: expected keys"),
        ("name: [\n", "t.yaml:2: bad YAML"),
        ("name: a\n\tb: 1\n", "t.yaml:2: bad YAML"),
        ("name: \x01\n", "t.yaml: bad YAML"),
        ("name: !!python/object:os.system x\n", "t.yaml: bad YAML"),
        ("name: 2020-99-99\n", "t.yaml: bad YAML"),
        ("name: &a [*a]\n", "t.yaml: bad YAML"),
        ("? [a, b]\n: 1\n", "t.yaml:"),
        ("name: a\nname: b\n", "t.yaml:2: key `name` is there twice"),
        (GOOD.replace("server: {}\n", ""), "t.yaml:1: `server` is missing"),
        (GOOD.replace("name: lab", "name: Lab!"), "t.yaml:1: `name` must be lower-case letters"),
        (GOOD.replace("name: lab", "name: 5"), "t.yaml:1: `name`"),
        (
            GOOD.replace("provider: local", "provider: aws"),
            "t.yaml:2: `provider` must be 'local', 'hosts' or 'openstack'; found 'aws'",
        ),
        (GOOD.replace("server: {}", "sever: {}"), "t.yaml:3: `sever` is unknown; did you mean `server`?"),
        (
            GOOD.replace("server: {}", "server: {prots: {}}"),
            "t.yaml:3: `server.prots` is unknown; did you mean `ports`?",
        ),
        (GOOD.replace("server: {}", "server: {ports: {api: '1'}}"), "t.yaml:3: `server.ports.api`"),
        (GOOD.replace("server: {}", "server: {ports: {api: true}}"), "t.yaml:3: `server.ports.api`"),
        (GOOD.replace("server: {}", "server: {ports: {api: 8080}}"), "port 8080 is there 2 times"),
        (GOOD.replace("server: {}", "server: {bind: everywhere}"), "t.yaml:3: `server.bind` must be an IP address"),
        (GOOD.replace("server: {}", "server: {bind: 0.0.0.0}"), "set server.host"),
        (GOOD + "  - name: alice\n", "t.yaml:4: `users` user 'alice' is there 2 times"),
        (GOOD + "  - name: root\n", "t.yaml:4: `users` user name 'root' is used by"),
        (GOOD + "  - name: Bob\n", "t.yaml:6: `users.1.name` must be a Linux account name"),
        (GOOD.replace("  - name: alice\n", "  alice\n"), "t.yaml:4: `users` must be a list"),
        (
            GOOD + "agents: {workers: [{name: a, queues: [one], environment: prepared, gpus: first}]}\n",
            "t.yaml:6: `agents.workers.0.gpus` must be none, all, or indexes of GPUs such as 0 or 0,1; found 'first'",
        ),
        (
            GOOD + "agents: {workers: [{name: a, queues: [one], environment: prepared, gpus: '0,1,0'}]}\n",
            "t.yaml:6: `agents.workers.0.gpus` GPU '0' is there 2 times; each must be there once",
        ),
        (
            GOOD + "agents: {workers: [{name: a, queues: [one], environment: prepared, hosts: [agent-1]}]}\n",
            "worker 'a' is to run on 'agent-1', which is no agent host: take one of local, or leave `hosts` out",
        ),
        (GOOD + "agents: 3\n", "t.yaml:6: `agents` must hold keys: workers"),
        (GOOD + "telemetry: {source: mine}\n", "source must be 'managed', 'external'; found 'mine'"),
        (GOOD + "telemetry: {source: external, dialect: 1, url: 'http://i:8086'}\n", "dialect 1 needs database"),
        (
            GOOD + "telemetry: {source: external, dialect: 2, url: 'http://i:8086', org: o, bucket: b}\n",
            "dialect 2 needs credentials.token_file",
        ),
        (
            GOOD + "telemetry: {source: external, dialect: 1, url: 'http://u:p@i:8086', database: d}\n",
            "`telemetry.url` must be http://HOST",
        ),
    ],
)
def test_a_wrong_file_is_told_what_where_and_what_to_do(text, message):
    with pytest.raises(SpecError) as error:
        spec.parse(text, "t.yaml")
    assert message in error.value.message
    assert error.value.remedy


def test_what_the_docs_and_the_example_show_of_proxy_and_mirrors_is_accepted():
    page = (ROOT / "docs/hosts.md").read_text()
    shown = re.findall(r"```yaml\n(.*?)```", page[page.index("## A proxy") :], re.DOTALL)
    example = spec.EXAMPLE.read_text()
    shown.append(re.sub(r"(?m)^# ", "", example[example.index("# proxy:") :]))
    assert len(shown) == 3
    for text in shown:
        testbed = spec.parse(GOOD + text, "shown")
        assert testbed.proxy or testbed.mirrors


def test_a_password_in_a_url_is_not_repeated():
    with pytest.raises(SpecError) as error:
        spec.parse(GOOD + "proxy: {http: 'http://me:pass-word@p:1', https: 'me:pass-word@p'}\n", "t.yaml")
    assert "pass-word" not in str(error.value)
    assert str(error.value).count("must not hold") == 2


def test_every_mistake_is_told_at_once():
    with pytest.raises(SpecError) as error:
        spec.parse("nme: a\nprovider: aws\n", "t.yaml")
    assert len(error.value.message.splitlines()) == 5


@pytest.mark.parametrize("content", [b"\xff\xfe\x00binary", b"\x80\x81"], ids=["bom", "bytes"])
def test_a_binary_file_is_no_traceback(tmp_path, content):
    file = tmp_path / "t.yaml"
    file.write_bytes(content)
    done = CliRunner().invoke(main, ["up", "--yes", "--spec", str(file)])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"testbed: {file}: is no text file")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.symlink_to(path), "cannot be read"),
    ],
    ids=["missing", "folder", "unreadable"],
)
@pytest.mark.parametrize("verb", ["up", "smoke", "status", "down"])
def test_a_file_that_cannot_be_read_is_no_traceback(tmp_path, make, message, verb):
    file = tmp_path / "t.yaml"
    make(file)
    done = CliRunner().invoke(main, [verb, "--spec", str(file)])
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output


def test_init_writes_the_example_and_never_overwrites(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["init"]).exit_code == 0
    assert (tmp_path / "testbed.yaml").read_text() == spec.EXAMPLE.read_text()
    again = CliRunner().invoke(main, ["init"])
    assert again.exit_code == 2
    assert "exists already" in again.stderr


def test_debug_shows_the_traceback(tmp_path):
    done = CliRunner().invoke(main, ["--debug", "up", "--spec", str(tmp_path / "none.yaml")])
    assert "Traceback" in done.stderr
    assert done.exit_code == 2


def test_without_a_terminal_and_yes_nothing_happens(tmp_path):
    file = tmp_path / "t.yaml"
    file.write_text(GOOD)
    for verb in ("up", "down"):
        done = CliRunner().invoke(main, [verb, "--spec", str(file)])
        assert done.exit_code == 3
        assert "no terminal to ask on" in done.stderr


def _public(key) -> str:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


ED25519 = _public(ed25519.Ed25519PrivateKey.generate())


def _administrators(*keys: str, name: str = "ada") -> str:
    return (
        GOOD
        + "administrators:\n  - name: "
        + name
        + "\n    ssh_keys:\n"
        + "".join(f"      - {json.dumps(key)}\n" for key in keys)
    )


def test_administrators_keys_become_lines_that_say_whose_they_are():
    nist = _public(ec.generate_private_key(ec.SECP256R1()))
    found = spec.parse(_administrators(f"{ED25519} ada@laptop\n", nist), "t.yaml")
    assert found.administrator_lines == [f"{ED25519} ada", f"{nist} ada"]
    assert spec.parse(GOOD, "t.yaml").administrator_lines == []


def test_a_weak_rsa_key_is_refused_and_a_strong_one_is_not():
    weak, strong = (_public(rsa.generate_private_key(65537, bits)) for bits in (1024, 2048))
    assert spec.parse(_administrators(strong), "t.yaml").administrator_lines == [f"{strong} ada"]
    with pytest.raises(SpecError, match="RSA key of 1024 bits, which is weak"):
        spec.parse(_administrators(weak), "t.yaml")


PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_administrators(PRIVATE), "t.yaml:8: `administrators.0.ssh_keys` holds a private key"),
        (_administrators(name=json.dumps(PRIVATE)), "`administrators.0.name` must be"),
        (_administrators("c2VjcmV0c2VjcmV0"), "must hold public keys, each one line of a .pub file"),
        (_administrators("ssh-dss AAAAB3NzaC1kc3M="), "must hold public keys"),
        (_administrators(f"{ED25519}\n{ED25519}"), "must hold public keys"),
        (_administrators(ED25519[:-8]), "has a ssh-ed25519 key that is cut off or mistyped"),
        (_administrators(ED25519.replace("ssh-ed25519 ", "ssh-rsa ")), "has a ssh-rsa key that is cut off or mistyped"),
        (_administrators(f'command="/bin/true" {ED25519}'), "has options before the key"),
        (_administrators(ED25519, f"{ED25519} again"), "a key of ada is there twice"),
        (_administrators(), "t.yaml:8: `administrators.0.ssh_keys` must be a list"),
        (GOOD + f"administrators:\n  - ssh_keys: [{ED25519}]\n", "t.yaml:7: `administrators.0.name` is missing"),
        (GOOD + "administrators: ada\n", "t.yaml:6: `administrators` must be a list"),
    ],
)
def test_what_is_no_public_key_is_said_and_not_shown(text, message):
    with pytest.raises(SpecError) as error:
        spec.parse(text, "t.yaml")
    assert message in error.value.message
    assert "c2VjcmV0" not in error.value.message


HOSTS = GOOD.replace("provider: local", "provider: hosts") + "hosts: {user: debian, machines: [MACHINES]}\n"
SERVER = "{name: one, address: 192.0.2.1, groups: [server]}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("provider: local", "provider: hosts"), "provider hosts needs a section `hosts`"),
        (GOOD + f"hosts: {{user: a-b, machines: [{SERVER}]}}\n", "provider local has no use for the section `hosts`"),
        (HOSTS.replace("[MACHINES]", "[]"), "`hosts.machines`"),
        (HOSTS.replace("user: debian, ", "").replace("MACHINES", SERVER), "`hosts.user` is missing"),
        (
            HOSTS.replace("MACHINES", SERVER.replace("server", "agents")),
            "no machine has group `server`; give it to one",
        ),
        (HOSTS.replace("MACHINES", SERVER.replace("server", "sever")), "must be 'server', 'agents', 'clients'"),
        (HOSTS.replace("MACHINES", SERVER.replace("[server]", "[]")), "`hosts.machines.0.groups`"),
        (HOSTS.replace("MACHINES", SERVER.replace("[server]", "[server, server]")), "group 'server' is there 2 times"),
        (HOSTS.replace("MACHINES", SERVER.replace("one", "localhost")), "'localhost' means something else to Ansible"),
        (HOSTS.replace("MACHINES", f"{SERVER}, {SERVER}"), "machine 'one' is there 2 times"),
        (
            HOSTS.replace("MACHINES", f"{SERVER}, {SERVER.replace('one', 'two')}"),
            "address '192.0.2.1, port 22' is there",
        ),
        (
            HOSTS.replace("MACHINES", f"{SERVER}, {{name: two, address: 192.0.2.2, groups: [server]}}"),
            "group server is on one and two; one machine has it",
        ),
        (
            HOSTS.replace(
                "MACHINES",
                "{name: a, address: a, groups: [server, telemetry]}, {name: b, address: b, groups: [telemetry]}",
            ),
            "group telemetry is on a and b; one machine has it",
        ),
        (
            HOSTS.replace("MACHINES", SERVER.replace("groups", "host_key: 'one ssh-ed25519 AAAA', groups")),
            "has options before the key",
        ),
        (HOSTS.replace("MACHINES", SERVER.replace("groups", "python: python3.8, groups")), "must be an absolute path"),
        (HOSTS.replace("MACHINES", SERVER.replace("address", "adress")), "is unknown; did you mean `address`?"),
    ],
)
def test_machines_that_make_no_testbed_are_told_what_is_missing(text, message):
    with pytest.raises(SpecError) as caught:
        spec.parse(text, "t.yaml")
    assert message in caught.value.message


@pytest.mark.parametrize(("written", "read"), [("0", "0"), ("'0,1'", "0,1"), ("none", "none"), ("all", "all")])
def test_gpus_may_be_a_number(written, read):
    text = f"agents: {{workers: [{{name: a, queues: [one], environment: prepared, gpus: {written}}}]}}\n"
    [worker] = spec.parse(GOOD + text, "t.yaml").agents.workers
    assert worker.gpus == read


@pytest.mark.parametrize(
    ("nodes", "names"),
    [
        ("{}", ("agent-1",)),
        ("{agents: {count: 3}}", ("agent-1", "agent-2", "agent-3")),
        ("{agents: {on: server}}", ("server",)),
        ("{agents: {on: clients}, clients: {count: 2}}", ("client-1", "client-2")),
    ],
)
def test_agent_hosts_in_a_cloud_have_the_names_of_its_servers(nodes, names):
    from provision.cloud import desired

    text = f"""\
name: lab
provider: openstack
users: [{{name: alice}}]
administrators: [{{name: ada, ssh_keys: ["{ED25519}"]}}]
server: {{}}
openstack: {{cloud: lab, image: focal, network: lab-net, nodes: {nodes}}}
"""
    found = spec.parse(text, "t.yaml")
    assert found.agent_hosts == names
    assert [node.name for node in desired.nodes(found.openstack) if "agents" in node.groups] == list(names)


def test_a_users_keys_end_in_their_name_and_are_judged_as_the_administrators_are():
    text = GOOD.replace("- name: alice", f"- name: alice\n    ssh_keys: [{ED25519} alice@laptop]")
    assert spec.parse(text, "t.yaml").users[0].lines == [f"{ED25519} alice"]
    for bad, message in (
        (f"command=x {ED25519}", "has options before the key"),
        (f"{ED25519}, {ED25519} b", "key of user alice: '" + ED25519 + "' is there 2 times"),
    ):
        with pytest.raises(SpecError) as error:
            spec.parse(GOOD.replace("- name: alice", f"- name: alice\n    ssh_keys: [{bad}]"), "t.yaml")
        assert message in error.value.message


@pytest.mark.parametrize(
    ("provider", "said", "found"),
    [("local", "", False), ("local", "true", True), ("hosts", "", True), ("hosts", "false", False)],
)
def test_hosts_update_themselves_unless_they_are_the_administrators_own_machine(provider, said, found):
    text = GOOD.replace("provider: local", f"provider: {provider}") + (f"security_updates: {said}\n" if said else "")
    if provider == "hosts":
        text += "hosts: {user: root, machines: [{name: a, address: 192.0.2.1, groups: [server]}]}\n"
    assert spec.parse(text, "t.yaml").updates_itself is found


def test_time_names_servers():
    assert spec.parse(GOOD + "time: {servers: [ntp.example, 192.0.2.7]}\n", "t.yaml").time.servers[0] == "ntp.example"
    with pytest.raises(SpecError, match=r"time\.servers"):
        spec.parse(GOOD + "time: {servers: []}\n", "t.yaml")


@pytest.mark.parametrize(
    ("provider", "server", "backend"),
    [
        ("local", "{}", "lite"),
        ("hosts", "{}", "docker"),
        ("hosts", "{backend: lite}", "lite"),
        ("hosts", "{version: 2.3.0}", "docker"),
    ],
)
def test_machines_of_a_testbed_get_the_official_server_unless_the_file_says_otherwise(provider, server, backend):
    text = GOOD.replace("provider: local", f"provider: {provider}").replace("server: {}", f"server: {server}")
    if provider == "hosts":
        text += "hosts: {user: root, machines: [{name: a, address: 192.0.2.1, groups: [server]}]}\n"
    assert spec.parse(text, "t.yaml").server.backend == backend


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ("version: 2.3.0", "`server` backend lite has no use for `version`, which is for backend docker"),
        ("backend: docker, version: latest", "`server.version` must be a version, such as 2.4.0; found 'latest'"),
        ("backend: docker, registry: 'https://r.example'", "`server.registry` must be HOST[:PORT][/PREFIX]"),
        ("backend: docker, registry_login: {username: u, password_file: p}", "registry_login needs `registry`"),
        (
            "backend: docker, registry: r.example, registry_login: {username: u}",
            "`server.registry_login.password_file` is",
        ),
        ("backend: docker, images: {mong: mongo:8}", "`server.images.mong` is unknown; did you mean `mongo`?"),
        ("backend: docker, images: {mongo: 'a b'}", "`server.images.mongo` must be [REGISTRY/]NAME:TAG or"),
        ("backend: docker, agent_services: true", "agent_services needs images.agent_services"),
        ("backend: docker, stores: {mongo: {host: m, username: u}}", "username and password_file go together"),
        ("backend: docker, stores: {mongo: {host: m, further_hosts: [n]}}", "name it, as in query: replicaSet=rs0"),
        ("backend: docker, stores: {redis: {port: 1}}", "`server.stores.redis.host` is missing"),
        ("backend: docker, stores: {mongo: {host: m, query: 'a b'}}", "must be options, such as authSource=admin"),
        ("backend: docker, engine: {source: docker}", "source docker needs `key_file`"),
        ("backend: docker, engine: {address_pools: [10.1.2.3/16]}", "10.1.2.3/16 is no network"),
        ("backend: docker, engine: {address_pools: [10.1.2.0/24]}", "10.1.2.0/24 is too small"),
        ("backend: compose", "`server.backend` must be"),
    ],
)
def test_what_the_official_server_cannot_be_is_said(server, message):
    with pytest.raises(SpecError) as error:
        spec.parse(GOOD.replace("server: {}", f"server: {{{server}}}"), "t.yaml")
    assert message in error.value.message


def test_the_official_server_needs_no_more_than_its_name():
    server = spec.parse(GOOD.replace("server: {}", "server: {backend: docker}"), "t.yaml").server
    assert (server.version, server.agent_services, server.images.by_service) == ("2.4.0", False, {})
    assert server.stores.password_files == {}


def test_a_testbed_yaml_keeps_its_mode_and_is_replaced_only_as_it_was_read(tmp_path):
    file = tmp_path / "testbed.yaml"
    file.write_text("name: one\n")
    file.chmod(0o640)
    spec.replace(file, "name: one\n", "name: two\n")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("name: two\n", 0o640)
    with pytest.raises(SpecError, match="somebody changed it since"):
        spec.replace(file, "name: one\n", "name: three\n")
    assert file.read_text() == "name: two\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_testbed_yaml_that_root_replaces_keeps_its_owner(tmp_path):
    file = tmp_path / "testbed.yaml"
    file.write_text("name: one\n")
    os.chown(file, 4321, 4322)
    spec.replace(file, "name: one\n", "name: two\n")
    assert (file.stat().st_uid, file.stat().st_gid) == (4321, 4322)
