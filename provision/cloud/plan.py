"""(desired, observed, offer) -> what is to be created, changed, replaced and deleted, and whether it fits. Pure."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from provision.cloud.choose import Chosen, Problem, choose
from provision.cloud.desired import ASKED_KEY, FLAVOR_KEY, Desired, Node, Rule, asked, none
from provision.cloud.observed import OF_TYPE, Observed, Offer, Port, Server, Thing, Volume
from provision.spec_openstack import Flavor, OwnNetwork

Verb = Literal["create", "change", "replace", "delete", "wait", "keep"]
Kind = Literal[
    "network",
    "subnet",
    "router",
    "router interface",
    "security group",
    "security group rule",
    "port",
    "volume",
    "server",
    "floating IP",
]
# what counts against which quota, for one of each kind
QUOTA_OF: dict[Kind, str] = {
    "network": "networks",
    "subnet": "subnets",
    "router": "routers",
    "router interface": "ports",
    "security group": "security groups",
    "security group rule": "security group rules",
    "port": "ports",
    "volume": "volumes",
    "server": "instances",
    "floating IP": "floating IPs",
}
FAULT = "nova: "  # why a server that never ran is made anew begins so
EGRESS_RULES = 2  # that neutron makes with every security group
TAKES_LONGER = ("BUILD", "REBUILD", "REBOOT", "HARD_REBOOT", "RESIZE", "VERIFY_RESIZE", "PASSWORD", "MIGRATING")
Marked = TypeVar("Marked", Server, Volume, Port)


@dataclass(frozen=True)
class Action:
    """One step. `name`: the node's or the thing's; `id`: of what is there; `to`: what it becomes."""

    verb: Verb
    kind: Kind
    name: str
    why: str
    id: str = ""
    to: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class QuotaRow:
    """A quota before and after; `limit` -1: none."""

    name: str
    before: int
    after: int
    limit: int

    @property
    def short_by(self) -> int:
        """How much is missing."""
        return max(0, self.after - self.limit) if self.limit >= 0 and self.after > self.before else 0


@dataclass(frozen=True)
class Plan:
    """What a run would do, in no order, and what stands in its way."""

    actions: tuple[Action, ...]
    problems: tuple[Problem, ...] = ()
    quotas: tuple[QuotaRow, ...] = ()
    largest: str = ""
    chosen: Chosen | None = None

    def with_problems(self, problems: Iterable[Problem]) -> Plan:
        """Return the plan with more in its way."""
        return dataclasses.replace(self, problems=tuple(dict.fromkeys([*self.problems, *problems])))

    @property
    def work(self) -> list[Action]:
        """The actions that do something."""
        return [action for action in self.actions if action.verb != "keep"]

    @property
    def fits(self) -> bool:
        """Whether the quotas suffice and nothing else is in the way."""
        return not self.problems and not any(row.short_by for row in self.quotas)


def plan(desired: Desired, observed: Observed, offer: Offer, rebuild: frozenset[str] = frozenset()) -> Plan:
    """Return what leads from `observed` to `desired`, with all that is missing or wrong.

    `rebuild`: IDs of servers that are made anew, whatever they are.
    """
    chosen = choose(desired, offer)
    actions = tuple(_actions(desired, observed, chosen, rebuild))
    rows = _quotas(actions, observed, offer, chosen)
    largest = _largest(desired, observed, offer) if any(row.short_by for row in rows) else ""
    problems = (*chosen.problems, *_unchangeable(desired, observed), *_in_error(actions, observed))
    return Plan(actions, problems, rows, largest, chosen)


def _unchangeable(desired: Desired, observed: Observed) -> Iterator[Problem]:
    own = desired.network
    if isinstance(own, OwnNetwork) and observed.subnets and observed.subnets[0].detail[0] != own.cidr:
        there = observed.subnets[0].detail[0]
        what = f"the testbed's network is {there}, and wanted is {own.cidr}; no subnet in use can be moved"
        yield Problem(what, "Keep the range in openstack.network.cidr, or take the testbed down first.")


def _in_error(actions: Iterable[Action], observed: Observed) -> Iterator[Problem]:
    """A server that has run holds data: only who asks for it makes it anew."""
    kept = {action.id: action for action in actions if action.kind == "server" and action.verb == "keep"}
    for server in observed.servers:
        if server.status == "ERROR" and server.id in kept:
            what = f"server {server.node}, which has run, is in ERROR: {server.fault or 'nova says no reason'}"
            remedy = f"Have its state reset (an administrator of the cloud can), or `testbed rebuild {server.node}`,"
            yield Problem(what, f"{remedy} which loses its disk.")


def removal(name: str, observed: Observed, *, keep_volumes: bool) -> Plan:
    """Return what removes all that the testbed has; with `keep_volumes` all but its volumes."""
    actions = _actions(none(name), observed, Chosen({}, None, None, ()))
    if keep_volumes:
        actions = (_kept(action, observed) for action in actions)
    return Plan(tuple(actions))


def _kept(action: Action, observed: Observed) -> Action:
    if action.kind == "volume":
        return dataclasses.replace(action, verb="keep", why="--keep-volumes")
    if action.kind == "server":
        volumes = {volume.id for volume in observed.volumes}
        (server,) = [each for each in observed.servers if each.id == action.id]
        return dataclasses.replace(action, to={"keep": [each for each in server.volumes if each in volumes]})
    return action


def _actions(
    desired: Desired, observed: Observed, chosen: Chosen, rebuild: frozenset[str] = frozenset()
) -> Iterator[Action]:
    yield from _networking(desired, observed, chosen)
    yield from _security(desired, observed)
    ports, servers = _first(observed.ports), _first(observed.servers)
    nodes = {node.name: node for node in desired.nodes}
    for found, kind in ((observed.servers, "server"), (observed.ports, "port")):
        yield from _surplus(kind, found, nodes)  # type: ignore[arg-type]
    doomed: set[str] = set()
    failed: set[str] = set()
    for node in desired.nodes:
        port, server = ports.get(node.name), servers.get(node.name)
        made = chosen.nodes.get(node.name)
        action = _server(desired, node, server, port, observed, chosen) if made else None
        if action is not None and action.id in rebuild:
            action = Action("replace", "server", node.name, "a rebuild is asked for", action.id)
        if action is not None:
            if action.verb == "replace" and server is not None and action.why.startswith(FAULT):
                # it never ran: its volume may be one that was kept, with data
                failed.add(node.name)
                action = dataclasses.replace(action, to={"keep": _sound(server.volumes, observed)})
            elif action.verb == "replace" and server is not None:
                doomed |= {*server.volumes}
            yield action
        yield _port(desired, node, port, observed, chosen)
    yield from _volumes(desired, observed, nodes, servers, doomed, failed, chosen)
    yield from _floating_ips(desired, observed, ports, chosen)


def _sound(volumes: Iterable[str], observed: Observed) -> list[str]:
    """Return those of the volumes, by ID, that are the testbed's and in no error."""
    sound = {volume.id for volume in observed.volumes if not volume.status.startswith("error")}
    return [each for each in volumes if each in sound]


