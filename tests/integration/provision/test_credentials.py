"""Everybody has one key that works, whatever happened before; against a live server."""

from __future__ import annotations

import pytest

from provision.clearml_api import ClearmlApi
from provision.credentials import ensure
from provision.credentials.identities import Identity
from provision.credentials.issuer import Issuer
from provision.errors import ApiError
from provision.secrets import KeyPair, SystemKey
from provision.spec import AGENT_USER

ALICE = Identity("user/alice", "alice", "client")
WORKER = Identity("agent/local/default", "bob", "agent@local/default")
EVERYBODY = [ALICE, WORKER]


@pytest.fixture
def ensured(lite):
    issuer = Issuer(SystemKey(**lite.config["credentials"]["apiserver"]).pair)

    def call(held=None, everybody=EVERYBODY):
        return ensure.ensure_all(lite.urls["api"], issuer, "lab", everybody, held or {})

    return call


def _keys(found):
    return {name: entry.key for name, entry in found.items()}


def _labelled(lite, user):
    return {
        entry["access_key"]: entry.get("label") for entry in lite.call("auth.get_credentials", user=user)["credentials"]
    }


def test_everybody_gets_a_key_of_their_own_under_their_label(lite, ensured):
    found = _keys(ensured())
    assert found["user/alice"].access_key != found["agent/local/default"].access_key
    assert ensure.works(lite.urls["api"], found["user/alice"], "alice")
    assert ensure.works(lite.urls["api"], found["agent/local/default"], "bob")
    assert not ensure.works(lite.urls["api"], found["user/alice"], "bob")
    assert _labelled(lite, "alice")[found["user/alice"].access_key] == "testbed:lab user:alice purpose:client"


def test_a_key_that_works_is_kept(ensured):
    first = ensured()
    second = ensured(_keys(first))
    assert _keys(second) == _keys(first)
    assert not any(entry.issued or entry.revoked for entry in second.values())


def test_a_lost_key_is_issued_anew_and_the_orphan_revoked(lite, ensured):
    first = _keys(ensured())
    second = ensured({"agent/local/default": first["agent/local/default"]})
    assert second["user/alice"].issued
    assert second["user/alice"].revoked == 1
    assert not second["agent/local/default"].issued
    assert not ensure.works(lite.urls["api"], first["user/alice"])
    assert ensure.works(lite.urls["api"], second["user/alice"].key, "alice")


def test_a_key_of_somebody_else_is_not_taken(lite, ensured):
    first = _keys(ensured())
    swapped = ensured({"user/alice": first["agent/local/default"], "agent/local/default": first["agent/local/default"]})
    assert swapped["user/alice"].issued
    assert swapped["user/alice"].key != first["agent/local/default"]


def test_keys_that_a_user_made_are_left_alone(lite, ensured):
    own = lite.call("auth.create_credentials", {"label": "my laptop"})["credentials"]
    ensured()
    assert own["access_key"] in _labelled(lite, "alice")


def test_a_key_that_a_user_made_does_not_stand_in_for_the_testbeds(lite, ensured):
    own = lite.call("auth.create_credentials", {"label": "my laptop"})["credentials"]
    key = KeyPair(access_key=own["access_key"], secret_key=own["secret_key"])
    assert ensured({"user/alice": key})["user/alice"].issued


class TestWhoLeft:
    """Keys of users and workers that are in the spec no more."""

    GONE = Identity("agent/local/gone", AGENT_USER, "agent@local/gone")
    HERE = Identity("agent/local/here", AGENT_USER, "agent@local/here")

    @pytest.fixture
    def server(self, make_server):
        server = make_server()
        server.config["users"].append(server.user(AGENT_USER, AGENT_USER))
        server.start()
        return server

    def test_their_keys_are_found_and_revoked_and_no_others(self, server):
        url, issuer = server.urls["api"], Issuer(SystemKey(**server.config["credentials"]["apiserver"]).pair)
        bob = Identity("user/bob", "bob", "client")
        keys = _keys(ensure.ensure_all(url, issuer, "lab", [ALICE, bob, self.GONE, self.HERE], {}))
        others = _keys(ensure.ensure_all(url, issuer, "lab-2", [bob, self.GONE], {}))
        own = [
            ("bob", "my laptop"),
            ("bob", "testbed:lab user:alice purpose:client"),  # bob wrote that; it is no key that was issued to alice
            ("alice", "testbed:lab user:alice purpose:laptop"),  # issued to a user who stays
            ("alice", "testbed:lab user:ghost purpose:client"),
        ]
        kept = [server.call("auth.create_credentials", {"label": label}, user)["credentials"] for user, label in own]
        stay = [ALICE, self.HERE]

        found = ensure.find_stale(url, issuer, "lab", stay)
        assert [(stale.holder.name, stale.access_key) for stale in found] == [
            (name, keys[name].access_key) for name in ("agent/local/gone", "user/bob")
        ]
        assert all(ensure.works(url, key) for key in keys.values()), "to look revokes nothing"

        assert ensure.revoke_stale(url, issuer, "lab", stay) == 2
        assert {name for name, key in keys.items() if ensure.works(url, key)} == {"user/alice", "agent/local/here"}
        assert all(ensure.works(url, key) for key in others.values()), "another testbed's"
        assert all(
            ensure.works(url, KeyPair(access_key=key["access_key"], secret_key=key["secret_key"])) for key in kept
        )
        assert ensure.revoke_stale(url, issuer, "lab", stay) == 0


def test_a_server_that_does_not_answer_is_said(ensured):
    with pytest.raises(ApiError) as error:
        ensure.ensure_all("http://127.0.0.1:1", Issuer(KeyPair(access_key="k", secret_key="s")), "lab", EVERYBODY, {})
    assert "http://127.0.0.1:1" in error.value.message
    assert error.value.code == 0


def test_something_else_on_the_port_is_said(lite):
    with ClearmlApi(lite.urls["web"], KeyPair(access_key="k", secret_key="s")) as api, pytest.raises(ApiError) as error:
        api.login()
    assert "not an answer of the ClearML API" in error.value.message


def test_a_revoked_token_is_renewed_behind_the_scenes(lite, ensured):
    key = _keys(ensured())["user/alice"]
    with ClearmlApi(lite.urls["api"], key) as api:
        api.login()
        api._token = "expired"
        assert api.call("users.get_current_user")["user"]["id"] == ensure.user_id("alice")
