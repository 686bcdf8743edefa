"""A ClearML server that somebody else runs: keys are issued there with the key that one is given, and no more."""

from __future__ import annotations

import json

import jinja2
import pytest

from provision import deploy, forward, secrets, spec
from provision.credentials import ensure, identities
from provision.credentials import issuer as issuers
from provision.errors import ApiError, TestbedError
from provision.paths import TEMPLATES
from provision.secrets import KeyPair, Vault
from tests.integration.tls_front import TlsFront, make_certificates

HOSTS = {
    "all": {
        "children": {"agents": {"hosts": {"gpu": {}}}, "watchdogs": {"hosts": {"gpu": {}}}, "inference": {"hosts": {}}}
    }
}
ALICE, BOTH = "[{name: alice}]", "[{name: alice}, {name: robert, full_name: Bob}]"


def _conf(key):
    """What the web app shows when it makes a key."""
    return f"""api {{
  web_server: https://app.example
  api_server: https://api.example
  credentials {{
    "access_key" = "{key.access_key}"
    "secret_key" = "{key.secret_key}"
  }}
}}
"""


@pytest.fixture
def testbed(lite, tmp_path, monkeypatch):
    """A function that makes a testbed on the live server, with a key in its credentials_file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE, raising=False)

    def make(key, users=BOTH, urls=None):
        file = tmp_path / "credentials"
        file.write_text(_conf(key))
        server = {"backend": "external", "urls": urls or lite.urls, "credentials_file": str(file)}
        return spec.parse(f"name: lab\nprovider: local\nserver: {json.dumps(server)}\nusers: {users}\n", "t.yaml")

    return make


@pytest.fixture
def admin(lite):
    """The pairs of the server's own that may act for all."""
    pairs = lite.config["credentials"]
    return lambda name: KeyPair(access_key=pairs[name]["user_key"], secret_key=pairs[name]["user_secret"])


@pytest.fixture
def own(lite):
    """A key that alice made for herself."""
    made = lite.call("auth.create_credentials", {"label": "for the testbed"})["credentials"]
    return KeyPair(access_key=made["access_key"], secret_key=made["secret_key"])


def _ensure(testbed, held=None):
    everybody = identities.of(testbed, HOSTS)
    url = testbed.server.url("api")
    return ensure.ensure_all(url, issuers.of(testbed, Vault("lab").ensure(testbed)), "lab", everybody, held or {})


def _labels(lite, user):
    found = lite.call("auth.get_credentials", user=user)["credentials"]
    return {entry["access_key"]: entry.get("label", "") for entry in found}


@pytest.mark.parametrize("name", ["apiserver", "services_agent"])
def test_with_an_administrators_key_everybody_gets_one_of_their_own(lite, testbed, admin, name):
    there = testbed(admin(name))
    found = _ensure(there)
    url = lite.urls["api"]
    agents = {"agent/gpu/default", "agent/gpu/prepared", "watchdog/gpu"}
    assert set(found) == {"toolkit", "user/alice", "user/robert"} | agents
    assert len({entry.key.access_key for entry in found.values()}) == len(found)
    for name_of, user in (("user/alice", "alice"), ("user/robert", "bob"), ("agent/gpu/default", "alice")):
        assert ensure.works(url, found[name_of].key, user), name_of
    assert _labels(lite, "bob")[found["user/robert"].key.access_key] == "testbed:lab user:robert purpose:client"
    again = _ensure(there, {name: entry.key for name, entry in found.items()})
    assert {name: entry.key for name, entry in again.items()} == {name: entry.key for name, entry in found.items()}
    assert not any(entry.issued or entry.revoked for entry in again.values())


def test_with_a_users_key_that_user_gets_them_all(lite, testbed, own):
    found = _ensure(testbed(own, ALICE))
    assert all(ensure.works(lite.urls["api"], entry.key, "alice") for entry in found.values())
    assert own not in [entry.key for entry in found.values()], "the key that was given stays where it is"


def test_a_users_key_is_not_enough_for_two(testbed, own):
    with pytest.raises(TestbedError, match="may not issue keys for the 2 users"):
        _ensure(testbed(own, BOTH))


def test_users_whom_the_server_does_not_have_are_named(testbed, admin):
    with pytest.raises(TestbedError, match="has no user mallory") as error:
        _ensure(testbed(admin("apiserver"), "[{name: alice}, {name: mallory}]"))
    assert "take them out" in error.value.remedy


def test_a_key_that_the_server_does_not_take_is_told_and_not_shown(testbed):
    key = KeyPair(access_key="A" * 30, secret_key="a-secret-that-nobody-may-see")
    with pytest.raises(TestbedError, match="does not take its key") as error:
        _ensure(testbed(key))
    assert key.secret_key not in error.value.message + error.value.remedy