def _first(found: Sequence[Marked]) -> dict[str, Marked]:
    """Return the oldest for every node."""
    return {each.node: each for each in reversed(found)}


def _surplus(kind: Kind, found: Sequence[Server] | Sequence[Port], nodes: dict[str, Node]) -> Iterator[Action]:
    seen: set[str] = set()
    for each in found:
        if each.node not in nodes:
            yield Action("delete", kind, each.node or each.id, "no longer wanted", each.id)
        elif each.node in seen:
            yield Action("delete", kind, each.node, "there twice; the older one stays", each.id)
        seen.add(each.node)


def _thing(kind: Kind, name: str, found: Sequence[Thing], *, wanted: bool, to: dict[str, Any]) -> Iterator[Action]:
    for index, each in enumerate(found):
        if not wanted:
            yield Action("delete", kind, each.name, "no longer wanted", each.id)
        elif index:
            yield Action("delete", kind, each.name, "there twice; the older one stays", each.id)
    if wanted and found:
        yield Action("keep", kind, name, "", found[0].id, to)
    elif wanted:
        yield Action("create", kind, name, "not there", to=to)


def _networking(desired: Desired, observed: Observed, chosen: Chosen) -> Iterator[Action]:
    own = desired.network if isinstance(desired.network, OwnNetwork) else None
    wanted = own is not None and bool(desired.nodes)
    external = chosen.external.id if chosen.external else ""
    networks = _networks(observed)
    yield from _thing("network", desired.named("network"), networks, wanted=wanted, to={})
    subnet = {"cidr": own.cidr, "dns": list(own.dns)} if own else {}
    kept = {each.id for each in networks[:1]}
    subnets = sorted(observed.subnets, key=lambda each: each.network not in kept)
    for action in _thing("subnet", desired.named("subnet"), subnets, wanted=wanted, to=subnet):
        there = subnets[0].detail if subnets else ()
        if action.verb != "keep" or own is None or there == (own.cidr, *own.dns):
            yield action
        else:
            yield dataclasses.replace(action, verb="change", why=f"name servers: {', '.join(own.dns) or 'none'}")
    for action in _thing("router", desired.named("router"), observed.routers, wanted=wanted, to={"external": external}):
        there = observed.routers[0].detail if observed.routers else ()
        if action.verb == "keep" and external and there != (external,):
            action = dataclasses.replace(action, verb="change", why="its external network is another")
        yield action
    kept = {each.id for each in subnets[:1]}
    for each in observed.interfaces:
        if not wanted or each.name != observed.routers[0].id or each.detail[0] not in kept:
            yield Action(
                "delete", "router interface", each.name, "no longer wanted", each.id, {"subnet": each.detail[0]}
            )
    connected = observed.routers and any(
        each.name == observed.routers[0].id and each.detail[0] in kept for each in observed.interfaces
    )
    if wanted:
        yield Action("keep" if connected else "create", "router interface", "subnet at router", "not there")


