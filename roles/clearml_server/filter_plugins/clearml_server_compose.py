"""What the server's Compose file and its environment files are made of: sizes, digests, quotes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

# of MiB: what the system itself needs, and at least an eighth of the memory
SYSTEM_MB = 1024
SYSTEM_SHARE = 8
# memory of one of gunicorn's workers, in MiB, and how many there are at most (the server's own default)
WORKER_MB = 192
WORKERS = 8


class Size(NamedTuple):
    """A service's memory: at least, of what is left its share, and at most; in MiB."""

    least: int
    share: int
    most: int


# where stores listen unless it is said
STORE_PORTS = {"elasticsearch": 9200, "mongo": 27017, "redis": 6379}
SIZES = {
    "redis": Size(256, 4, 4096),
    "mongo": Size(1024, 20, 16384),
    "elasticsearch": Size(1536, 40, 32768),
    "apiserver": Size(1024, 22, 8192),
    "fileserver": Size(384, 8, 4096),
    "webserver": Size(128, 2, 512),
    "async_delete": Size(256, 4, 1024),
    "agent-services": Size(512, 0, 512),
}


def needed_mb(services: Iterable[str]) -> int:
    """Return the memory in MiB that a host must have to itself for these services."""
    return SYSTEM_MB + sum(SIZES[service].least for service in services)


def clearml_sizes(memory_mb: int, services: list[str]) -> dict[str, dict[str, int]]:
    """Return for each service `limit` and, where there is one, `heap` (MiB), and `workers` of gunicorn.

    The limits together stay below the memory. Elasticsearch's heap is half of its limit: the rest is for its files.
    """
    system = max(SYSTEM_MB, memory_mb // SYSTEM_SHARE)
    spare = max(0, memory_mb - system - sum(SIZES[service].least for service in services))
    shares = sum(SIZES[service].share for service in services) or 1
    found = {}
    for service in services:
        size = SIZES[service]
        limit = min(size.most, size.least + spare * size.share // shares)
        found[service] = {"limit": limit}
        if service == "elasticsearch":
            found[service]["heap"] = limit // 2
        if service == "apiserver":
            found[service]["workers"] = max(2, min(WORKERS, limit // WORKER_MB))
    return found


def clearml_digests(definition: Mapping[str, Any], files: Mapping[str, str], folder: str) -> dict[str, str]:
    """Return by service what tells two states of it apart: its definition, and the files of `folder` that it reads."""
    found = {}
    for service, settings in definition["services"].items():
        read = [*settings.get("env_file", [])]
        mounts = [str(mount).partition(":")[0] for mount in settings.get("volumes", [])]
        read += [path for path in files if any(f"{folder}/{path}".startswith(f"{mount}/") for mount in mounts)]
        read += [path for path in files if f"{folder}/{path}" in mounts]
        parts = [settings, {path: files[path] for path in sorted({*read})}]
        found[service] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return found


def clearml_dotenv(value: Any) -> str:
    """Return a value as Compose's environment files have it, none of its characters meaning anything."""
    text = str(value)
    if not {"'", "\n", "\r"} & {*text} and not text.endswith("\\"):
        return f"'{text}'"
    for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("$", "\\$"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, escaped)
    return f'"{text}"'


def clearml_hocon(value: Any) -> str:
    """Return a value as HOCON has it, a string in quotes; fit for an environment file, too, after `clearml_dotenv`."""
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(clearml_hocon, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(character, escaped)
    return f'"{text}"'


def clearml_path(name: str, folder: str) -> dict[str, str]:
    """Return a file of the folder as the filter `testbed_changes` wants it."""
    return {"path": f"{folder}/{name}"}


def clearml_store_hosts(stores: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return `store`, `host` and `port` of each place where a store that somebody else runs listens."""
    return [
        {"store": name, "host": host, "port": store.get("port", STORE_PORTS[name])}
        for name, store in stores.items()
        for host in (store["host"], *store.get("further_hosts", []))
    ]


def clearml_mongo_url(store: Mapping[str, Any], password: str, query: str) -> str:
    """Return MongoDB's connection string for all hosts of a replica set. `password`: empty where nobody logs in."""
    who = ":".join(quote(word, safe="") for word in (store.get("username", ""), password) if word)
    hosts = [
        f"[{each['host']}]" if ":" in each["host"] else each["host"] for each in clearml_store_hosts({"mongo": store})
    ]
    where = ",".join(f"{host}:{store.get('port', STORE_PORTS['mongo'])}" for host in hosts)
    return f"mongodb://{who}{'@' if who else ''}{where}/{'?' if query else ''}{query}"


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "clearml_sizes": clearml_sizes,
            "clearml_needed_mb": needed_mb,
            "clearml_digests": clearml_digests,
            "clearml_dotenv": clearml_dotenv,
            "clearml_hocon": clearml_hocon,
            "clearml_path": clearml_path,
            "clearml_store_hosts": clearml_store_hosts,
            "clearml_mongo_url": clearml_mongo_url,
        }
