"""testbed.yaml: read, validated, frozen.

An error names the file, the line, the key, what is allowed and, for a misspelt key, the nearest one that exists.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import ssl
import typing
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from provision.errors import SpecError
from provision.paths import EXAMPLE, write_atomic
from provision.spec_hosts import Hosts
from provision.spec_openstack import UNION_TAGS, OpenStack
from provision.spec_server import DOCKER_KEYS, Engine, Images, RegistryLogin, Stores
from provision.spec_tls import HTTPS_PORT, ServiceNames, Tls
from provision.spec_types import (
    MEANINGS,
    AbsolutePath,
    Gpus,
    HostName,
    Identifier,
    ModelName,
    Name,
    OpenUrl,
    Port,
    ProjectName,
    PublicKeys,
    QueueName,
    Registry,
    Section,
    Url,
    UserName,
    Version,
    refuse_duplicates,
)

DEFAULT_FILE = "testbed.yaml"
LOCAL = "local"  # name of the host of provider local

# ClearML usernames that the toolkit itself uses; see `provision.credentials`.
AGENT_USER = "testbed-agent"
ADMIN_USER = "testbed-admin"
Service = Literal["api", "web", "files"]
URL_SERVICES: tuple[Service, ...] = ("api", "web", "files")
RESERVED_USERS = frozenset(
    {AGENT_USER, ADMIN_USER, "root", "clearml-agent", "clearml-inference", "clearml-lite", "influxdb"}
)


class Loader(yaml.SafeLoader):
    """YAML in which only true and false are booleans, as in YAML 1.2: `on` is a key of testbed.yaml."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:[Tt]rue|TRUE|[Ff]alse|FALSE)$"), list("tTfF"))


def bracketed(host: str) -> str:
    """Return a name or address as URLs have it."""
    return f"[{host}]" if ":" in host else host


def is_everywhere(address: str) -> bool:
    """Return whether who listens on `address` listens on every interface."""
    return ipaddress.ip_address(address).is_unspecified


def _address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError("must be an IP address of this machine, such as 127.0.0.1") from None


class Ports(Section):
    """TCP ports of the ClearML server."""

    api: Port = 8008
    """The API server."""
    web: Port = 8080
    """The web app."""
    files: Port = 8081
    """The file server."""


class ServerUrls(Section):
    """Where a ClearML server answers that somebody else runs."""

    api: Url
    """The API server."""
    web: Url
    """The web app."""
    files: Url
    """The file server."""


EXTERNAL_KEYS = ("urls", "ca_file", "credentials_file")
OWN_KEYS = ("bind", "host", "ports", "tls")


