"""The official server's backend on real hosts: SSH, systemd, Docker Engine and Compose, with stand-ins for its images.

What is shown is Compose, networks, volumes, order, health, secrets and the verbs, not the official server.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from provision import forward
from provision.credentials.ensure import parse_key
from provision.credentials.public import PUBLIC_KEYS, PUBLIC_TOKEN_SECRET, signed
from tests.lab import hosts as lab
from tests.lab import official

if TYPE_CHECKING:
    from provision.clearml_api import ClearmlApi
    from tests.lab.conftest import Engine, Host

pytestmark = pytest.mark.full

PUBLISHED = {8008, 8080, 8081}
PORTS = {*PUBLISHED, 18008, 18080, 18081, *official.STORES.values(), 9300, 2375, 2376}
SSH = 22

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
server: {{backend: docker, registry: mirror.lab:8443, tls: {{}}}}
users: [{{name: researcher}}]
"""
OLD = lab.Kind(old_python=True)


@pytest.fixture
def one(engine: Engine) -> Iterator[lab.Lab]:
    """One machine for everything, behind a bastion, and a registry."""
    with official.running(engine, {"server": lab.Kind(engine=True)}, official.ONE) as found:
        yield found


@pytest.fixture
def five(engine: Engine) -> Iterator[lab.Lab]:
    """Five machines behind a bastion, and a registry."""
    tree = lab.old_python()
    assert tree is not None, "it needs a Python 3.8 of pyenv's on this machine, to stand for Ubuntu 20.04's"
    lab.build_old(engine, tree)
    kinds = {"server": lab.Kind(engine=True), "one": OLD, "two": OLD, "desktop": OLD, "influx": lab.Kind()}
    with official.running(engine, kinds, FIVE) as found:
        yield found


def answering(there: lab.Lab, host: Host) -> set[int]:
    """Return the ports of the server that a host reaches."""
    script = "import socket, sys\nfor port in map(int, sys.argv[2:]):\n" + (
        "  with socket.socket() as s:\n    s.settimeout(2)\n    s.connect_ex((sys.argv[1], port)) or print(port)"
    )
    ports = [str(port) for port in (*sorted(PORTS), SSH)]
    found = host.run("python3", "-c", script, there.addresses["server"], *ports)
    return {int(port) for port in found.split()}


def admitted(there: lab.Lab, host: Host, logins: dict[str, str], authority: str) -> dict[str, int]:
    """Return what the API server answers, asked from a host, to each of these Authorization headers.

    `authority`: the certificate of the CA that the host is to trust, PEM.
    """
    script = "import json, ssl, sys, urllib.error, urllib.request\nserver, trusted = sys.argv[1:]\n" + (
        "for line in sys.stdin:\n"
        "  name, word = json.loads(line)\n"
        "  path = 'auth.login' if word.startswith('Basic') else 'users.get_current_user'\n"
        "  request = urllib.request.Request(f'{server}/{path}', headers={'Authorization': word})\n"
        "  context = ssl.create_default_context(cadata=trusted)\n"
        "  try: code = urllib.request.urlopen(request, timeout=10, context=context).status\n"
        "  except urllib.error.HTTPError as error: code = error.code\n"
        "  print(json.dumps([name, code]))"
    )
    asked = "\n".join(json.dumps(login) for login in logins.items()).encode()
    url = f"https://{there.addresses['server']}:8008"
    return dict(map(json.loads, host.run("python3", "-c", script, url, authority, data=asked).splitlines()))


def basic(access_key: str, secret_key: str) -> str:
    """Return the Authorization header of a key."""
    return "Basic " + base64.b64encode(f"{access_key}:{secret_key}".encode()).decode()


