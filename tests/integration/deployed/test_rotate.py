"""`secrets rotate`: every login of until now ends, the testbed stays; a rotation that was killed is completed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import httpx
import pytest

from provision.clearml_api import ClearmlApi
from provision.credentials import ensure
from provision.errors import ApiError
from provision.paths import HOST_MARKER
from provision.secrets import KeyPair, Vault
from tests.integration.deployed.rotating import rotation, seen_during

pytestmark = [pytest.mark.deployed, pytest.mark.long]


def _vault(testbed):
    return Vault(testbed.name).load()


def _works(testbed, keys):
    return {name: ensure.works(testbed.server.url("api"), key) for name, key in keys.items()}


def _status_of(testbed, token):
    with httpx.Client(base_url=testbed.server.url("api"), trust_env=False) as client:
        return client.get("/users.get_current_user", headers={"Authorization": f"Bearer {token}"}).status_code


def _influxdb(testbed, user, password):
    with httpx.Client(trust_env=False, timeout=30) as client:
        url = f"{testbed.telemetry.url}/query"
        return client.post(url, data={"q": "SHOW DATABASES"}, auth=(user, password)).status_code


def _chain(testbed):
    """The workload, as the testbed's first user runs it."""
    user = testbed.users[0].name
    home = Path(f"~{user}").expanduser()
    return subprocess.Popen(
        [
            *("runuser", "-u", user, "--", "env", "-C", str(home), f"HOME={home}"),
            *(str(home / "clearml-venv/bin/testbed-workload"), "chain"),
            *("--queue", testbed.agents.prepared_queue, "--json-lines"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_tasks_that_run_are_not_ended_unasked_and_outlive_new_tokens(testbed, command, api, eventually, keys_in_use):
    before, keys = _vault(testbed), keys_in_use()
    with ClearmlApi(testbed.server.url("api"), keys[f"user {testbed.users[0].name}"]) as user:
        token = user.login()
    chain = _chain(testbed)
    try:

        def running():
            assert chain.poll() is None, f"the chain ended before a task ran: {chain.communicate()[1][-2000:]}"
            # the longest step: one that ends meanwhile is not told
            wanted = {"status": ["in_progress"], "name": "^train$", "search_hidden": True}
            return [task for task in api.call("tasks.get_all", **wanted)["tasks"] if task.get("last_worker")]

        [task, *_] = eventually("a task trains on an agent", running, 240)
        done = command("secrets", "rotate", "--yes")
        assert done.returncode == 4, done.stdout + done.stderr
        assert task["id"] in done.stderr
        assert "--force" in done.stderr
        assert _vault(testbed) == before, "nothing was changed"

        done = command("secrets", "rotate", "--yes", "--tokens-only", "--json")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        report = json.loads(done.stdout)
        assert report["rotated"] == ["clearml.session_secret", "clearml.token_secret"]
        assert (report["issued"], report["revoked"]) == (0, 0)
        assert 0 < report["away_seconds"] < 60
        _, errors = chain.communicate(timeout=600)
        assert chain.returncode == 0, errors[-3000:]
    finally:
        if chain.poll() is None:
            chain.kill()
            chain.communicate()
    assert _status_of(testbed, token) == 401, "the login of before has ended"
    assert _works(testbed, keys) == dict.fromkeys(keys, True)
    after = _vault(testbed)
    assert after.clearml.token_secret != before.clearml.token_secret
    assert after.model_dump(include={"users", "influxdb", "toolkit"}) == before.model_dump(
        include={"users", "influxdb", "toolkit"}
    )


@pytest.fixture
def own(testbed, keys_in_use):
    """A key that a user has made."""
    url = testbed.server.url("api")
    with ClearmlApi(url, keys_in_use()[f"user {testbed.users[0].name}"]) as user:
        made = user.call("auth.create_credentials", label="my laptop")["credentials"]
    own = KeyPair(access_key=made["access_key"], secret_key=made["secret_key"])
    yield own
    with ClearmlApi(url, own) as user:
        user.call("auth.revoke_credentials", access_key=own.access_key)


def test_everything_is_replaced_also_when_it_is_killed_half_way(
    testbed, command, keys_in_use, own, kill_when_taken, tmp_path, monkeypatch
):
    old, old_keys, api_url = _vault(testbed), keys_in_use(), testbed.server.url("api")
    with ClearmlApi(api_url, old_keys[f"user {testbed.users[0].name}"]) as user:
        token = user.login()
    with ClearmlApi(api_url, old.toolkit) as api:
        wanted = {"only_fields": ["id"], "search_hidden": True, "page_size": 500, "page": 0}
        tasks = {task["id"] for task in api.call("tasks.get_all", **wanted)["tasks"]}

    kill_when_taken("secrets", "rotate")
    taken = _vault(testbed)
    assert taken.rotating == "all"
    assert command("secrets", "status").returncode == 1

    done = command("secrets", "rotate", "--yes", "--json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert (report["healthy"], report["kept"]) == (True, None)
    assert {f"users.{name}" for name in old.users} < {*report["rotated"]}
    assert report["issued"] == len(old_keys)
    new, new_keys = _vault(testbed), keys_in_use()
    assert (new.rotating, new.id, new.clearml) == (None, taken.id, taken.clearml), "it went on, not began anew"
    assert json.loads(HOST_MARKER.read_text()) == {"name": testbed.name, "id": new.id}

    assert _works(testbed, old_keys) == dict.fromkeys(old_keys, False)
    assert _works(testbed, new_keys) == dict.fromkeys(new_keys, True)
    assert ensure.works(api_url, own), "a key that a user made stays"
    assert _status_of(testbed, token) == 401
    refused = [(name, user.password) for name, user in old.users.items()]
    refused += [(pair.user_key, pair.user_secret) for pair in (old.clearml.apiserver, old.clearml.fileserver)]
    with httpx.Client(base_url=api_url, trust_env=False) as client:
        assert [client.get("/auth.login", auth=pair).status_code for pair in refused] == [401] * len(refused)
    for secrets, status in ((old, 401), (new, 200)):
        for user, password in secrets.influxdb.model_dump().items():
            assert _influxdb(testbed, user, password) == status, user
    with ClearmlApi(api_url, new.toolkit) as api:
        assert tasks <= {task["id"] for task in api.call("tasks.get_all", **wanted)["tasks"]}
    assert command("secrets", "status").returncode == 0
    assert command("status").returncode == 0

    # who still has the old secrets is told, and puts none of them back
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    Vault(testbed.name).save(old)
    done = command("up", "--yes")
    assert done.returncode == 1
    assert "secrets import FILE" in done.stderr
    assert _works(testbed, new_keys) == dict.fromkeys(new_keys, True)


class TestATaskThatComesMeanwhile:
    @pytest.fixture
    def api(self, testbed, own):
        """With a key that is not replaced."""
        with ClearmlApi(testbed.server.url("api"), own) as api:
            yield api

    def test_it_waits_for_agents_with_new_keys(self, enqueue, status_of, eventually):
        def look():
            try:
                return status_of(task)
            except ApiError:
                return "away"

        with rotation("secrets", "rotate") as begun:
            task = enqueue(0)
            seen = seen_during(begun, look)
            said = begun.stdout.read()
        assert seen - {"away"} == {"queued"}
        assert begun.returncode == 0, said
        eventually("the task is completed", lambda: status_of(task) == "completed", 120)
