"""actions -> cloud: concurrently under a bound, resumable at any point, as the next plan starts from what is there."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from provision.cloud import observed as looking
from provision.cloud.choose import Chosen
from provision.cloud.connect import checked, explain, explained
from provision.cloud.desired import OWN_ADDRESS, Desired, Node, Rule
from provision.cloud.observed import Observed, Server, Volume
from provision.cloud.plan import Action, Kind, Plan
from provision.errors import CloudError, LostError
from provision.spec_openstack import OwnNetwork

if TYPE_CHECKING:
    from openstack.connection import Connection

POLL_S = 2.0
# neutron and nova say 409 while something that is on its way out is in use
CONFLICT_S = 120
SERVER_S = 1800
VOLUME_S = 1800
# what a server's boot volume is told before the server goes without it (nova: os-volume_attachments, from 2.85)
KEEP = {"delete_on_termination": False}
KEEP_VERSION = "2.85"
SOFT_DELETED = "SOFT_DELETED"
IN_THE_MAKING = ("creating", "downloading")  # of a volume
PORTS_A_CALL = 10  # several calls are worked on side by side
Told = Callable[[Action, str], None]
Part = TypeVar("Part")


@dataclass
class _Run:
    """One application of a plan."""

    connection: Connection
    desired: Desired
    observed: Observed
    plan: Plan
    parallel: int
    tell: Told
    group_tags: list[str]
    ids: dict[tuple[Kind, str], str] = field(default_factory=dict)

    def of(self, verb: str, *kinds: Kind) -> list[Action]:
        """Return the plan's actions of a verb and these kinds."""
        return [action for action in self.plan.actions if action.verb == verb and action.kind in kinds]

    def each(self, actions: Iterable[Action], do: Callable[[Action], Any]) -> None:
        """Do something for each action, at most `parallel` at a time. Raises the first error when all have ended."""
        self.all(lambda action: self.one(action, do), actions)

    def all(self, do: Callable[[Part], None], parts: Iterable[Part]) -> None:
        """Do something with each part, at most `parallel` at a time. Raises the first error when all have ended."""
        errors: list[CloudError] = []
        with ThreadPoolExecutor(max_workers=self.parallel) as pool:
            futures = [pool.submit(do, part) for part in parts]
            try:
                for future in as_completed(futures):
                    try:
                        future.result()
                    except CloudError as error:
                        errors.append(error)
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)  # what has begun ends; nothing else begins
                raise
        if errors:
            raise errors[0]

    def one(self, action: Action, do: Callable[[Action], Any]) -> None:
        """Do it, tell it, and remember the ID of what came."""
        with explained(f"{action.verb} {action.kind} {action.name}"):
            made = do(action)
        if isinstance(made, str):
            self.ids[action.kind, action.name] = made
        self.tell(action, "done")


def apply(
    connection: Connection,
    desired: Desired,
    observed: Observed,
    plan: Plan,
    *,
    parallel: int,
    tell: Told,
    group_tags: Iterable[str] = (),
) -> None:
    """Do what the plan says; `tell` is called for each action, from several threads. Raises `CloudError`.

    A security group that is made gets `group_tags`.

    Servers that end in ERROR are left for the next plan, which knows nova's fault.
    """
    run = _Run(connection, desired, observed, plan, parallel, tell, list(group_tags))
    stays = [action for action in plan.actions if action.id and action.verb != "delete"]
    run.ids.update({(action.kind, action.name): action.id for action in stays})
    _delete(run)
    with ThreadPoolExecutor(max_workers=2) as pool:
        for future in [pool.submit(_network, run), pool.submit(_security, run)]:
            future.result()
    _ports(run)
    _delete_groups(run)
    _volumes(run)
    _servers(run)
    _floating_ips(run)
    _wait_for_servers(run)


