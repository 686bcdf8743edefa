"""A server that gets new secrets keeps its data and refuses everything old; against a live server."""

from __future__ import annotations

import httpx
import pytest

from provision import away, rotation, secret_state, secrets, spec
from provision.clearml_api import ClearmlApi
from provision.credentials import ensure, identities
from provision.credentials.identities import Identity
from provision.credentials.issuer import Issuer
from provision.errors import ApiError, BusyError, SecretsError
from provision.secrets import KeyPair, Vault
from provision.spec import ADMIN_USER, AGENT_USER


@pytest.fixture
def server(make_server, tmp_path, monkeypatch):
    """A server that takes the secrets of a vault, and the testbed and the vault that it is of."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE, raising=False)
    lite = make_server()
    port = lite.config["api_port"]
    text = f"name: lab\nprovider: local\nserver: {{ports: {{api: {port}}}}}\nusers: [{{name: alice}}]\n"
    lite.testbed = spec.parse(text, "t.yaml")
    lite.vault = Vault("lab")

    def take(found):
        lite.config["token_secret"] = found.clearml.token_secret
        identities_of_its_own = {*lite.config["credentials"]}
        lite.config["credentials"] = found.clearml.model_dump(include=identities_of_its_own)
        lite.config["users"] = [
            {"username": name, "name": name, "password_hash": user.password_hash} for name, user in found.users.items()
        ]
        if lite.process is not None:
            lite.stop()
        lite.start()

    lite.take = take
    take(lite.vault.ensure(lite.testbed))
    return lite


EVERYBODY = [
    Identity(identities.TOOLKIT, ADMIN_USER, identities.TOOLKIT),
    Identity("user/alice", "alice", "client"),
    *(Identity(f"agent/local/{name}", AGENT_USER, f"agent@local/{name}") for name in ("default", "prepared")),
]


def _issue(server):
    found = server.vault.load()
    keys = ensure.ensure_all(server.urls["api"], Issuer(found.clearml.apiserver.pair), "lab", EVERYBODY, {})
    server.vault.save(found.model_copy(update={"toolkit": keys[identities.TOOLKIT].key}))
    return {name: entry.key for name, entry in keys.items()}


def _login(server, name, secret):
    return httpx.get(f"{server.urls['api']}/auth.login", auth=(name, secret)).status_code


def test_everything_old_is_refused_and_data_stays(server):
    url, before = server.urls["api"], server.vault.load()
    keys = _issue(server)
    with ClearmlApi(url, keys["user/alice"]) as alice:
        project = alice.call("projects.create", name="kept project", description="")["id"]
        token = alice.login()
        own = alice.call("auth.create_credentials", label="a copy that somebody has")["credentials"]
    with ClearmlApi(url, keys[identities.TOOLKIT]) as admin:
        admin.login()

    server.vault.rekey(server.testbed)
    after = server.vault.load()
    server.take(after)
    new = _issue(server)
    revoked = ensure.revoke_others(url, Issuer(after.clearml.apiserver.pair), {key.access_key for key in new.values()})
    assert revoked == 1, "the key under a label of its own; those of the testbed went when theirs were issued anew"

    assert [name for name, key in keys.items() if ensure.works(url, key)] == []
    assert _login(server, own["access_key"], own["secret_key"]) == 401
    assert _login(server, "alice", before.users["alice"].password) == 401
    for identity in ("apiserver", "fileserver", "services_agent"):
        pair = getattr(before.clearml, identity)
        assert _login(server, pair.user_key, pair.user_secret) == 401
    bearer = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{url}/users.get_current_user", headers=bearer).status_code == 401

    assert all(ensure.works(url, key) for key in new.values())
    assert _login(server, "alice", after.users["alice"].password) == 200
    with ClearmlApi(url, new["user/alice"]) as alice:
        assert [found["id"] for found in alice.call("projects.get_all", name="^kept project$")["projects"]] == [project]


def test_a_rotation_ends_tokens_and_issued_keys_and_leaves_those_that_users_made(server):
    url, before = server.urls["api"], server.vault.load()
    keys = _issue(server)
    with ClearmlApi(url, keys["user/alice"]) as alice:
        token = alice.login()
        own = KeyPair(
            **{
                name: value
                for name, value in alice.call("auth.create_credentials", label="my laptop")["credentials"].items()
                if name != "label"
            }
        )
    server.vault.rotate(server.testbed, "all")
    after = server.vault.load()
    with away.watched(f"{url}/debug.ping") as gone:
        server.take(after)
    assert 0 < gone.seconds < 20
    new = _issue(server)

    assert [name for name, key in keys.items() if ensure.works(url, key)] == []
    assert all(ensure.works(url, key) for key in new.values())
    assert ensure.works(url, own, "alice")
    assert _login(server, "alice", before.users["alice"].password) == 401
    assert _login(server, "alice", after.users["alice"].password) == 200
    for identity in ("apiserver", "fileserver", "services_agent"):
        pair = getattr(before.clearml, identity)
        assert _login(server, pair.user_key, pair.user_secret) == 401
    assert httpx.get(f"{url}/users.get_current_user", headers={"Authorization": f"Bearer {token}"}).status_code == 401


def test_a_rotation_of_tokens_ends_every_login_and_no_key(server):
    url, keys = server.urls["api"], _issue(server)
    with ClearmlApi(url, keys["user/alice"]) as alice:
        token = alice.login()
        server.vault.rotate(server.testbed, "tokens")
        server.take(server.vault.load())
        bearer = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{url}/users.get_current_user", headers=bearer).status_code == 401
        assert alice.call("users.get_current_user")["user"]["id"] == ensure.user_id("alice"), "it logs in again"
    assert all(ensure.works(url, key) for key in keys.values())


def test_while_a_task_runs_nothing_is_rotated(server):
    keys = _issue(server)
    found = server.vault.load()
    rotation.check_idle(server.testbed, found)
    with ClearmlApi(server.urls["api"], keys["user/alice"]) as alice:
        task = alice.call("tasks.create", name="long training", type="training")["id"]
        rotation.check_idle(server.testbed, found)
        alice.call("tasks.started", task=task)
        with pytest.raises(BusyError, match=f"long training .{task}"):
            rotation.check_idle(server.testbed, found)
        alice.call("tasks.stopped", task=task)
    rotation.check_idle(server.testbed, found)


def test_secrets_that_the_server_does_not_take_are_not_rotated(server):
    with pytest.raises(SecretsError, match="cannot be rotated"):
        rotation.check_theirs(server.testbed, server.vault.load())
    _issue(server)
    rotation.check_theirs(server.testbed, server.vault.load())
    server.stop()
    with pytest.raises(ApiError):
        rotation.check_theirs(server.testbed, server.vault.load())


def test_revoking_again_revokes_nothing(server):
    keys = {key.access_key for key in _issue(server).values()}
    issuer = Issuer(server.vault.load().clearml.apiserver.pair)
    assert ensure.revoke_others(server.urls["api"], issuer, keys) == 0


def test_status_tells_keys_that_are_taken_from_those_that_are_not(server, tmp_path):
    def answer():
        found = secret_state.collect(server.testbed, server.vault, tmp_path / "no-marker")
        return next(check for check in found.checks if "ClearML" in check.name)

    assert answer().result == "no", "no key was issued yet"
    _issue(server)
    assert answer().result == "yes"
    found = server.vault.load()
    server.vault.save(found.model_copy(update={"toolkit": KeyPair(access_key="A" * 30, secret_key="S" * 40)}))
    assert answer().result == "no"
    assert "secrets import" in answer().remedy
    server.stop()
    assert answer().result == "not running"


def test_the_keys_of_a_server_that_does_not_answer_cannot_be_revoked(server):
    issuer = Issuer(server.vault.load().clearml.apiserver.pair)
    server.stop()
    with pytest.raises(ApiError):
        ensure.revoke_others(server.urls["api"], issuer, set())
