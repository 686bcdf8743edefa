"""The rounds of looking, planning and applying."""

from __future__ import annotations

import socket
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from openstack.exceptions import BadRequestException, ConflictException, NotFoundException

from provision import spec
from provision.cloud import apply as applying
from provision.cloud import observed, run
from provision.cloud.desired import Rule
from provision.cloud.observed import Observed, Quota, Server
from provision.cloud.plan import Action, Plan, QuotaRow
from provision.errors import CloudError, LostError, ShortError
from tests.unit.provision.cloud.test_plan import SPEC

CREATE = Plan((Action("create", "server", "server", "not there"),))
LOST = LostError("no connection to http://192.0.2.1:8774: timed out")


class Follower:
    """Is told nothing that counts here."""

    def planned(self, plan: Plan) -> None:
        pass

    def told(self, action: Action, result: str) -> None:
        pass


def project(monkeypatch: pytest.MonkeyPatch, plans: list[Plan], ends: list[CloudError | None]) -> tuple[Any, list[str]]:
    """A project that is seen with these plans, one a round, and where applying them ends so."""
    monkeypatch.setattr(run.applying, "POLL_S", 0)
    session = SimpleNamespace(session=requests.Session())
    connection: Any = SimpleNamespace(session=session, config=SimpleNamespace(get_auth_args=dict))
    found = run.Project(spec.parse(SPEC.replace("MORE", ""), "testbed.yaml"), 1, connection)
    left, rounds = list(plans), []

    def look(*_: Any, **__: Any) -> Any:
        seen = SimpleNamespace(desired=None, offer=None, observed=Observed(), plan=left.pop(0))
        seen.rebuilding = lambda anew: seen
        return seen

    def apply(*_: Any, **__: Any) -> None:
        rounds.append("applied")
        if (error := ends[len(rounds) - 1]) is not None:
            raise error

    monkeypatch.setattr(found, "look", look)
    monkeypatch.setattr(found, "removal", look)
    monkeypatch.setattr(run.applying, "apply", apply)
    return found, rounds


@pytest.mark.parametrize("verb", ["up", "down"])
def test_a_lost_answer_leads_to_another_look(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    found, rounds = project(monkeypatch, [CREATE, CREATE, Plan(())], [LOST, None])
    if verb == "up":
        assert found.bring_up(Follower()) == Observed()
    else:
        found.take_down(Follower(), keep_volumes=False)
    assert len(rounds) == 2


def test_a_cloud_that_never_answers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found, rounds = project(monkeypatch, [CREATE] * run.LOST_ROUNDS, [LOST] * run.LOST_ROUNDS)
    with pytest.raises(LostError):
        found.bring_up(Follower())
    assert len(rounds) == run.LOST_ROUNDS


def test_a_refusal_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, rounds = project(monkeypatch, [CREATE] * 2, [CloudError("create server server: no")])
    with pytest.raises(CloudError):
        found.bring_up(Follower())
    assert len(rounds) == 1


def server(server_id: str) -> Server:
    made: dict[str, Any] = {"metadata": {}, "tags": frozenset(), "volumes": ()}
    return Server(server_id, "ran-server", "server", "1", "ACTIVE", "m1.large", "i-1", "", **made)


@pytest.mark.parametrize(
    ("there", "agreed", "why", "lost"),
    [
        (["s-1"], (), "image focal → noble", True),
        (["s-1"], ("s-1",), "image focal → noble", False),
        ([], (), "image focal → noble", False),
        (["s-1"], (), "nova: no host", False),
    ],
    ids=["was there", "was agreed to", "came since", "never ran"],
)
def test_no_server_is_lost_that_nobody_agreed_to_lose(
    monkeypatch: pytest.MonkeyPatch, there: list[str], agreed: tuple[str, ...], why: str, lost: bool
) -> None:
    seen: Any = SimpleNamespace(
        observed=Observed(servers=tuple(map(server, there))),
        plan=Plan(tuple(Action("replace", "server", "server", "image", each) for each in agreed)),
    )
    replace = Plan((Action("replace", "server", "server", why, "s-1"),))
    found, rounds = project(monkeypatch, [CREATE, replace, Plan(())], [None, None])
    if lost:
        with pytest.raises(CloudError) as error:
            found.bring_up(Follower(), agreed=seen)
        assert "server server would be lost now, which nobody agreed to: image focal" in error.value.message
    else:
        found.bring_up(Follower(), agreed=seen)
    assert len(rounds) == (1 if lost else 2)


def test_who_comes_back_has_a_rule_where_neutron_says_so_and_a_full_quota_is_told() -> None:
    def refused(words: str) -> Any:
        def create(**_: Any) -> None:
            raise ConflictException(words)

        return SimpleNamespace(create_security_group_rule=create)

    rule = Rule(22, 22, "192.0.2.1/32")
    applying._rule(refused("Security group rule already exists. Rule id is 7."), "sg-1", rule)
    with pytest.raises(ConflictException):
        applying._rule(refused("Quota exceeded for resources: ['security_group_rule']."), "sg-1", rule)


def test_quotas_are_judged_before_the_first_change_alone() -> None:
    full = Plan(CREATE.actions, quotas=(QuotaRow("cores", 16, 24, 20),))
    with pytest.raises(ShortError):
        run.refuse(full)
    run.refuse(full, changed=True)  # what was deleted since still counts in it


def test_the_ports_of_all_kinds_of_routers_are_seen() -> None:
    owners = [*observed.ROUTER_INTERFACES, "network:router_gateway", "compute:az1"]
    network = SimpleNamespace(ports=lambda **_: [SimpleNamespace(device_owner=owner) for owner in owners])
    found = observed._interfaces(network, "r-1")
    assert [port.device_owner for port in found] == list(observed.ROUTER_INTERFACES)


@pytest.mark.parametrize(("status", "waited"), [("deleting", True), ("error_deleting", False)])
def test_what_cannot_be_deleted_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, status: str, waited: bool) -> None:
    listed = [[SimpleNamespace(id="v-1", status=status)], []]
    monkeypatch.setattr(run.applying, "POLL_S", 0)
    its: Any = SimpleNamespace(connection=None, desired=SimpleNamespace(name="ran"))
    actions = [Action("delete", "volume", "agent-1", "", "v-1")]
    run.applying._wait_until_gone(its, actions, lambda *_: listed.pop(0), 5)
    assert len(listed) == (0 if waited else 1)