class Server(Section):
    """The ClearML server and where it listens."""

    backend: Literal["lite", "docker", "external"] = "lite"
    """`lite`: the embedded server, for one machine; it needs Python 3.11 or later and is no replacement for the
    official server. `docker`: the official server under Docker Compose. `external`: one that somebody else runs; keys
    are issued there, and nothing else is changed. Default: `lite` with provider `local`, else `docker`."""
    bind: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface, which is the default of providers other than `local`."""
    host: HostName | None = None
    """Name or address in URLs. Default: `bind` with provider `local`, where it is needed when `bind` is 0.0.0.0; else
    the address by which the testbed's hosts reach the server."""
    ports: Ports = Ports()
    """TCP ports."""
    version: Version = "2.4.0"
    """Backend `docker`: the version of the official server."""
    registry: Registry | None = None
    """Backend `docker`: where its images come from in place of Docker Hub, as HOST[:PORT][/PREFIX]."""
    registry_login: RegistryLogin | None = None
    """Backend `docker`: who logs in at `registry`, where it wants that."""
    images: Images = Images()
    """Backend `docker`: images in place of those that belong to `version`."""
    agent_services: bool = False
    """Backend `docker`: run the services agent; it is privileged, and whoever may enqueue tasks for it is root."""
    stores: Stores = Stores()
    """Backend `docker`: existing clusters in place of stores on the server's host."""
    engine: Engine = Engine()
    """Backend `docker`: the Docker Engine of the server's host."""
    urls: ServerUrls | None = None
    """Backend `external`: where the server answers, as hosts and users reach it."""
    ca_file: Path | None = None
    """Backend `external`: a PEM file here with the certificates of the server's CA, which hosts and confs trust beside
    their system's."""
    credentials_file: Path | None = None
    """Backend `external`: a file here with a key of that server, as its web app shows it when one is made: an
    administrator's, who may act for all users, or that of the only one of `users`."""

    @model_validator(mode="after")
    def _has_what_its_backend_heeds(self) -> Self:
        foreign = [key for key in DOCKER_KEYS if key in self.model_fields_set]
        if self.backend != "docker" and foreign:
            raise ValueError(f"backend {self.backend} has no use for `{foreign[0]}`, which is for backend docker")
        if self.registry_login and not self.registry:
            raise ValueError("registry_login needs `registry`: where to log in")
        if self.agent_services and self.images.agent_services is None:
            raise ValueError("agent_services needs images.agent_services: its publisher gives it no version")
        return self

    tls: Tls | None = None
    """TLS for all three services; `{}` for a certificate from a CA of the testbed's own. Without it: plain HTTP."""

    @model_validator(mode="after")
    def _has_what_external_heeds(self) -> Self:
        foreign = OWN_KEYS if self.is_external else EXTERNAL_KEYS
        if given := [key for key in foreign if key in self.model_fields_set]:
            raise ValueError(f"backend {self.backend} has no use for `{given[0]}`")
        if self.is_external and (missing := [key for key in ("urls", "credentials_file") if not getattr(self, key)]):
            raise ValueError(f"backend external needs {' and '.join(f'`{key}`' for key in missing)}")
        return self

    @property
    def is_external(self) -> bool:
        """Whether somebody else runs it."""
        return self.backend == "external"

    @field_validator("bind")
    @classmethod
    def _is_address(cls, value: str) -> str:
        return _address(value)

    @model_validator(mode="after")
    def _has_use_for_ports(self) -> Self:
        if self.names is not None and "ports" in self.model_fields_set:
            raise ValueError("has `ports` and `tls.names`: with three names, all are on port 443; leave out `ports`")
        return self

    @property
    def names(self) -> ServiceNames | None:
        """The services' own names, where they have them."""
        return self.tls.names if self.tls else None

    def name(self, service: Service) -> str:
        """Return the name or address in a service's URL."""
        if self.urls is not None:
            return urllib.parse.urlsplit(self.url(service)).hostname or ""
        return getattr(self.names, service) if self.names else self.host or self.bind

    def port(self, service: Service) -> int:
        """Return the port of a service's URL."""
        return HTTPS_PORT if self.names else getattr(self.ports, service)

    def url(self, service: Service) -> str:
        """Return the canonical URL of one of the server's three services, without a trailing slash."""
        if self.urls is not None:
            return str(getattr(self.urls, service)).rstrip("/")
        scheme, port = "https" if self.tls else "http", self.port(service)
        end = "" if self.tls and port == HTTPS_PORT else f":{port}"
        return f"{scheme}://{bracketed(self.name(service))}{end}"

    @property
    def open_ports(self) -> dict[str, int]:
        """The ports on `bind`, by the key of testbed.yaml that chooses them."""
        if self.names:
            found = {"server.tls.names": HTTPS_PORT}
        else:
            found = {f"server.ports.{service}": self.port(service) for service in URL_SERVICES}
        if self.tls and self.tls.redirect_from:
            found["server.tls.redirect_from"] = self.tls.redirect_from
        return found

    @property
    def upstream(self) -> tuple[str, dict[str, int]]:
        """Address and ports on which the server itself listens, by the key of testbed.yaml that chooses them.

        Behind the TLS proxy that is loopback; without one, what is open.
        """
        if self.tls is None:
            return self.bind, self.open_ports
        ports = self.tls.upstream_ports
        return "127.0.0.1", {
            f"server.tls.upstream_ports.{service}": getattr(ports, service) for service in URL_SERVICES
        }


