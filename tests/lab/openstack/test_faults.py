"""The cloud on its bad days: commands end well, or with one clear message; nothing is lost, the next one goes on."""

from __future__ import annotations

import socket
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from provision.cloud.connect import COMPUTE_VERSION
from tests.lab.openstack import proxy as front
from tests.lab.openstack.bed import Bed, finished
from tests.lab.openstack.cloud import Cloud, Project, contents
from tests.lab.openstack.proxy import Call, Fault, Proxy, answer, at, cut, wait

FAULTS: dict[str, dict[str, Callable[..., Any]]] = {
    "500": {"before": answer(500)},
    "503, Retry-After": {"before": answer(503, Retry_After="1")},
    "429, Retry-After": {"before": answer(429, Retry_After="1")},
    "cut before the call": {"before": cut},
    "cut after the call": {"after": cut},
    "504 after the call": {"after": lambda call, reply: answer(504)(call)},
    "3 s late": {"before": wait(3)},
}
FOREVER = float("inf")


def first_of_each_kind(proxy: Proxy, rotation: int) -> None:
    """Let the first call of every kind meet a fault; with each rotation another one."""
    names = list(FAULTS)
    met: set[str] = set()

    def meant(call: Call, name: str) -> bool:
        kind = str(call)
        if kind in met or names[(zlib.crc32(kind.encode()) + rotation) % len(names)] != name:
            return False
        met.add(kind)
        return True

    for name, fault in FAULTS.items():
        proxy.add(Fault(lambda call, name=name: meant(call, name), times=FOREVER, **fault))


def changes(proxy: Proxy) -> list[str]:
    """Return the calls that change something, but for the mark of who is at work."""
    changing = [str(call) for call in proxy.calls if call.changes]
    return [each for each in changing if each != "neutron PUT /v2.0/security-groups/ID/tags"]


def up_changes_nothing(bed: Bed, proxy: Proxy) -> bool:
    proxy.forget()
    done = bed.run("up")
    assert done.code == 0, done.err
    return not changes(proxy)


@pytest.mark.drawn
@pytest.mark.parametrize("rotation", range(len(FAULTS)))
def test_what_passes_is_waited_for(bed: Bed, proxy: Proxy, undisturbed: list[str], rotation: int) -> None:
    first_of_each_kind(proxy, rotation)
    done = bed.run("up")
    assert done.code == 0, done.err
    kinds = {str(call) for fault in proxy.faults for call in fault.met}
    assert len(kinds) > 20, f"only {len(kinds)} kinds of calls met a fault"
    assert contents(bed.project, undisturbed) == undisturbed
    assert up_changes_nothing(bed, proxy)
    first_of_each_kind(proxy, rotation)
    done = bed.run("down")
    assert done.code == 0, done.err
    assert contents(bed.project, []) == []


@pytest.mark.drawn
def test_a_conflict_at_every_change_loses_nothing(bed: Bed, proxy: Proxy, undisturbed: list[str]) -> None:
    met: set[str] = set()

    def first(call: Call) -> bool:
        return call.changes and str(call) not in met and not met.add(str(call))  # type: ignore[func-returns-value]

    proxy.add(Fault(first, before=answer(409, "in use, says the test"), times=FOREVER))
    for _ in range(15):
        done = bed.run("up")
        if done.code == 0:
            break
        assert done.code == 1
        assert "in use, says the test" in done.message
    assert done.code == 0, done.err
    assert contents(bed.project, undisturbed) == undisturbed


@pytest.mark.drawn
@pytest.mark.parametrize(("service", "path"), [("nova", "/servers"), ("neutron", "/ports")])
def test_a_service_that_stays_away_is_told(small_bed: Bed, proxy: Proxy, service: str, path: str) -> None:
    change = at(service, "POST", path)
    down: list[Call] = []

    def away(call: Call) -> bool:
        if change(call):
            down.append(call)
        return bool(down) and call.service == service

    proxy.add(Fault(away, before=answer(503, "back soon, says the test", Retry_After="1"), times=FOREVER))
    done = small_bed.run("up")
    assert done.code == 1
    assert "back soon, says the test" in done.message
    assert "same command again" in done.message
    proxy.forget()
    assert small_bed.run("up").code == 0
    assert up_changes_nothing(small_bed, proxy)