def _security(desired: Desired, observed: Observed) -> Iterator[Action]:
    wanted = bool(desired.nodes)
    name = desired.mark
    yield from _thing("security group", name, observed.security_groups, wanted=wanted, to={})
    if not wanted:
        return
    there: dict[tuple[Any, ...], tuple[Rule, str]] = {}
    for rule_id, rule in observed.rules.items():
        if rule.what in there:
            yield Action("delete", "security group rule", _said(rule), "there twice", rule_id)
        there.setdefault(rule.what, (rule, rule_id))
    for rule in sorted(desired.rules, key=_order):
        if rule.what in there:
            yield Action("keep", "security group rule", _said(rule), "", there[rule.what][1])
        else:
            yield Action("create", "security group rule", _said(rule), "not there", to={"rule": rule})
    asked_for = {rule.what for rule in desired.rules}
    owners = {rule.first: rule.owner for rule in desired.rules if rule.owner}
    for what, (rule, rule_id) in there.items():
        if what in asked_for:
            continue
        if not rule.owner or rule.first not in owners:
            yield Action("delete", "security group rule", _said(rule), "not in testbed.yaml", rule_id)
        elif rule.owner == owners[rule.first]:
            yield Action("delete", "security group rule", _said(rule), "your address until now", rule_id)
        else:
            yield Action("keep", "security group rule", _said(rule), f"the address of {rule.owner}", rule_id)


def _order(rule: Rule) -> tuple[int, int, str]:
    return rule.first or 0, rule.last or 0, rule.remote or ""


def _said(rule: Rule) -> str:
    if rule.first is None:
        what = "everything"
    else:
        what = f"TCP {rule.first}" + (f" to {rule.last}" if rule.last != rule.first else "")
    return f"{what} from {rule.remote or 'the testbed itself'}"


