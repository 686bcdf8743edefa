"""What the tests of the official server's backend on real hosts share: what runs, what answers, what is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from provision.clearml_api import ClearmlApi
from provision.credentials.ensure import parse_key
from tests.lab import hosts as lab
from tests.lab.gateway import read_indexes
from tests.lab.images import build

if TYPE_CHECKING:
    from tests.lab.conftest import Engine, Host

VERSIONS = {
    "2.3.0": {"clearml/server": "2.3.0", "mongo": "7.0.22", "elasticsearch": "8.17.0", "redis": "7.4.1"},
    "2.4.0": {"clearml/server": "2.4.0", "mongo": "8.0.15", "elasticsearch": "8.19.9", "redis": "8.2.3"},
}
STORES = {"redis": 6379, "mongo": 27017, "elasticsearch": 9200}
CONTAINERS = [f"testbed-clearml-{name}" for name in (*STORES, "apiserver", "fileserver", "webserver", "async_delete")]
USER = "researcher"
# testbed.yaml of one machine that is everything; see `hosts.Lab.words`
ONE = """\
name: far
provider: hosts
hosts:
  user: keeper
  jump_host: {{host: {bastion}, user: keeper}}
  machines:
    - {{name: server, address: {server}, groups: [server, telemetry, clients, agents]}}
server: {{backend: docker, registry: mirror.lab:8443}}
users: [{{name: researcher}}]
"""
DATA = "/var/lib/testbed/clearml/data"
WHAT = {
    "users.get_all": ("users", ["id", "name"]),
    "projects.get_all": ("projects", ["id", "name"]),
    "tasks.get_all": ("tasks", ["id", "name", "status", "last_metrics", "execution", "system_tags"]),
    "models.get_all": ("models", ["id", "name", "uri"]),
}


@contextmanager
def running(engine: Engine, kinds: Mapping[str, lab.Kind], spec: str, version: str = "2.4.0") -> Iterator[lab.Lab]:
    """Yield a lab whose registry has the stand-ins for one version of the server; see `hosts.running`."""
    images = build.build(engine, read_indexes())
    with lab.running(engine, kinds, spec + lab.MIRRORS) as found:
        build.start_registry(found.gateway)
        build.publish(found.gateway, images, VERSIONS[version])
        found.prepare()
        yield found


def containers(host: Host) -> dict[str, str]:
    """Return what the host's engine says of each container."""
    listed = host.run("docker", "ps", "--all", "--format", "{{.Names}} {{.Status}}", check=False).splitlines()
    return dict(line.split(" ", 1) for line in listed)


def are_healthy(host: Host) -> bool:
    """Tell whether all of the server's containers run and are healthy."""
    found = containers(host)
    return sorted(found) == sorted(CONTAINERS) and all("(healthy)" in status for status in found.values())


def images_of(host: Host) -> dict[str, str]:
    """Return the image of each of the host's containers."""
    listed = host.run("docker", "ps", "--all", "--format", "{{.Names}} {{.Image}}").splitlines()
    return dict(line.split(" ", 1) for line in listed)


def addresses(server: Host) -> dict[str, list[str]]:
    """Return each container's addresses in its own networks."""
    template = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
    return {name: server.run("docker", "inspect", "--format", template, name).split() for name in CONTAINERS}


def assert_all_passed(said: str) -> None:
    """Every check of the whole chain passed."""
    passed = re.search(r"(\d+) of (\d+) checks passed", said)
    assert passed, said
    assert passed[1] == passed[2], said
    assert int(passed[2]) > 30, f"the full chain runs, too: {said}"


def assert_nothing_changed(said: str) -> None:
    """Neither play changed anything."""
    assert re.findall(r"changed=(\d+)", said) == ["0", "0"], said


def status(there: lab.Lab, code: int = 0) -> dict[str, Any]:
    """Return what `testbed status` says."""
    found: dict[str, Any] = json.loads(there.testbed("status", "--json", progress=False, code=code))
    return found


def problems(there: lab.Lab) -> list[str]:
    """Return what is not well, or that the hosts cannot be reached."""
    words = "./testbed status --json 2>/dev/null; true"
    clean = ("env", "-i", f"HOME={lab.HOME}", *lab.ENVIRONMENT)
    told = there.desk.run(*clean, "sh", "-c", words, options=("--user", "ada", "--workdir", lab.CHECKOUT))
    try:
        return [str(problem) for problem in json.loads(told)["problems"]]
    except (ValueError, KeyError):
        return [f"no status: {told}"]


@contextmanager
def api(there: lab.Lab, host: Host, url: str | None = None) -> Iterator[ClearmlApi]:
    """Yield the API server as the user sees it, with the key of their clearml.conf on that host."""
    key = parse_key(host.run("cat", f"/home/{USER}/clearml.conf"))
    assert key, "the user has no key"
    with ClearmlApi(url or f"http://{there.addresses['server']}:8008", key) as found:
        yield found


def trust_of(host: Host) -> str:
    """Return the certificate of the testbed's own CA as a host of it has it, PEM."""
    return "-----BEGIN" + host.run("cat", "/etc/testbed/ca-bundle.crt").rpartition("-----BEGIN")[2]


def seen(there: lab.Lab, host: Host) -> dict[str, Any]:
    """Return all that the API tells of the data, by kind and id, and the SHA-256 of every file of the file server."""
    found: dict[str, Any] = {}
    with api(there, host) as server:
        for endpoint, (what, fields) in WHAT.items():
            entries = server.call(endpoint, only_fields=fields, page_size=500, page=0)[what]
            found[what] = {entry["id"]: {name: entry.get(name) for name in fields} for entry in entries}
        found["scalars"] = {
            task: server.call("events.scalar_metrics_iter_histogram", task=task) for task in found["tasks"]
        }
    script = f"cd {DATA}/fileserver/files && find . -type f -exec sha256sum {{}} +"
    sums = there.machines["server"].run("sh", "-c", script).splitlines()
    found["files"] = {path: digest for digest, path in (line.split(maxsplit=1) for line in sums)}
    return found


def enqueue_sleep(api: ClearmlApi, seconds: int) -> str:
    """Have an agent sleep so long; return the task."""
    script = {"binary": "python", "entry_point": "sleep.py", "working_dir": ".", "repository": "", "branch": ""}
    script |= {"diff": f"import time\ntime.sleep({seconds})\n", "requirements": {"pip": ""}}
    task = api.call("tasks.create", name=f"sleep {seconds}", type="testing", script=script)["id"]
    [queue] = api.call("queues.get_all", name="^prepared$")["queues"]
    api.call("tasks.enqueue", task=task, queue=queue["id"])
    return str(task)


def status_of(api: ClearmlApi, task: str) -> str:
    """Return a task's status."""
    return str(api.call("tasks.get_by_id", task=task)["task"]["status"])