class ManagedTelemetry(Section):
    """InfluxDB from the distribution's package, filled with synthetic RAN telemetry."""

    source: Literal["managed"] = "managed"
    """An InfluxDB 1.x on a host of the testbed."""
    dialect: Literal[1] = 1
    """InfluxQL."""
    host: HostName = "127.0.0.1"
    """Name or address in its URL, and what it listens on. Where users log in to other hosts than its own, the default
    is the address by which these reach it."""
    port: Port = 8086
    """InfluxDB's HTTP API."""
    rpc_port: Port = 8088
    """InfluxDB's own backup service, on loopback."""
    database: Identifier = "telemetry"
    """Where the points are."""
    measurement: Identifier = "randata"
    """Where in the database the points are."""
    points: Annotated[int, Field(strict=True, ge=1000, le=100_000_000)] = 200_000
    """At least so many points are there."""
    days: Annotated[int, Field(strict=True, ge=1, le=3650)] = 30
    """Over so many days up to now."""

    @property
    def url(self) -> str:
        """Base URL of the InfluxDB HTTP API."""
        return f"http://{bracketed(self.host)}:{self.port}"

    @property
    def bind(self) -> str:
        """The address to listen on: `host`, or every one of its machine's where that is a name."""
        try:
            return str(ipaddress.ip_address(self.host))
        except ValueError:
            return "0.0.0.0"  # noqa: S104 (who knows no password gets in nowhere)


class TelemetryCredentials(Section):
    """How to read an external InfluxDB: a user with a password (1.x) or a token (2.x), each in a file."""

    username: str | None = None
    """Who reads (dialect 1)."""
    password_file: Path | None = None
    """A file that holds the password and nothing else (dialect 1)."""
    token_file: Path | None = None
    """A file that holds the token and nothing else (dialect 2)."""


class ExternalTelemetry(Section):
    """An InfluxDB that somebody else runs; it is only ever read."""

    source: Literal["external"]
    """One that you already have."""
    dialect: Literal[1, 2]
    """1: InfluxQL (1.x); 2: 2.x."""
    url: Url
    """Base URL of its HTTP API."""
    database: str | None = None
    """Dialect 1: where the points are."""
    org: str | None = None
    """Dialect 2: the organisation."""
    bucket: str | None = None
    """Dialect 2: where the points are."""
    measurement: Identifier = "randata"
    """Where in the database or bucket the points are."""
    days: Annotated[int, Field(strict=True, ge=1, le=3650)] = 30
    """How far back the workload reads."""
    credentials: TelemetryCredentials = TelemetryCredentials()
    """Who reads."""

    @model_validator(mode="after")
    def _matches_its_dialect(self) -> Self:
        needed, foreign = (["database"], ["org", "bucket"]) if self.dialect == 1 else (["org", "bucket"], ["database"])
        if missing := [key for key in needed if getattr(self, key) is None]:
            raise ValueError(f"dialect {self.dialect} needs {' and '.join(missing)}")
        if extra := [key for key in foreign if getattr(self, key) is not None]:
            raise ValueError(f"dialect {self.dialect} has no {' and no '.join(extra)}")
        credentials = self.credentials
        if self.dialect == 2 and credentials.token_file is None:
            raise ValueError("dialect 2 needs credentials.token_file: the path of a file that holds the token")
        if self.dialect == 1 and (credentials.username is None) != (credentials.password_file is None):
            raise ValueError("credentials.username and credentials.password_file go together")
        return self


Telemetry = Annotated[ManagedTelemetry | ExternalTelemetry, Field(discriminator="source")]