def made_already(proxy: Proxy) -> Callable[[Call], None]:
    """Return a `before` that makes the same call first, as one of a run that was killed and that nova is still at."""
    [nova] = [real for real in proxy.addresses if real.endswith(":8774")]

    def make(call: Call) -> None:
        headers = {"X-Auth-Token": call.token, "Content-Type": "application/json"}
        headers["OpenStack-API-Version"] = f"compute {COMPUTE_VERSION}"
        answer = requests.post(f"{nova}{call.path}", call.body, headers=headers, timeout=60)
        assert answer.status_code == 202, answer.text

    return make


@pytest.mark.drawn
@pytest.mark.parametrize("volume", [{"size": 1}, None], ids=["its volume", "its port"])
def test_a_server_that_an_earlier_call_still_makes_is_not_made_twice(
    small_bed: Bed, proxy: Proxy, volume: dict[str, int] | None
) -> None:
    small_bed.say(**({"boot_volume": volume} if volume else {}))
    twice = proxy.add(Fault(at("nova", "POST", "/servers"), before=made_already(proxy)))
    done = small_bed.run("up")
    assert done.code == 0, done.err
    assert len(twice.met) == 1
    assert len(list(small_bed.project.connection.compute.servers())) == 1
    assert up_changes_nothing(small_bed, proxy)


def refused(bed: Bed) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        edit(bed, auth_url=f"http://127.0.0.1:{probe.getsockname()[1]}/v3")


def edit(bed: Bed, **auth: str) -> None:
    said = yaml.safe_load(bed.clouds.read_text())
    said["clouds"]["lab"]["auth"] |= auth
    bed.clouds.write_text(yaml.safe_dump(said))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        pytest.param(lambda bed: edit(bed, password="no"), ("401", "clouds.yaml"), id="wrong password"),
        pytest.param(lambda bed: edit(bed, project_name="nobody's"), ("401", "clouds.yaml"), id="unknown project"),
        pytest.param(lambda bed: bed.say(cloud="elsewhere"), ("elsewhere", "openstack.cloud"), id="unknown cloud"),
        pytest.param(refused, ("no connection to", "auth_url"), id="endpoint down"),
    ],
)
@pytest.mark.parametrize(("command", "code"), [(("up", "--yes"), 2), (("down", "--yes"), 1)])
def test_a_login_that_fails_says_why(
    small_bed: Bed,
    proxy: Proxy,
    command: tuple[str, ...],
    code: int,
    wrong: Callable[[Bed], None],
    words: tuple[str, ...],
) -> None:
    wrong(small_bed)
    began = time.monotonic()
    done = small_bed.command(*command)
    assert done.code == code, done.err
    for word in words:
        assert word in done.message
    assert time.monotonic() - began < 60
    assert not changes(proxy)
    assert small_bed.project.password not in done.out + done.err


def test_a_certificate_has_to_verify(cloud: Cloud, project: Project, tmp_path: Path) -> None:
    authority, certificate = front.certificates(tmp_path / "tls")
    with front.running(cloud, certificate) as tls:
        bed = Bed("ran", project, tmp_path, tls.auth_url, {"nodes": {"agents": {"on": "server"}}})
        done = bed.run("up")
        assert done.code == 1
        assert "certificate" in done.message
        assert "cacert" in done.message
        assert not tls.calls
        bed.clouds = project.clouds_yaml(tmp_path, "application credential", tls.auth_url, cacert=str(authority))
        done = bed.run("up")
        assert done.code == 0, done.err
        assert tls.met("nova", "POST", "/servers")
        bed.clouds = project.clouds_yaml(tmp_path, "token", tls.auth_url, cacert=str(authority))
        done = bed.run("down")
        assert done.code == 0, done.err
    assert contents(project, []) == []


def end_token(cloud: Cloud, proxy: Proxy) -> Callable[[Call], None]:
    """Return a `before` that ends the token which the call carries, in keystone and at once for all services.

    They would remember for five minutes that it was good.
    """

    def end(call: Call) -> None:
        answer = cloud.admin.identity.delete("/auth/tokens", headers={"X-Subject-Token": call.token})
        assert answer.status_code == 204, answer.text
        ended = Fault(lambda other: other.token == call.token, before=front.answer(401, "ended"), times=FOREVER)
        proxy.faults.insert(0, ended)

    return end