def _delete(run: _Run) -> None:
    """Delete what goes: servers first, as the rest is in use until they are gone."""
    from openstack.exceptions import NotFoundException

    network, compute, block = run.connection.network, run.connection.compute, run.connection.block_storage
    servers = [*run.of("delete", "server"), *run.of("replace", "server")]
    run.each(run.of("delete", "floating IP"), lambda action: network.delete_ip(action.id, ignore_missing=True))

    def delete_server(action: Action) -> None:
        for volume in action.to.get("keep", ()):
            url = f"/servers/{action.id}/os-volume_attachments/{volume}"
            with suppress(NotFoundException):  # a server that found no host has it not, or has gone
                kept = {"volumeAttachment": KEEP | {"volumeId": volume}}
                checked(compute.put(url, json=kept, microversion=KEEP_VERSION))
        compute.delete_server(action.id, ignore_missing=True)

    making = {volume.id for volume in run.observed.volumes if volume.status in IN_THE_MAKING}

    def delete_volume(action: Action) -> None:
        if not action.to.get("begun"):  # cinder ends no copy before it is done
            seconds = VOLUME_S if action.id in making else CONFLICT_S
            _patiently(lambda: _delete_volume(block, compute, action.id), seconds)

    run.each(servers, delete_server)
    _wait_until_gone(run, servers, looking.observe_servers, SERVER_S)
    # one tells of all whether this cloud deletes them later
    if servers and _is_put_off(compute, servers[0].id):
        run.each(servers, lambda action: _end(compute, action.id))
    volumes = run.of("delete", "volume")
    run.each(volumes, delete_volume)
    _wait_until_gone(run, volumes, looking.observe_volumes, VOLUME_S)
    ports = [*run.of("delete", "port"), *run.of("replace", "port")]
    run.each(ports, lambda action: _patiently(lambda: network.delete_port(action.id, ignore_missing=True)))
    run.each(
        run.of("delete", "security group rule"),
        lambda action: network.delete_security_group_rule(action.id, ignore_missing=True),
    )
    run.each(
        run.of("delete", "router interface"),
        lambda action: _remove_interface(network, action),
    )
    kinds: list[tuple[Kind, Callable[..., Any]]] = [
        ("router", network.delete_router),
        ("subnet", network.delete_subnet),
        ("network", network.delete_network),
    ]
    for kind, delete in kinds:
        run.each(
            run.of("delete", kind),
            lambda action, delete=delete: _patiently(lambda: delete(action.id, ignore_missing=True)),  # type: ignore[misc]
        )


def _delete_groups(run: _Run) -> None:
    """Delete security groups, when the ports are of the one that stays."""
    network = run.connection.network
    run.each(
        run.of("delete", "security group"),
        lambda action: _patiently(lambda: network.delete_security_group(action.id, ignore_missing=True)),
    )


def _wait_until_gone(
    run: _Run, actions: list[Action], observe: Callable[[Connection, str], Iterable[Server | Volume]], seconds: float
) -> None:
    """Wait until what was deleted is not listed any more; what cannot be deleted is the next round's."""
    ids = {action.id for action in actions}

    def gone() -> bool:
        listed = observe(run.connection, run.desired.name)
        return not any(each.id in ids and not each.status.startswith("error") for each in listed)

    if ids:
        names = ", ".join(sorted(action.name for action in actions))
        _until(gone, seconds, f"{actions[0].kind}s {names} are not gone")


def _remove_interface(network: Any, action: Action) -> None:
    from openstack.exceptions import NotFoundException

    try:
        _patiently(lambda: network.remove_interface_from_router(action.name, subnet=action.to["subnet"]))
    except NotFoundException:
        return


def _is_put_off(compute: Any, server_id: str) -> bool:
    """Return whether a deleted server is only hidden, with its volumes (nova: reclaim_instance_interval)."""
    from openstack.exceptions import NotFoundException

    try:
        return bool(compute.get_server(server_id).status == SOFT_DELETED)
    except NotFoundException:
        return False


def _end(compute: Any, server_id: str) -> None:
    """Delete a server whose deletion is put off now."""
    from openstack.exceptions import ConflictException, NotFoundException

    with suppress(NotFoundException, ConflictException):  # gone by now, or just going
        compute.delete_server(server_id, force=True)


def _delete_volume(block: Any, compute: Any, volume_id: str) -> None:
    from openstack.exceptions import BadRequestException, ConflictException, NotFoundException

    try:
        block.delete_volume(volume_id, ignore_missing=True)
    except BadRequestException as error:  # cinder's way to say that it is still attached, or on its way out already
        with suppress(NotFoundException):
            volume = block.get_volume(volume_id)
            for server_id in {each["server_id"] for each in volume.attachments or ()}:
                if _is_put_off(compute, server_id):  # by a run that was killed then
                    _end(compute, server_id)
            if volume.status != "deleting":
                raise ConflictException(str(error)) from error


