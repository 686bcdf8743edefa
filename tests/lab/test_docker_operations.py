"""Operations with the official server's backend, over SSH on a real host, with stand-ins for its images.

One testbed is brought up for all of them, with the older server that is known; each test leaves it well.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from provision.clearml_api import ClearmlApi
from provision.credentials import ensure
from provision.credentials.ensure import parse_key
from tests.lab import hosts as lab
from tests.lab import official
from tests.lab.gateway import read_indexes
from tests.lab.images import build

if TYPE_CHECKING:
    from provision.secrets import KeyPair
    from tests.lab.conftest import Engine, Host

pytestmark = pytest.mark.full

SPEC = official.ONE.replace("backend: docker", "backend: docker, version: 2.3.0")
BACKUPS, OLD_PASSWORD = f"{lab.HOME}/backups", f"{lab.HOME}/old-password"
WORKERS = ("server:default", "server:prepared")
# an agent looks into its queues every second or two
SEVERAL_LOOKS_S = 10


@dataclass(frozen=True)
class Bed:
    """A testbed that is up, and its host as it was before."""

    lab: lab.Lab
    before: dict[str, list[str]]

    @property
    def server(self) -> Host:
        """The host."""
        return self.lab.machines["server"]

    @property
    def url(self) -> str:
        """The API server's."""
        return f"http://{self.lab.addresses['server']}:8008"

    def told(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Return what a command says as JSON."""
        found: dict[str, Any] = json.loads(self.lab.testbed(*arguments, "--json", progress=False, code=code))
        return found

    def answer(self, token: str) -> int:
        """Return the status with which the API server answers who has this token."""
        with httpx.Client(base_url=self.url, trust_env=False) as client:
            login = {"Authorization": f"Bearer {token}"}
            return client.get("/users.get_current_user", headers=login).status_code

    @contextmanager
    def saying(self, words: str, instead_of: str = "") -> Iterator[None]:
        """Have testbed.yaml say more of the server, or something else, while the block runs."""
        path = f"{lab.CHECKOUT}/testbed.yaml"
        before = self.lab.desk.run("cat", path)
        after = before.replace(instead_of, words) if instead_of else before.replace("version:", f"{words}, version:")
        assert after != before
        self.lab.desk.write(path, after.encode())
        try:
            yield
        finally:
            self.lab.desk.write(path, before.encode())

    def key(self) -> KeyPair:
        """Return the key that the user has."""
        found = parse_key(self.server.run("cat", f"/home/{official.USER}/clearml.conf"))
        assert found
        return found


@pytest.fixture(scope="module")
def bed(engine: Engine) -> Iterator[Bed]:
    """One machine for everything, behind a bastion, with the older server."""
    with official.running(engine, {"server": lab.Kind(engine=True)}, SPEC, "2.3.0") as found:
        before = lab.snapshot(found.machines["server"])
        official.assert_all_passed(found.testbed("up", "--yes"))
        official.assert_all_passed(found.testbed("smoke", "--keep"))  # data of every kind
        yield Bed(found, before)


def assert_is_kept(before: dict[str, Any], after: dict[str, Any]) -> None:
    """All that was there before is there; the checks since then have added to it."""
    for what, entries in before.items():
        assert entries, what
        assert {each: after[what].get(each) for each in entries} == entries, what


def test_after_a_purge_without_a_trace_a_backup_brings_all_back(bed: Bed) -> None:
    before, key = official.seen(bed.lab, bed.server), bed.key()
    made = bed.told("backup", "--yes", "--to", BACKUPS)
    lab.wait_for(lambda: official.are_healthy(bed.server), "the server does not come back after a backup", 120)
    print(f"\nlab: a backup of {made['bytes'] >> 20} MiB, server away for {made['downtime']:.0f} s")
    bed.lab.desk.run("cp", f"{lab.HOME}/.config/testbed/far/vault-password", OLD_PASSWORD, options=("--user", "ada"))

    bed.lab.testbed("down", "--yes", "--purge")
    assert lab.snapshot(bed.server) == bed.before
    bed.lab.testbed("up", "--yes")
    assert not ensure.works(bed.url, key)

    report = bed.told("restore", made["backup"], "--yes", "--backup-password-file", OLD_PASSWORD)
    assert report["healthy"]
    assert_is_kept(before, official.seen(bed.lab, bed.server))
    assert bed.key() == key
    assert ensure.works(bed.url, key)
    official.assert_nothing_changed(bed.lab.testbed("up", "--yes"))


def test_a_rotation_ends_logins_and_then_all_that_was_issued(bed: Bed) -> None:
    key = bed.key()
    with official.api(bed.lab, bed.server) as api:
        token = api.login()
    assert bed.answer(token) == 200
    report = bed.told("secrets", "rotate", "--yes", "--tokens-only")
    assert (report["healthy"], report["issued"], report["revoked"]) == (True, 0, 0)
    assert bed.answer(token) == 401, "the login of before has ended"
    print(f"\nlab: tokens alone: API server away for {report['away_seconds']} s")
    assert bed.key() == key
    assert ensure.works(bed.url, key)

    report = bed.told("secrets", "rotate", "--yes")
    assert report["healthy"]
    assert "clearml.redis_password" in report["rotated"]
    print(f"lab: all secrets: API server away for {report['away_seconds']} s")
    assert bed.key() != key
    assert not ensure.works(bed.url, key)
    assert ensure.works(bed.url, bed.key())
    official.assert_nothing_changed(bed.lab.testbed("up", "--yes"))


def test_a_key_that_is_revoked_now_ends_with_its_tokens_and_agents_log_in_again(bed: Bed) -> None:
    def signed() -> dict[str, str]:
        """The environment of each container that signs tokens, or checks them."""
        template = "{{json .Config.Env}}"
        found = {name: bed.server.run("docker", "inspect", "--format", template, name) for name in official.CONTAINERS}
        return {name: said for name, said in found.items() if "token_secret" in said}

    bed.told("credentials", "issue", official.USER, "--purpose", "short", "--out", "short.conf")
    short = parse_key(bed.lab.desk.run("cat", f"{lab.CHECKOUT}/short.conf"))
    assert short
    with ClearmlApi(bed.url, short) as api:
        token = api.login()
    assert bed.answer(token) == 200
    before = signed()
    report = bed.told("credentials", "revoke", official.USER, "--purpose", "short", "--now", "--yes")
    assert (report["healthy"], report["tokens"], len(report["revoked"])) == (True, "ended", 1)
    assert bed.answer(token) == 401
    assert not ensure.works(bed.url, short)
    assert ensure.works(bed.url, bed.key())
    after = signed()
    assert before.keys() == after.keys() >= {"testbed-clearml-apiserver"}
    assert [name for name in before if before[name] == after[name]] == []
    with official.api(bed.lab, bed.server) as api:
        task = official.enqueue_sleep(api, 0)
        lab.wait_for(lambda: official.status_of(api, task) == "completed", "no agent takes the task", 120)


def test_a_drained_host_takes_no_task_until_it_is_undrained(bed: Bed) -> None:
    drained = bed.told("drain", "server", "--wait", "--timeout", "120")
    assert {worker["name"]: worker["state"] for worker in drained["workers"]} == dict.fromkeys(WORKERS, "drained")
    with official.api(bed.lab, bed.server) as api:
        task = official.enqueue_sleep(api, 0)
        time.sleep(SEVERAL_LOOKS_S)
        assert official.status_of(api, task) == "queued"
        found = official.status(bed.lab)
        assert {worker["name"] for worker in found["workers"] if worker["drained"]} == {*WORKERS}
        bed.lab.testbed("undrain")
        lab.wait_for(lambda: official.status_of(api, task) == "completed", "the task is not taken", 120)


def test_status_names_what_does_not_run_or_answer_and_up_mends_it(bed: Bed) -> None:
    def problems() -> list[dict[str, str]]:
        return list(official.status(bed.lab, code=1)["problems"])

    for action in ("stop", "kill"):
        bed.server.run("docker", action, "testbed-clearml-redis")
        [found] = [each for each in problems() if "testbed-clearml-redis" in each["message"]]
        assert found["remedy"] == "See its last words, testbed logs clearml-redis, and start it: testbed up"
        bed.lab.testbed("up", "--yes")
        assert official.are_healthy(bed.server), official.containers(bed.server)

    with bed.saying("registry: mirror.lab:9", instead_of="registry: mirror.lab:8443"):
        [found] = problems()
    assert "mirror https://mirror.lab:9 (server.registry) does not answer" in found["message"]
    assert "name another one in server.registry of testbed.yaml" in found["remedy"]

    with bed.saying("ports: {api: 9008, web: 9080, files: 9081}"):
        silent = [each for each in problems() if "does not answer" in each["message"]]
    host = bed.lab.addresses["server"]
    assert [each["message"].split()[0] for each in silent] == [f"http://{host}:{port}" for port in (9008, 9080, 9081)]
    assert all("testbed up" in each["remedy"] for each in silent)
    assert official.status(bed.lab)["healthy"]


def test_redis_may_be_on_another_host(bed: Bed) -> None:
    image = build.build(bed.server.engine, read_indexes())["redis"]
    name, address = f"{bed.server.engine.name}-redis", f"{bed.server.engine.subnet}.99"
    network = ("--network", bed.lab.gateway.network, "--ip", address)
    starts = 'exec docker-entrypoint.sh redis-server - <<EOF\nrequirepass "$REDISCLI_AUTH"\nEOF'
    password = "a 'password' of the site's own"  # noqa: S105
    elsewhere = f"stores: {{redis: {{host: {address}, password_file: ./redis.pw}}}}"
    bed.lab.desk.write(f"{lab.CHECKOUT}/redis.pw", password.encode())
    bed.lab.desk.run("chown", "ada:", f"{lab.CHECKOUT}/redis.pw")
    bed.server.engine.run(
        *("run", "--detach", "--name", name, *network, "--env", f"REDISCLI_AUTH={password}"),
        *(image, "sh", "-c", starts),
    )
    try:
        with bed.saying(elsewhere):
            bed.lab.testbed("up", "--yes")
            own = {*official.CONTAINERS} - {"testbed-clearml-redis"}
            assert sorted(official.containers(bed.server)) == sorted(own)
            asked = shlex.join(["redis-cli", "-n", "8", "get", "lab"])
            assert bed.server.engine.run("exec", name, "sh", "-c", asked) == "seen", "the file server uses that one"
            written = bed.server.run("sh", "-c", 'grep -rl "of the site" /etc/testbed/clearml | xargs stat -c %a')
            assert set(written.split()) == {"600"}
            assert password not in bed.server.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
            official.assert_nothing_changed(bed.lab.testbed("up", "--yes"))
        bed.lab.testbed("up", "--yes")
        assert official.are_healthy(bed.server), official.containers(bed.server)
    finally:
        bed.server.engine.run("rm", "--force", "--volumes", name)


def test_the_services_agent_comes_by_its_digest_and_where_the_host_may_not_run_it_that_is_said(bed: Bed) -> None:
    image = build.build(bed.server.engine, read_indexes())["redis"]
    pushed = f"{bed.lab.gateway.registry}/clearml/clearml-agent-services:lab"
    bed.server.engine.run("tag", image, pushed)
    digest = re.search(r"sha256:[0-9a-f]{64}", bed.server.engine.run("push", pushed))
    assert digest
    reference = f"mirror.lab:8443/clearml/clearml-agent-services@{digest[0]}"
    with bed.saying(f"agent_services: true, images: {{agent_services: '{reference}'}}"):
        said = bed.lab.testbed("up", "--yes", code=1)
    assert bed.server.run("docker", "image", "inspect", "--format", "{{.Id}}", reference), "the image came"
    # privileged needs CAP_SYS_RESOURCE, which the lab's hosts have not
    assert "testbed-clearml-agent-services is created" in said
    assert "operation not permitted" in said
    bed.lab.testbed("up", "--yes")
    assert official.are_healthy(bed.server), official.containers(bed.server)


def test_a_failed_upgrade_leaves_the_testbed_as_it_was_and_a_good_one_keeps_all(bed: Bed) -> None:
    gateway, api_image = bed.lab.gateway, "mirror.lab:8443/clearml/server"
    images = build.build(bed.server.engine, read_indexes())
    ill = {**images, "clearml/server": build.build_ill(bed.server.engine, images["clearml/server"])}
    before, running = official.seen(bed.lab, bed.server), official.images_of(bed.server)
    assert running["testbed-clearml-apiserver"] == f"{api_image}:2.3.0"

    build.publish(gateway, ill, official.VERSIONS["2.4.0"])
    said = bed.lab.testbed("upgrade", "--server", "2.4.0", "--to", BACKUPS, "--yes", code=1)
    assert "server 2.4.0 did not come up well" in said
    assert "testbed-clearml-apiserver" in said, "which service"
    assert "The testbed is as it was, with server 2.3.0." in said
    assert official.images_of(bed.server) == running
    assert official.are_healthy(bed.server), official.containers(bed.server)
    assert "version: 2.3.0" in bed.lab.desk.run("cat", f"{lab.CHECKOUT}/testbed.yaml")
    assert_is_kept(before, official.seen(bed.lab, bed.server))
    official.assert_nothing_changed(bed.lab.testbed("up", "--yes"))

    build.publish(gateway, images, official.VERSIONS["2.4.0"])
    bed.server.run("docker", "image", "rm", f"{api_image}:2.4.0")  # a version's images do not change, but here
    report = bed.told("upgrade", "--server", "2.4.0", "--to", BACKUPS, "--yes")
    assert (report["healthy"], report["before"], report["server"]) == (True, "2.3.0", "2.4.0")
    assert official.images_of(bed.server)["testbed-clearml-apiserver"] == f"{api_image}:2.4.0"
    left = bed.server.run("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert f"{api_image}:2.3.0" not in left, "the images of before go"
    assert_is_kept(before, official.seen(bed.lab, bed.server))
    assert "version: 2.4.0" in bed.lab.desk.run("cat", f"{lab.CHECKOUT}/testbed.yaml")
    official.assert_nothing_changed(bed.lab.testbed("up", "--yes"))