def test_a_token_that_ends_in_mid_run_is_renewed(cloud: Cloud, small_bed: Bed, proxy: Proxy) -> None:
    ends = proxy.add(Fault(at("neutron", "POST", "/routers"), before=end_token(cloud, proxy)))
    done = small_bed.run("up")
    assert done.code == 0, done.err
    assert ends.met
    assert proxy.faults[0].met, "nothing was asked with the ended token"
    assert len(proxy.met("keystone", "POST", "/auth/tokens")) == 2
    assert up_changes_nothing(small_bed, proxy)


@pytest.mark.drawn
def test_a_token_of_the_administrator_s_that_ends_is_told(cloud: Cloud, small_bed: Bed, proxy: Proxy) -> None:
    small_bed.clouds = small_bed.project.clouds_yaml(small_bed.folder, "token", proxy.auth_url)
    [token] = [yaml.safe_load(small_bed.clouds.read_text())["clouds"]["lab"]["auth"]["token"]]
    end = end_token(cloud, proxy)

    def end_both(call: Call) -> None:
        end(call)
        cloud.admin.identity.delete("/auth/tokens", headers={"X-Subject-Token": token})

    proxy.add(Fault(at("neutron", "POST", "/routers"), before=end_both))
    done = small_bed.run("up")
    assert done.code == 1
    assert "new token" in done.message
    assert token not in done.out + done.err
    small_bed.clouds = small_bed.project.clouds_yaml(small_bed.folder, auth_url=proxy.auth_url)
    assert small_bed.run("up").code == 0
    assert up_changes_nothing(small_bed, proxy)


@pytest.mark.drawn
def test_a_broken_compute_host_is_told_with_nova_s_words(small_bed: Bed, proxy: Proxy) -> None:
    small_bed.say(availability_zone="broken")
    done = small_bed.run("up")
    assert done.code == 1
    assert "server server does not come up" in done.message
    assert "nova: " in done.message
    assert len(proxy.met("nova", "POST", "/servers")) == 2  # it is tried once more
    small_bed.say(availability_zone="az1")
    assert small_bed.run("up").code == 0
    assert up_changes_nothing(small_bed, proxy)


@pytest.mark.drawn
def test_a_kept_volume_outlives_a_server_that_finds_no_host(bed: Bed, proxy: Proxy, undisturbed: list[str]) -> None:
    assert bed.run("up").code == 0
    assert bed.command("down", "--yes", "--keep-volumes").code == 0
    block = bed.project.connection.block_storage
    kept = {each.id for each in block.volumes()}
    assert len(kept) == 2
    bed.say(availability_zone="broken")
    done = bed.run("up")
    assert done.code == 1
    assert "does not come up" in done.message
    assert {each.id for each in block.volumes()} == kept
    bed.say(availability_zone=None)
    done = bed.run("up")
    assert done.code == 0, done.err
    assert contents(bed.project, undisturbed) == undisturbed
    assert {each.id for each in block.volumes()} == kept


@pytest.mark.drawn
def test_a_server_that_has_run_and_is_in_error_is_left_to_who_asks(cloud: Cloud, small_bed: Bed, proxy: Proxy) -> None:
    assert small_bed.run("up").code == 0
    [server] = small_bed.project.connection.compute.servers()
    cloud.admin.compute.reset_server_state(server, "error")
    for words in (("plan",), ("up", "--yes")):
        done = small_bed.command(*words)
        assert done.code == 2
        assert "server server, which has run, is in ERROR" in done.out + done.err
    assert [each.id for each in small_bed.project.connection.compute.servers()] == [server.id]
    cloud.admin.compute.reset_server_state(server, "active")
    assert up_changes_nothing(small_bed, proxy)


@pytest.mark.drawn
def test_quota_that_somebody_takes_half_way_is_told(bed: Bed, proxy: Proxy, undisturbed: list[str]) -> None:
    taken = proxy.add(Fault(at("cinder", "POST", "/volumes"), before=lambda call: bed.project.set_quotas(instances=1)))
    done = bed.run("up")
    assert taken.met
    assert done.code == 1
    assert "uota" in done.message
    assert "instances" in done.message
    bed.project.set_quotas(instances=10)
    assert bed.run("up").code == 0
    assert contents(bed.project, undisturbed) == undisturbed


