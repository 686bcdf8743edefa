"""What is wanted and what is there, and what is planned."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from provision import spec
from provision.cloud import desired as wanting
from provision.cloud import plan as planning
from provision.cloud.choose import Problem, choose
from provision.cloud.desired import ASKED_KEY, FLAVOR_KEY, GROUPS_KEY, IMAGE_KEY, KEY, NODE_KEY, Desired, Rule
from provision.cloud.observed import (
    FlavorOffer,
    FloatingIp,
    Image,
    NetworkOffer,
    Observed,
    Offer,
    Port,
    Quota,
    Server,
    Thing,
    Volume,
)
from provision.cloud.plan import Plan, plan, removal
from provision.errors import CloudError
from provision.spec_openstack import OwnNetwork

KEY_LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGvxSwlNFKnjHRrbiv+0tFGoNFFaT8UB1UvOSFiSA9Vo"
SPEC = f"""\
name: ran
provider: openstack
openstack:
  cloud: lab
  image: focal
  network: {{cidr: 10.20.0.0/24}}
  floating_ip_pool: public
MORE
server: {{}}
users: [{{name: alice}}]
administrators: [{{name: ada, ssh_keys: ["{KEY_LINE}"]}}]
"""
OFFER = Offer(
    images=(Image("i-1", "focal", "active", 3, 512),),
    flavors=(
        FlavorOffer("f-1", "m1.huge", 16, 32768, 256, {}),
        FlavorOffer("f-2", "m1.large", 8, 8192, 128, {}),
        FlavorOffer("f-3", "a.gpu", 8, 8192, 128, {"pci_passthrough:alias": "a100:1"}),
        FlavorOffer("f-4", "m1.novol", 8, 8192, 0, {}),
        FlavorOffer("f-5", "a.pinned", 8, 8192, 128, {"hw:cpu_policy": "dedicated"}),
        FlavorOffer("f-6", "a.pcpu", 8, 8192, 128, {"resources:PCPU": "8"}),
    ),
    networks=(NetworkOffer("n-pub", "public", True, ("s-pub",)), NetworkOffer("n-x", "lab net/1", False, ("s-x",))),
    zones=frozenset({"compute", "gpu", "radio"}),
    volume_types={"ssd": "ssd", "t-ssd": "ssd"},
    quotas={
        "instances": Quota(1, 10),
        "cores": Quota(2, 20),
        "ram": Quota(4096, 51200),
        "ports": Quota(5, 50),
        "networks": Quota(0, 10),
        "subnets": Quota(0, 10),
        "routers": Quota(0, 10),
        "floating IPs": Quota(0, 5),
        "security groups": Quota(1, 10),
        "security group rules": Quota(4, 100),
        "volumes": Quota(0, 10),
        "gigabytes": Quota(0, 1000),
    },
    clock_off=0.4,
)


def wanted(more: str = "") -> Desired:
    return wanting.of(spec.parse(SPEC.replace("MORE", more), "testbed.yaml"), "198.51.100.7/32")


def there(of: Desired) -> Observed:
    """A project in which all that is wanted is there."""
    volumes = tuple(
        Volume(f"v-{node.name}", node.name, "1", "in-use", node.volume.size, "ssd", of.volume_metadata(node, "i-1"))
        for node in of.nodes
        if node.volume
    )
    return Observed(
        servers=tuple(
            Server(
                id=f"s-{node.name}",
                name=f"{of.name}-{node.name}",
                node=node.name,
                created="1",
                status="ACTIVE",
                flavor="m1.large" if not node.volume else "m1.novol",
                image="i-1",
                zone=node.zone or "compute",
                metadata=of.server_metadata(node, "i-1"),
                tags=of.server_tags,
                volumes=tuple(volume.id for volume in volumes if volume.node == node.name),
                vcpus=8,
                ram=8192,
                disk=0 if node.volume else 128,
            )
            for node in of.nodes
        ),
        volumes=volumes,
        ports=tuple(
            Port(f"p-{node.name}", node.name, "1", "n-1", ("10.20.0.5",), frozenset({"sg-1"}), f"s-{node.name}")
            for node in of.nodes
        ),
        floating_ips=tuple(
            FloatingIp(f"fip-{node.name}", "1", "203.0.113.9", "n-pub", f"p-{node.name}")
            for node in of.nodes
            if node.floating_ip
        ),
        networks=(Thing("n-1", "testbed.ran.network", "1"),),
        subnets=(Thing("sub-1", "testbed.ran.subnet", "1", ("10.20.0.0/24",)),),
        routers=(Thing("r-1", "testbed.ran.router", "1", ("n-pub",)),),
        interfaces=(Thing("if-1", "r-1", "1", ("sub-1",)),),
        security_groups=(Thing("sg-1", "testbed.ran", "1"),),
        rules={f"rule-{index}": rule for index, rule in enumerate(sorted(of.rules, key=repr))},
    )


def work(found: Plan) -> set[tuple[str, str, str]]:
    return {(action.verb, action.kind, action.name) for action in found.work}


def changed(found: Observed, kind: str, node: str, **values: Any) -> Observed:
    """The same, with other values of one server or volume."""
    things = (dataclasses.replace(each, **values) if each.node == node else each for each in getattr(found, kind))
    return dataclasses.replace(found, **{kind: tuple(things)})


def test_a_server_that_has_run_is_made_anew_by_nobody_but_who_asks_for_it():
    of = wanted("  boot_volume: {size: 40}")
    seen = changed(there(of), "servers", "agent-1", status="ERROR", fault="No space left on device")
    found = plan(of, seen, OFFER)
    assert found.work == []
    [problem] = found.problems
    assert "server agent-1, which has run, is in ERROR: No space left on device" in problem.what
    assert "testbed rebuild agent-1" in problem.remedy
    asked = plan(of, seen, OFFER, frozenset({"s-agent-1"}))
    assert asked.problems == ()
    assert work(asked) == {
        ("replace", "server", "agent-1"),
        ("delete", "volume", "agent-1"),
        ("create", "volume", "agent-1"),
    }


@pytest.mark.parametrize("listed", [True, False], ids=["that nova lists", "that nova does not list"])
def test_a_server_that_never_ran_is_made_anew_of_the_same_volume(listed: bool):
    of = wanted("  boot_volume: {size: 40}")
    broken = {"status": "ERROR", "launched": False, "fault": "No valid host was found"}
    seen = changed(there(of), "servers", "agent-1", **broken, **({} if listed else {"volumes": ()}))
    found = plan(of, seen, OFFER)
    [action] = found.work
    assert (action.verb, action.kind, action.id) == ("replace", "server", "s-agent-1")
    assert action.why == "nova: No valid host was found"
    assert action.to == {"keep": ["v-agent-1"] if listed else []}
    assert ("keep", "v-agent-1") in {(each.verb, each.id) for each in found.actions if each.kind == "volume"}
    unsound = changed(seen, "volumes", "agent-1", status="error")
    assert work(plan(of, unsound, OFFER)) == {
        ("replace", "server", "agent-1"),
        ("delete", "volume", "agent-1"),
        ("create", "volume", "agent-1"),
    }


def test_a_volume_that_a_server_uses_stays_in_whatever_state():
    of = wanted("  boot_volume: {size: 40}")
    assert plan(of, changed(there(of), "volumes", "agent-1", status="error_extending"), OFFER).work == []


def test_a_shelved_server_is_in_no_zone_and_is_woken():
    of = wanted("  availability_zone: gpu")
    seen = changed(there(of), "servers", "agent-1", zone="", status="SHELVED_OFFLOADED")
    [action] = plan(of, seen, OFFER).work
    assert (action.verb, action.to) == ("change", {"start": "SHELVED_OFFLOADED"})


def test_a_volume_type_may_be_named_by_its_id_and_kept_volumes_have_it():
    of = wanted("  boot_volume: {size: 40, type: t-ssd}")
    assert plan(of, there(of), OFFER).work == []
    assert {made.volume_type for made in plan(of, there(of), OFFER).chosen.nodes.values()} == {"ssd"}
    kept = changed(Observed(volumes=there(of).volumes), "volumes", "agent-1", type="hdd")
    found = {(each.verb, each.id) for each in plan(of, kept, OFFER).actions if each.kind == "volume"}
    assert found == {("keep", "v-server"), ("delete", "v-agent-1"), ("create", "")}


def test_a_server_that_has_what_is_asked_for_keeps_its_flavor():
    of = wanted()
    smaller = FlavorOffer("f-0", "a.new", 8, 8192, 128, {})
    for flavors in ((smaller, *OFFER.flavors), (smaller,)):  # another that fits, or its own retired
        offer = dataclasses.replace(OFFER, flavors=flavors)
        found = plan(of, there(of), offer)
        assert found.work == []
        assert [(row.before, row.after) for row in found.quotas if row.name == "cores"] == [(2, 2)]
    small = dataclasses.replace(OFFER, flavors=(FlavorOffer("f-7", "m1.small", 4, 4096, 40, {}), *OFFER.flavors))
    less = plan(wanted("  flavor: {vcpus: 4, ram: 4096, disk: 40}"), there(of), small)
    assert {action.to["flavor"] for action in less.work} == {"f-7"}, "who asks for less gets less"
    assert {action.to["metadata"][FLAVOR_KEY] for action in less.work} == {"4 vCPU, 4096 MiB, 40 GiB"}
    more = plan(wanted("  flavor: {vcpus: 16}"), there(of), OFFER)
    assert {action.to["flavor"] for action in more.work} == {"f-1"}
    assert [(row.before, row.after) for row in more.quotas if row.name == "cores"] == [(2, 18)]
    shrunk = changed(there(of), "servers", "agent-1", vcpus=4, flavor="s.hand")
    assert [action.to["flavor"] for action in plan(of, shrunk, OFFER).work] == ["f-2"]


def test_an_own_address_moves_and_leaves_nothing_open():
    seen = there(wanted())
    moved = wanting.of(spec.parse(SPEC.replace("MORE", ""), "testbed.yaml"), "192.0.2.50/32")
    found = plan(moved, seen, OFFER)
    assert {(action.verb, action.kind) for action in found.work} == {
        ("create", "security group rule"),
        ("delete", "security group rule"),
    }
    assert len(found.work) == 8
    bob = {key: dataclasses.replace(rule, owner=rule.owner and "bob@desk") for key, rule in seen.rules.items()}
    same_place = dataclasses.replace(seen, rules=bob)
    assert plan(wanted(), same_place, OFFER).work == [], "neutron takes no rule twice, whosever it is"
    assert {action.verb for action in plan(moved, same_place, OFFER).work} == {"create"}


def test_a_name_that_leads_to_another_image_by_now_replaces_nothing():
    moved = dataclasses.replace(OFFER, images=(Image("i-2", "focal", "active", 3, 512),))
    for more in ("", "  boot_volume: {size: 40}"):
        of = wanted(more)
        assert plan(of, there(of), moved).work == []
        kept = Observed(volumes=there(of).volumes)
        assert not [action for action in plan(of, kept, moved).work if action.kind == "volume"]


def test_a_server_in_build_is_waited_for_whatever_nova_shows_of_it():
    of = wanted("  boot_volume: {size: 40}")
    seen = there(of)
    servers = tuple(dataclasses.replace(server, status="BUILD", volumes=()) for server in seen.servers)
    ports = tuple(dataclasses.replace(port, server="") for port in seen.ports)
    found = plan(of, dataclasses.replace(seen, servers=servers, ports=ports), OFFER)
    assert work(found) == {("wait", "server", "server"), ("wait", "server", "agent-1")}


def test_a_volume_on_its_way_out_is_not_booted_from():
    of = wanted("  boot_volume: {size: 40}")
    seen = there(of)
    volumes = tuple(dataclasses.replace(volume, status="deleting") for volume in seen.volumes)
    found = plan(of, Observed(volumes=volumes), OFFER)
    actions = [(action.verb, action.to) for action in found.work if (action.kind, action.name) == ("volume", "agent-1")]
    assert actions == [("delete", {"begun": True}), ("create", {"size": 40})]


def test_the_range_of_a_network_in_use_cannot_be_changed():
    text = SPEC.replace("MORE", "").replace("10.20.0.0/24", "10.21.0.0/24")
    found = plan(wanting.of(spec.parse(text, "testbed.yaml"), "198.51.100.7/32"), there(wanted()), OFFER)
    [problem] = found.problems
    assert "10.20.0.0/24" in problem.what
    assert "down first" in problem.remedy


def test_of_two_networks_the_one_with_a_subnet_stays():
    seen = there(wanted())
    twice = dataclasses.replace(
        seen,
        networks=(Thing("n-0", "testbed.ran.network", "0"), *seen.networks),
        subnets=(dataclasses.replace(seen.subnets[0], network="n-1"),),
    )
    planned = plan(wanted(), twice, OFFER)
    assert [(action.verb, action.kind, action.id) for action in planned.work] == [("delete", "network", "n-0")]


@pytest.mark.parametrize(
    ("network", "what"),
    [
        (NetworkOffer("n-x", "lab net/1", False, ("s-x",), port_security=False), "port security"),
        (NetworkOffer("n-x", "lab net/1", True, ("s-x",)), "not shared"),
    ],
)
def test_a_network_that_servers_cannot_use_is_told(network, what):
    text = SPEC.replace("MORE", "").replace("network: {cidr: 10.20.0.0/24}", 'network: "lab net/1"')
    offer = dataclasses.replace(OFFER, networks=(OFFER.networks[0], network))
    [problem] = plan(wanting.of(spec.parse(text, "testbed.yaml"), "198.51.100.7/32"), Observed(), offer).problems
    assert what in problem.what


def test_an_empty_project_gets_all_of_it():
    found = plan(wanted(), Observed(), OFFER)
    assert found.problems == ()
    assert work(found) == {
        ("create", "network", "testbed.ran.network"),
        ("create", "subnet", "testbed.ran.subnet"),
        ("create", "router", "testbed.ran.router"),
        ("create", "router interface", "subnet at router"),
        ("create", "security group", "testbed.ran"),
        ("create", "security group rule", "everything from the testbed itself"),
        *(("create", "security group rule", f"TCP {port} from 198.51.100.7/32") for port in (22, 8080, 8008, 8081)),
        *(("create", kind, node) for kind in ("port", "server") for node in ("server", "agent-1")),
        ("create", "floating IP", "server"),
    }
    rows = {row.name: (row.before, row.after) for row in found.quotas}
    assert rows["instances"] == (1, 3)
    assert rows["cores"] == (2, 18), "server and one agent fit into a quota of 20"
    assert rows["ram"] == (4096, 4096 + 2 * 8192)
    assert rows["ports"] == (5, 8), "one for each server, and the router's"
    assert rows["security group rules"] == (4, 4 + 5 + 2), "neutron adds two for what goes out"
    assert found.fits


@pytest.mark.parametrize("more", ["", "  boot_volume: {size: 40}", "  availability_zone: gpu\n  tags: [oran]"])
def test_what_is_there_is_left_alone(more):
    assert plan(wanted(more), there(wanted(more)), OFFER).work == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "  nodes: {agents: {count: 2}}", {("create", "server", "agent-2"), ("create", "port", "agent-2")}),
        ("  nodes: {agents: {count: 2}}", "", {("delete", "server", "agent-2"), ("delete", "port", "agent-2")}),
        ("", "  flavor: m1.huge", {("change", "server", "server"), ("change", "server", "agent-1")}),
        ("", "  nodes: {agents: {flavor: m1.huge}}", {("change", "server", "agent-1")}),
        ("", "  metadata: {site: roof}", {("change", "server", "server"), ("change", "server", "agent-1")}),
        ("  tags: [oran]", "", {("change", "server", "server"), ("change", "server", "agent-1")}),
        (
            "",
            "  security: {web: [192.0.2.0/24]}",
            {
                ("create", "security group rule", "TCP 8080 from 192.0.2.0/24"),
                ("delete", "security group rule", "TCP 8080 from 198.51.100.7/32"),
            },
        ),
        ("", "  nodes: {agents: {floating_ip: true}}", {("create", "floating IP", "agent-1")}),
        ("", "  nodes: {server: {floating_ip: false}}", {("delete", "floating IP", "203.0.113.9")}),
        ("", "  nodes: {agents: {availability_zone: gpu}}", {("replace", "server", "agent-1")}),
        (
            "  boot_volume: {size: 40}",
            "  boot_volume: {size: 40}\n  nodes: {agents: {boot_volume: {size: 80}}}",
            {("replace", "server", "agent-1"), ("delete", "volume", "agent-1"), ("create", "volume", "agent-1")},
        ),
        (
            "",
            "  nodes: {clients: {count: 1}}",
            {
                ("create", "server", "client-1"),
                ("create", "port", "client-1"),
                ("change", "server", "server"),  # its groups are in its metadata
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_change_of_the_spec_is_all_that_is_planned(before, after, expected):
    assert work(plan(wanted(after), there(wanted(before)), OFFER)) == expected


def test_another_image_replaces_the_server_and_keeps_its_port():
    found = dataclasses.replace(OFFER, images=(*OFFER.images, Image("i-2", "noble", "active", 3, 512)))
    planned = plan(wanted("  nodes: {agents: {image: noble}}"), there(wanted()), found)
    assert work(planned) == {("replace", "server", "agent-1")}
    assert "noble" in planned.work[0].why


def broken(**changes: Any) -> Observed:
    """A project in which the agent is not as it was made."""
    found = there(wanted())
    servers = [dataclasses.replace(each, **changes) if each.node == "agent-1" else each for each in found.servers]
    return dataclasses.replace(found, servers=tuple(servers))


@pytest.mark.parametrize(
    ("observed", "expected", "why"),
    [
        (broken(status="ERROR", launched=False, fault="No host"), {("replace", "server", "agent-1")}, "nova: No host"),
        (broken(status="SHUTOFF"), {("change", "server", "agent-1")}, "it is SHUTOFF"),
        (broken(status="BUILD"), {("wait", "server", "agent-1")}, "it is in BUILD"),
        (broken(node="agent-7"), {("delete", "server", "agent-1"), ("create", "server", "agent-1")}, ""),
    ],
    ids=["error", "stopped", "being built", "of another number"],
)
def test_a_server_that_is_not_well_is_mended(observed, expected, why):
    if not why:
        expected = {("delete", "server", "agent-7"), ("create", "server", "agent-1")}
    found = plan(wanted(), observed, OFFER)
    assert work(found) == expected
    if why:
        assert found.work[0].why == why


def test_what_is_there_twice_goes_and_the_older_one_stays():
    found = there(wanted())
    twin = dataclasses.replace(found.servers[1], id="s-twin", created="2")
    other = Thing("n-2", "testbed.ran.network", "2")
    doubled = dataclasses.replace(found, servers=(*found.servers, twin), networks=(*found.networks, other))
    planned = plan(wanted(), doubled, OFFER)
    assert {(action.verb, action.kind, action.id) for action in planned.work} == {
        ("delete", "server", "s-twin"),
        ("delete", "network", "n-2"),
    }


def test_a_free_floating_ip_is_taken_before_a_new_one():
    found = there(wanted())
    free = dataclasses.replace(found.floating_ips[0], port="")
    planned = plan(wanted(), dataclasses.replace(found, floating_ips=(free,)), OFFER)
    assert [(action.verb, action.id) for action in planned.work] == [("change", "fip-server")]


def test_another_administrators_address_stays():
    found = there(wanted())
    theirs = Rule(22, 22, "203.0.113.77/32", "bob@desk")
    planned = plan(wanted(), dataclasses.replace(found, rules={**found.rules, "rule-9": theirs}), OFFER)
    assert planned.work == []


@pytest.mark.parametrize(
    ("more", "flavor"),
    [
        ("", "m1.large"),
        ("  flavor: {vcpus: 9}", "m1.huge"),
        ("  flavor: a.gpu", "a.gpu"),
        ("  flavor: f-5", "a.pinned"),
        ("  boot_volume: {size: 40}", "m1.novol"),
    ],
)
def test_the_smallest_flavor_without_special_hardware_is_chosen(more, flavor):
    found = plan(wanted(more), Observed(), OFFER)
    assert found.chosen is not None
    assert {made.flavor.name for made in found.chosen.nodes.values()} == {flavor}


@pytest.mark.parametrize(
    ("more", "offer", "what", "remedy"),
    [
        ("  nodes: {agents: {image: fokal}}", {}, "image 'fokal' is not in this project", "image list"),
        ("", {"images": (OFFER.images[0], Image("i-9", "focal", "active", 1, 1))}, "is there 2 times: i-1, i-9", "ID"),
        ("", {"images": (Image("i-1", "focal", "saving", 1, 1),)}, "image 'focal' is saving", "Wait"),
        ("", {"images": (Image("i-1", "focal", "active", 9, 1, of_volume=True),)}, "boots from a volume", "of 9 GiB"),
        ("  flavor: m1.larg", {}, "flavor 'm1.larg' is not in this cloud", "Did you mean 'm1.large'?"),
        ("  flavor: m1.novol", {}, "m1.novol has no disk", "boot_volume"),
        ("  flavor: {vcpus: 64}", {}, "no flavor has 64 vCPUs", "Ask for less"),
        ("  availability_zone: computer", {}, "zone 'computer' is not there", "compute, gpu, radio"),
        ("  boot_volume: {type: sdd}", {}, "volume type 'sdd' is not there", "Did you mean 'ssd'?"),
        ("  boot_volume: {size: 2}", {}, "too small for image focal, which needs 3", "larger"),
        ("", {"networks": ()}, "external network 'public' is not there", "network list --external"),
        ("  keypair: adda", {"keypairs": frozenset({"ada"})}, "keypair 'adda' is not this login's", "mean 'ada'?"),
        ("", {"roles": frozenset({"reader"})}, "may only read", "role member"),
        ("", {"clock_off": 400.0}, "400 s apart", "clock"),
    ],
)
def test_what_is_missing_or_wrong_is_said_with_its_remedy(more, offer, what, remedy):
    found = plan(wanted(more), Observed(), dataclasses.replace(OFFER, **offer))
    [problem] = found.problems
    assert what in problem.what
    assert remedy in problem.remedy
    assert not found.fits


@pytest.mark.parametrize(("external", "fits"), [("public", True), ("n-pub", True), ("other", False)])
def test_floating_ips_are_of_the_network_behind_the_router(external: str, fits: bool):
    of = dataclasses.replace(wanted(), network=OwnNetwork(cidr="10.20.0.0/24", external=external))
    networks = (*OFFER.networks, NetworkOffer("n-2", "other", True, ("s-2",)))
    found = [problem.what for problem in plan(of, Observed(), dataclasses.replace(OFFER, networks=networks)).problems]
    assert found == ([] if fits else ["floating IPs of 'public' cannot be used behind a router to 'other'"])


def test_all_problems_are_said_at_once():
    found = plan(wanted("  flavor: none\n  availability_zone: nowhere"), Observed(), OFFER)
    assert len(found.problems) == 2


def test_quotas_that_are_short_are_named_with_the_largest_layout_that_fits():
    found = plan(wanted("  nodes: {agents: {count: 6}}"), Observed(), OFFER)
    assert {row.name: row.short_by for row in found.quotas if row.short_by} == {"cores": 38, "ram": 10240}
    assert found.largest == "server, 1 agents"
    assert not found.fits


@pytest.mark.parametrize("named", ["type: ssd, ", "type: t-ssd, ", ""], ids=["by name", "by ID", "the default"])
def test_the_quotas_of_a_volume_type_count_for_its_volumes(named: str):
    quotas = OFFER.quotas | {"gigabytes of type ssd": Quota(30, 100), "volumes of type hdd": Quota(0, 0)}
    offer = dataclasses.replace(OFFER, quotas=quotas, default_volume_type="ssd")
    of = wanted(f"  boot_volume: {{{named}size: 40}}")
    rows = {row.name: row for row in plan(of, Observed(), offer).quotas}
    assert (rows["gigabytes of type ssd"].after, rows["gigabytes of type ssd"].short_by) == (110, 10)
    assert "volumes of type hdd" not in rows, "it is nothing that the testbed uses"
    assert "gigabytes of type ssd" not in {row.name for row in plan(of, there(of), offer).quotas}


def test_the_largest_of_thousands_is_found_with_few_plans(monkeypatch):
    sizes = []

    def counted(desired: Desired, offer: Offer) -> Any:
        sizes.append(len(desired.nodes))
        return choose(desired, offer)

    monkeypatch.setattr(planning, "choose", counted)
    quotas = OFFER.quotas | {"cores": Quota(0, 16 * 8), "ram": Quota(0, -1), "instances": Quota(0, -1)}
    several = wanted("  nodes: {agents: {count: 4000}, clients: {count: 6}}")
    found = plan(several, Observed(), dataclasses.replace(OFFER, quotas=quotas))
    assert found.largest == "server, 9 agents, 6 clients"
    assert len(sizes) < 20


def test_a_network_that_is_there_is_used_and_none_is_made():
    text = SPEC.replace("MORE", "").replace("network: {cidr: 10.20.0.0/24}", 'network: "lab net/1"')
    found = plan(wanting.of(spec.parse(text, "testbed.yaml"), "198.51.100.7/32"), Observed(), OFFER)
    assert found.problems == ()
    assert not [action for action in found.work if action.kind in ("network", "subnet", "router", "router interface")]


def test_removal_takes_all_and_nothing_else():
    found = there(wanted("  boot_volume: {size: 40}"))
    gone = removal("ran", found, keep_volumes=False)
    assert {action.verb for action in gone.work} == {"delete"}
    counts = {kind: sum(action.kind == kind for action in gone.work) for kind in ("server", "port", "volume", "router")}
    assert counts == {"server": 2, "port": 2, "volume": 2, "router": 1}
    kept = removal("ran", found, keep_volumes=True)
    assert not [action for action in kept.work if action.kind == "volume"]


def test_marks_are_on_all_that_is_made():
    of = wanted("  metadata: {site: roof}")
    metadata = of.server_metadata(of.nodes[1], "i-1")
    assert metadata == {
        KEY: "ran",
        NODE_KEY: "agent-1",
        GROUPS_KEY: "agents",
        IMAGE_KEY: "i-1",
        ASKED_KEY: "focal",
        FLAVOR_KEY: "8 vCPU, 8192 MiB, 128 GiB",
        "site": "roof",
    }
    assert of.server_tags == {"testbed.ran"}
    assert of.named("network") == "testbed.ran.network"


def test_user_data_lets_administrators_in_and_no_password():
    text = wanted().user_data
    assert text.startswith("#cloud-config\n")
    assert f"{KEY_LINE} ada" in text
    assert '"ssh_pwauth": false' in text


@pytest.mark.parametrize(
    "unread", ["images", "flavors", "networks", "zones", "quotas of volumes", "volume_types", "keypairs"]
)
def test_what_could_not_be_read_is_said_once_and_nothing_is_made_up_of_it(unread: str):
    refused = CloudError("not allowed", "Ask for this right.")
    offer = dataclasses.replace(OFFER, unread={unread: refused})
    empty: dict[str, Any] = {
        "images": {"images": ()},
        "flavors": {"flavors": ()},
        "networks": {"networks": ()},
        "zones": {"zones": frozenset()},
        "quotas of volumes": {"quotas": {name: OFFER.quotas[name] for name in ("instances", "cores", "ram")}},
        "volume_types": {"volume_types": {}},
        "keypairs": {},
    }
    more = "  availability_zone: gpu\n  boot_volume: {type: ssd}"
    more += "\n  keypair: mine" if unread == "keypairs" else ""
    found = plan(wanted(more), Observed(), dataclasses.replace(offer, **empty[unread]))
    assert found.problems == (Problem("not allowed", "Ask for this right."),)


def test_a_rebuild_replaces_just_that_server_and_keeps_its_port():
    of = wanted()
    found = plan(of, there(of), OFFER, frozenset({"s-agent-1"}))
    assert work(found) == {("replace", "server", "agent-1")}
    assert plan(of, there(of), OFFER, frozenset({"s-another"})).work == []
