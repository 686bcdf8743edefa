"""Testbed -> Ansible inventory: hosts, groups, and the roles' variables. Pure; holds no secret."""

from __future__ import annotations

import re
import shlex
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.machines import Machine, with_group
from provision.paths import HOST_PINS
from provision.spec import (
    ADMIN_USER,
    AGENT_USER,
    URL_SERVICES,
    ManagedTelemetry,
    Mirrors,
    Proxy,
    Server,
    Testbed,
    Worker,
)
from provision.spec_server import AGENT_SERVICES, SERVICES
from provision.spec_tls import Tls

# How to reach package indexes: handed on from the administrator's environment to the services of this machine.
NETWORK_VARIABLES = re.compile(
    r"^((https?|ftp|all|no)_proxy|PIP_(INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|TRUSTED_HOST|CERT|PROXY|DEFAULT_TIMEOUT)"
    r"|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE)$",
    re.IGNORECASE,
)
INDEX_VARIABLES = re.compile(r"^PIP_(INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|TRUSTED_HOST)$", re.IGNORECASE)
PROXY_VARIABLES = re.compile(r"^((https?|ftp|all|no)_proxy|PIP_PROXY)$", re.IGNORECASE)
CA_VARIABLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO")
CA_BUNDLE = "/etc/testbed/ca-bundle.crt"  # on the hosts: the system's certificates, those of the spec, our own CA's
LITE = "testbed-clearml-lite"
PROJECT = "testbed-clearml"  # the Compose project of the official server, and how its containers' names begin
PORT_SERVICES = {"api": "apiserver", "web": "webserver", "files": "fileserver"}
SHARED_MEMORY = 50  # percent of a host's memory for a server that shares it with agents
TLS_PROXY = "testbed-tls-proxy"
EXPIRY = "testbed-expiry"
INFERENCE = "testbed-inference"
HSTS_S = 30 * 24 * 3600  # short enough to go back to plain HTTP one day
PASSWORD_IN_URL = re.compile(r"[^/\s]*@")


@dataclass(frozen=True)
class Wheels:
    """The wheels that go onto hosts, as files on the administrator's machine."""

    lite: Path
    workload: Path


def network_environment(environment: Mapping[str, str], direct: Iterable[str] = ()) -> dict[str, str]:
    """Return the variables of `environment` that say how to reach package indexes, without any that hold a password.

    Where they name a proxy, the testbed's own hosts `direct` and loopback are reached without it.
    """
    found = {
        name: value
        for name, value in sorted(environment.items())
        if NETWORK_VARIABLES.match(name) and not PASSWORD_IN_URL.search(value)
    }
    if any(name.lower().endswith("_proxy") for name in found):
        given = found.get("no_proxy") or found.get("NO_PROXY") or ""
        hosts = dict.fromkeys([*filter(None, given.split(",")), "localhost", "127.0.0.1", *direct])
        found["no_proxy"] = found["NO_PROXY"] = ",".join(hosts)
    return found


def spec_environment(testbed: Testbed, direct: Iterable[str]) -> dict[str, str]:
    """Return the environment in which apt, pip and the agents' tasks reach package indexes as the spec says."""
    proxy, mirrors = testbed.proxy, testbed.mirrors
    found = {}
    if proxy:
        for scheme, url in proxy.by_scheme.items():
            found[f"{scheme}_proxy"] = found[f"{scheme.upper()}_PROXY"] = url
        hosts = ",".join(dict.fromkeys([*proxy.no_proxy, "localhost", "127.0.0.1", "::1", *direct]))
        found["no_proxy"] = found["NO_PROXY"] = hosts
    if mirrors and mirrors.pip:
        # no index but this one, whatever the host's own pip.conf adds
        found |= {"PIP_INDEX_URL": mirrors.pip, "PIP_CONFIG_FILE": "/dev/null"}
    if has_bundle(testbed):
        found |= dict.fromkeys(CA_VARIABLES, CA_BUNDLE)
    return found