def _patiently(call: Callable[[], Any], seconds: float = CONFLICT_S) -> Any:
    """Call until there is no conflict with something that is on its way out."""
    from openstack.exceptions import ConflictException

    end = time.monotonic() + seconds
    pause = 0.5
    while True:
        try:
            return call()
        except ConflictException:
            if time.monotonic() > end:
                raise
        time.sleep(pause * (1 + random.random() / 2))  # noqa: S311 (spreads retries)
        pause = min(8.0, pause * 2)


def _until(done: Callable[[], bool], seconds: float, otherwise: str) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise CloudError(f"after {seconds / 60:.0f} minutes, {otherwise}", "Run the same command again.")
        time.sleep(POLL_S)


def _network(run: _Run) -> None:
    """Make the testbed's own network: network, subnet, router, interface, each after the other."""
    own = run.desired.network
    if not isinstance(own, OwnNetwork):
        return
    network, description = run.connection.network, run.desired.mark
    run.each(
        run.of("create", "network"),
        lambda action: network.create_network(name=action.name, description=description).id,
    )
    name = run.desired.named("network")
    run.each(
        run.of("create", "subnet"),
        lambda action: (
            network.create_subnet(
                name=action.name,
                description=description,
                network_id=run.ids["network", name],
                ip_version=4,
                cidr=own.cidr,
                dns_nameservers=list(own.dns),
            ).id
        ),
    )
    run.each(
        run.of("change", "subnet"), lambda action: network.update_subnet(action.id, dns_nameservers=list(own.dns)).id
    )
    run.each(
        run.of("create", "router"),
        lambda action: (
            network.create_router(
                name=action.name, description=description, external_gateway_info={"network_id": action.to["external"]}
            ).id
        ),
    )
    run.each(
        run.of("change", "router"),
        lambda action: network.update_router(action.id, external_gateway_info={"network_id": action.to["external"]}).id,
    )
    run.each(
        run.of("create", "router interface"),
        lambda action: _connect(
            network, run.ids["router", run.desired.named("router")], run.ids["subnet", run.desired.named("subnet")]
        ),
    )


def _connect(network: Any, router: str, subnet: str) -> None:
    from openstack.exceptions import BadRequestException

    try:
        network.add_interface_to_router(router, subnet=subnet)
    except BadRequestException as error:  # a repeated call: the first one's answer was lost
        if "already has a port on subnet" not in str(error):
            raise


def _security(run: _Run) -> None:
    network = run.connection.network

    def create(action: Action) -> str:
        made = network.create_security_group(name=action.name, description=run.desired.mark)
        if run.group_tags:
            network.set_tags(made, run.group_tags)
        return str(made.id)

    run.each(run.of("create", "security group"), create)
    if run.of("create", "security group rule"):
        group = run.ids["security group", run.desired.mark]
        run.each(run.of("create", "security group rule"), lambda action: _rule(network, group, action.to["rule"]))


def _rule(network: Any, group: str, rule: Rule) -> None:
    from openstack.exceptions import ConflictException

    remote = {"remote_ip_prefix": rule.remote} if rule.remote else {"remote_group_id": group}
    ports = {"protocol": "tcp", "port_range_min": rule.first, "port_range_max": rule.last} if rule.first else {}
    try:
        network.create_security_group_rule(
            security_group_id=group,
            direction="ingress",
            ethertype="IPv6" if rule.remote and ":" in rule.remote else "IPv4",
            description=_description(rule),
            **ports,
            **remote,
        )
    except ConflictException as error:  # a repeated call: the first one's answer was lost; a full quota is another
        if "already exists" not in str(error):
            raise


def _description(rule: Rule) -> str:
    """Return the description of a rule: whose address it lets in, or that testbed.yaml asks for it."""
    if rule.owner:
        return f"{OWN_ADDRESS}{rule.owner}"
    return "" if rule.first is None else "testbed.yaml"