class Worker(Section):
    """One agent service on every agent host, or on some.

    `environment`: `task` builds a virtual environment from each task's own requirements; `prepared` runs tasks at once
    in the host's prepared environment.
    """

    name: Name
    """The worker's name; on the server it is HOST:NAME."""
    queues: Annotated[tuple[QueueName, ...], Field(min_length=1)]
    """The queues that it serves, the most urgent first."""
    environment: Literal["task", "prepared"]
    """`task`: an environment for each task, from its own requirements; `prepared`: the host's, at once."""
    hosts: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """The agent hosts that run it, by name (such as `agent-1`, or a machine's of `hosts`); default: all."""
    gpus: Gpus | None = None
    """The GPUs that it and its tasks see: `none`, `all`, or indexes such as `"0,1"`, as nvidia-smi has them. Default:
    what the host shows."""

    @field_validator("hosts")
    @classmethod
    def _are_apart(cls, hosts: tuple[str, ...] | None) -> tuple[str, ...] | None:
        refuse_duplicates("host", list(hosts or ()))
        return hosts

    @field_validator("gpus")
    @classmethod
    def _are_counted_once(cls, gpus: str | None) -> str | None:
        refuse_duplicates("GPU", (gpus or "").split(","))
        return gpus


class Agents(Section):
    """The workers on each agent host."""

    workers: Annotated[tuple[Worker, ...], Field(min_length=1)] = (
        Worker(name="default", queues=("default",), environment="task"),
        Worker(name="prepared", queues=("prepared",), environment="prepared"),
    )
    """Agent services on every agent host; at least one with `environment: prepared`. Default: `default` on queue
    `default`, `prepared` on queue `prepared`."""
    lost_tasks: Literal["requeue", "fail"] = "requeue"
    """What becomes of a task whose worker died: `requeue`: it is queued again, and fails when that happens once more;
    `fail`: it fails at once."""

    @model_validator(mode="after")
    def _are_distinct(self) -> Self:
        refuse_duplicates("worker", [worker.name for worker in self.workers])
        if not any(worker.environment == "prepared" for worker in self.workers):
            raise ValueError("one worker needs `environment: prepared`: the reference workload runs there")
        return self

    def on(self, host: str) -> tuple[Worker, ...]:
        """Return the workers of the agent host `host`."""
        return tuple(worker for worker in self.workers if worker.hosts is None or host in worker.hosts)

    @property
    def prepared_queue(self) -> str:
        """The queue on which the reference workload runs."""
        return next(worker.queues[0] for worker in self.workers if worker.environment == "prepared")

    @property
    def task_queues(self) -> list[str]:
        """The queues whose tasks get an environment of their own."""
        return [queue for worker in self.workers if worker.environment == "task" for queue in worker.queues]


class Inference(Section):
    """A service on the hosts of group `inference` that answers predictions over HTTP by the newest published model."""

    project: ProjectName = "rapp_examples"
    """The ClearML project whose newest published model answers."""
    model: ModelName | None = None
    """Only models of this name; default: all of the project."""
    bind: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface. It asks for no password: whoever reaches it is answered."""
    port: Port = 8090
    """TCP port."""
    keep_days: Annotated[int, Field(strict=True, ge=1, le=3650)] = 30
    """For so many days, what was asked and answered is kept there."""

    @field_validator("bind")
    @classmethod
    def _is_address(cls, value: str) -> str:
        return _address(value)


class User(Section):
    """A person who gets credentials, a Linux account and a client environment."""

    name: UserName
    """Linux account and ClearML user."""
    full_name: str | None = None
    """The name that the web app shows; default: `name`."""
    ssh_keys: PublicKeys = ()
    """Public keys that open the Linux account on hosts with clients, each one line of a `.pub` file."""

    @property
    def lines(self) -> list[str]:
        """The keys as lines of authorized_keys; each ends in the user's name."""
        return [f"{key} {self.name}" for key in self.ssh_keys]


