"""The test cloud, and projects in it: each test file has one of its own, whose user knows nothing but that."""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import openstack
import yaml
from openstack.connection import Connection
from openstack.exceptions import SDKException
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

ENTRY = "lab"
Login = Literal["password", "application credential", "token"]
NOVA = ("instances", "cores", "ram", "key_pairs", "server_groups")
CINDER = ("volumes", "gigabytes")
DELETED_WITHIN_S = 300
SETTLED_WITHIN_S = 60


@dataclass(frozen=True)
class Cloud:
    """A cloud; the first entry of the clouds.yaml `file` is its administrator's."""

    file: Path

    @property
    def entry(self) -> dict[str, Any]:
        """The administrator's entry of clouds.yaml."""
        return next(iter(yaml.safe_load(self.file.read_text())["clouds"].values()))

    @cached_property
    def admin(self) -> Connection:
        """The administrator's login: one for all, as each keeps connections open, and services take so many."""
        return self.log_in(self.entry["auth"])

    def log_in(self, auth: Mapping[str, str]) -> Connection:
        """Log in, past every proxy and whatever clouds.yaml."""
        region = self.entry.get("region_name")
        connection = openstack.connect(auth=auth, region_name=region, load_envvars=False, load_yaml_config=False)
        # neutron, just started, may answer 500 to one of several first calls at once; the toolkit asks again, too
        again = Retry(4, backoff_factor=1, status_forcelist=[500, 503], allowed_methods=["GET"], raise_on_status=False)
        connection.session.session.mount("http://", HTTPAdapter(32, 32, max_retries=again))
        return connection

    @contextmanager
    def project(self, name: str, quotas: Mapping[str, int] | None = None, role: str = "member") -> Iterator[Project]:
        """Yield a new project with a user and these quotas (nova's, neutron's and cinder's names; else the defaults).

        All that is in it goes with it.
        """
        admin = self.admin
        name = f"{name}-{secrets.token_hex(4)}"
        made = admin.identity.create_project(name=name, domain_id="default")
        password = secrets.token_hex(16)
        user = admin.identity.create_user(name=name, password=password, domain_id="default", default_project_id=made.id)
        project = Project(self, made.id, name, user.id, password)
        try:
            given = admin.identity.find_role(role)
            answer = admin.identity.put(f"/projects/{made.id}/users/{user.id}/roles/{given.id}")
            assert answer.ok, answer.text
            _set_quotas(admin, made.id, quotas or {})
            yield project
        finally:
            project.clear()
            admin.identity.delete_user(user)
            admin.identity.delete_project(made)


def _set_quotas(admin: Connection, project: str, quotas: Mapping[str, int]) -> None:
    nova = {name: value for name, value in quotas.items() if name in NOVA}
    cinder = {name: value for name, value in quotas.items() if name.startswith(CINDER)}  # gigabytes_TYPE, too
    neutron = {name: value for name, value in quotas.items() if name not in nova | cinder}
    if nova:
        admin.set_compute_quotas(project, **nova)
    if cinder:
        answer = admin.block_storage.put(f"/os-quota-sets/{project}", json={"quota_set": cinder})
        assert answer.ok, answer.text
    if neutron:
        admin.set_network_quotas(project, **neutron)


@dataclass(frozen=True)
class Project:
    """A project with a user of the same name."""

    cloud: Cloud
    id: str
    name: str
    user: str
    password: str

    @property
    def auth(self) -> dict[str, str]:
        """How the user logs in with a password."""
        return {
            "auth_url": self.cloud.entry["auth"]["auth_url"],
            "username": self.name,
            "password": self.password,
            "project_name": self.name,
            "user_domain_name": "Default",
            "project_domain_name": "Default",
        }

    @cached_property
    def connection(self) -> Connection:
        """The user's login."""
        return self.cloud.log_in(self.auth)

    def set_quotas(self, **quotas: int) -> None:
        """Set quotas, by nova's, neutron's and cinder's names."""
        _set_quotas(self.cloud.admin, self.id, quotas)

    def clouds_yaml(self, folder: Path, login: Login = "password", auth_url: str = "", **more: Any) -> Path:
        """Write a clouds.yaml with entry `lab`: how the user logs in, and what else the entry is to say."""
        auth, entry = dict(self.auth), {"region_name": self.cloud.entry.get("region_name"), **more}
        if login == "application credential":
            made = self.connection.identity.create_application_credential(self.user, name=secrets.token_hex(4))
            entry["auth_type"] = "v3applicationcredential"
            auth = {"application_credential_id": made.id, "application_credential_secret": made.secret}
        elif login == "token":
            entry["auth_type"] = "v3token"
            auth = {"token": self.connection.session.get_token(), "project_id": self.id}
        auth["auth_url"] = auth_url or self.auth["auth_url"]
        path = folder / "clouds.yaml"
        path.write_text(yaml.safe_dump({"clouds": {ENTRY: {"auth": auth, **entry}}}))
        path.chmod(0o600)
        return path

    def clear(self) -> None:
        """Delete all that is in the project, whoever made it."""
        end = time.monotonic() + DELETED_WITHIN_S
        connection = self.connection
        while (left := _everything(connection, self.id)) and time.monotonic() < end:
            _delete(connection, left)
        assert not left, {kind: [each.name for each in found] for kind, found in left.items()}