@pytest.mark.drawn
def test_an_image_that_goes_half_way_is_told(small_bed: Bed, proxy: Proxy) -> None:
    image = small_bed.project.connection.image

    def upload() -> str:
        return str(image.create_image("mine", data=bytes(65536), disk_format="raw", container_format="bare").id)

    first = upload()
    small_bed.say(image="mine")
    gone = proxy.add(Fault(at("nova", "POST", "/servers"), before=lambda call: image.delete_image(first)))
    done = small_bed.run("up")
    assert gone.met
    assert done.code == 1
    assert "create server server: Can not find requested image" in done.message
    done = small_bed.run("up")
    assert done.code == 2
    assert "image 'mine' is not in this project" in done.message
    upload()
    assert small_bed.run("up").code == 0
    assert up_changes_nothing(small_bed, proxy)


@pytest.mark.drawn
def test_what_was_changed_by_hand_is_mended_and_no_more(bed: Bed, proxy: Proxy, undisturbed: list[str]) -> None:
    assert bed.run("up").code == 0
    connection = bed.project.connection
    server = connection.compute.find_server("ran-agent-1")
    connection.compute.delete_server(server)
    connection.compute.wait_for_delete(server)
    marks = {"testbed": "ran", "testbed_node": "agent-1", "testbed_image": connection.image.find_image("blank").id}
    for _ in range(2):  # as of a call that was repeated, as its answer was lost
        twice = {"name": "testbed.ran.agent-1", "description": "testbed.ran", "size": 1, "metadata": marks}
        connection.block_storage.create_volume(image_id=marks["testbed_image"], **twice)
    ours = {"project_id": bed.project.id}
    [network] = connection.network.networks(description="testbed.ran", **ours)
    connection.network.create_port(name="testbed.ran.agent-7", description="testbed.ran", network_id=network.id)
    [address] = connection.network.ips(**ours)
    connection.network.update_ip(address, port_id=None)
    [group] = connection.network.security_groups(description="testbed.ran", **ours)
    rule = next(each for each in group.security_group_rules if each["port_range_min"] == 22)
    connection.network.delete_security_group_rule(rule["id"])
    proxy.forget()
    done = bed.run("up")
    assert done.code == 0, done.err
    assert contents(bed.project, undisturbed) == undisturbed
    kept = connection.network.get_ip(address.id)
    assert kept.floating_ip_address == address.floating_ip_address, "a floating IP that is free is taken again"
    assert not proxy.met("neutron", "POST", "/floatingips")
    assert len(proxy.met("nova", "POST", "/servers")) == 1


@pytest.mark.drawn
def test_two_that_begin_at_once_leave_what_one_would(bed: Bed, proxy: Proxy, undisturbed: list[str]) -> None:
    for verb, wanted in (("up", undisturbed), ("down", [])):
        proxy.forget()
        both = [bed.start(verb) for _ in range(2)]
        ended = [finished(process) for process in both]
        for done in ended:
            assert done.code == 0 or done.message
        done = bed.run(verb)
        assert done.code == 0, done.err
        assert contents(bed.project, wanted) == wanted


@pytest.mark.drawn
def test_nothing_of_others_is_touched(small_bed: Bed, project: Project, proxy: Proxy, tmp_path: Path) -> None:
    others = [Bed(name, project, tmp_path / name, proxy.auth_url, small_bed.openstack) for name in ("ran-2", "ran2")]
    for other in others:
        assert other.run("up").code == 0
    connection = project.connection
    network = connection.network.create_network(name="testbed.ran.network", description="ran")
    connection.network.create_subnet(
        network_id=network.id, ip_version=4, cidr="10.30.0.0/24", name="testbed.ran.subnet"
    )
    connection.network.create_router(name="testbed.ran.router")
    connection.network.create_port(name="testbed.ran.server", network_id=network.id, description="testbed.ran.")
    connection.network.create_security_group(name="testbed.ran", description="testbed.ran of somebody else")
    connection.block_storage.create_volume(name="testbed.ran.server", size=1, metadata={"testbed": "ran-2nd"})
    theirs = {"image": "blank", "flavor": "t1.tiny", "network": network.id, "auto_ip": False}
    connection.create_server("ran-server", **theirs, meta={"testbed_node": "server"}, wait=True)
    before = contents(project)
    assert small_bed.run("up").code == 0
    with_it = contents(project)
    assert set(before) <= set(with_it)
    assert len(with_it) > len(before)
    assert small_bed.run("down").code == 0
    assert contents(project, before) == before
    for other in others:
        assert up_changes_nothing(other, proxy)