def _ports(run: _Run) -> None:
    """Make the ports, some in a call: each is there, with its mark, before its server is."""
    network = run.connection.network
    run.each(
        run.of("change", "port"),
        lambda action: network.update_port(action.id, security_groups=[run.ids["security group", run.desired.mark]]).id,
    )
    todo = [*run.of("create", "port"), *run.of("replace", "port")]
    if not todo:
        return
    own = isinstance(run.desired.network, OwnNetwork)
    chosen = run.plan.chosen
    network_id = run.ids["network", run.desired.named("network")] if own else chosen.network.id  # type: ignore[union-attr]
    group = run.ids["security group", run.desired.mark]

    def create(actions: list[Action]) -> None:
        named = [run.desired.named(action.name) for action in actions]
        same = {"description": run.desired.mark, "network_id": network_id, "security_groups": [group]}
        with explained(f"create {len(actions)} ports"):
            made = network.create_ports([{"name": name, **same} for name in named])
        for action, port in zip(actions, made, strict=True):
            run.ids["port", action.name] = port.id
            run.tell(action, "done")

    run.all(create, [todo[start : start + PORTS_A_CALL] for start in range(0, len(todo), PORTS_A_CALL)])


def _nodes(run: _Run) -> dict[str, Node]:
    return {node.name: node for node in run.desired.nodes}


def _volumes(run: _Run) -> None:
    nodes, chosen = _nodes(run), run.plan.chosen
    block = run.connection.block_storage
    run.each(
        run.of("change", "volume"),
        lambda action: _set_volume_metadata(block, action),
    )

    def create(action: Action) -> str:
        node = nodes[action.name]
        assert node.volume is not None  # noqa: S101 (the plan makes volumes for those only)
        assert chosen is not None  # noqa: S101
        made = block.create_volume(
            name=run.desired.named(action.name),
            description=run.desired.mark,
            size=node.volume.size,
            image_id=chosen.nodes[action.name].image.id,
            availability_zone=chosen.nodes[action.name].volume_zone,
            volume_type=chosen.nodes[action.name].volume_type,
            metadata=run.desired.volume_metadata(node, chosen.nodes[action.name].image.id),
        )
        return str(made.id)

    run.each(run.of("create", "volume"), create)
    # also those that a run made which was killed: cinder may still be at it
    servers = [*run.of("create", "server"), *run.of("replace", "server")]
    ids = {run.ids["volume", action.name] for action in servers if nodes[action.name].volume is not None}
    if ids:

        def ready() -> bool:
            found = [each for each in looking.observe_volumes(run.connection, run.desired.name) if each.id in ids]
            if failed := [each.node for each in found if each.status.startswith("error")]:
                raise CloudError(
                    f"the boot volumes of {', '.join(failed)} ended in an error",
                    "Run the same command again: they are made anew. If it stays, ask the cloud's administrator.",
                )
            if gone := [each for each in ids if each not in {volume.id for volume in found}]:
                raise LostError(f"the boot volumes {', '.join(gone)} are gone", "Run the same command again.")
            return all(each.status in ("available", "in-use") for each in found)

        _until(ready, VOLUME_S, "the boot volumes are not ready")


def _set_volume_metadata(block: Any, action: Action) -> None:
    there = block.get_volume(action.id).metadata or {}
    if gone := [key for key in there if key not in action.to["metadata"]]:
        block.delete_volume_metadata(action.id, keys=gone)
    block.set_volume_metadata(action.id, **action.to["metadata"])


