"""The official server's backend on real hosts: SSH, systemd, Docker Engine and Compose, with stand-ins for its images.

What is shown is Compose, networks, volumes, order, health, secrets and the verbs, not the official server.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import hosts as lab
from tests.lab.gateway import read_indexes
from tests.lab.images import build
from tests.stack.test_server import PUBLIC_KEYS

if TYPE_CHECKING:
    from tests.lab.conftest import Engine, Host

pytestmark = pytest.mark.full

VERSIONS = {"clearml/server": "2.4.0", "mongo": "8.0.15", "elasticsearch": "8.19.9", "redis": "8.2.3"}
STORES = ("redis", "mongo", "elasticsearch")
CONTAINERS = [f"testbed-clearml-{name}" for name in (*STORES, "apiserver", "fileserver", "webserver", "async_delete")]
PUBLISHED = {8008, 8080, 8081}
PORTS = {*PUBLISHED, 27017, 9200, 9300, 6379, 2375, 2376}
SSH = 22

ONE = """\
name: far
provider: hosts
hosts:
  user: keeper
  jump_host: {{host: {bastion}, user: keeper}}
  machines:
    - {{name: server, address: {server}, groups: [server, telemetry, clients, agents]}}
server: {{backend: docker, registry: mirror.lab:8443}}
users: [{{name: researcher}}]
"""
FIVE = """\
name: far
provider: hosts
hosts:
  user: keeper
  jump_host: {{host: {bastion}, user: keeper}}
  machines:
    - {{name: server, address: {server}, groups: [server], host_key: {host_key}}}
    - {{name: one, address: {one}, groups: [agents], python: /usr/bin/python3.8}}
    - {{name: two, address: {two}, groups: [agents], python: /usr/bin/python3.8, user: root}}
    - {{name: desktop, address: {desktop}, groups: [clients], python: /usr/bin/python3.8}}
    - {{name: influx, address: {influx}, groups: [telemetry]}}
server: {{backend: docker, registry: mirror.lab:8443}}
users: [{{name: researcher}}]
"""
OLD = lab.Kind(old_python=True)


@pytest.fixture(scope="module")
def images(engine: Engine) -> dict[str, str]:
    """The stand-ins, by the name of the official image."""
    return build.build(engine, read_indexes())


@pytest.fixture
def one(engine: Engine, images: dict[str, str]) -> Iterator[lab.Lab]:
    """One machine for everything, behind a bastion, and a registry."""
    with lab.running(engine, {"server": lab.Kind(engine=True)}, ONE + lab.MIRRORS) as found:
        build.publish(found.gateway.host, images, VERSIONS)
        found.prepare()
        yield found


@pytest.fixture
def five(engine: Engine, images: dict[str, str]) -> Iterator[lab.Lab]:
    """Five machines behind a bastion, and a registry."""
    tree = lab.old_python()
    if tree is None:
        pytest.skip("needs a Python 3.8 of pyenv's on this machine, to stand for Ubuntu 20.04's")
    lab.build_old(engine, tree)
    kinds = {"server": lab.Kind(engine=True), "one": OLD, "two": OLD, "desktop": OLD, "influx": lab.Kind()}
    with lab.running(engine, kinds, FIVE + lab.MIRRORS) as found:
        build.publish(found.gateway.host, images, VERSIONS)
        found.prepare()
        yield found


def containers(host: Host) -> dict[str, str]:
    """Return what the host's engine says of each container."""
    listed = host.run("docker", "ps", "--all", "--format", "{{.Names}} {{.Status}}", check=False).splitlines()
    return dict(line.split(" ", 1) for line in listed)


def are_healthy(host: Host) -> bool:
    """Tell whether all of the server's containers run and are healthy."""
    found = containers(host)
    return sorted(found) == sorted(CONTAINERS) and all("(healthy)" in status for status in found.values())


def assert_all_passed(said: str) -> None:
    """Every check of the whole chain passed."""
    passed = re.search(r"(\d+) of (\d+) checks passed", said)
    assert passed, said
    assert passed[1] == passed[2], said
    assert int(passed[2]) > 30, f"the full chain runs, too: {said}"


def status(there: lab.Lab, code: int = 0) -> dict[str, Any]:
    """Return what `testbed status` says."""
    found: dict[str, Any] = json.loads(there.testbed("status", "--json", progress=False, code=code))
    return found


def answering(there: lab.Lab, host: Host) -> set[int]:
    """Return the ports of the server that a host reaches."""
    script = "import socket, sys\nfor port in map(int, sys.argv[2:]):\n" + (
        "  with socket.socket() as s:\n    s.settimeout(2)\n    s.connect_ex((sys.argv[1], port)) or print(port)"
    )
    ports = [str(port) for port in (*sorted(PORTS), SSH)]
    found = host.run("python3", "-c", script, there.addresses["server"], *ports)
    return {int(port) for port in found.split()}