class Administrator(Section):
    """A person who may log in to the testbed's hosts by SSH, through the account that manages them."""

    name: Name
    """Who it is; the comment of the keys on the hosts."""
    ssh_keys: Annotated[PublicKeys, Field(min_length=1)]
    """Public keys, each one line of a `.pub` file."""


class Time(Section):
    """Whom the hosts' clocks follow."""

    servers: Annotated[tuple[HostName, ...], Field(min_length=1)]
    """NTP servers, the preferred one first."""


class Proxy(Section):
    """The way to package indexes; the testbed's own services are always reached directly."""

    http: OpenUrl | None = None
    """Proxy for `http://` URLs."""
    https: OpenUrl | None = None
    """Proxy for `https://` URLs; without it, the same."""
    no_proxy: tuple[HostName, ...] = ()
    """What is reached directly: names, addresses, or `.example` for all below it."""
    ca_file: Path | None = None
    """For a proxy that opens TLS: a PEM file here with certificates that hosts trust beside their system's."""

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if self.http is None and self.https is None:
            raise ValueError("needs `http` or `https`: http://HOST:PORT of the proxy")
        return self

    @property
    def by_scheme(self) -> dict[str, str]:
        """The proxy's URL for `http` and for `https`."""
        found = {"http": self.http, "https": self.https or self.http}
        return {scheme: url for scheme, url in found.items() if url}


def _is_bare_address_with_tls(url: str) -> bool:
    parts = urllib.parse.urlsplit(url)
    try:
        ipaddress.ip_address(parts.hostname or "")
    except ValueError:
        return False
    return parts.scheme == "https"


class Mirrors(Section):
    """Where hosts get packages from, in place of the indexes that they are set up with."""

    apt: OpenUrl | None = None
    """Archive of the hosts' distribution."""
    apt_security: OpenUrl | None = None
    """That of the security updates, which Debian keeps apart; without it, Ubuntu's are taken from `apt`."""
    pip: OpenUrl | None = None
    """Simple index of Python packages; no other is asked then."""
    ca_file: Path | None = None
    """A PEM file here with certificates that hosts trust beside their system's."""

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if self.apt is None and self.pip is None:
            raise ValueError("needs `apt` or `pip`: the URL of a mirror")
        if self.apt_security is not None and self.apt is None:
            raise ValueError("has `apt_security` but no `apt`: name the archive itself, too")
        if self.pip is not None and _is_bare_address_with_tls(self.pip):
            raise ValueError("`pip` must name its host: pip refuses https to a bare address")
        return self