class PutsOff:
    """A nova that hides a deleted server and deletes it later, or now when it is told to."""

    def __init__(self, status: str) -> None:
        self.status, self.ended = status, [""]

    def get_server(self, server_id: str) -> Any:
        if server_id in self.ended:
            raise NotFoundException
        return SimpleNamespace(status=self.status)

    def delete_server(self, server_id: str, *, force: bool) -> None:
        assert force
        self.ended.append(server_id)


@pytest.mark.parametrize(("status", "ended"), [("SOFT_DELETED", True), ("ACTIVE", False)])
def test_a_volume_of_a_server_whose_deletion_is_put_off_comes_free(status: str, ended: bool) -> None:
    nova = PutsOff(status)

    def delete_volume(*_: Any, **__: Any) -> None:
        if nova.status == "SOFT_DELETED" and "s-1" in nova.ended:
            return
        raise BadRequestException("Invalid volume: Volume status must be available")

    volume = SimpleNamespace(status="in-use", attachments=[{"server_id": "s-1"}, {"server_id": ""}])
    cinder = SimpleNamespace(delete_volume=delete_volume, get_volume=lambda _: volume)
    with pytest.raises(ConflictException):  # which is tried again
        run.applying._delete_volume(cinder, nova, "v-1")
    assert ("s-1" in nova.ended) is ended
    if ended:
        run.applying._delete_volume(cinder, nova, "v-1")


@pytest.mark.parametrize("refused", [False, True])
def test_cinder_s_quotas_are_read_by_type_or_without_types(refused: bool) -> None:
    by_type = {"volumes": {"limit": 10, "in_use": 2, "reserved": 1}, "gigabytes": {"limit": -1, "in_use": 7}}
    by_type |= {"gigabytes_my_ssd": {"limit": 50, "in_use": 7}, "gigabytes_hdd": {"limit": -1, "in_use": 0}}
    by_type |= {"backup_gigabytes": {"limit": 5, "in_use": 0}, "per_volume_gigabytes": {"limit": -1, "in_use": 0}}
    limits = {"totalVolumesUsed": 3, "maxTotalVolumes": 10, "totalGigabytesUsed": 7, "maxTotalVolumeGigabytes": -1}

    def get(path: str, **_: Any) -> Any:
        if path == "/limits":
            return SimpleNamespace(status_code=200, ok=True, json=lambda: {"limits": {"absolute": limits}})
        return SimpleNamespace(ok=not refused, json=lambda: {"quota_set": by_type | {"id": "p-1"}})

    found = observed._quotas({}, {}, observed._cinder_quotas(SimpleNamespace(get=get), "p-1"))
    expected = {"volumes": Quota(3, 10), "gigabytes": Quota(7, -1)}
    assert found == expected | ({} if refused else {"gigabytes of type my_ssd": Quota(7, 50)})


@pytest.mark.parametrize(("flavor", "wanted"), [("m1.huge", False), ("m1.large", True)])
def test_a_resize_that_nova_gave_up_is_told(flavor: str, wanted: bool) -> None:
    server: Any = SimpleNamespace(flavor=flavor)
    chosen: Any = SimpleNamespace(nodes={"agent-1": SimpleNamespace(flavor=SimpleNamespace(name="m1.large"))})
    with nullcontext() if wanted else pytest.raises(CloudError, match="still a m1.huge"):
        run.applying._check_size(server, chosen, "agent-1")


def test_of_this_machine_s_addresses_the_ipv4_one_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = socket.SOCK_DGRAM
    found = [(socket.AF_INET6, kind, 17, "", ("::1", 9, 0, 0)), (socket.AF_INET, kind, 17, "", ("192.0.2.9", 9))]
    asked = []

    class Probe(socket.socket):
        def connect(self, address: Any) -> None:
            asked.append(address)

        def getsockname(self) -> Any:
            return ("198.51.100.7", 1) if asked[-1] == ("192.0.2.9", 9) else ("2001:db8::7", 1, 0, 0)

    monkeypatch.setattr(run.socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(run.socket, "socket", Probe)
    assert run.own_address("http://cloud.example:5000/v3") == "198.51.100.7/32"