def admitted(there: lab.Lab, host: Host, pairs: dict[str, tuple[str, str]]) -> dict[str, int]:
    """Return what the API server answers, asked from a host, to who logs in with each of these keys."""
    script = "import json, sys, urllib.error, urllib.request\nfor line in sys.stdin:\n" + (
        "  name, word = json.loads(line)\n"
        "  request = urllib.request.Request(sys.argv[1], headers={'Authorization': 'Basic ' + word})\n"
        "  try: code = urllib.request.urlopen(request, timeout=10).status\n"
        "  except urllib.error.HTTPError as error: code = error.code\n"
        "  print(json.dumps([name, code]))"
    )
    lines = [[name, base64.b64encode(":".join(pair).encode()).decode()] for name, pair in pairs.items()]
    asked = "\n".join(map(json.dumps, lines)).encode()
    url = f"http://{there.addresses['server']}:8008/auth.login"
    return dict(map(json.loads, host.run("python3", "-c", script, url, data=asked).splitlines()))


def container_addresses(server: Host) -> dict[str, list[str]]:
    """Return each container's addresses in its own networks."""
    template = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    return {name: server.run("docker", "inspect", "--format", template, name).split() for name in CONTAINERS}


def test_a_testbed_on_one_machine_comes_up_heals_and_goes_without_a_trace(one: lab.Lab) -> None:
    server = one.machines["server"]
    before = lab.snapshot(server)
    assert_all_passed(one.testbed("up", "--yes"))
    assert are_healthy(server), containers(server)

    second = one.testbed("up", "--yes")
    assert re.findall(r"changed=(\d+)", second) == ["0", "0"], second
    assert one.testbed("up", "--check", progress=False).strip().endswith("Nothing would change.")
    services = {service["name"]: service["running"] for service in status(one)["services"]}
    assert {name: services[name] for name in CONTAINERS} == dict.fromkeys(CONTAINERS, True)

    inside = [address for addresses in container_addresses(server).values() for address in addresses]
    own = one.addresses["server"].rsplit(".", 1)[0] + "."
    assert [address for address in inside if address.startswith(own)] == [], "they cover up the hosts' network"

    pid = server.run("docker", "inspect", "--format", "{{.State.Pid}}", "testbed-clearml-redis").strip()
    server.run("kill", "-9", pid)
    lab.wait_for(lambda: are_healthy(server), "a killed container does not come back", 120)

    server.run("docker", "stop", "testbed-clearml-webserver")
    problems = str(status(one, code=1)["problems"])
    assert "testbed-clearml-webserver" in problems, problems
    one.testbed("up", "--yes")
    assert are_healthy(server), containers(server)

    said = one.testbed("down", "--check", "--purge", progress=False)
    assert [name for name in CONTAINERS if name not in said] == [], said
    assert are_healthy(server), "and nothing went"
    one.testbed("down", "--yes", "--purge")
    assert lab.snapshot(server) == before


def test_five_machines_make_one_testbed_that_survives_reboots(five: lab.Lab) -> None:
    server, agent = five.machines["server"], five.machines["one"]
    first = five.testbed("up", "--yes")
    assert_all_passed(first)
    second = five.testbed("up", "--yes")
    assert re.findall(r"changed=(\d+)", second) == ["0", "0"], second

    conf = five.machines["desktop"].run("cat", "/home/researcher/clearml.conf")
    keys = {part: re.search(rf'"?{part}_key"?\s*[:=]\s*"([^"]+)"', conf) for part in ("access", "secret")}
    own = (str(keys["access"] and keys["access"][1]), str(keys["secret"] and keys["secret"][1]))
    for host in (agent, five.machines["desktop"], five.bastion):
        assert answering(five, host) == {*PUBLISHED, SSH}, f"from {host.name}"
        found = admitted(five, host, PUBLIC_KEYS | {"own": own})
        assert found == dict.fromkeys(PUBLIC_KEYS, 401) | {"own": 200}, f"from {host.name}"
    inside = container_addresses(server)
    for store in STORES:
        [address] = inside[f"testbed-clearml-{store}"]
        agent.run("ip", "route", "add", f"{address}/32", "via", five.addresses["server"])
        told = agent.run("bash", "-c", f"timeout 3 bash -c 'echo >/dev/tcp/{address}/{STORE_PORTS[store]}'; echo $?")
        assert told.strip() != "0", f"{store} answers who has a route to it"
        agent.run("ip", "route", "delete", f"{address}/32")

    for host in five.machines.values():
        lab.reboot(host)
        lab.wait_for(lambda: not status_problems(five), f"after a reboot of {host.name}: {status_problems(five)}", 300)
    lab.reboot(*five.machines.values())
    lab.wait_for(lambda: not status_problems(five), f"after all rebooted: {status_problems(five)}", 300)
    assert are_healthy(server), containers(server)
    assert_all_passed(five.testbed("smoke"))


STORE_PORTS = {"redis": 6379, "mongo": 27017, "elasticsearch": 9200}


def status_problems(there: lab.Lab) -> list[str]:
    """Return what is not well, or that the hosts cannot be reached."""
    words = "./testbed status --json 2>/dev/null; true"
    clean = ("env", "-i", f"HOME={lab.HOME}", *lab.ENVIRONMENT)
    told = there.desk.run(*clean, "sh", "-c", words, options=("--user", "ada", "--workdir", lab.CHECKOUT))
    try:
        return [str(problem) for problem in json.loads(told)["problems"]]
    except (ValueError, KeyError):
        return [f"no status: {told}"]