def _servers(run: _Run) -> None:
    from openstack.exceptions import BadRequestException, ConflictException

    nodes, chosen = _nodes(run), run.plan.chosen
    compute = run.connection.compute
    user_data = base64.b64encode(run.desired.user_data.encode()).decode()
    # nova deletes such a volume with a server that it cannot build, too: one that was there before may hold data
    fresh = {action.name for action in run.of("create", "volume")}

    def create(action: Action) -> str:
        node = nodes[action.name]
        assert chosen is not None  # noqa: S101 (a plan that makes servers has chosen)
        made = chosen.nodes[action.name]
        source: dict[str, Any] = {"image_id": made.image.id}
        if node.volume is not None:
            source = {
                "block_device_mapping": [
                    {
                        "boot_index": 0,
                        "uuid": run.ids["volume", action.name],
                        "source_type": "volume",
                        "destination_type": "volume",
                        "delete_on_termination": node.volume.delete_on_termination and action.name in fresh,
                    }
                ]
            }
        try:
            server = compute.create_server(
                name=f"{run.desired.name}-{action.name}",
                flavor_id=made.flavor.id,
                networks=[{"port": run.ids["port", action.name]}],
                metadata=run.desired.server_metadata(node, made.image.id),
                tags=sorted(run.desired.server_tags),
                user_data=user_data,
                config_drive=True,
                **({"availability_zone": node.zone} if node.zone else {}),
                **({"key_name": run.desired.keypair} if run.desired.keypair else {}),
                **source,
            )
        except (BadRequestException, ConflictException) as error:
            # its volume or port is taken: nova may still be at work on a call of a run that was killed
            if isinstance(error, ConflictException) or "status must be available" in str(error):
                said = explain(error, f"create server {action.name}")
                raise LostError(said.message, said.remedy) from error
            raise
        return str(server.id)

    run.each([*run.of("create", "server"), *run.of("replace", "server")], create)

    wakes: dict[str, Callable[[str], Any]] = {
        "SHUTOFF": compute.start_server,
        "PAUSED": compute.unpause_server,
        "SUSPENDED": compute.resume_server,
        "SHELVED": compute.unshelve_server,
        "SHELVED_OFFLOADED": compute.unshelve_server,
        "RESCUE": compute.unrescue_server,
    }

    def change(action: Action) -> None:
        if "metadata" in action.to:
            checked(compute.put(f"/servers/{action.id}/metadata", json={"metadata": action.to["metadata"]}))
        if "tags" in action.to:
            checked(compute.put(f"/servers/{action.id}/tags", json={"tags": action.to["tags"]}))
        if "flavor" in action.to:
            compute.resize_server(action.id, action.to["flavor"])
        elif wake := wakes.get(action.to.get("start", "")):  # a resized one in the next round
            wake(action.id)

    run.each(run.of("change", "server"), change)


def _wait_for_servers(run: _Run) -> None:
    """Wait until no server of this run is on its way; one listing for all of them."""
    actions = [
        action
        for action in run.plan.actions
        if action.kind == "server" and action.verb in ("create", "replace", "change", "wait")
    ]
    if not actions:
        return
    waiting = {run.ids["server", action.name]: action for action in actions}
    resized: set[str] = set()

    def settled() -> bool:
        there = {each.id: each for each in looking.observe_servers(run.connection, run.desired.name)}
        for server_id, action in list(waiting.items()):
            server = there.get(server_id)
            if server is None or server.status in ("ACTIVE", "ERROR", "SHUTOFF") and not server.busy:
                del waiting[server_id]
                run.tell(action, _ended(server))
                if server is not None and server.status != "ERROR" and "flavor" in action.to:
                    _check_size(server, run.plan.chosen, action.name)
            elif server.status == "VERIFY_RESIZE" and server_id not in resized:
                resized.add(server_id)
                with explained(f"confirm the resize of {action.name}"):
                    _patiently(lambda server_id=server_id: run.connection.compute.confirm_server_resize(server_id))  # type: ignore[misc]
        return not waiting

    _until(settled, SERVER_S, "not all servers are ACTIVE")


def _check_size(server: Server, chosen: Chosen | None, name: str) -> None:
    """Raise `CloudError` where nova has ended a resize, and the server is as large as before."""
    if chosen is not None and server.flavor != (wanted := chosen.nodes[name].flavor.name):
        raise CloudError(
            f"nova did not resize server {name} to {wanted}; it is still a {server.flavor}",
            "`openstack server event list` says why; choose another flavor, or rebuild the server.",
        )


def _ended(server: Server | None) -> str:
    if server is None:
        return "gone"
    return f"ERROR, {server.fault or 'without a reason'}" if server.status == "ERROR" else server.status


def _floating_ips(run: _Run) -> None:
    network, chosen = run.connection.network, run.plan.chosen
    run.each(
        run.of("change", "floating IP"),
        lambda action: network.update_ip(action.id, port_id=run.ids["port", action.name]).id,
    )
    pool = chosen.external.id if chosen and chosen.external else ""
    run.each(
        run.of("create", "floating IP"),
        lambda action: (
            network.create_ip(
                floating_network_id=pool, port_id=run.ids["port", action.name], description=run.desired.mark
            ).id
        ),
    )
