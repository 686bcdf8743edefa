"""`testbed users` against a live server: who is applied gets in, of who is removed nothing works, and tasks stay."""

from __future__ import annotations

import json
from types import SimpleNamespace

import bcrypt
import httpx
import pytest
import yaml
from click.testing import CliRunner

from provision import deploy, leftovers, locks, machines, secrets, session, spec, wheels
from provision.cli import main
from provision.credentials import conf, ensure
from provision.errors import ConvergeError
from provision.inventory import Wheels
from provision.paths import ROOT, state_dir
from provision.reports import Check
from provision.secrets import KeyPair, Vault

TEXT = """\
name: lab   # ours
provider: local
server: {server}
users:
  - name: alice   # the first
    full_name: Alice A
  # who comes on Mondays
  - name: bob
"""


class Bed:
    """A testbed of which all but the server's part of the playbooks is real: that is done here, by the same facts."""

    def __init__(self, server, folder):
        self.server, self.folder, self.file, self.ups = server, folder, folder / "testbed.yaml", 0

    @property
    def testbed(self):
        return spec.load(self.file)

    @property
    def secrets(self):
        return Vault("lab").load()

    def password(self, name):
        return KeyPair(access_key=name, secret_key=self.secrets.users[name].password)

    def lets_in(self, pair):
        return ensure.works(self.server.urls["api"], pair)

    def bring_up(self, session, proven=lambda: None, renewal=None, paused=None):
        """What `up` does to the server: it gets the users of the spec, and restarts."""
        self.ups += 1
        found = session.vault.ensure(session.testbed)
        people = {user.name: user.full_name or user.name for user in session.testbed.users}
        people |= {name: name for name in (spec.ADMIN_USER, spec.AGENT_USER)}
        self.server.config["users"] = [
            {"username": name, "name": full, "password_hash": found.users[name].password_hash}
            for name, full in people.items()
        ]
        self.server.config["token_secret"] = found.clearml.token_secret
        self.restart()
        return deploy.Outcome(changed=1, issued=0, revoked=0)

    def restart(self):
        if self.server.process is not None and self.server.process.poll() is None:
            self.server.stop()
        with pytest.MonkeyPatch.context() as patched:  # a real command here ends what has the mark of one that is over
            patched.delenv(locks.VARIABLE, raising=False)
            self.server.start()

    def run(self, *words, code=0):
        done = CliRunner().invoke(main, ["users", *words], catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done

    def json(self, *words, code=0):
        return json.loads(self.run(*words, "--json", code=code).stdout)

    def call(self, endpoint, pair, **data):
        login = (pair.access_key, pair.secret_key)
        answer = httpx.request("GET", f"{self.server.urls['api']}/{endpoint}", json=data, auth=login, timeout=30)
        return answer.json()["data"] if answer.status_code == 200 else answer.status_code


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Another command on this machine, and another testbed's files, are none of this test's business."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE, raising=False)
    monkeypatch.setattr(locks, "MACHINE_LOCK", tmp_path / "machine.lock")
    monkeypatch.setattr(leftovers, "end", lambda *_, **__: None)
    monkeypatch.setattr(wheels, "build", lambda _: Wheels(lite=ROOT, workload=ROOT))
    cheap = bcrypt.gensalt(4)  # the cost of a hash is no part of this
    monkeypatch.setattr(bcrypt, "gensalt", lambda *_: cheap)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bed(make_server, alone, monkeypatch):
    """A testbed with alice and bob that is up."""
    server = make_server()
    found = Bed(server, alone)
    ports = {"ports": {name: server.config[f"{name}_port"] for name in ("api", "web", "files")}}
    found.file.write_text(TEXT.replace("{server}", json.dumps(ports)))
    made = Vault("lab").ensure(found.testbed)
    identities = ("apiserver", "fileserver", "webserver", "services_agent")
    server.config["credentials"] = {name: getattr(made.clearml, name).model_dump() for name in identities}

    class Session:
        vault, testbed = Vault("lab"), found.testbed

    found.bring_up(Session)
    monkeypatch.setattr(deploy, "up", found.bring_up)
    return found


@pytest.fixture
def elsewhere(make_server, alone, monkeypatch):
    """A testbed with alice and bob on somebody else's server, which has carol, too."""
    server = make_server()
    server.config["users"].append(server.user("carol", "Carol C"))
    server.start()
    found = Bed(server, alone)
    system = server.config["credentials"]["apiserver"]
    (alone / "clearml.key").write_text(f'access_key: "{system["user_key"]}"\nsecret_key: "{system["user_secret"]}"\n')
    where = {"backend": "external", "urls": server.urls, "credentials_file": "clearml.key"}
    found.file.write_text(TEXT.replace("{server}", json.dumps(where)))
    Vault("lab").ensure(found.testbed)

    def bring_up(session, proven=lambda: None):
        found.ups += 1
        return deploy.Outcome(changed=1, issued=0, revoked=0)

    monkeypatch.setattr(deploy, "up", bring_up)
    return found


def _csv(bed, text):
    (bed.folder / "class.csv").write_text(text)
    return "class.csv"


def test_users_of_a_csv_come_into_testbed_yaml_and_get_in(bed):
    before = bed.file.read_text()
    report = bed.json("apply", _csv(bed, 'name,full_name,purpose\ncarol,"C: Ünï #1",ws\nbob,,\ndave,,\n'), "--yes")
    assert report["added"] == ["carol", "dave"]
    assert [(user["name"], user["state"]) for user in report["users"]] == [
        ("alice", "ready"),
        ("bob", "ready"),
        ("carol", "ready"),
        ("dave", "ready"),
    ]
    assert bed.file.read_text() == before + '  - {name: "carol", full_name: "C: Ünï #1"}\n  - {name: "dave"}\n'
    assert bed.call("users.get_current_user", bed.password("carol"))["user"]["name"] == "C: Ünï #1"
    assert bed.json("list")["users"] == report["users"]


def test_the_server_is_given_hashes_alone(bed):
    bed.run("apply", _csv(bed, "name\ncarol\n"), "--yes")
    told = bed.server.config_file.read_text()
    assert [user["username"] for user in yaml.safe_load(told)["users"]][:3] == ["alice", "bob", "carol"]
    for secret in bed.secrets.users.values():
        assert secret.password_hash in told
        assert secret.password not in told


def test_a_second_apply_changes_nothing(bed):
    bed.run("apply", _csv(bed, "name\ncarol\n"), "--yes")
    before, known = bed.file.read_text(), bed.secrets
    assert bed.json("apply", "class.csv", "--yes")["added"] == []
    assert bed.json("apply", "--yes")["added"] == []
    assert (bed.file.read_text(), bed.secrets) == (before, known)


def test_users_written_into_testbed_yaml_by_hand_are_applied(bed):
    bed.file.write_text(bed.file.read_text() + "  - name: carol\n")
    missing = bed.json("list", code=1)["users"][-1]
    assert (missing["name"], missing["state"], missing["keys"]) == ("carol", "missing", 0)
    assert "testbed users apply" in bed.run("list", code=1).output
    bed.run("apply", "--yes")
    assert bed.lets_in(bed.password("carol"))


def test_a_server_that_lets_everybody_in_or_somebody_not_in_is_told(bed, monkeypatch):
    from provision.clearml_api import ClearmlApi

    call = ClearmlApi.call

    def off(self, endpoint, *arguments, **parameters):
        if endpoint == "auth.fixed_users_mode":
            return {"enabled": False}
        return call(self, endpoint, *arguments, **parameters)

    with monkeypatch.context() as patched:
        patched.setattr(ClearmlApi, "call", off)
        assert "fixed users are off" in bed.run("apply", "--yes", code=1).stderr

    def forgetful(session, proven=lambda: None):
        bed.bring_up(session)
        bed.server.config["users"] = [user for user in bed.server.config["users"] if user["username"] != "bob"]
        bed.restart()
        return deploy.Outcome(changed=1, issued=0, revoked=0)

    monkeypatch.setattr(deploy, "up", forgetful)
    assert "does not let in bob" in bed.run("apply", "--yes", code=1).stderr


def test_nothing_of_a_removed_user_works_and_their_tasks_stay(bed):
    password = bed.password("bob")
    made = bed.call("auth.create_credentials", password, label="my own")["credentials"]
    key = KeyPair(access_key=made["access_key"], secret_key=made["secret_key"])
    tokens = [bed.call("auth.login", pair)["token"] for pair in (key, password)]
    task = bed.call("tasks.create", password, name="of bob's", type="training")["id"]

    report = bed.json("remove", "bob", "--yes")
    assert (report["removed"], report["login"]) == (["bob"], "ended")
    assert [key["access_key"] for key in report["revoked"]] == [key.access_key]
    assert bed.file.read_text() == TEXT.replace(
        "{server}", json.dumps({"ports": {n: bed.server.config[f"{n}_port"] for n in ("api", "web", "files")}})
    ).replace("  - name: bob\n", "")
    assert not bed.lets_in(key)
    assert not bed.lets_in(password)
    for token in tokens:
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{bed.server.urls['api']}/users.get_current_user", headers=headers).status_code == 401
    assert bed.call("tasks.get_by_id", bed.password("alice"), task=task)["task"]["name"] == "of bob's"
    assert [user["name"] for user in bed.json("list")["users"]] == ["alice"]
    assert "bob" not in bed.secrets.users, "who comes again gets another password"


def test_a_removal_that_was_stopped_half_way_is_ended_by_the_next(bed, monkeypatch):
    password = bed.password("bob")

    def fail(session, proven=lambda: None):
        raise ConvergeError("the server's host is gone", "Look.")

    with monkeypatch.context() as patched:
        patched.setattr(deploy, "up", fail)
        assert "the server's host is gone" in bed.run("remove", "bob", "--yes", code=1).stderr
    left = [(user["name"], user["state"]) for user in bed.json("list", code=1)["users"]]
    assert left == [("alice", "ready"), ("bob", "left")]
    bed.run("remove", "bob", "--yes")
    assert not bed.lets_in(password)
    assert [user["name"] for user in bed.json("list")["users"]] == ["alice"]


def test_an_apply_that_was_stopped_half_way_is_ended_by_the_next(bed, monkeypatch):
    def fail(session, proven=lambda: None):
        raise ConvergeError("the server's host is gone", "Look.")

    with monkeypatch.context() as patched:
        patched.setattr(deploy, "up", fail)
        bed.run("apply", _csv(bed, "name\ncarol\n"), "--yes", code=1)
    assert bed.json("list", code=1)["users"][-1]["state"] == "missing"
    bed.run("apply", "class.csv", "--yes")
    assert bed.lets_in(bed.password("carol"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name\nCarol C\n", "class.csv:2: user name 'Carol C' must be a Linux account name"),
        ("name\ncarol\nGrüße\n", "class.csv:3: user name 'Grüße' must be"),
        ("name\ncarol\ncarol\n", "class.csv:3: carol is there twice"),
        ("name\nroot\n", "class.csv:2: user name 'root' is used by the system"),
        ('name,full_name\ncarol,"a\x07b"\n', "class.csv:2: the full name of carol has characters"),
        ("name\ncarol,more\n", "class.csv:2: has more cells"),
        ("nam\ncarol\n", "did you mean name?"),
        ("name\n", "names nobody"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_csv_is_told_before_anything_is_begun(alone, text, told):
    before = TEXT.replace("{server}", "{}")
    (alone / "testbed.yaml").write_text(before)
    if text is not None:
        (alone / "class.csv").write_text(text)
    done = CliRunner().invoke(main, ["users", "apply", "class.csv", "--yes"], catch_exceptions=False)
    assert done.exit_code == 2
    assert told in done.stderr
    assert (alone / "testbed.yaml").read_text() == before


def test_who_cannot_be_removed_is_told_and_nothing_changes(bed):
    before = bed.file.read_text()
    for names, told in (
        (["bop"], "Did you mean bob?"),
        (["nobody at all"], "has no user nobody at all"),
        (["Ünicöde"], "has no user Ünicöde"),
        ([spec.AGENT_USER], f"has no user {spec.AGENT_USER}"),
        (["bob", "mallory"], "has no user mallory"),
        (["alice", "bob"], "would have no users left"),
    ):
        done = bed.run("remove", *names, "--yes", code=2)
        assert told in done.stderr
        assert len(done.stderr.strip().splitlines()) == 2, "a message and what to do"
    bed.run("apply", _csv(bed, "name\ncarol\n"), code=3)  # nobody says yes
    bed.run("remove", "bob", code=3)
    with locks.hold(locks.MACHINE_LOCK, "this machine", "`testbed users apply` of another one", shared=True):
        assert "of another one" in bed.run("apply", "--yes", code=4).stderr
        assert "of another one" in bed.run("remove", "bob", "--yes", code=4).stderr
    assert (bed.file.read_text(), bed.ups) == (before, 1)
    assert bed.lets_in(bed.password("bob"))


def test_a_server_that_is_down_is_told_before_anything_changes(bed):
    before = bed.file.read_text()
    bed.server.stop()
    for words in (["apply", _csv(bed, "name\ncarol\n")], ["remove", "bob"]):
        assert bed.server.urls["api"] in bed.run(*words, "--yes", code=1).stderr
    assert (bed.file.read_text(), bed.ups) == (before, 1)
    assert "bob" in bed.secrets.users


def test_a_testbed_yaml_that_changed_meanwhile_is_left_alone(bed, monkeypatch):
    from provision.cli import people

    text = bed.file.read_text() + "# by somebody else\n"

    def agree(question, yes):
        bed.file.write_text(text)

    key = bed.call("auth.create_credentials", bed.password("bob"))["credentials"]["access_key"]
    for words in (["apply", _csv(bed, "name\ncarol\n")], ["remove", "bob"]):
        before = bed.file.read_text().replace("# by somebody else\n", "")
        bed.file.write_text(before)
        with monkeypatch.context() as patched:
            patched.setattr(people, "confirm", agree)
            assert "testbed.yaml: somebody changed it" in bed.run(*words, code=2).stderr
        assert bed.file.read_text() == text
    assert bed.ups == 1
    held = bed.call("auth.get_credentials", bed.password("bob"))["credentials"]
    assert [entry["access_key"] for entry in held] == [key]


def test_the_built_in_testbed_has_no_file_to_write_users_into(alone):
    (alone / "class.csv").write_text("name\ncarol\n")
    for words in (["apply", "class.csv"], ["remove", "bob"]):
        done = CliRunner().invoke(main, ["users", *words, "--yes"])
        assert done.exit_code == 2
        assert "testbed.yaml: no such file" in done.stderr


def test_the_next_up_proves_the_testbed_anew_only_where_users_changed_it(bed, monkeypatch):
    proven = state_dir("lab") / "proven"
    bed.run("list")
    proven.write_text("as it was")

    def nothing(session, proven=lambda: None):
        return deploy.Outcome(changed=0, issued=0, revoked=0)

    with monkeypatch.context() as patched:
        patched.setattr(deploy, "up", nothing)
        bed.run("apply", "--yes")
    assert proven.read_text() == "as it was"
    bed.run("apply", "--yes")
    assert not proven.exists()


def test_on_a_server_of_somebody_elses_those_are_added_who_are_there(elsewhere):
    done = elsewhere.run("apply", _csv(elsewhere, "name,full_name\ncarol,\nmallory,\n"), "--yes", code=1)
    assert "users are not made there" in done.output
    assert "Not added, as the server does not have them: mallory" in done.output
    assert [user.name for user in elsewhere.testbed.users] == ["alice", "bob", "carol"]
    assert elsewhere.json("apply", "class.csv", "--yes", code=1)["refused"] == ["mallory"]


def test_on_a_server_of_somebody_elses_a_removed_user_keeps_what_is_theirs(elsewhere):
    own = elsewhere.server.call("auth.create_credentials", {"label": "my own"}, "bob")["credentials"]
    issued = CliRunner().invoke(main, ["credentials", "issue", "bob"])
    assert issued.exit_code == 0, issued.output
    key = conf.parse_key((elsewhere.folder / "clearml-bob-laptop.conf").read_text())
    assert elsewhere.lets_in(key)
    done = elsewhere.run("remove", "bob", "--yes")
    assert "bob stays there" in done.output
    assert not elsewhere.lets_in(key)
    assert elsewhere.lets_in(KeyPair(access_key=own["access_key"], secret_key=own["secret_key"]))
    assert [user.name for user in elsewhere.testbed.users] == ["alice"]


def test_a_key_for_one_user_adds_nobody_else(elsewhere):
    own = elsewhere.server.call("auth.create_credentials", {"label": "my own"}, "alice")["credentials"]
    key = f'access_key: "{own["access_key"]}"\nsecret_key: "{own["secret_key"]}"\n'
    (elsewhere.folder / "clearml.key").write_text(key)
    elsewhere.file.write_text(elsewhere.file.read_text().replace("  - name: bob\n", ""))
    done = elsewhere.run("apply", _csv(elsewhere, "name\nbob\n"), "--yes", code=1)
    assert "may not issue keys for the 2 users" in done.stderr
    assert elsewhere.ups == 0


def test_no_password_is_shown_or_logged(bed):
    told = bed.run("apply", _csv(bed, "name\ncarol\n"), "--yes").output + bed.run("list").output
    passwords = [secret.password for secret in bed.secrets.users.values()]
    told += bed.run("remove", "carol", "--yes").output
    assert not any(password in told for password in passwords)
    for file in (bed.folder / "state").rglob("*"):
        if file.is_file():
            assert not any(password.encode() in file.read_bytes() for password in passwords), file


@pytest.fixture
def signing(bed, monkeypatch):
    """The same testbed with backend docker, whose spec has another host than its machines tell."""

    def resolved(testbed, _):
        return testbed.model_copy(update={"server": testbed.server.model_copy(update={"host": "127.0.0.1"})})

    ports = {name: bed.server.config[f"{name}_port"] for name in ("api", "web", "files")}
    where = {"backend": "docker", "host": "server.invalid", "ports": ports}
    bed.file.write_text(TEXT.replace("{server}", json.dumps(where)))
    for module in (session, machines):
        monkeypatch.setattr(module, "resolved", resolved)
    vault = Vault("lab")
    made = bed.call("auth.create_credentials", bed.password(spec.ADMIN_USER))["credentials"]
    toolkit = KeyPair(access_key=made["access_key"], secret_key=made["secret_key"])
    vault.save(vault.ensure(bed.testbed).model_copy(update={"toolkit": toolkit}))
    bed.checks = [Check(name="api", result="passed", seconds=0.1, message="", reference="")]
    monkeypatch.setattr("provision.smoke.run.run", lambda *_: SimpleNamespace(checks=bed.checks))
    return bed


def _revoke(*words, code=0):
    done = CliRunner().invoke(main, ["credentials", "revoke", *words, "--now", "--yes"], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def test_revoke_now_on_the_official_server_ends_every_login_and_checks_the_testbed(signing):
    made = signing.call("auth.create_credentials", signing.password("bob"))["credentials"]
    key = KeyPair(access_key=made["access_key"], secret_key=made["secret_key"])
    task = signing.call("tasks.create", signing.password("alice"), name="runs", type="training")["id"]
    signing.call("tasks.started", signing.password("alice"), task=task)
    token = signing.call("auth.login", signing.password("alice"))["token"]
    told = _revoke("bob").output
    assert "1 tasks run" in told
    assert "1 of 1 checks passed" in told
    assert "Other administrators need the new secrets" in told
    assert signing.ups == 2
    assert not signing.lets_in(key)
    headers = {"Authorization": f"Bearer {token}"}
    assert httpx.get(f"{signing.server.urls['api']}/users.get_current_user", headers=headers).status_code == 401


def test_revoke_now_fails_where_the_testbed_is_not_well_after_it(signing):
    signing.checks = [Check(name="api", result="failed", seconds=0.1, message="it is away", reference="")]
    assert "it is away" in _revoke("bob", code=1).output


def test_a_revoke_now_that_was_stopped_before_the_tokens_ended_says_how_to_end_them(signing, monkeypatch):
    key = signing.call("auth.create_credentials", signing.password("bob"))["credentials"]["access_key"]

    def stop(*_):
        raise ConvergeError("stopped", "Look.")

    with monkeypatch.context() as patched:
        patched.setattr(Vault, "rotate", stop)
        _revoke(key, code=1)
    assert "testbed secrets rotate --tokens-only" in _revoke(key, code=2).stderr
    plain = CliRunner().invoke(main, ["credentials", "revoke", key, "--yes"])
    assert "--tokens-only" not in plain.stderr


def test_a_user_removed_from_the_official_server_takes_new_secrets_which_others_need(signing):
    assert "Other administrators need the new secrets" in signing.run("remove", "bob", "--yes").output