def _port(desired: Desired, node: Node, port: Port | None, observed: Observed, chosen: Chosen) -> Action:
    network = _network_id(desired, observed, chosen)
    if port is None:
        return Action("create", "port", node.name, "not there")
    if network != port.network:
        return Action("replace", "port", node.name, "it is on another network", port.id)
    groups = {each.id for each in observed.security_groups[:1]}
    if port.groups != groups:
        return Action("change", "port", node.name, "its security groups are not the testbed's", port.id)
    return Action("keep", "port", node.name, "", port.id)


def _networks(observed: Observed) -> list[Thing]:
    """Return the testbed's own networks, the one that stays first: the oldest that has a subnet, where servers are."""
    with_subnet = {subnet.network for subnet in observed.subnets}
    return sorted(observed.networks, key=lambda each: each.id not in with_subnet)


def _network_id(desired: Desired, observed: Observed, chosen: Chosen) -> str:
    if isinstance(desired.network, OwnNetwork):
        networks = _networks(observed)
        return networks[0].id if networks else ""
    return chosen.network.id if chosen.network else ""


def _server(
    desired: Desired, node: Node, server: Server | None, port: Port | None, observed: Observed, chosen: Chosen
) -> Action:
    made = chosen.nodes[node.name]
    if server is None:
        return Action("create", "server", node.name, "not there")
    if reason := _why_replace(desired, node, server, port, observed, chosen):
        return Action("replace", "server", node.name, reason, server.id)
    if server.status == "ERROR":
        return Action("keep", "server", node.name, "it is in ERROR", server.id)
    if server.status in TAKES_LONGER or (server.busy and server.status == "ACTIVE"):
        return Action("wait", "server", node.name, f"it is in {server.status}", server.id)
    metadata = desired.server_metadata(node, server.image)
    reasons: list[str] = []
    to: dict[str, Any] = {}
    if server.flavor != made.flavor.name and not _fits_still(node, server):
        reasons.append(f"flavor {server.flavor} → {made.flavor.name}")
        to["flavor"] = made.flavor.id
    if server.metadata != metadata:
        reasons.append(f"metadata {_difference(server.metadata, metadata)}")
        to["metadata"] = metadata
    if server.tags != desired.server_tags:
        reasons.append(f"tags {_difference(dict.fromkeys(server.tags), dict.fromkeys(desired.server_tags))}")
        to["tags"] = sorted(desired.server_tags)
    if server.status != "ACTIVE":
        reasons.append(f"it is {server.status}")
        to["start"] = server.status
    return Action("change" if reasons else "keep", "server", node.name, "; ".join(reasons), server.id, to)


def _fits_still(node: Node, server: Server) -> bool:
    """Whether a server has what is asked for, as it was when its flavor was chosen: another is no reason to resize."""
    least = node.flavor
    return (
        isinstance(least, Flavor)
        and server.metadata.get(FLAVOR_KEY) == asked(least)
        and server.vcpus >= least.vcpus
        and server.ram >= least.ram
        and (node.volume is not None or server.disk >= least.disk)
    )


def _why_replace(
    desired: Desired, node: Node, server: Server, port: Port | None, observed: Observed, chosen: Chosen
) -> str:
    made = chosen.nodes[node.name]
    volumes = {volume.id: volume for volume in observed.volumes}
    boot = next((volumes[each] for each in server.volumes if each in volumes), None)
    if server.status == "ERROR" and not server.launched:
        return f"{FAULT}{server.fault or 'ERROR, without a reason'}"
    if server.image != made.image.id and server.metadata.get(ASKED_KEY) != node.image:
        return f"image {_image_name(server.image, chosen)} → {made.image.name}"
    if node.zone is not None and server.zone and server.zone != node.zone:  # a shelved one is in none
        return f"availability zone {server.zone} → {node.zone}"
    if server.status == "BUILD":  # nova shows its volumes and port when it is made
        return ""
    if (node.volume is None) != (boot is None):
        return "boots from a volume" if node.volume is None else "does not boot from a volume"
    if node.volume and boot and boot.size != node.volume.size:
        return f"boot volume of {boot.size} → {node.volume.size} GiB"
    if node.volume and boot and made.volume_type and boot.type != made.volume_type:
        return f"type of the boot volume {boot.type} → {made.volume_type}"
    if port is None or port.server != server.id or port.network != _network_id(desired, observed, chosen):
        return "its port is not there, or on another network"
    return ""


