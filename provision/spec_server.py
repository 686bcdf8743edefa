"""The sections of testbed.yaml about the official ClearML server: its images, its stores, its Docker Engine."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import StringConstraints, field_validator, model_validator

from provision.spec_types import IMAGE, NETWORK, QUERY, HostName, OpenUrl, Port, Section

Image = Annotated[str, StringConstraints(pattern=IMAGE)]
Network = Annotated[str, StringConstraints(pattern=NETWORK)]
Query = Annotated[str, StringConstraints(pattern=QUERY)]

SMALLEST_POOL = 22
# keys of `server` that only the official server heeds
DOCKER_KEYS = ("version", "registry", "registry_login", "images", "agent_services", "stores", "engine")
AGENT_SERVICES = "agent-services"
# the services of the Compose project, in the order in which they start
STORES = ("redis", "mongo", "elasticsearch")
SERVICES = (*STORES, "apiserver", "fileserver", "webserver", "async_delete", AGENT_SERVICES)
# what the server keeps in them
IN_STORES = {
    "mongo": "MongoDB (tasks, models, users)",
    "elasticsearch": "Elasticsearch (scalars, logs, plots)",
    "redis": "Redis (sessions, queues of work)",
}


class Images(Section):
    """Images in place of those that belong to `version`, each a whole reference, best with a digest."""

    apiserver: Image | None = None
    """The API server."""
    fileserver: Image | None = None
    """The file server."""
    webserver: Image | None = None
    """The web server."""
    async_delete: Image | None = None
    """What deletes the files of deleted tasks."""
    redis: Image | None = None
    """Redis."""
    mongo: Image | None = None
    """MongoDB."""
    elasticsearch: Image | None = None
    """Elasticsearch."""
    agent_services: Image | None = None
    """The services agent; its publisher gives it no version, so it needs a digest."""

    @property
    def by_service(self) -> dict[str, str]:
        """The references that are given, by service of the Compose project."""
        return {name.replace("agent_services", AGENT_SERVICES): image for name, image in self if image is not None}


class RegistryLogin(Section):
    """Who fetches images from `registry`."""

    username: str
    """Who logs in."""
    password_file: Path
    """A file here that holds the password, or a token, and nothing else."""


class Mongo(Section):
    """A MongoDB that somebody else runs."""

    host: HostName
    """Its name or address."""
    further_hosts: tuple[HostName, ...] = ()
    """Further members of its replica set, on the same port; `query` has the set's name."""
    port: Port = 27017
    """Its port."""
    username: str | None = None
    """Who logs in."""
    password_file: Path | None = None
    """A file here that holds the password and nothing else."""
    query: Query | None = None
    """Options of the connection, such as `authSource=admin&replicaSet=rs0`."""
    ca_file: Path | None = None
    """A PEM file here; with it the connection is by TLS, and the server's certificate is checked against it."""

    @model_validator(mode="after")
    def _has_whole_credentials(self) -> Self:
        _refuse_half(self.username, self.password_file)
        return self

    @model_validator(mode="after")
    def _names_its_replica_set(self) -> Self:
        if self.further_hosts and "replicaSet=" not in (self.query or ""):
            raise ValueError("further_hosts are members of a replica set: name it, as in query: replicaSet=rs0")
        return self


class Elasticsearch(Section):
    """An Elasticsearch that somebody else runs."""

    host: HostName
    """Its name or address."""
    port: Port = 9200
    """Its port."""
    username: str | None = None
    """Who logs in."""
    password_file: Path | None = None
    """A file here that holds the password and nothing else."""

    @model_validator(mode="after")
    def _has_whole_credentials(self) -> Self:
        _refuse_half(self.username, self.password_file)
        return self


class Redis(Section):
    """A Redis that somebody else runs; the server uses its databases, number 8 among them, as its own."""

    host: HostName
    """Its name or address."""
    port: Port = 6379
    """Its port."""
    password_file: Path | None = None
    """A file here that holds the password and nothing else."""


def _refuse_half(username: str | None, password_file: Path | None) -> None:
    if (username is None) != (password_file is None):
        raise ValueError("username and password_file go together")


class Stores(Section):
    """Existing clusters in place of stores on the server's host; what is named here is not started there."""

    mongo: Mongo | None = None
    """Tasks, models, users."""
    elasticsearch: Elasticsearch | None = None
    """Scalars, logs, plots."""
    redis: Redis | None = None
    """Sessions and queues of work."""

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """The stores that are not on the server's host, by the names of their keys here."""
        return tuple(name for name, store in self if store is not None)

    @property
    def password_files(self) -> dict[str, Path]:
        """The files with the stores' passwords, by store."""
        return {name: store.password_file for name, store in self if store is not None and store.password_file}


def in_words(stores: Sequence[str]) -> str:
    """Return which stores these are and what is in them, for people; empty where there are none."""
    return " and ".join(IN_STORES.get(name, name) for name in stores)


class Engine(Section):
    """The Docker Engine of the server's host; one that is there keeps its settings but for what is named here."""

    source: Literal["distribution", "docker"] = "distribution"
    """`distribution`: the packages docker.io and docker-compose-v2. `docker`: those of Docker's own repository."""
    repository: OpenUrl = "https://download.docker.com/linux"
    """Docker's repository or a mirror of it, without the distribution's name."""
    key_file: Path | None = None
    """A file here with the key that signs it, as Docker publishes it; needed with source `docker`."""
    registry_mirrors: tuple[OpenUrl, ...] = ()
    """Mirrors of Docker Hub that are asked first. Default: those that the Engine has."""
    address_pools: tuple[Network, ...] = ()
    """Networks, such as 10.213.0.0/16, that containers get addresses from. Default: those that the Engine
    has, else one that the host does not use."""

    @field_validator("address_pools")
    @classmethod
    def _have_room(cls, pools: tuple[str, ...]) -> tuple[str, ...]:
        for pool in pools:
            try:
                network = ipaddress.IPv4Network(pool)
            except ValueError as error:
                raise ValueError(f"{pool} is no network: {error}") from None
            if network.prefixlen > SMALLEST_POOL:
                raise ValueError(f"{pool} is too small: two networks of /24 and the default bridge must fit, so /22")
        return pools

    @model_validator(mode="after")
    def _has_a_key(self) -> Self:
        if self.source == "docker" and self.key_file is None:
            raise ValueError("source docker needs `key_file`: the key that signs the repository")
        return self