class Testbed(Section):
    """A whole testbed, as testbed.yaml describes it."""

    __test__ = False

    name: Name
    """The testbed's name: in labels of keys, and of the folder of its secrets."""
    provider: Literal["local", "hosts", "openstack"]
    """`local`: this machine. `hosts`: machines that are there, reached by SSH. `openstack`: virtual machines, made as
    `openstack` says."""
    hosts: Hosts | None = None
    """The machines, and the way to them; for provider `hosts`, and only for it."""
    openstack: OpenStack | None = None
    """The cloud, and the servers there; for provider `openstack`, and only for it."""
    data_dir: AbsolutePath = "/var/lib/testbed"
    """Databases, files and caches."""
    server: Server
    """The ClearML server."""
    telemetry: Telemetry = ManagedTelemetry()
    """Where telemetry comes from; without it, a managed InfluxDB."""
    agents: Agents = Agents()
    """Who runs tasks."""
    inference: Inference | None = None
    """Who answers predictions; without it, nobody."""
    users: Annotated[tuple[User, ...], Field(min_length=1)]
    """Who works with the testbed: each gets a Linux account, an environment and a key."""
    administrators: tuple[Administrator, ...] = ()
    """Who may log in by SSH to the account that manages the hosts."""
    time: Time | None = None
    """Whom the hosts' clocks follow; without it, whom they are set up to follow."""
    security_updates: bool | None = None
    """Install the distribution's security updates on the hosts every day, and reboot none; hosts without systemd are
    left out. Default: true with providers `hosts` and `openstack`, false with `local`."""
    proxy: Proxy | None = None
    """The way to package indexes, where there is no direct one."""
    mirrors: Mirrors | None = None
    """Where packages come from, in place of the indexes that the hosts are set up with."""

    @model_validator(mode="before")
    @classmethod
    def _official_unless_local(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("provider") not in ("hosts", "openstack"):
            return data
        server = data.get("server")
        return {**data, "server": {"backend": "docker", **server}} if isinstance(server, dict) else data

    @field_validator("telemetry", mode="before")
    @classmethod
    def _managed_unless_said(cls, value: Any) -> Any:
        return {"source": "managed", **value} if isinstance(value, dict) else value

    @field_validator("users")
    @classmethod
    def _are_distinct(cls, users: tuple[User, ...]) -> tuple[User, ...]:
        names = [user.name for user in users]
        refuse_duplicates("user", names)
        for user in users:
            refuse_duplicates(f"key of user {user.name}:", list(user.ssh_keys))
        if taken := RESERVED_USERS.intersection(names):
            raise ValueError(f"user name {sorted(taken)[0]!r} is used by the system or by the testbed itself")
        return users

    @field_validator("administrators")
    @classmethod
    def _have_keys_of_their_own(cls, administrators: tuple[Administrator, ...]) -> tuple[Administrator, ...]:
        refuse_duplicates("administrator", [administrator.name for administrator in administrators])
        owners: dict[str, str] = {}
        for administrator in administrators:
            for key in administrator.ssh_keys:
                if key in owners:
                    raise ValueError(f"a key of {administrator.name} is there twice, first as one of {owners[key]}")
                owners[key] = administrator.name
        return administrators

    @property
    def updates_itself(self) -> bool:
        """Whether the hosts install security updates every day."""
        return self.provider != "local" if self.security_updates is None else self.security_updates

    @property
    def agent_user(self) -> str:
        """The ClearML user whose keys agents have: the testbed's own; on another's server the first of `users`."""
        return self.users[0].name if self.server.is_external else AGENT_USER

    @property
    def admin_user(self) -> str:
        """The ClearML user whose key the toolkit has: the testbed's own; on another's server the first of `users`."""
        return self.users[0].name if self.server.is_external else ADMIN_USER

    @property
    def administrator_lines(self) -> list[str]:
        """The administrators' keys as lines of authorized_keys; each ends in its owner's name."""
        return [
            f"{key} {administrator.name}" for administrator in self.administrators for key in administrator.ssh_keys
        ]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        for name, section in (("hosts", self.hosts), ("openstack", self.openstack)):
            if (self.provider == name) != (section is not None):
                has = "needs a section" if section is None else "has no use for the section"
                raise ValueError(f"provider {self.provider} {has} `{name}`")
        nameless = self.server.host is None and self.server.names is None
        if self.provider == "local" and nameless and is_everywhere(self.server.bind):
            raise ValueError(
                f"`server.bind` {self.server.bind} listens everywhere: set server.host to the name that URLs carry"
            )
        if self.openstack is not None and not self.administrators:
            raise ValueError("provider openstack needs `administrators`: their SSH keys are the only way into servers")
        if self.hosts is not None:
            with_server = [machine.name for machine in self.hosts.machines if "server" in machine.groups]
            if self.server.is_external and with_server:
                raise ValueError(
                    f"{with_server[0]} has group `server`, and the server is external: leave the group out"
                )
            if not self.server.is_external and not with_server:
                raise ValueError("no machine has group `server`; give it to one of `machines`")
        ports = [] if self.server.is_external else [*self.server.open_ports.values()]
        if self.server.tls is not None:
            ports += self.server.upstream[1].values()
        if isinstance(self.telemetry, ManagedTelemetry):
            ports += [self.telemetry.port, self.telemetry.rpc_port]
        if self.inference is not None:
            ports.append(self.inference.port)
        refuse_duplicates("port", ports)
        self._refuse_workers_elsewhere()
        return self

    @property
    def agent_hosts(self) -> tuple[str, ...]:
        """The names of the agent hosts."""
        if self.hosts is not None:
            return self.hosts.with_agents
        return self.openstack.nodes.names("agents") if self.openstack is not None else (LOCAL,)

    def _refuse_workers_elsewhere(self) -> None:
        there = self.agent_hosts
        for worker in self.agents.workers:
            if missing := [name for name in worker.hosts or () if name not in there]:
                raise ValueError(
                    f"worker {worker.name!r} is to run on {missing[0]!r}, which is no agent host: "
                    f"take one of {', '.join(there)}, or leave `hosts` out"
                )


def load(path: Path | None) -> Testbed:
    """Return the testbed that `path` describes; None: `testbed.yaml` in the current folder, else the built-in one.

    Raises `SpecError` for a file that cannot be read, is no YAML, or does not describe a testbed.
    """
    if path is None:
        path = Path(DEFAULT_FILE) if Path(DEFAULT_FILE).exists() else EXAMPLE
    return parse(read(path), str(path))


def certificates(path: Path, key: str) -> str:
    """Return the certificates in the PEM file that `key` of a spec names. Raises `SpecError`."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
        ssl.create_default_context(cadata=text)
    except (OSError, ValueError, ssl.SSLError) as error:
        raise SpecError(
            f"{key}: {path}: holds no certificates that can be read: {error}",
            "Name a file with certificates in PEM form.",
        ) from None
    return text


def read(path: Path) -> str:
    """Return the text of a testbed.yaml. Raises `SpecError`."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file", "Make one with `testbed init`, or name another with --spec.") from None
    except IsADirectoryError:
        raise SpecError(f"{path}: is a folder", "Name the file, such as testbed.yaml.") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}", "Check its owner and mode.") from None
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path}: is no text file (byte {error.start} is not UTF-8)", "Write it as YAML in UTF-8."
        ) from None