def _image_name(image_id: str, chosen: Chosen) -> str:
    return next((made.image.name for made in chosen.nodes.values() if made.image.id == image_id), image_id or "unknown")


def _difference(there: dict[str, Any], wanted: dict[str, Any]) -> str:
    words = [f"-{key}" for key in sorted({*there} - {*wanted})] + [f"+{key}" for key in sorted({*wanted} - {*there})]
    words += [f"{key}={wanted[key]}" for key in sorted({*wanted} & {*there}) if wanted[key] != there[key]]
    return " ".join(words)


def _volumes(
    desired: Desired,
    observed: Observed,
    nodes: dict[str, Node],
    servers: dict[str, Server],
    doomed: set[str],
    failed: set[str],
    chosen: Chosen,
) -> Iterator[Action]:
    used = {volume for server in servers.values() for volume in server.volumes}
    # of a server that is being made nova may not show them yet
    in_build = {name for name, server in servers.items() if server.status == "BUILD" and not server.volumes}
    free: dict[str, Volume] = {}
    for volume in observed.volumes:
        node, made = nodes.get(volume.node), chosen.nodes.get(volume.node)
        # a name that leads to another image by now is no reason to lose what is on a volume
        same = (
            made is None
            or volume.image == made.image.id
            or (node is not None and volume.metadata.get(ASKED_KEY) == node.image)
        )
        if node is None or node.volume is None:
            yield Action("delete", "volume", volume.node or volume.id, "no longer wanted", volume.id)
        elif volume.status == "deleting":
            yield Action("delete", "volume", volume.node, "it is on its way out", volume.id, {"begun": True})
        elif volume.id in doomed:
            yield Action("delete", "volume", volume.node, "its server is replaced", volume.id)
        elif volume.status.startswith("error") and (volume.id not in used or volume.node in failed):
            yield Action("delete", "volume", volume.node, f"it is in {volume.status}", volume.id)
        elif volume.id in used or (volume.node in in_build and volume.node not in free):
            metadata = desired.volume_metadata(node, volume.image)
            if volume.metadata != metadata:
                why = f"metadata {_difference(volume.metadata, metadata)}"
                yield Action("change", "volume", volume.node, why, volume.id, {"metadata": metadata})
            else:
                yield Action("keep", "volume", volume.node, "", volume.id)
            free[volume.node] = volume
        elif volume.node in free or (volume.node in servers and volume.node not in failed):
            yield Action("delete", "volume", volume.node, "there twice", volume.id)
        elif volume.size != node.volume.size:
            why = f"boot volume of {volume.size} → {node.volume.size} GiB"
            yield Action("delete", "volume", volume.node, why, volume.id)
        elif made is not None and made.volume_type and volume.type != made.volume_type:
            why = f"type of the boot volume {volume.type} → {made.volume_type}"
            yield Action("delete", "volume", volume.node, why, volume.id)
        elif made is not None and not same:
            why = f"image {_image_name(volume.image, chosen)} → {made.image.name}"
            yield Action("delete", "volume", volume.node, why, volume.id)
        else:
            free[volume.node] = volume  # kept, or made by a run that was killed before its server
            yield Action("keep", "volume", volume.node, "no server boots from it yet", volume.id)
    for node in nodes.values():
        if node.volume is not None and node.name not in free:
            yield Action("create", "volume", node.name, "not there", to={"size": node.volume.size})