def test_a_testbed_on_one_machine_comes_up_heals_and_goes_without_a_trace(one: lab.Lab) -> None:
    server = one.machines["server"]
    before = lab.snapshot(server)
    official.assert_all_passed(one.testbed("up", "--yes"))
    assert official.are_healthy(server), official.containers(server)

    second = one.testbed("up", "--yes")
    official.assert_nothing_changed(second)
    assert one.testbed("up", "--check", progress=False).strip().endswith("Nothing would change.")
    services = {service["name"]: service["running"] for service in official.status(one)["services"]}
    assert {name: services[name] for name in official.CONTAINERS} == dict.fromkeys(official.CONTAINERS, True)

    inside = [address for addresses in official.addresses(server).values() for address in addresses]
    own = one.addresses["server"].rsplit(".", 1)[0] + "."
    assert [address for address in inside if address.startswith(own)] == [], "they cover up the hosts' network"

    pid = server.run("docker", "inspect", "--format", "{{.State.Pid}}", "testbed-clearml-redis").strip()
    server.run("kill", "-9", pid)
    lab.wait_for(lambda: official.are_healthy(server), "a killed container does not come back", 120)

    server.run("docker", "stop", "testbed-clearml-webserver")
    problems = str(official.status(one, code=1)["problems"])
    assert "testbed-clearml-webserver" in problems, problems
    one.testbed("up", "--yes")
    assert official.are_healthy(server), official.containers(server)

    said = one.testbed("down", "--check", "--purge", progress=False)
    assert [name for name in official.CONTAINERS if name not in said] == [], said
    assert official.are_healthy(server), "and nothing went"
    one.testbed("down", "--yes", "--purge")
    assert lab.snapshot(server) == before


def test_five_machines_make_a_testbed_over_tls_that_survives_reboots(five: lab.Lab) -> None:
    server, desktop = five.machines["server"], five.machines["desktop"]
    url = f"https://{five.addresses['server']}:8008"
    official.assert_all_passed(five.testbed("up", "--yes"))
    official.assert_nothing_changed(five.testbed("up", "--yes"))
    assert five.testbed("up", "--check", progress=False).strip().endswith("Nothing would change.")
    authority = official.trust_of(desktop)
    forward.trust("far", authority)

    conf = parse_key(desktop.run("cat", f"/home/{official.USER}/clearml.conf"))
    assert conf
    with official.api(five, desktop, url) as api:
        token = api.login()
    public = {name: basic(pair.access_key, pair.secret_key) for name, pair in PUBLIC_KEYS.items()}
    public["forged"] = f"Bearer {signed(token, PUBLIC_TOKEN_SECRET)}"
    own = {"own key": basic(conf.access_key, conf.secret_key), "own token": f"Bearer {token}"}
    for host in (five.machines["one"], desktop, five.bastion):
        assert answering(five, host) == {*PUBLISHED, SSH}, f"from {host.name}"
        found = admitted(five, host, public | own, authority)
        assert found == dict.fromkeys(public, 401) | dict.fromkeys(own, 200), f"from {host.name}"
    inside = official.addresses(server)
    for store, port in official.STORES.items():
        [address] = inside[f"testbed-clearml-{store}"]
        desktop.run("ip", "route", "add", f"{address}/32", "via", five.addresses["server"])
        told = desktop.run("bash", "-c", f"timeout 3 bash -c 'echo >/dev/tcp/{address}/{port}'; echo $?")
        assert told.strip() != "0", f"{store} answers who has a route to it"
        desktop.run("ip", "route", "delete", f"{address}/32")

    for host in five.machines.values():
        lab.reboot(host)
        until_well(five, f"a reboot of {host.name}")
    lab.reboot(*five.machines.values())
    until_well(five, "all rebooted")
    with official.api(five, desktop, url) as api:
        lost = official.enqueue_sleep(api, 1200)
        lab.wait_for(lambda: official.status_of(api, lost) == "in_progress", "no agent takes the task", 120)
        lab.cut_power(*five.machines.values())
        until_well(five, "all lost their power")
        assert official.are_healthy(server), official.containers(server)
        lab.wait_for(
            lambda: begun_again(api, lost) or official.status_of(api, lost) == "failed", "the lost task is stuck", 900
        )
        api.call("tasks.stop", task=lost, force=True)
        api.call("tasks.delete", task=lost, force=True)
    official.assert_all_passed(five.testbed("smoke"))


def until_well(there: lab.Lab, what: str) -> None:
    """Wait until `status` finds nothing to say."""
    found: list[str] = []

    def is_well() -> bool:
        found[:] = official.problems(there)
        return not found

    try:
        lab.wait_for(is_well, what, 300)
    except AssertionError:
        pytest.fail(f"after {what}: {found}")


def begun_again(api: ClearmlApi, task: str) -> bool:
    """Tell whether the watchdog has queued a task that was lost once more."""
    events = api.call("events.get_task_log", task=task, order="asc")["events"]
    return any("the testbed's watchdog queues the task again" in event["msg"] for event in events)
