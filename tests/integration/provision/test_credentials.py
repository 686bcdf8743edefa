"""Everybody has one key that works, whatever happened before; against a live server."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
from rich.console import Console

from provision import deploy, drain, inventory, machines, secrets, spec
from provision.clearml_api import ClearmlApi
from provision.credentials import ensure, identities
from provision.credentials.identities import Identity
from provision.credentials.issuer import Issuer
from provision.errors import ApiError, BusyError, TestbedError
from provision.secrets import KeyPair, SystemKey, Vault
from provision.session import Session
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


class TestNewKeys:
    """Keys that replace others: both work until the new ones are on the hosts."""

    @pytest.fixture
    def renewed(self, lite, ensured):
        """Keys of until now, and new ones beside them."""
        issuer = Issuer(SystemKey(**lite.config["credentials"]["apiserver"]).pair)
        old = _keys(ensured())
        return old, ensure.issue_anew(lite.urls["api"], issuer, "lab", EVERYBODY)

    def test_both_work_under_the_same_label(self, lite, renewed):
        old, new = renewed
        assert {*old} == {*new}
        assert not {key.access_key for key in old.values()} & {key.access_key for key in new.values()}
        for user, name in (("alice", "user/alice"), ("bob", "agent/local/default")):
            assert ensure.works(lite.urls["api"], old[name], user)
            assert ensure.works(lite.urls["api"], new[name], user)
        labels = {_labelled(lite, "alice")[keys["user/alice"].access_key] for keys in renewed}
        assert labels == {"testbed:lab user:alice purpose:client"}

    def test_killed_before_they_are_on_a_host_the_next_run_keeps_the_old_ones(self, lite, ensured, renewed):
        old, new = renewed
        assert _keys(ensured(old)) == old
        assert [ensure.works(lite.urls["api"], key) for key in new.values()] == [False, False]

    def test_killed_when_one_host_has_them_the_next_run_keeps_what_each_has(self, lite, ensured, renewed):
        old, new = renewed
        held = {"user/alice": new["user/alice"], "agent/local/default": old["agent/local/default"]}
        assert _keys(ensured(held)) == held
        assert not ensure.works(lite.urls["api"], old["user/alice"])

    def test_when_the_hosts_have_them_the_old_ones_go(self, lite, ensured, renewed):
        old, new = renewed
        done = ensured(new)
        assert (_keys(done), sum(found.revoked for found in done.values())) == (new, 2)
        assert not any(found.issued for found in done.values())
        assert [ensure.works(lite.urls["api"], key) for key in old.values()] == [False, False]

    def test_a_host_that_has_not_got_one_is_named(self, tmp_path, renewed):
        old, new = renewed
        (tmp_path / "gpu-1").mkdir()
        file = tmp_path / "gpu-1" / "user__alice.conf"
        for key in (new["user/alice"], old["user/alice"]):
            file.write_text(f'access_key: "{key.access_key}"\nsecret_key: "{key.secret_key}"\n')
            if key == new["user/alice"]:
                ensure.check_held(tmp_path, new)
        with pytest.raises(TestbedError, match="gpu-1 has not got the new key of user/alice"):
            ensure.check_held(tmp_path, new)


def test_a_username_with_two_underscores_keeps_its_key(tmp_path):
    key = KeyPair(access_key="access", secret_key="secret")
    (tmp_path / "gpu-1").mkdir()
    names = {"user__anna__b": "user/anna__b", "agent__gpu-1__default": "agent/gpu-1/default"}
    names |= {"watchdog__gpu-1": "watchdog/gpu-1"}
    for stem in names:
        text = f'access_key: "{key.access_key}"\nsecret_key: "{key.secret_key}"\n'
        (tmp_path / "gpu-1" / f"{stem}.conf").write_text(text)
    assert ensure.read_held(tmp_path) == dict.fromkeys(names.values(), key)
    other = KeyPair(access_key="another", secret_key="another")
    for name in names.values():
        with pytest.raises(TestbedError, match=f"has not got the new key of {name}"):
            ensure.check_held(tmp_path, {name: other})


def _renewal(of=lambda _: True, check=lambda: None, running=list, **more):
    return deploy.Renewal(of, check, running, **more)


class TestRenewal:
    """`up` with keys to replace: nothing is revoked unless the hosts have the new ones."""

    @pytest.fixture
    def session(self, lite, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        monkeypatch.delenv(secrets.PASSWORD_VARIABLE, raising=False)
        monkeypatch.setattr(secrets, "_user_secret", lambda: {"password": "p", "password_hash": "h"})
        ports = {name: lite.config[f"{name}_port"] for name in ("api", "web", "files")}
        text = f"name: lab\nprovider: local\nserver: {{ports: {ports}}}\nusers: [{{name: alice}}]\n"
        testbed, vault = spec.parse(text, "testbed.yaml"), Vault("lab")
        made = vault.ensure(testbed)
        system = SystemKey(**lite.config["credentials"]["apiserver"])
        vault.save(made.model_copy(update={"clearml": made.clearml.model_copy(update={"apiserver": system})}))
        found = Session(testbed, vault, Console(quiet=True), tmp_path, tmp_path, tmp_path / "log")
        found.machines = machines.local("root")
        monkeypatch.setattr(inventory, "workers", lambda *_: [])
        found.__dict__["inventory"] = {}
        toolkit = Identity(identities.TOOLKIT, "bob", identities.TOOLKIT)
        monkeypatch.setattr(identities, "of", lambda *_: [toolkit, ALICE])
        return found

    @pytest.fixture
    def hosts(self, session, monkeypatch):
        """What the hosts hold, as the playbooks write and collect it; `broken`: they keep what they have."""
        there = SimpleNamespace(keys={}, played=[], broken=False)

        def play(_, name, _title, _told=None, hidden=None):
            there.played.append(name)
            if name == "hosts" and not there.broken:
                there.keys = hidden["testbed_keys"]
            if name in ("server", "held"):
                folder = session.work / "held" / "local"
                folder.mkdir(parents=True, exist_ok=True)
                for each, key in there.keys.items():
                    lines = [f'{part}: "{value}"' for part, value in key.items()]
                    (folder / f"{each.replace('/', '__')}.conf").write_text("\n".join(lines))
            return SimpleNamespace(changed=0)

        monkeypatch.setattr(deploy, "play", play)
        return there

    @staticmethod
    def _keys(session, hosts):
        return KeyPair(**hosts.keys["user/alice"]), session.vault.load().toolkit

    def test_all_keys_are_new_and_the_old_ones_are_revoked(self, lite, session, hosts):
        deploy.up(session)
        old, checked = self._keys(session, hosts), []
        done = deploy.up(session, renewal=_renewal(check=lambda: checked.append(hosts.played[:])))
        new = self._keys(session, hosts)
        assert (done.issued, done.revoked) == (2, 2)
        assert checked == [["server", "hosts", "server"]], "before agents are touched"
        assert hosts.played[-2:] == ["hosts", "held"]
        assert [ensure.works(lite.urls["api"], key) for key in (*old, *new)] == [False, False, True, True]

    def test_only_what_is_wanted_is_new(self, session, hosts):
        deploy.up(session)
        (alice, toolkit) = self._keys(session, hosts)
        deploy.up(session, renewal=_renewal(lambda each: each == ALICE))
        assert self._keys(session, hosts)[0] != alice
        assert self._keys(session, hosts)[1] == toolkit

    def test_hosts_that_keep_the_old_key_keep_a_key_that_works(self, lite, session, hosts):
        deploy.up(session)
        old, hosts.broken = self._keys(session, hosts)[0], True
        with pytest.raises(TestbedError, match="has not got the new key"):
            deploy.up(session, renewal=_renewal(lambda each: each == ALICE))
        assert ensure.works(lite.urls["api"], old)
        assert deploy.up(session).revoked == 1, "the next `up` revokes the one that nobody has"
        assert ensure.works(lite.urls["api"], old)

    def test_a_task_that_began_meanwhile_stops_it_before_the_hosts(self, lite, session, hosts):
        deploy.up(session)
        old, played = self._keys(session, hosts)[0], len(hosts.played)
        there = _labelled(lite, "alice")

        def busy():
            raise BusyError("1 tasks run")

        with pytest.raises(BusyError):
            deploy.up(session, renewal=_renewal(check=busy))
        assert hosts.played[played:] == ["server"]
        assert _labelled(lite, "alice") == there, "none was issued"
        deploy.up(session)
        assert self._keys(session, hosts)[0] == old

    def test_old_keys_stay_while_a_task_runs_that_began_meanwhile(self, lite, session, hosts):
        deploy.up(session)
        old, began = self._keys(session, hosts), ["train (id, no agent)"]
        with pytest.raises(TestbedError, match="1 tasks began meanwhile.*train") as caught:
            deploy.up(session, renewal=_renewal(running=lambda: began))
        assert "`testbed up` revokes the old keys" in caught.value.remedy
        new = self._keys(session, hosts)
        assert [ensure.works(lite.urls["api"], key) for key in (*old, *new)] == [True] * 4
        began.clear()
        assert deploy.up(session).revoked == 2
        assert [ensure.works(lite.urls["api"], key) for key in (*old, *new)] == [False, False, True, True]

    def test_agents_that_get_new_keys_take_no_task_until_they_have_them(self, session, hosts, monkeypatch):
        agents = {"gpu": ["default", "prepared"], "cpu": ["default"]}
        monkeypatch.setattr(
            inventory,
            "workers",
            lambda *_: [(host, SimpleNamespace(name=name)) for host, names in agents.items() for name in names],
        )
        identity = Identity("agent/gpu/default", "bob", "agent@gpu/default")
        of = identities.of
        monkeypatch.setattr(identities, "of", lambda *_: [*of(), identity])

        @contextlib.contextmanager
        def paused(_, chosen):
            if chosen:
                hosts.played.append(chosen)
            yield
            if chosen:
                hosts.played.append("again")

        monkeypatch.setattr(drain, "paused", paused)
        deploy.up(session)
        del hosts.played[:]
        checked = []
        deploy.up(session, renewal=_renewal(check=lambda: checked.append(hosts.played[:])))
        assert hosts.played == ["server", {"gpu": ["default"]}, "hosts", "held", "again"]
        assert checked == [["server", {"gpu": ["default"]}]], (
            "what runs is looked for when no agent takes a task any more"
        )
        del hosts.played[:]
        deploy.up(session, renewal=_renewal(force=True))
        assert hosts.played == ["server", "hosts", "held"]

    def test_agents_that_wait_for_a_rotation_of_secrets_go_on_when_they_have_their_keys(
        self, session, hosts, monkeypatch
    ):
        monkeypatch.setattr(drain, "resume", lambda _, chosen: hosts.played.append(chosen))
        deploy.up(session, paused={"gpu": ["default"]})
        assert hosts.played == ["server", "hosts", {"gpu": ["default"]}]