def former_files_urls(server: Server, had: Iterable[str]) -> list[str]:
    """Return the URLs other than its present one that data on the file server of `server` may carry.

    `had`: those that it is known to have had. With them comes the one that it has when TLS is switched on or off. Where
    one begins with another it goes first, and the present one is among them where it begins with any. None for a
    server that somebody else runs.
    """
    if server.is_external:
        return []
    now = server.url("files")
    switched = server.model_copy(update={"tls": None if server.tls else Tls()}).url("files")
    others = {*had, switched} - {now}
    kept = {now} if any(now.startswith(url) for url in others) else set()
    return sorted(others | kept, key=lambda url: (-len(url), url))


def ca_files(testbed: Testbed) -> list[str]:
    """Return the files of the administrator's machine with certificates that hosts are to trust."""
    sections = (testbed.proxy, testbed.mirrors, testbed.server.tls, testbed.server)
    files = [section.ca_file for section in sections if section and section.ca_file]
    return [str(file.expanduser().absolute()) for file in files]


def has_bundle(testbed: Testbed) -> bool:
    """Return whether hosts are to trust more than their system does: those files, or the testbed's own CA."""
    tls = testbed.server.tls
    return bool(ca_files(testbed)) or (tls is not None and tls.own_authority)


def _is_direct(host: str, proxy: Proxy) -> bool:
    return any(f".{host}".endswith(f".{name.lstrip('.')}") for name in proxy.no_proxy)


def apt_direct(proxy: Proxy | None, mirrors: Mirrors | None) -> list[str]:
    """Return the hosts that apt reaches without the proxy, by name, for it takes no domains."""
    if proxy is None:
        return []
    urls = [url for url in (mirrors.apt, mirrors.apt_security) if url] if mirrors else []
    found = [host for url in urls if (host := urllib.parse.urlsplit(url).hostname) and _is_direct(host, proxy)]
    return list(dict.fromkeys([*(name for name in proxy.no_proxy if not name.startswith(".")), *found]))


def pip_settings(testbed: Testbed) -> dict[str, str]:
    """Return what `pip.conf` in a user's environment says, so that `pip install` there goes the spec's way."""
    proxy, mirrors, found = testbed.proxy, testbed.mirrors, {}
    index = mirrors.pip if mirrors and mirrors.pip else None
    if index:
        found["index-url"] = index
    if proxy:
        target = urllib.parse.urlsplit(index or "https://")
        # pip asks no_proxy only for a proxy that comes from the environment
        if not _is_direct(target.hostname or "", proxy):
            found["proxy"] = proxy.by_scheme.get(target.scheme, "")
    if ca_files(testbed):
        found["cert"] = CA_BUNDLE
    return {key: value for key, value in found.items() if value}


def _downloads(testbed: Testbed, environment: Mapping[str, str]) -> dict[str, Any]:
    """What the spec says wins over the environment of the administrator's machine, kind by kind."""
    proxy, mirrors = testbed.proxy, testbed.mirrors
    direct = list(dict.fromkeys(testbed.server.name(service) for service in URL_SERVICES))
    if telemetry_host := urllib.parse.urlsplit(testbed.telemetry.url).hostname:
        direct.append(telemetry_host)
    said = {
        name
        for name in environment
        if (proxy and PROXY_VARIABLES.match(name))
        or (mirrors and mirrors.pip and INDEX_VARIABLES.match(name))
        or (has_bundle(testbed) and (name in CA_VARIABLES or name == "SSL_CERT_DIR"))
    }
    given = {name: value for name, value in environment.items() if name not in said}
    return {
        "common_environment": network_environment(given, direct) | spec_environment(testbed, direct),
        "common_proxy": proxy.by_scheme if proxy else {},
        "common_apt_direct": apt_direct(proxy, mirrors),
        "common_apt_mirror": (mirrors and mirrors.apt) or "",
        "common_apt_security_mirror": (mirrors and mirrors.apt_security) or "",
        "common_ca_files": ca_files(testbed),
        "common_ca_bundle": CA_BUNDLE,
        "common_pip_settings": pip_settings(testbed),
    }