def _floating_ips(desired: Desired, observed: Observed, ports: dict[str, Port], chosen: Chosen) -> Iterator[Action]:
    of_port = {each.port: each for each in reversed(observed.floating_ips) if each.port}
    pool = chosen.external.id if chosen.external and desired.pool else ""
    free = [each for each in observed.floating_ips if not each.port and each.network == pool]
    kept = set()
    for node in desired.nodes:
        if not node.floating_ip:
            continue
        port = ports.get(node.name)
        there = of_port.get(port.id) if port else None
        if there is not None and there.network == pool:
            kept.add(there.id)
            yield Action("keep", "floating IP", node.name, there.address, there.id)
        elif free:
            taken = free.pop(0)
            kept.add(taken.id)
            yield Action("change", "floating IP", node.name, f"{taken.address}, which is free", taken.id)
        else:
            yield Action("create", "floating IP", node.name, "not there")
    for each in observed.floating_ips:
        if each.id not in kept:
            yield Action("delete", "floating IP", each.address, "no longer wanted", each.id)


def _quotas(actions: Iterable[Action], observed: Observed, offer: Offer, chosen: Chosen) -> tuple[QuotaRow, ...]:
    more = _used_more(actions, observed, chosen, offer.default_volume_type)
    return tuple(
        QuotaRow(name, quota.used, quota.used + more[name], quota.limit)
        for name, quota in offer.quotas.items()
        if more[name] or OF_TYPE not in name
    )


def _used_more(actions: Iterable[Action], observed: Observed, chosen: Chosen, default_volume_type: str) -> Counter[str]:
    """Return how much more of each quota is used when the actions are done (less: negative)."""
    servers = {server.id: server for server in observed.servers}
    volumes = {volume.id: volume for volume in observed.volumes}
    more: Counter[str] = Counter()
    for action in actions:
        sign = {"create": 1, "delete": -1}.get(action.verb, 0)
        more[QUOTA_OF[action.kind]] += sign
        if action.kind == "security group":
            more["security group rules"] += sign * EGRESS_RULES
        if action.kind == "server":
            before = servers.get(action.id)
            made = chosen.nodes.get(action.name)
            new = made.flavor if made and (action.verb in ("create", "replace") or "flavor" in action.to) else None
            after = new or (before if action.verb != "delete" else None)
            more["cores"] += (after.vcpus if after else 0) - (before.vcpus if before else 0)
            more["ram"] += (after.ram if after else 0) - (before.ram if before else 0)
        if action.kind == "volume" and sign:
            size = action.to["size"] if sign > 0 else volumes[action.id].size
            made = chosen.nodes.get(action.name)
            kind = ((made and made.volume_type) or default_volume_type) if sign > 0 else volumes[action.id].type
            more[f"volumes{OF_TYPE}{kind}"] += sign
            more["gigabytes"] += sign * size
            more[f"gigabytes{OF_TYPE}{kind}"] += sign * size
    return more


def _largest(desired: Desired, observed: Observed, offer: Offer) -> str:
    """Return the largest layout that fits, in words; groups that have several servers shrink, the largest first."""
    order = _shrinking(desired.nodes)

    def without(count: int) -> Desired:
        gone = {node.name for node in order[:count]}
        return dataclasses.replace(desired, nodes=tuple(node for node in desired.nodes if node.name not in gone))

    def fits(count: int) -> bool:
        smaller = without(count)
        chosen = choose(smaller, offer)
        rows = _quotas(_actions(smaller, observed, chosen), observed, offer, chosen)
        return not any(row.short_by for row in rows)

    least = bisect_left(range(len(order) + 1), True, key=fits)
    if least > len(order):
        return ""
    counts = Counter(node.groups[0] for node in without(least).nodes)
    return ", ".join(f"{count} {group}" if group != "server" else group for group, count in counts.items())


def _shrinking(nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that a layout can do without, the first to go first; each group keeps one."""
    groups: dict[str, list[Node]] = {}
    for node in nodes:
        groups.setdefault(node.groups[0], []).append(node)
    order = []
    while len(largest := max(groups.values(), key=len, default=[])) > 1:
        order.append(largest.pop())
    return order
