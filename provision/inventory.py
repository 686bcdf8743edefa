"""Testbed -> Ansible inventory: hosts, groups, and the roles' variables. Pure; holds no secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.paths import HOST_PINS
from provision.spec import ADMIN_USER, AGENT_USER, ManagedTelemetry, Testbed

LOCAL_HOST = "local"

# How to reach package indexes: handed on from the administrator's environment to the services of this machine.
NETWORK_VARIABLES = re.compile(
    r"^((https?|ftp|all|no)_proxy|PIP_(INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|TRUSTED_HOST|CERT|PROXY|DEFAULT_TIMEOUT)"
    r"|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE)$",
    re.IGNORECASE,
)
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


def build(
    testbed: Testbed, wheels: Wheels, environment: Mapping[str, str], *, become: bool, account: str = "root"
) -> dict[str, Any]:
    """Return the inventory of `testbed` in Ansible's YAML form.

    `environment` is that of the administrator's machine; `become`: whether tasks need sudo (provider local, not root);
    `account`: who manages the hosts.
    """
    host = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "/usr/bin/python3",
        "ansible_become": become,
    }
    groups = {
        "server": _server(testbed, wheels),
        "telemetry": _telemetry(testbed),
        "agents": _agents(testbed),
        "clients": {
            "clearml_conf_users": [
                {"name": user.name, "full_name": user.full_name or user.name} for user in testbed.users
            ]
        },
    }
    everywhere = {
        "common_testbed_name": testbed.name,
        "common_data_dir": testbed.data_dir,
        "common_account": account,
        "common_administrators": testbed.administrator_lines,
        "common_environment": network_environment(environment, [testbed.server.host or testbed.server.bind]),
        "common_ports": _ports(testbed),
        "python_venv_constraints": str(HOST_PINS),
        "workload_wheel": str(wheels.workload),
        "clearml_conf_api_url": testbed.server.url("api"),
        "clearml_conf_web_url": testbed.server.url("web"),
        "clearml_conf_files_url": testbed.server.url("files"),
    }
    return {
        "all": {
            "hosts": {LOCAL_HOST: host},
            "vars": everywhere,
            "children": {name: {"hosts": {LOCAL_HOST: {}}, "vars": variables} for name, variables in groups.items()},
        }
    }


def hosts(inventory: dict[str, Any], group: str) -> list[str]:
    """Return the names of the hosts in `group`."""
    return sorted(inventory["all"]["children"][group]["hosts"])


def _ports(testbed: Testbed) -> list[dict[str, Any]]:
    server = [
        {
            "port": port,
            "bind": testbed.server.bind,
            "service": "testbed-clearml-lite",
            "setting": f"server.ports.{name}",
        }
        for name, port in testbed.server.ports.model_dump().items()
    ]
    if not isinstance(testbed.telemetry, ManagedTelemetry):
        return server
    return server + [
        {
            "port": getattr(testbed.telemetry, key),
            "bind": "127.0.0.1",
            "service": "testbed-influxdb",
            "setting": f"telemetry.{key}",
        }
        for key in ("port", "rpc_port")
    ]


def _server(testbed: Testbed, wheels: Wheels) -> dict[str, Any]:
    server = testbed.server
    people = [{"username": user.name, "name": user.full_name or user.name} for user in testbed.users]
    return {
        "clearml_server_backend": server.backend,
        "clearml_server_bind": server.bind,
        "clearml_server_api_port": server.ports.api,
        "clearml_server_web_port": server.ports.web,
        "clearml_server_files_port": server.ports.files,
        "clearml_server_wheel": str(wheels.lite),
        "clearml_server_users": [*people, *({"username": name, "name": name} for name in (ADMIN_USER, AGENT_USER))],
    }


def _telemetry(testbed: Testbed) -> dict[str, Any]:
    telemetry = testbed.telemetry
    found: dict[str, Any] = {
        "telemetry_source": telemetry.source,
        "telemetry_dialect": telemetry.dialect,
        "telemetry_url": telemetry.url,
        "telemetry_measurement": telemetry.measurement,
        "telemetry_days": telemetry.days,
    }
    if isinstance(telemetry, ManagedTelemetry):
        return found | {
            "telemetry_database": telemetry.database,
            "telemetry_points": telemetry.points,
            "influxdb_bind": "127.0.0.1",
            "influxdb_port": telemetry.port,
            "influxdb_rpc_port": telemetry.rpc_port,
            "influxdb_database": telemetry.database,
        }
    names = ("database", "org", "bucket")
    return found | {f"telemetry_{name}": value for name in names if (value := getattr(telemetry, name)) is not None}


def _agents(testbed: Testbed) -> dict[str, Any]:
    return {
        "clearml_agent_workers": [
            {"name": worker.name, "queues": list(worker.queues), "prepared": worker.environment == "prepared"}
            for worker in testbed.agents.workers
        ]
    }


def services(testbed: Testbed, inventory: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (host, service) for every service that the testbed runs."""
    found = [(host, "testbed-clearml-lite") for host in hosts(inventory, "server")]
    if isinstance(testbed.telemetry, ManagedTelemetry):
        found += [(host, "testbed-influxdb") for host in hosts(inventory, "telemetry")]
    return found + [
        (host, f"testbed-agent-{worker.name}")
        for host in hosts(inventory, "agents")
        for worker in testbed.agents.workers
    ]