def parse(text: str, file: str) -> Testbed:
    """Return the testbed that YAML `text` describes; `file` is the name for messages. Raises `SpecError`."""
    try:
        node = yaml.compose(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        line = (error.problem_mark or error.context_mark).line + 1  # type: ignore[union-attr]
        raise SpecError(
            f"{file}:{line}: bad YAML: {error.problem}", "Check indentation, quotes and brackets."
        ) from None
    except yaml.YAMLError as error:
        raise SpecError(f"{file}: bad YAML: {str(error).splitlines()[0]}", "Write it as YAML in UTF-8.") from None
    except RecursionError:
        raise SpecError(f"{file}: bad YAML: nested too deeply", "Check brackets.") from None
    if node is None:
        raise SpecError(f"{file}: is empty", "Make a commented one with `testbed init`.")
    if not isinstance(node, yaml.MappingNode):
        raise SpecError(
            f"{file}:{node.start_mark.line + 1}: expected keys such as `name:` and `server:`", "See `testbed init`."
        )
    try:
        lines = dict(_lines(node, ()))
        repeated = next(_repeated_keys(node), None)
        data = yaml.load(text, Loader)  # noqa: S506 (a SafeLoader)
    except RecursionError:
        raise SpecError(f"{file}: bad YAML: an alias refers to itself", "Write it without aliases.") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise SpecError(f"{file}: bad YAML: {str(error).splitlines()[0]}", "Put quotes around plain text.") from None
    if repeated is not None:
        line = repeated.start_mark.line + 1
        raise SpecError(f"{file}:{line}: key `{repeated.value}` is there twice", "Remove one of them.")
    try:
        return Testbed.model_validate(data)
    except ValidationError as error:
        messages = [_explain(dict(detail), lines, file) for detail in error.errors(include_url=False)]
        raise SpecError("\n".join(messages), "`testbed init` writes a commented example.") from None


def _lines(node: yaml.Node, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], int]]:
    """Yield (path of keys, line number from 1) for every key and item below `node`."""
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, key.value)
            for found, line in _lines(value, below):
                yield found, key.start_mark.line + 1 if found == below else line
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*path, index))