def build(
    testbed: Testbed,
    machines: Sequence[Machine],
    wheels: Wheels,
    environment: Mapping[str, str],
    ssh_options: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Return the inventory of `testbed` on `machines` in Ansible's YAML form.

    `environment` is that of the administrator's machine; other hosts have settings of their own, and it is none of
    their business. `ssh_options`: ssh's options for each host that it leads to, by name.
    """
    options = ssh_options or {}
    environment = environment if all(machine.is_local for machine in machines) else {}
    groups = {
        "server": _server(testbed, wheels) | _docker(testbed, machines),
        "telemetry": _influxdb(testbed),
        "agents": {},
        "clients": {
            "clearml_conf_users": [
                {"name": user.name, "full_name": user.full_name or user.name} for user in testbed.users
            ],
            "clearml_conf_let_in": {user.name: user.lines for user in testbed.users},
        },
    }
    watched = _watchdogs(testbed, machines)
    groups["inference"] = _inference(testbed)
    groups["former_inference"] = {}
    groups["watchdogs"] = {}
    # hosts that are not to have a server of the testbed's own any longer
    groups["former_servers"] = {}
    everywhere = {
        "common_testbed_name": testbed.name,
        "common_data_dir": testbed.data_dir,
        "common_grow_root": testbed.provider == "openstack",  # machines of others have the disks that they want
        "common_administrators": testbed.administrator_lines,
        "common_names": names(machines),
        "common_time_servers": list(testbed.time.servers) if testbed.time else [],
        "common_security_updates": testbed.updates_itself,
        **_downloads(testbed, environment),
        "python_venv_constraints": str(HOST_PINS),
        "workload_wheel": str(wheels.workload),
        "clearml_conf_api_url": testbed.server.url("api"),
        "clearml_conf_web_url": testbed.server.url("web"),
        "clearml_conf_files_url": testbed.server.url("files"),
        "clearml_conf_ca_file": CA_BUNDLE
        if testbed.server.ca_file or (testbed.server.tls and has_bundle(testbed))
        else "",
        **_telemetry(testbed),
    }
    if testbed.server.is_external:
        everywhere["clearml_server_backend"] = testbed.server.backend
    return {
        "all": {
            "hosts": {
                machine.name: connection(machine, options.get(machine.name, ()))
                | {"common_account": machine.user, "common_ports": _ports(testbed, machine)}
                | ({"clearml_agent_workers": _workers(testbed, machine)} if "agents" in machine.groups else {})
                | watched.get(machine.name, {})
                for machine in machines
            },
            "vars": everywhere,
            "children": {
                name: {
                    "hosts": {
                        machine.name: {}
                        for machine in machines
                        if name in _groups(machine, testbed)
                        or (name == "watchdogs" and machine.name in watched)
                        or (name == "former_servers" and testbed.server.is_external)
                    },
                    "vars": found,
                }
                for name, found in groups.items()
            },
        }
    }


def _groups(machine: Machine, testbed: Testbed) -> set[str]:
    if "inference" not in machine.groups:
        return {*machine.groups}
    # whoever uses models needs what a client has; the service runs where testbed.yaml asks for it
    service = "inference" if testbed.inference else "former_inference"
    return {*machine.groups} - {"inference"} | {"clients", service}


def names(machines: Sequence[Machine]) -> dict[str, str]:
    """Return the address of each host by its name, for /etc/hosts; nothing where there is but one."""
    return {machine.name: machine.internal for machine in machines} if len(machines) > 1 else {}


def connection(machine: Machine, options: Sequence[str]) -> dict[str, Any]:
    """Return the variables that lead Ansible to `machine`; `options`: ssh's."""
    found = {"ansible_python_interpreter": machine.python, "ansible_become": machine.user != "root"}
    if machine.is_local:
        return {"ansible_connection": "local"} | found
    return {
        "ansible_host": machine.address,
        "ansible_port": machine.port,
        "ansible_user": machine.user,
        "ansible_ssh_common_args": shlex.join(options),
    } | found


def hosts(inventory: dict[str, Any], group: str) -> list[str]:
    """Return the names of the hosts in `group`."""
    return sorted(inventory["all"]["children"][group]["hosts"])


def _ports(testbed: Testbed, machine: Machine) -> list[dict[str, Any]]:
    found = []
    if "server" in machine.groups:
        bind, ports = testbed.server.upstream

        def behind(setting: str) -> str:
            part = setting.rpartition(".")[2]
            return container(PORT_SERVICES[part]) if testbed.server.backend == "docker" else LITE

        found += [
            {"port": port, "bind": bind, "service": behind(setting), "setting": setting, "others": [TLS_PROXY]}
            for setting, port in ports.items()
        ]
        if testbed.server.tls:
            found += [
                {
                    "port": port,
                    "bind": testbed.server.bind,
                    "service": TLS_PROXY,
                    "setting": setting,
                    "others": [behind(each) for each in ports],
                }
                for setting, port in testbed.server.open_ports.items()
            ]
    if "telemetry" in machine.groups and isinstance(testbed.telemetry, ManagedTelemetry):
        binds = {"port": testbed.telemetry.bind, "rpc_port": "127.0.0.1"}
        found += [
            {
                "port": getattr(testbed.telemetry, key),
                "bind": bind,
                "service": "testbed-influxdb",
                "setting": f"telemetry.{key}",
            }
            for key, bind in binds.items()
        ]
    if "inference" in machine.groups and testbed.inference:
        found.append(
            {
                "port": testbed.inference.port,
                "bind": testbed.inference.bind,
                "service": INFERENCE,
                "setting": "inference.port",
            }
        )
    return found


def container(service: str) -> str:
    """Return the name of the container in which a service of the official server runs."""
    return f"{PROJECT}-{service}"


def is_container(service: str) -> bool:
    """Return whether a service of the testbed is a container of the official server."""
    return service.startswith(f"{PROJECT}-") and service != LITE


def server_services(testbed: Testbed) -> list[str]:
    """Return the services on the server's host that are the ClearML server; containers with backend `docker`."""
    server = testbed.server
    if server.backend != "docker":
        return [LITE]
    left_out = {name for name, store in server.stores if store is not None}
    left_out |= set() if server.agent_services else {AGENT_SERVICES}
    return [container(service) for service in SERVICES if service not in left_out]


def api_service(testbed: Testbed) -> str:
    """Return the service that answers the API."""
    return container("apiserver") if testbed.server.backend == "docker" else LITE


def _docker(testbed: Testbed, machines: Sequence[Machine]) -> dict[str, Any]:
    """What the official server's roles are told; of the stores all but their passwords."""
    server, engine = testbed.server, testbed.server.engine
    if server.backend != "docker":
        return {}
    stores = {
        name: store.model_dump(mode="json", exclude_none=True, exclude={"password_file", "ca_file"})
        for name, store in server.stores
        if store is not None
    }
    if server.stores.mongo and server.stores.mongo.ca_file:
        stores["mongo"]["ca_file"] = str(server.stores.mongo.ca_file.expanduser().absolute())
    shares = any({"server", "agents"} <= {*machine.groups} for machine in machines)
    return {
        "clearml_server_version": server.version,
        "clearml_server_registry": server.registry or "",
        "clearml_server_registry_username": server.registry_login.username if server.registry_login else "",
        "clearml_server_images": server.images.by_service,
        "clearml_server_agent_services": server.agent_services,
        "clearml_server_stores": stores,
        "clearml_server_memory_share": SHARED_MEMORY if shares else 100,
        "docker_source": engine.source,
        "docker_repository": engine.repository,
        "docker_key_file": str(engine.key_file.expanduser().absolute()) if engine.key_file else "",
        "docker_registry_mirrors": list(engine.registry_mirrors),
        "docker_address_pools": list(engine.address_pools),
        "docker_reached": [machine.address for machine in machines],
    }


def _server(testbed: Testbed, wheels: Wheels) -> dict[str, Any]:
    server = testbed.server
    if server.is_external:
        return {}
    bind, ports = server.upstream
    api, web, files = ports.values()
    people = [{"username": user.name, "name": user.full_name or user.name} for user in testbed.users]
    return {
        "clearml_server_backend": server.backend,
        "clearml_server_bind": bind,
        "clearml_server_api_port": api,
        "clearml_server_web_port": web,
        "clearml_server_files_port": files,
        "clearml_server_wheel": str(wheels.lite),
        "clearml_server_users": [*people, *({"username": name, "name": name} for name in (ADMIN_USER, AGENT_USER))],
        "clearml_expiry_testbed": testbed.name,
        "clearml_expiry_api_url": server.url("api"),
        **_tls_proxy(testbed),
    }


def _tls_proxy(testbed: Testbed) -> dict[str, Any]:
    server, tls = testbed.server, testbed.server.tls
    if tls is None:
        return {"tls_proxy_services": []}
    return {
        "tls_proxy_bind": server.bind,
        "tls_proxy_services": [
            {
                "name": service,
                "host": server.name(service),
                "port": server.port(service),
                "url": server.url(service),
                "upstream": f"127.0.0.1:{getattr(tls.upstream_ports, service)}",
            }
            for service in URL_SERVICES
        ],
        "tls_proxy_redirect_port": tls.redirect_from or 0,
        # for all ports of a name: only where the names are the proxy's alone
        "tls_proxy_hsts_seconds": HSTS_S if tls.names else 0,
    }


def _telemetry(testbed: Testbed) -> dict[str, Any]:
    """What those who fill the source and those who read it are told alike."""
    telemetry = testbed.telemetry
    found: dict[str, Any] = {
        "telemetry_source": telemetry.source,
        "telemetry_dialect": telemetry.dialect,
        "telemetry_url": telemetry.url,
        "telemetry_measurement": telemetry.measurement,
        "telemetry_days": telemetry.days,
    }
    if isinstance(telemetry, ManagedTelemetry):
        return found | {"telemetry_database": telemetry.database, "telemetry_points": telemetry.points}
    names = ("database", "org", "bucket")
    return found | {f"telemetry_{name}": value for name in names if (value := getattr(telemetry, name)) is not None}


def _influxdb(testbed: Testbed) -> dict[str, Any]:
    telemetry = testbed.telemetry
    if not isinstance(telemetry, ManagedTelemetry):
        return {}
    return {
        "influxdb_bind": telemetry.bind,
        "influxdb_port": telemetry.port,
        "influxdb_rpc_port": telemetry.rpc_port,
        "influxdb_database": telemetry.database,
    }


def _inference(testbed: Testbed) -> dict[str, Any]:
    wanted = testbed.inference
    if wanted is None:
        return {}
    return {
        "inference_project": wanted.project,
        "inference_model": wanted.model or "",
        "inference_bind": wanted.bind,
        "inference_port": wanted.port,
        "inference_keep_days": wanted.keep_days,
    }


def _workers(testbed: Testbed, machine: Machine) -> list[dict[str, Any]]:
    return [
        {"name": worker.name, "queues": list(worker.queues), "prepared": worker.environment == "prepared"}
        | ({"gpus": worker.gpus} if worker.gpus else {})
        for worker in testbed.agents.on(machine.name)
    ]


def _watchdogs(testbed: Testbed, machines: Sequence[Machine]) -> dict[str, dict[str, Any]]:
    """Return the watchdogs' variables by host: each agent host has one, and one, on the server's, looks after tasks."""
    agents = with_group(machines, "agents")
    found: dict[str, dict[str, Any]] = {
        machine.name: {"clearml_watchdog_workers": [worker.name for worker in testbed.agents.on(machine.name)]}
        for machine in agents
    }
    pairs = [(machine.name, worker) for machine in agents for worker in testbed.agents.on(machine.name)]
    for machine in (with_group(machines, "server") or agents)[:1]:
        found[machine.name] = found.get(machine.name, {}) | {
            "clearml_watchdog_all_workers": [f"{host}:{worker.name}" for host, worker in pairs],
            "clearml_watchdog_queues": list(dict.fromkeys(queue for _, worker in pairs for queue in worker.queues)),
            "clearml_watchdog_lost_tasks": testbed.agents.lost_tasks,
        }
    return found


def workers(testbed: Testbed, inventory: dict[str, Any]) -> list[tuple[str, Worker]]:
    """Return (host, worker) for every worker of the testbed."""
    return [(host, worker) for host in hosts(inventory, "agents") for worker in testbed.agents.on(host)]


def services(testbed: Testbed, inventory: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (host, service) for every service that the testbed runs."""
    found = [(host, service) for host in hosts(inventory, "server") for service in server_services(testbed)]
    if testbed.server.tls:
        found += [(host, TLS_PROXY) for host in hosts(inventory, "server")]
    found += [(host, EXPIRY) for host in hosts(inventory, "server")]
    if isinstance(testbed.telemetry, ManagedTelemetry):
        found += [(host, "testbed-influxdb") for host in hosts(inventory, "telemetry")]
    found += [(host, f"testbed-agent-{worker.name}") for host, worker in workers(testbed, inventory)]
    found += [(host, INFERENCE) for host in hosts(inventory, "inference")]
    return found + [(host, "testbed-watchdog") for host in hosts(inventory, "watchdogs")]