def _everything(connection: Connection, project: str) -> dict[str, list[Any]]:
    """Return all resources in the project that somebody has to delete, by kind."""
    network, ours = connection.network, {"project_id": project}
    listed: dict[str, Callable[[], Any]] = {
        "server": lambda: connection.compute.servers(),
        "keypair": lambda: connection.compute.keypairs(),
        "volume": lambda: connection.block_storage.volumes(),
        "floating IP": lambda: network.ips(**ours),
        "router": lambda: network.routers(**ours),
        "port": lambda: (each for each in network.ports(**ours) if not each.device_owner.startswith("network:")),
        "subnet": lambda: network.subnets(**ours),
        "network": lambda: network.networks(**ours),
        "security group": lambda: (each for each in network.security_groups(**ours) if each.name != "default"),
        "image": lambda: connection.image.images(owner=project),
    }
    with ThreadPoolExecutor(len(listed)) as pool:
        futures = {kind: pool.submit(lambda call=call: list(call())) for kind, call in listed.items()}
    return {kind: found for kind, future in futures.items() if (found := future.result())}


def _delete(connection: Connection, found: dict[str, list[Any]]) -> None:
    """Delete what can be deleted at once; the rest is in use, and goes in another round."""
    network, compute, block = connection.network, connection.compute, connection.block_storage
    delete: dict[str, Callable[[Any], Any]] = {
        "server": compute.delete_server,
        "keypair": compute.delete_keypair,
        "volume": block.delete_volume,
        "floating IP": network.delete_ip,
        "router": network.delete_router,
        "port": network.delete_port,
        "subnet": network.delete_subnet,
        "network": network.delete_network,
        "security group": network.delete_security_group,
        "image": connection.image.delete_image,
    }

    def gone(kind: str, each: Any) -> None:
        if kind == "router":
            for port in network.ports(device_id=each.id, device_owner="network:router_interface"):
                with suppress(SDKException):
                    network.remove_interface_from_router(each, port=port.id)
        with suppress(SDKException):
            delete[kind](each)

    with ThreadPoolExecutor(8) as pool:
        for kind, resources in found.items():
            for each in resources:
                pool.submit(gone, kind, each)
    if "server" in found or "volume" in found:
        time.sleep(0.5)


def contents(project: Project, expected: list[str] | None = None) -> list[str]:
    """Return what is in the project, one line a resource, with names in place of IDs; equal where the project is.

    All resources, not only those with a mark: what lost its mark, or never got one, is seen, too. What the cloud does
    behind its answers gets some seconds to become what is expected.
    """
    connection = project.connection
    end = time.monotonic() + SETTLED_WITHIN_S
    while (found := _contents(connection, project)) != expected and expected is not None and time.monotonic() < end:
        time.sleep(1)
    return found


def _contents(connection: Connection, project: Project) -> list[str]:
    found = _everything(connection, project.id)
    # every port, a router's too: they count against the quota and keep networks alive
    found["port"] = list(connection.network.ports(project_id=project.id))
    names = {each.id: f"{each.name}" for resources in found.values() for each in resources}
    names |= {each.id: each.name for each in connection.network.networks()}
    names |= {each.id: each.name for each in connection.image.images()}
    lines: list[str] = []
    for kind, resources in found.items():
        lines += [f"{kind} {json.dumps(_facts(kind, each, names), sort_keys=True)}" for each in resources]
    return sorted(f"{line} × {count}" if count > 1 else line for line, count in Counter(lines).items())


def _facts(kind: str, each: Any, names: dict[str, str]) -> dict[str, Any]:
    """Return what counts of a resource."""

    def name(key: str | None) -> str:
        return names.get(key or "", "?") if key else ""

    facts: dict[str, Any] = {"name": each.name, "description": getattr(each, "description", None)}
    match kind:
        case "server":
            facts |= {"status": each.status, "task": each.task_state, "tags": sorted(each.tags or ())}
            facts |= {"flavor": each.flavor.original_name or each.flavor.name, "zone": each.availability_zone}
            facts["metadata"] = {key: names.get(value, value) for key, value in each.metadata.items()}
            facts["volumes"] = [name(volume["id"]) for volume in each.attached_volumes]
        case "volume":
            facts |= {"status": each.status, "size": each.size}
            facts["metadata"] = {key: names.get(value, value) for key, value in each.metadata.items()}
            facts["servers"] = [name(use["server_id"]) for use in each.attachments]
        case "floating IP":
            facts = {"description": each.description, "port": name(each.port_id)}
        case "port":
            facts |= {"network": name(each.network_id), "owner": each.device_owner, "device": name(each.device_id)}
            facts["groups"] = sorted(map(name, each.security_group_ids))
            facts["addresses"] = len(each.fixed_ips)
        case "subnet":
            facts |= {"network": name(each.network_id), "cidr": each.cidr, "dns": each.dns_nameservers}
        case "router":
            facts["external"] = name((each.external_gateway_info or {}).get("network_id"))
        case "security group":
            rules = [_rule(rule, name) for rule in each.security_group_rules]
            facts |= {"rules": sorted(rules), "tags": sorted(each.tags or ())}
    return facts


def _rule(rule: dict[str, Any], name: Callable[[str | None], str]) -> str:
    ports = f"{rule['protocol']} {rule['port_range_min']}-{rule['port_range_max']}"
    remote = rule["remote_ip_prefix"] or name(rule["remote_group_id"])
    return f"{rule['direction']} {rule['ethertype']} {ports} {remote} {rule['description']}"