def _repeated_keys(node: yaml.Node) -> Iterator[yaml.Node]:
    children = []
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        yield from (key for index, (key, _) in enumerate(node.value) if key.value in keys[:index])
        children = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    for child in children:
        yield from _repeated_keys(child)


def _explain(detail: dict[str, Any], lines: dict[tuple[str | int, ...], int], file: str) -> str:
    # the tag of a discriminated union is part of pydantic's location, but not of the file
    path = tuple(part for part in detail["loc"] if part not in UNION_TAGS)
    if path[:1] == ("telemetry",) and path[1:2] in (("managed",), ("external",)):
        path = path[:1] + path[2:]
    known = path
    while known not in lines:
        known = known[:-1]
    key = ".".join(str(part) for part in path)
    where = f"{file}:{lines[known]}: " + (f"`{key}` " if key else "")
    match detail["type"]:
        case "extra_forbidden":
            allowed = _allowed_keys(path[:-1])
            near = difflib.get_close_matches(str(path[-1]), allowed, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"allowed here: {', '.join(allowed)}"
            return f"{where}is unknown; {hint}"
        case "missing":
            return f"{where}is missing"
        case "string_pattern_mismatch":
            return f"{where}must be {MEANINGS[detail['ctx']['pattern']]}; found {_shown(detail['input'])}"
        case "literal_error":
            return f"{where}must be {detail['ctx']['expected']}; found {_shown(detail['input'])}"
        case "union_tag_invalid":
            return f"{where}source must be {detail['ctx']['expected_tags']}; found {detail['ctx']['tag']!r}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{where}must hold keys: {', '.join(_allowed_keys(path))}"
        case "tuple_type":
            return f"{where}must be a list"
        case "value_error":
            return f"{where}{detail['ctx']['error']}"
        case _:
            return f"{where}{detail['msg'][0].lower()}{detail['msg'][1:]}; found {_shown(detail['input'])}"


def _shown(value: Any) -> str:
    found = repr(value)
    return "a private key, which is nobody's to see" if "PRIVATE KEY" in found else found


def _allowed_keys(path: tuple[str | int, ...]) -> list[str]:
    """Return the keys that may stand below `path` in testbed.yaml."""
    models = [Testbed]
    for part in path:
        if isinstance(part, str):
            models = [
                found
                for model in models
                if part in model.model_fields
                for found in _models(model.model_fields[part].annotation)
            ]
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def _models(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(typing.get_origin(annotation) or annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models(argument)]


def check_unchanged(path: Path, text: str) -> None:
    """Raise `SpecError` where a testbed.yaml does not have `text` any more."""
    if read(path) != text:
        raise SpecError(
            f"{path}: somebody changed it since this command read it, so it is left alone",
            "Run the same command again.",
        )


def replace(path: Path, before: str, after: str) -> None:
    """Write `after` into a testbed.yaml that has `before`; a crash leaves the one or the other.

    Mode and owner stay. Raises `SpecError`, also where it has something else by now.
    """
    check_unchanged(path, before)
    try:
        file = path.resolve()
        write_atomic(file, after.encode(), like=file.stat())
    except OSError as error:
        raise SpecError(f"{path}: cannot be written: {error.strerror}", "Mend its owner or mode.") from None


def write_example(path: Path) -> None:
    """Write a commented testbed.yaml to `path`; an existing file is never overwritten (`SpecError`)."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(EXAMPLE.read_text(encoding="utf-8"))
    except FileExistsError:
        raise SpecError(f"{path}: exists already", "Edit it, or name another file with --spec.") from None
    except OSError as error:
        raise SpecError(
            f"{path}: cannot be written: {error.strerror}", "Choose a folder that you may write to."
        ) from None