@pytest.mark.parametrize(
    ("text", "told"), [(None, "cannot be read"), ("", "has no access_key"), ("\xff", "cannot be read")]
)
def test_a_file_without_a_key_is_told(testbed, admin, text, told):
    there = testbed(admin("apiserver"))
    file = there.server.credentials_file
    file.unlink() if text is None else file.write_bytes(text.encode("latin-1"))
    with pytest.raises(TestbedError, match=told):
        issuers.of_another(there)


def test_a_server_that_does_not_answer_is_told(testbed, admin):
    urls = dict.fromkeys(("api", "web", "files"), "http://127.0.0.1:1")
    with pytest.raises(ApiError, match=r"http://127\.0\.0\.1:1"):
        issuers.of_another(testbed(admin("apiserver"), urls=urls))


@pytest.mark.parametrize("alone", [False, True])
def test_at_the_end_the_testbeds_keys_are_revoked_and_no_others(lite, testbed, admin, own, alone):
    there = testbed(own, ALICE) if alone else testbed(admin("apiserver"))
    found = _ensure(there)
    labels = _labels(lite, "alice")
    revoked, told = deploy.revoke_elsewhere(there)
    assert revoked == len(found)
    assert "stay" in told
    assert not [name for name, entry in found.items() if ensure.works(lite.urls["api"], entry.key)]
    issued = {entry.key.access_key for entry in found.values()}
    assert _labels(lite, "alice") == {key: label for key, label in labels.items() if key not in issued}
    assert ensure.works(lite.urls["api"], own)
    assert deploy.revoke_elsewhere(there)[0] == 0


def test_keys_that_cannot_be_revoked_are_told_and_stop_nothing(testbed, admin):
    urls = dict.fromkeys(("api", "web", "files"), "http://127.0.0.1:1")
    revoked, told = deploy.revoke_elsewhere(testbed(admin("apiserver"), urls=urls))
    assert revoked == 0
    assert "labelled testbed:lab" in told


def test_who_left_loses_the_testbeds_key_there_too(lite, testbed, admin):
    before = _ensure(testbed(admin("apiserver")))
    there = testbed(admin("apiserver"), ALICE)
    everybody = [identity for identity in identities.of(there, HOSTS) if identity.name != "agent/gpu/default"]
    issuer = issuers.of_another(there)
    stale = ensure.find_stale(lite.urls["api"], issuer, "lab", everybody)
    assert {found.access_key for found in stale} == {before["agent/gpu/default"].key.access_key}, (
        "and robert, who is in the spec no more, is unknown: the server has him as Bob"
    )


def test_no_secrets_of_a_server_are_made(testbed, admin):
    made = Vault("lab").ensure(testbed(admin("apiserver")))
    assert (made.clearml, made.users) == (None, {})
    assert Vault("lab").load() == made


SDK = """
from clearml import Task
task = Task.init(project_name="external", task_name="over TLS", auto_connect_frameworks=False, output_uri=True)
task.upload_artifact("greeting", {"hello": "world"}, wait_on_upload=True)
found = Task.get_task(task_id=task.id).artifacts["greeting"]
print("GOT", found.url.partition(":")[0], "".join(open(found.get_local_copy()).read().split()))
task.close()
"""


def test_its_ca_is_trusted_by_the_toolkit_and_by_confs_and_by_nobody_else(make_server, tmp_path, monkeypatch):
    server = make_server()
    make_certificates(tmp_path)
    fronts = {
        name: TlsFront(tmp_path / "server.pem", server.config[f"{name}_port"]) for name in ("api", "web", "files")
    }
    server.config["urls"] = {name: front.url for name, front in fronts.items()}
    server.start()
    try:
        made = server.call("auth.create_credentials", {"label": "over TLS"})["credentials"]
        key = KeyPair(access_key=made["access_key"], secret_key=made["secret_key"])
        monkeypatch.setattr(forward, "_TRUSTED", {})
        with pytest.raises(ApiError, match="certificate verify failed"):
            ensure.works(fronts["api"].url, key)
        forward.trust("lab", spec.certificates(tmp_path / "ca.pem", "server.ca_file"))
        assert ensure.works(fronts["api"].url, key, "alice")
        conf = tmp_path / "clearml.conf"
        wanted = {f"{name}_url": front.url for name, front in fronts.items()} | key.model_dump()
        template = jinja2.Template((TEMPLATES / "clearml.conf.j2").read_text(), trim_blocks=True)
        conf.write_text(template.render(conf=wanted | {"ca_file": str(tmp_path / "ca.pem")}))
        for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # requests puts these before what a conf says
            monkeypatch.delenv(variable, raising=False)
        said = server.run_python(SDK, conf)
        assert 'GOT https {"hello":"world"}' in said
    finally:
        for front in fronts.values():
            front.close()
        server.stop()
