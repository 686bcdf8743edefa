"""`testbed credentials` against a live server: what is issued works, what is revoked does not, nothing gets lost."""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from pathlib import Path

import click
import pyrage
import pytest
import yaml
from click.testing import CliRunner

from provision import console, leftovers, locks, paths, secrets, spec, wheels
from provision.clearml_api import ClearmlApi
from provision.cli import main
from provision.credentials import conf, ensure, keys, public
from provision.credentials.issuer import Issuer
from provision.errors import ApiError, InputError
from provision.inventory import Wheels
from provision.paths import ROOT
from provision.secrets import KeyPair, SystemKey, Vault
from tests.integration.tls_front import make_certificates

USERS = [{"name": "alice", "full_name": "Alice A"}, {"name": "bob"}]


BOTH = pytest.mark.parametrize("testbed", ["lite", "external"], indirect=True)
EXTERNAL = pytest.mark.parametrize("testbed", ["external"], indirect=True)


@pytest.fixture(scope="module")
def running(make_server):
    server = make_server()
    server.config["users"] += [server.user(name, name) for name in (spec.ADMIN_USER, spec.AGENT_USER)]
    server.start()
    return server


@pytest.fixture
def server(running):
    """The server, with no keys of these users."""
    for user in ("alice", "bob"):
        for key in _labels(running, user):
            running.call("auth.revoke_credentials", {"access_key": key}, user)
    return running


@pytest.fixture(scope="module")
def described(running, tmp_path_factory):
    """The files of a testbed that has this server, as its own or as somebody else's; by backend."""
    system = SystemKey(**running.config["credentials"]["apiserver"])
    found = {}
    for backend in ("lite", "external"):
        folder = found[backend] = tmp_path_factory.mktemp(backend)
        if backend == "external":
            file = folder / "clearml.key"
            file.write_text(f'access_key: "{system.user_key}"\nsecret_key: "{system.user_secret}"\n')
            where = {"backend": "external", "urls": running.urls, "credentials_file": "clearml.key"}
        else:
            where = {"ports": {name: running.config[f"{name}_port"] for name in ("api", "web", "files")}}
        text = yaml.safe_dump({"name": "lab", "provider": "local", "server": where, "users": USERS})
        (folder / "testbed.yaml").write_text(text)
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("XDG_CONFIG_HOME", str(folder / "config"))
            vault = Vault("lab")
            made = vault.ensure(spec.parse(text, "testbed.yaml"))
            if made.clearml is not None:
                vault.save(made.model_copy(update={"clearml": made.clearml.model_copy(update={"apiserver": system})}))
    return found


@pytest.fixture
def testbed(request, described, server, tmp_path, monkeypatch):
    """The testbed; the folder with its files is the current one."""
    shutil.copytree(described[getattr(request, "param", "lite")], tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE, raising=False)
    # another command on this machine is none of this test's business
    monkeypatch.setattr(locks, "MACHINE_LOCK", tmp_path / "machine.lock")
    monkeypatch.setattr(leftovers, "end", lambda *_, **__: None)
    monkeypatch.setattr(wheels, "build", lambda _: Wheels(lite=ROOT, workload=ROOT))
    monkeypatch.chdir(tmp_path)
    return spec.load(None)


def _run(*words, code=0):
    done = CliRunner().invoke(main, ["credentials", *words], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done


def _json(*words, code=0):
    return json.loads(_run(*words, "--json", code=code).stdout)


def _labels(server, user):
    found = server.call("auth.get_credentials", user=user)["credentials"]
    return {entry["access_key"]: entry.get("label", "") for entry in found}


def _takes(server, key):
    return ensure.works(server.urls["api"], key)


def _day(days):
    return keys.today() + datetime.timedelta(days=days)


@BOTH
def test_what_is_issued_works_and_says_on_the_server_what_it_is_for(server, testbed, tmp_path):
    report = _json("issue", "alice")
    file = tmp_path / "clearml-alice-laptop.conf"
    assert report["file"] == str(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = conf.parse_key(file.read_text())
    assert ensure.works(server.urls["api"], key, "alice")
    label = f"testbed:lab user:alice purpose:laptop issued:{_day(0)} expires:{_day(90)}"
    assert _labels(server, "alice") == {key.access_key: label}
    assert (report["access_key"], report["expires"]) == (key.access_key, str(_day(90)))


def test_the_file_is_a_whole_conf_with_canonical_urls_for_the_real_sdk(server, testbed, tmp_path):
    _run("issue", "alice", "--expires", "never")
    script = (
        "from clearml.backend_api import Session; print(Session().send_request('users', 'get_current_user').json())"
    )
    assert "Alice A" in server.run_python(script, tmp_path / "clearml-alice-laptop.conf")


def test_nothing_secret_is_shown_or_logged_unless_it_is_asked_for(server, testbed, tmp_path):
    shown = _run("issue", "alice").output + _run("issue", "bob").output + _run("list").output
    told = shown + _run("rotate", "alice").output + json.dumps(_json("issue", "alice", "--purpose", "ci"))
    for file in tmp_path.glob("*.conf"):
        assert conf.parse_key(file.read_text()).secret_key not in told
    kept = {tmp_path / "clearml.key", tmp_path / "testbed.yaml", *tmp_path.glob("*.conf")}
    secret = [conf.parse_key(file.read_text()).secret_key.encode() for file in tmp_path.glob("*.conf")]
    for file in tmp_path.rglob("*"):
        if file.is_file() and file not in kept:
            assert not any(each in file.read_bytes() for each in secret), file
    asked = _run("issue", "bob", "--purpose", "shown", "--show").stdout
    assert ensure.works(server.urls["api"], conf.parse_key(asked), "bob")
    assert not (tmp_path / "clearml-bob-shown.conf").exists()


def test_one_key_for_each_user_and_purpose(server, testbed, tmp_path):
    _run("issue", "alice")
    before = (tmp_path / "clearml-alice-laptop.conf").read_bytes()
    refused = _run("issue", "alice", "--out", "another.conf", code=2)
    assert "alice has a key for laptop already" in refused.stderr
    assert "testbed credentials rotate alice" in refused.stderr
    _run("issue", "alice", "--purpose", "ci")
    assert len(_labels(server, "alice")) == 2
    assert (tmp_path / "clearml-alice-laptop.conf").read_bytes() == before
    assert not (tmp_path / "another.conf").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["issue", "alise"], "Did you mean alice?"),
        (["issue", "nobody at all"], "has no user nobody at all"),
        (["issue", "Ünicöde"], "has no user Ünicöde"),
        (["issue", "alice", "--expires", "2020-01-01"], "is not in the future"),
        (["issue", "alice", "--purpose", "client"], "is that of keys which"),
        (["issue", "alice", "--out", "no/such/folder/a.conf"], "cannot be written"),
        (["rotate", "alice"], "alice has no key for laptop"),
        (["revoke", "mallory"], "has no user mallory"),
        (["revoke", "A" * 30], "no user has a key"),
        (["list", "mallory"], "has no user mallory"),
    ],
)
def test_what_cannot_be_is_told_and_changes_nothing(server, testbed, words, told):
    done = _run(*words, code=2)
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2, "a message and what to do"
    assert _labels(server, "alice") == _labels(server, "bob") == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--all", "--expires", "90d"], "--expires goes without"),
        (["--all", "--purpose", "laptop"], "--all goes without --purpose"),
        (["alice", "--purpose", "client", "--expires", "never"], "--expires goes without"),
    ],
)
def test_what_rotate_has_no_use_for_is_refused(words, told):
    assert told in _run("rotate", *words, code=2).stderr


def test_another_file_is_left_alone(server, testbed, tmp_path):
    file = tmp_path / "clearml-alice-laptop.conf"
    file.write_text("somebody's own")
    assert "is there already, and is left alone" in _run("issue", "alice", code=2).stderr
    assert file.read_text() == "somebody's own"
    assert _labels(server, "alice") == {}


def test_a_user_whom_the_server_does_not_have_yet_is_told(server, testbed, tmp_path):
    text = (tmp_path / "testbed.yaml").read_text().replace("name: bob", "name: carol")
    (tmp_path / "testbed.yaml").write_text(text)
    done = _run("issue", "carol", code=2)
    assert "has no user carol, who is in testbed.yaml" in done.stderr
    assert not (tmp_path / "clearml-carol-laptop.conf").exists()


KILLED = """
import os, signal, sys
from provision.credentials import keys
from provision.secrets import Vault
from provision import paths, spec
from provision.cli.paper import Paper
from provision.credentials.labels import Label
from pathlib import Path

testbed, after = spec.load(Path("testbed.yaml")), sys.argv[1]
found = Vault("lab").load()
paper = Paper(testbed, found, Path("clearml-alice-laptop.conf").absolute())


def write(key):
    if after == "written":
        paper.put(key)
    os.kill(os.getpid(), signal.SIGKILL)


with keys.opened(testbed, found) as there:
    there.issue(Label("lab", "alice", "laptop", keys.today()), write)
"""


@BOTH
@pytest.mark.parametrize("after", ["issued", "written"])
def test_who_is_killed_between_issue_and_file_leaves_no_key_that_nobody_has(server, testbed, tmp_path, after):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, after], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert killed.returncode == -9
    [(orphan, label)] = _labels(server, "alice").items()
    assert label.endswith(" unwritten")
    assert [key["state"] for key in _json("list", "alice")["keys"]] == ["unwritten"]

    report = _json("issue", "alice")
    assert report["revoked"] == 1
    assert list(_labels(server, "alice")) == [report["access_key"]] != [orphan]
    assert _takes(server, conf.parse_key((tmp_path / "clearml-alice-laptop.conf").read_text()))


def test_a_file_that_cannot_be_written_leaves_no_key(server, testbed, monkeypatch):
    write = paths.write_atomic

    def full(path, data):
        if path.suffix == ".conf":
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(paths, "write_atomic", full)
    assert "No space left on device" in _run("issue", "alice", code=2).stderr
    assert _labels(server, "alice") == {}


def test_what_is_shown_is_shown_before_the_key_counts_as_given(server, testbed, monkeypatch):
    call = keys.Keys._call

    def call_or_end(self, endpoint, *arguments, **parameters):
        if endpoint == "auth.edit_credentials":
            raise ApiError("the end")
        return call(self, endpoint, *arguments, **parameters)

    with monkeypatch.context() as patched:
        patched.setattr(keys.Keys, "_call", call_or_end)
        shown = conf.parse_key(_run("issue", "alice", "--show", code=1).stdout)
    [(orphan, label)] = _labels(server, "alice").items()
    assert shown.access_key == orphan
    assert label.endswith(" unwritten")
    new = conf.parse_key(_run("issue", "alice", "--show").stdout)
    assert list(_labels(server, "alice")) == [new.access_key] != [orphan]


@EXTERNAL
def test_what_is_shown_names_the_ca_of_the_server(server, testbed, tmp_path):
    make_certificates(tmp_path)
    found = yaml.safe_load((tmp_path / "testbed.yaml").read_text())
    found["server"]["ca_file"] = "ca.pem"
    (tmp_path / "testbed.yaml").write_text(yaml.safe_dump(found))
    shown = _run("issue", "alice", "--show").stdout
    assert 'verify_certificate: ${HOME}"/clearml-lab-ca.pem"' in shown
    assert _takes(server, conf.parse_key(shown))
    assert not [*tmp_path.glob("clearml-*")]


def test_what_cannot_be_shown_leaves_no_key(server, testbed, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(click, "echo", full)
    CliRunner().invoke(main, ["credentials", "issue", "alice", "--show"])
    assert _labels(server, "alice") == {}


def test_a_server_that_goes_down_in_the_middle_is_told_and_the_next_run_mends_it(
    make_server, testbed, tmp_path, monkeypatch
):
    server = make_server()
    server.start()
    described = yaml.safe_load((tmp_path / "testbed.yaml").read_text())
    described["server"]["ports"] = {name: server.config[f"{name}_port"] for name in ("api", "web", "files")}
    (tmp_path / "testbed.yaml").write_text(yaml.safe_dump(described))
    call = keys.Keys._call

    def call_after_the_end(self, endpoint, *arguments, **parameters):
        if endpoint == "auth.edit_credentials":
            server.stop(9)
        return call(self, endpoint, *arguments, **parameters)

    with monkeypatch.context() as patched:
        patched.setattr(keys.Keys, "_call", call_after_the_end)
        assert server.urls["api"] in _run("issue", "alice", code=1).stderr
    server.start()
    assert _json("issue", "alice")["revoked"] == 1
    [(key, label)] = _labels(server, "alice").items()
    assert conf.parse_key((tmp_path / "clearml-alice-laptop.conf").read_text()).access_key == key
    assert "unwritten" not in label


@BOTH
def test_rotate_replaces_a_key_by_one_that_works(server, testbed, tmp_path):
    _run("issue", "alice")
    file = tmp_path / "clearml-alice-laptop.conf"
    old = conf.parse_key(file.read_text())
    report = _json("rotate", "alice", "--expires", "never")
    new = conf.parse_key(file.read_text())
    assert list(_labels(server, "alice")) == [new.access_key] == [report["access_key"]]
    assert _takes(server, new)
    assert not _takes(server, old)
    assert report["revoked"] == 1


def test_a_new_key_that_does_not_work_leaves_the_old_one(server, testbed, tmp_path, monkeypatch):
    _run("issue", "alice")
    file = tmp_path / "clearml-alice-laptop.conf"
    before = file.read_bytes()
    monkeypatch.setattr(ensure, "works", lambda *_: False)
    assert "does not take the key that it has issued" in _run("rotate", "alice", code=1).stderr
    assert file.read_bytes() == before
    assert list(_labels(server, "alice")) == [conf.parse_key(before.decode()).access_key]


@BOTH
def test_a_revoked_key_is_refused_from_the_next_call_on_and_its_tokens_with_it(server, testbed, tmp_path):
    _run("issue", "alice")
    key = conf.parse_key((tmp_path / "clearml-alice-laptop.conf").read_text())
    with ClearmlApi(server.urls["api"], key) as api:
        api.login()
        api.call("users.get_current_user")
        done = _run("revoke", key.access_key, "--yes")
        with pytest.raises(ApiError) as refused:
            api.call("users.get_current_user")  # with its token, then with the key
    assert refused.value.code == 401
    assert "Revoked 1 keys." in done.output
    assert ("live on" in done.output) == testbed.server.is_external


@pytest.fixture
def age_key(tmp_path):
    """An age key pair of alice's; the public one is in alice.age."""
    mine = pyrage.x25519.Identity.generate()
    (tmp_path / "alice.age").write_text(f"{mine.to_public()}\n")
    return mine


def _opened(path, key):
    with tarfile.open(fileobj=io.BytesIO(pyrage.decrypt(path.read_bytes(), [key]))) as tar:
        return {entry.name.partition("/")[2]: tar.extractfile(entry).read().decode() for entry in tar if entry.isreg()}


@BOTH
def test_a_bundle_has_all_that_its_user_starts_with_and_opens_for_that_user(server, testbed, tmp_path, age_key):
    report = _json("issue", "alice", "--bundle", "--to", "alice.age")
    file = Path(report["file"])
    assert file == tmp_path / f"clearml-alice-laptop-{report['access_key'][:8]}.tar.gz.age"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not list(tmp_path.glob("*.conf"))
    files = _opened(file, age_key)
    assert {*files} == {"clearml.conf", "START.md"}
    key = conf.parse_key(files["clearml.conf"])
    assert ensure.works(server.urls["api"], key, "alice")
    assert list(_labels(server, "alice")) == [key.access_key] == [report["access_key"]]
    done = _run("issue", "alice", "--purpose", "ci", "--bundle", "--to", "alice.age")
    assert "age -d -i KEY clearml-alice-ci-" in done.stdout


def test_the_page_of_a_bundle_leads_to_a_first_task_and_a_first_dataset(server, testbed, tmp_path, age_key):
    files = _opened(Path(_json("issue", "alice", "--bundle", "--to", "alice.age")["file"]), age_key)
    (tmp_path / "clearml.conf").write_text(files["clearml.conf"])
    task, dataset = re.findall(r"```python\n(.*?)```", files["START.md"], re.DOTALL)
    assert server.urls["web"] in files["START.md"]
    assert "/projects/" in server.run_python(task, tmp_path / "clearml.conf")
    printed = server.run_python(dataset, tmp_path / "clearml.conf").splitlines()
    [copy] = [line for line in printed if line.startswith("/") and Path(line).is_dir()]
    assert (Path(copy) / "numbers.csv").read_text() == "a,b\n1,2\n"


def test_a_bundle_for_a_passphrase_that_comes_by_a_descriptor(server, testbed, tmp_path):
    words = "five random words for alice"
    read, write = os.pipe()
    os.write(write, words.encode())
    os.close(write)
    try:
        report = _json("issue", "alice", "--bundle", "--passphrase-file", f"/dev/fd/{read}")
    finally:
        os.close(read)
    plain = pyrage.passphrase.decrypt(Path(report["file"]).read_bytes(), words)
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        assert "lab-alice-laptop/clearml.conf" in tar.getnames()


def test_the_users_ssh_keys_in_testbed_yaml_count_where_no_other_is_named(server, testbed, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "id")], check=True)
    described = yaml.safe_load((tmp_path / "testbed.yaml").read_text())
    described["users"][0]["ssh_keys"] = [(tmp_path / "id.pub").read_text().strip()]
    (tmp_path / "testbed.yaml").write_text(yaml.safe_dump(described))
    file = Path(_json("issue", "alice", "--bundle")["file"])
    assert "clearml.conf" in _opened(file, pyrage.ssh.Identity.from_buffer((tmp_path / "id").read_bytes()))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--to", "nobody.age"], "cannot be read: No such file"),
        (["--to", "testbed.yaml"], "holds no public key that a bundle can be encrypted to"),
        (["--to", "alice.age", "--out", "no/such/folder"], "is no folder"),
        (["--to", "alice.age", "--passphrase-file", "alice.age"], "--to goes without --passphrase-file"),
        (["--to", "alice.age", "--deliver"], "--deliver goes without --bundle"),
        (["--to", "alice.age", "--show"], "--show goes without"),
    ],
)
def test_a_bundle_that_cannot_be_made_leaves_no_key(server, testbed, tmp_path, age_key, words, told):
    assert told in _run("issue", "alice", "--bundle", *words, code=2).stderr
    assert _labels(server, "alice") == {}


@pytest.mark.parametrize(
    ("words", "given", "told"), [([], None, "no terminal"), (["--passphrase-file", "short"], "short", "at least 12")]
)
def test_a_passphrase_is_asked_for_or_given_and_is_long(server, testbed, tmp_path, words, given, told):
    (tmp_path / "short").write_text(given or "")
    assert told in _run("issue", "alice", "--bundle", *words, code=1).stderr
    assert _labels(server, "alice") == {}


@BOTH
def test_rotate_replaces_a_bundle_by_one_with_a_key_that_works(server, testbed, tmp_path, age_key):
    old = Path(_json("issue", "alice", "--bundle", "--to", "alice.age")["file"])
    before = conf.parse_key(_opened(old, age_key)["clearml.conf"])
    new = Path(_json("rotate", "alice", "--bundle", "--to", "alice.age")["file"])
    assert list(tmp_path.glob("*.tar.gz.age")) == [new] != [old]
    assert _takes(server, conf.parse_key(_opened(new, age_key)["clearml.conf"]))
    assert not _takes(server, before)


@pytest.mark.parametrize("after", ["issued", "written"])
def test_who_is_killed_at_a_bundle_leaves_neither_a_key_nor_a_bundle_that_nobody_can_use(
    server, testbed, tmp_path, age_key, after
):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", KILLED_BUNDLE, after], env=environment, check=False)
    assert killed.returncode == -9
    [(orphan, label)] = _labels(server, "alice").items()
    assert label.endswith(" unwritten")
    assert len(list(tmp_path.glob("*.age"))) == 1 + (after == "written")
    report = _json("issue", "alice", "--bundle", "--to", "alice.age")
    assert report["revoked"] == 1
    assert list(_labels(server, "alice")) == [report["access_key"]] != [orphan]
    assert {*tmp_path.glob("*.age")} == {Path(report["file"]), tmp_path / "alice.age"}


def test_no_secret_of_a_bundle_is_in_another_file_or_in_what_is_printed(server, testbed, tmp_path, age_key):
    done = _run("issue", "alice", "--bundle", "--to", "alice.age")
    [file] = tmp_path.glob("*.tar.gz.age")
    secret = conf.parse_key(_opened(file, age_key)["clearml.conf"]).secret_key
    assert secret not in done.output
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


KILLED_BUNDLE = """
import os, signal, sys
from provision.cli import main, paper

put, after = paper.Bundle.put, sys.argv[1]


def killing(self, key):
    if after == "written":
        put(self, key)
    os.kill(os.getpid(), signal.SIGKILL)


paper.Bundle.put = killing
from pathlib import Path
from provision import leftovers, locks, wheels
locks.MACHINE_LOCK = Path("machine.lock").absolute()
leftovers.end = lambda *_, **__: None
from provision.inventory import Wheels
from provision.paths import ROOT
wheels.build = lambda _: Wheels(lite=ROOT, workload=ROOT)
main(["credentials", "issue", "alice", "--bundle", "--to", "alice.age"])
"""


@BOTH
def test_all_of_a_user_goes_but_what_services_and_other_testbeds_have(server, testbed):
    _run("issue", "bob")
    _run("issue", "bob", "--purpose", "ci")
    labels = ["my own", "testbed:lab user:bob purpose:client", "testbed:lab user:bob edited by bob"]
    # which bob wrote: services work as other users
    labels += [f"testbed:lab user:bob purpose:{purpose}" for purpose in ("toolkit", "agent@gpu/default")]
    stay = "testbed:lab-2 user:bob purpose:client"
    for label in [*labels, stay]:
        server.call("auth.create_credentials", {"label": label}, "bob")
    server.call("auth.create_credentials", {"label": "alice's"}, "alice")
    report = _json("revoke", "bob", "--yes")
    assert len(report["revoked"]) == 7
    assert list(_labels(server, "bob").values()) == [stay] == [key["label"] for key in report["left"]]
    assert len(_labels(server, "alice")) == 1
    assert _json("revoke", "bob", "--yes")["revoked"] == []
    told = _run("revoke", "bob", "--yes").stdout
    assert "These stay" in told
    assert stay in told


@BOTH
def test_what_agents_and_the_toolkit_have_stays_with_their_user(server, testbed):
    user = testbed.agent_user
    label = f"testbed:lab user:{user} purpose:agent@gpu/default"
    made = server.call("auth.create_credentials", {"label": label}, user)["credentials"]["access_key"]
    if testbed.server.is_external:
        report = _json("revoke", user, "--yes")
        assert (report["revoked"], [key["access_key"] for key in report["left"]]) == ([], [made])
    else:
        assert [key["state"] for key in _json("list")["keys"] if key["access_key"] == made] == ["good"]
    assert made in _labels(server, user)
    _run("revoke", made, "--yes")
    assert made not in _labels(server, user)


@BOTH
def test_audit_tells_keys_of_other_testbeds_on_the_testbeds_own_server(server, testbed):
    server.call("auth.create_credentials", {"label": "testbed:lab-2 user:bob purpose:client"}, "bob")
    kinds = [finding["kind"] for finding in _json("audit", code=int(not testbed.server.is_external))["findings"]]
    assert kinds == ([] if testbed.server.is_external else ["other"])


def _leaves(user, tmp_path):
    described = yaml.safe_load((tmp_path / "testbed.yaml").read_text())
    described["users"] = [entry for entry in described["users"] if entry["name"] != user]
    (tmp_path / "testbed.yaml").write_text(yaml.safe_dump(described))


@BOTH
def test_who_was_taken_out_of_testbed_yaml_is_found_on_the_server(server, testbed, tmp_path):
    _run("issue", "bob")
    server.call("auth.create_credentials", {"label": "my own"}, "bob")
    server.call("auth.create_credentials", {"label": "alice's"}, "alice")
    _leaves("bob", tmp_path)
    assert "has no user bob" in _run("issue", "bob", "--purpose", "more", code=2).stderr
    one = _json("revoke", "bob", "--purpose", "laptop", "--yes")
    assert [key["purpose"] for key in one["revoked"]] == ["laptop"]
    assert [key["label"] for key in _json("revoke", "bob", "--yes")["revoked"]] == ["my own"]
    assert _labels(server, "bob") == {}
    assert len(_labels(server, "alice")) == 1


@BOTH
def test_keys_of_who_left_are_listed_told_and_expire(server, testbed, tmp_path):
    gone = f"testbed:lab user:bob purpose:old issued:{_day(-9)} expires:{_day(0)}"
    works = f"testbed:lab user:bob purpose:new issued:{_day(0)} expires:{_day(9)}"
    somebody_elses = f"testbed:lab user:carol purpose:old issued:{_day(-9)} expires:{_day(0)}"  # which bob wrote
    for label in (gone, works, somebody_elses):
        server.call("auth.create_credentials", {"label": label}, "bob")
    _leaves("bob", tmp_path)
    listed = {key["label"]: (key["user"], key["state"]) for key in _json("list", "bob")["keys"]}
    assert listed == {gone: ("bob", "expired"), works: ("bob", "good"), somebody_elses: ("bob", "edited")}
    kinds = {finding["kind"]: finding["remedy"] for finding in _json("audit", code=1)["findings"]}
    assert {*kinds} == {"expired", "left", "edited"}
    assert kinds["left"] == "testbed credentials revoke bob"
    assert [key["label"] for key in _json("expire")["revoked"]] == [gone]
    assert sorted(_labels(server, "bob").values()) == sorted([works, somebody_elses])
    _run("revoke", "bob", "--yes")
    assert _labels(server, "bob") == {}


@BOTH
def test_who_has_left_is_found_as_the_server_calls_them_and_nobody_else(server, testbed, tmp_path):
    server.call("auth.create_credentials", {"label": "my own"}, "alice")
    done = _run("revoke", "Alice A", "--yes", code=2)  # who is in testbed.yaml is named as there
    assert "has no user Alice A" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2
    _leaves("alice", tmp_path)
    assert [key["label"] for key in _json("revoke", "Alice A", "--yes")["revoked"]] == ["my own"]
    assert _labels(server, "alice") == {}


def test_an_issuer_for_one_user_finds_nobody_else(testbed):
    with ClearmlApi(testbed.server.url("api"), KeyPair(access_key="A", secret_key="B")) as api:
        alone = keys.Keys(api, Issuer(KeyPair(access_key="A", secret_key="B"), alone="somebody"), testbed)
        with pytest.raises(InputError):
            alone.of_anybody("carol")


def test_two_users_with_one_name_are_told_apart_by_access_keys(testbed, monkeypatch):
    monkeypatch.setattr(Issuer, "people", lambda *_: {"1": "Carol", "2": "Carol"})
    with ClearmlApi(testbed.server.url("api"), KeyPair(access_key="A", secret_key="B")) as api:
        found = keys.Keys(api, Issuer(KeyPair(access_key="A", secret_key="B")), testbed)
        with pytest.raises(InputError, match="has 2 users with the name Carol"):
            found.of_anybody("Carol")


def test_the_key_for_one_purpose_goes_alone(server, testbed):
    _run("issue", "bob")
    kept = _json("issue", "bob", "--purpose", "ci")["access_key"]
    assert [key["purpose"] for key in _json("revoke", "bob", "--purpose", "laptop", "--yes")["revoked"]] == ["laptop"]
    assert list(_labels(server, "bob")) == [kept]


def test_nobody_is_revoked_without_a_yes(server, testbed):
    _run("issue", "bob")
    _run("revoke", "bob", code=3)
    assert len(_labels(server, "bob")) == 1


@EXTERNAL
def test_tokens_on_a_server_of_somebody_elses_cannot_be_ended(server, testbed):
    _run("issue", "bob")
    assert "somebody else's" in _run("revoke", "bob", "--now", "--yes", code=2).stderr
    assert len(_labels(server, "bob")) == 1


@BOTH
def test_expire_revokes_what_is_past_its_day_and_what_nobody_has(server, testbed):
    gone = [
        f"testbed:lab user:bob purpose:old issued:{_day(-9)} expires:{_day(0)}",
        f"testbed:lab user:bob purpose:lost issued:{_day(-1)} expires:{_day(9)} unwritten",
    ]
    stay = [
        "my laptop",
        "testbed:lab user:bob purpose:client",
        f"testbed:lab user:bob purpose:new issued:{_day(0)} expires:{_day(1)}",
        f"testbed:lab user:bob purpose:now issued:{_day(0)} expires:{_day(1)} unwritten",
        f"testbed:lab-2 user:bob purpose:old issued:{_day(-9)} expires:{_day(-1)}",
        f"testbed:lab user:alice purpose:old issued:{_day(-9)} expires:{_day(-1)}",  # which bob wrote
    ]
    for label in [*gone, *stay]:
        server.call("auth.create_credentials", {"label": label}, "bob")
    report = _json("expire")
    assert sorted(key["label"] for key in report["revoked"]) == sorted(gone)
    assert sorted(_labels(server, "bob").values()) == sorted(stay)
    assert _json("expire")["revoked"] == []


@BOTH
def test_list_shows_everybodys_keys_and_when_and_where_they_were_used(server, testbed, tmp_path):
    _run("issue", "alice")
    _run("issue", "bob")
    server.call("auth.create_credentials", {"label": "my own"}, "bob")
    assert _takes(server, conf.parse_key((tmp_path / "clearml-bob-laptop.conf").read_text()))
    found = {(key["user"], key["purpose"]): key for key in _json("list")["keys"]}
    assert {user for user, _ in found} >= {"alice", "bob"}
    assert found["alice", "laptop"]["last_used"] is None
    assert found["bob", "laptop"]["last_used_from"] == "127.0.0.1"
    assert found["bob", "laptop"]["last_used"].startswith(str(keys.today()))
    own = [key for key in _json("list", "bob")["keys"] if key["state"] == "own"]
    assert [key["label"] for key in own] == ["my own"]
    assert "own: made by the user" in _run("list").output


def test_audit_is_well_with_what_was_issued_and_tells_what_is_not(server, testbed, monkeypatch):
    _run("issue", "alice")
    before = _json("audit")
    assert (before["healthy"], before["keys"]) == (True, 1)
    server.call("auth.create_credentials", {"label": "testbed:lab user:bob purpose:laptop for ever"}, "bob")
    server.call("auth.create_credentials", {}, "bob")
    system = server.config["credentials"]["apiserver"]
    known = KeyPair(access_key=system["user_key"], secret_key=system["user_secret"])
    monkeypatch.setitem(public.PUBLIC_KEYS, "apiserver", known)
    found = _json("audit", code=1)
    assert sorted(finding["kind"] for finding in found["findings"]) == ["edited", "public", "unlabelled"]
    assert "everybody knows" in _run("audit", code=1).output
    assert len(_labels(server, "bob")) == 2, "to look revokes nothing"


def test_two_administrators_at_once_issue_nothing_twice(server, testbed):
    with locks.hold(locks.MACHINE_LOCK, "this machine", "`testbed credentials issue` of another one", shared=True):
        done = _run("issue", "alice", code=4)
        assert "of another one" in done.stderr
        assert _labels(server, "alice") == {}
        assert _json("list")["testbed"] == "lab", "to look is no work"
    _run("issue", "alice")


def test_issuing_takes_three_calls_beside_the_login(server, testbed, monkeypatch):
    calls = []
    send = ClearmlApi._send

    def count(self, endpoint, *arguments, **options):
        calls.append(endpoint)
        return send(self, endpoint, *arguments, **options)

    monkeypatch.setattr(ClearmlApi, "_send", count)
    _run("issue", "alice")
    own = [call for call in calls if call.startswith("auth.") and call != "auth.login"]
    assert own == ["auth.get_credentials", "auth.create_credentials", "auth.edit_credentials"]


def test_the_keys_of_a_testbed_whose_secrets_are_elsewhere_are_not_touched(server, testbed):
    Vault("lab").path.unlink()
    assert "has no secrets here" in _run("issue", "alice", code=1).stderr


class TestClass:
    """A class at once: 200 users, on a server of somebody else's (whose users need no bcrypt here)."""

    COUNT = 200

    @pytest.fixture(scope="class")
    def class_server(self, make_server):
        server = make_server()
        someone = server.user("someone", "someone")
        server.config["users"] = [{**someone, "username": name, "name": name} for name in self._names()]
        server.start()
        return server

    def _names(self):
        return [f"user-{number:03}" for number in range(self.COUNT)]

    @pytest.fixture
    def class_testbed(self, class_server, described, tmp_path, monkeypatch):
        """A testbed with these users, and class.csv, which names them all."""
        shutil.copytree(described["external"], tmp_path, dirs_exist_ok=True)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setattr(locks, "MACHINE_LOCK", tmp_path / "machine.lock")
        monkeypatch.setattr(leftovers, "end", lambda *_, **__: None)
        monkeypatch.setattr(wheels, "build", lambda _: Wheels(lite=ROOT, workload=ROOT))
        monkeypatch.chdir(tmp_path)
        found = yaml.safe_load((tmp_path / "testbed.yaml").read_text())
        found["server"]["urls"] = class_server.urls
        found["users"] = [{"name": name} for name in self._names()]
        (tmp_path / "testbed.yaml").write_text(yaml.safe_dump(found))
        rows = [f'{name},"Last, First {name}"' for name in self._names()]
        (tmp_path / "class.csv").write_text("\n".join(["name,full_name", *rows, ""]))
        return spec.load(None)

    @staticmethod
    def _onboard(*words, code=0):
        done = CliRunner().invoke(main, ["onboard", "class.csv", *words], catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done

    def test_killed_and_run_again_everybody_has_one_key_that_works(
        self, class_server, class_testbed, tmp_path, monkeypatch
    ):
        calls = Counter()
        send = ClearmlApi._send

        def count(self, endpoint, *arguments, **options):
            calls[endpoint] += 1
            return send(self, endpoint, *arguments, **options)

        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        killed = subprocess.run([sys.executable, "-c", KILLED_CLASS, "50"], env=environment, check=False)
        assert killed.returncode == -9
        written = len(list((tmp_path / "class").glob("*.conf")))
        assert 0 < written < self.COUNT

        monkeypatch.setattr(ClearmlApi, "_send", count)
        report = json.loads(self._onboard("--json").stdout)
        states = Counter(user["state"] for user in report["users"])
        assert set(states) == {"issued", "there"}
        assert states["issued"] + states["there"] == self.COUNT
        new = states["issued"]
        assert calls["auth.create_credentials"] == new
        assert calls["auth.get_credentials"] == self.COUNT
        assert calls["auth.edit_credentials"] == new
        own = ("auth.create_credentials", "auth.get_credentials", "auth.edit_credentials", "auth.revoke_credentials")
        assert sum(calls[endpoint] for endpoint in calls if endpoint not in own) <= 4, "logins, and the users once"

        files = sorted((tmp_path / "class").glob("*.conf"))
        held = {file.name.removesuffix("-laptop.conf"): conf.parse_key(file.read_text()) for file in files}
        assert sorted(held) == self._names()
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE((tmp_path / "class").stat().st_mode) == 0o700
        keys_there = _json("list")["keys"]
        assert {key["user"]: key["access_key"] for key in keys_there} == {
            name: key.access_key for name, key in held.items()
        }
        assert len(keys_there) == self.COUNT, "no key that nobody has"
        for name in (self._names()[0], self._names()[-1]):
            assert ensure.works(class_server.urls["api"], held[name], name)

        sheet = (tmp_path / "class" / "summary.csv").read_text()
        assert [row["name"] for row in csv.DictReader(sheet.splitlines())] == self._names()
        assert not any(key.secret_key in sheet for key in held.values())

        calls.clear()
        again = json.loads(self._onboard("--json").stdout)
        assert {user["state"] for user in again["users"]} == {"there"}
        assert calls["auth.create_credentials"] == calls["auth.edit_credentials"] == 0
        elsewhere = json.loads(self._onboard("--json", "--out", "another").stdout)
        assert {user["state"] for user in elsewhere["users"]} == {"elsewhere"}
        assert not list((tmp_path / "another").glob("*.conf"))

    def test_a_class_gets_bundles_that_only_its_users_can_open_also_after_a_kill(
        self, class_server, class_testbed, tmp_path
    ):
        mine = {name: pyrage.x25519.Identity.generate() for name in self._names()[-20:]}
        rows = [f"{name},bundles,{mine[name].to_public()}" for name in [*mine][:10]]
        rows += [f"{name},bundles," for name in [*mine][10:]]
        (tmp_path / "class.csv").write_text("\n".join(["name,purpose,public_key", *rows, ""]))
        (tmp_path / "keys").mkdir()
        for name in [*mine][10:]:
            (tmp_path / "keys" / f"{name}.pub").write_text(f"{mine[name].to_public()}\n")
        words = ("--bundle", "--keys", "keys", "--json")

        def states():
            users = json.loads(self._onboard(*words).stdout)["users"]
            return {user["name"]: (user["state"], user["file"]) for user in users}

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(keys.Keys, "_call", _failing_after(keys.Keys._call, "auth.edit_credentials", 5))
            self._onboard(*words, code=1)
        first = states()
        assert Counter(state for state, _ in first.values()) == {"there": 5, "issued": 15}
        files = {name: Path(file) for name, (_, file) in first.items()}
        assert {*(tmp_path / "class").glob("*.age")} == {*files.values()}, "no bundle of a key that is revoked"
        assert {stat.S_IMODE(file.stat().st_mode) for file in files.values()} == {0o600}
        for name, file in files.items():
            held = _opened(file, mine[name])
            assert conf.parse_key(held["clearml.conf"]).access_key[:8] in file.name
            assert name in held["START.md"]
        name, file = next(iter(files.items()))
        assert ensure.works(class_server.urls["api"], conf.parse_key(_opened(file, mine[name])["clearml.conf"]), name)
        assert {state for state, _ in states().values()} == {"there"}
        sheet = (tmp_path / "class" / "summary.csv").read_text()
        assert conf.parse_key(_opened(file, mine[name])["clearml.conf"]).secret_key not in sheet

    @pytest.mark.long
    def test_all_200_get_bundles_after_a_kill_and_from_two_administrators_at_once(
        self, class_server, class_testbed, tmp_path, monkeypatch
    ):
        mine = {name: pyrage.x25519.Identity.generate() for name in self._names()}
        words = ["--bundle", "--json"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

        def write_csv(purpose):
            rows = [f"{name},{purpose},{mine[name].to_public()}" for name in mine]
            (tmp_path / "class.csv").write_text("\n".join(["name,purpose,public_key", *rows, ""]))

        def opens(purpose):
            """Which key is in whose bundle."""
            files = (tmp_path / "class").glob(f"clearml-*-{purpose}-*.age")
            found = {file.name.removeprefix("clearml-").partition(f"-{purpose}-")[0]: file for file in files}
            return {
                name: conf.parse_key(_opened(file, mine[name])["clearml.conf"]).access_key
                for name, file in found.items()
            }

        def there(purpose):
            return sorted(
                (key["user"], key["access_key"]) for key in _json("list")["keys"] if key["purpose"] == purpose
            )

        write_csv("term")
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_BUNDLES, "60", *words], env=environment, capture_output=True, check=False
        )
        assert killed.returncode == -9, killed.stderr
        assert len(opens("term")) == 60
        calls, steps = Counter(), []
        send, step = ClearmlApi._send, console.Stage.step

        def count(self, endpoint, *arguments, **options):
            calls[endpoint] += 1
            return send(self, endpoint, *arguments, **options)

        def told(self, text):
            steps.append(text)
            step(self, text)

        with monkeypatch.context() as patched:
            patched.setattr(ClearmlApi, "_send", count)
            patched.setattr(console.Stage, "step", told)
            users = json.loads(self._onboard(*words).stdout)["users"]
        states = Counter(user["state"] for user in users)
        assert set(states) == {"issued", "there"}
        assert states.total() == self.COUNT
        assert [said for said in steps if said.endswith(f"of {self.COUNT}")] == [
            f"{number} of {self.COUNT}" for number in range(1, self.COUNT + 1)
        ]
        # to issue a key is one call, and two more for each user; what the killed run left is revoked
        assert calls["auth.create_credentials"] == calls["auth.edit_credentials"] == states["issued"]
        assert calls["auth.get_credentials"] == self.COUNT
        assert 0 < calls["auth.revoke_credentials"] <= keys.AT_ONCE
        assert calls.total() <= 3 * self.COUNT + keys.AT_ONCE + 4
        held = opens("term")
        assert sorted(held) == self._names()
        assert there("term") == sorted(held.items()), "no key that nobody has, none twice"

        write_csv("both")
        command = [sys.executable, "-c", ONBOARD, *words]
        begun = [
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE) for _ in "ab"
        ]
        said = [process.communicate() for process in begun]
        assert sorted(process.returncode for process in begun) in ([0, 0], [0, 4]), said
        held = opens("both")
        assert sorted(held) == self._names()
        assert there("both") == sorted(held.items())

    def test_two_administrators_at_once_double_nothing(self, class_server, class_testbed, tmp_path):
        names = self._names()[:12]
        (tmp_path / "class.csv").write_text("\n".join(["name,purpose", *(f"{name},twice" for name in names), ""]))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", ONBOARD]
        begun = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
        told = [process.communicate()[1] for process in begun]
        codes = sorted(process.returncode for process in begun)
        assert codes in ([0, 0], [0, 4]), told  # the second one waited for nothing, or came when the first was done
        held = [key["user"] for key in _json("list")["keys"] if key["purpose"] == "twice"]
        assert sorted(held) == names

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            (
                "name,public_key\nuser-000,age1nonsense\n",
                "class.csv:2: public_key of user-000: holds a public key that",
            ),
            ("name\nuser-000\n", "class.csv:2: user-000 has no public key"),
        ],
    )
    def test_who_has_no_public_key_is_named_and_nothing_is_done(self, class_testbed, tmp_path, text, told):
        (tmp_path / "class.csv").write_text(text)
        assert told in self._onboard("--bundle", code=2).stderr
        assert not (tmp_path / "class").exists()

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("name,public_key\nuser-000,age1x\n", "Say --bundle"),
            ("name\nuser-000\nUser 1\n", "class.csv:3: testbed lab has no user 'User 1'"),
            ("name\nuser-000\nGrüße\n", "class.csv:3: testbed lab has no user 'Grüße'"),
            ("name\nuser-000\nuser-000\n", "class.csv:3: user-000 is there twice for laptop"),
            ("name,expires\nuser-000,2020-01-01\n", "class.csv:2: 2020-01-01 is not in the future"),
            ("name,purpose\nuser-000,My Laptop\n", "class.csv:2: purpose 'My Laptop' must be"),
            ("name\nuser-000,more\n", "class.csv:2: has more cells"),
            ('name,full_name\nuser-000,U\nuser-001,"V\nuser-002,W\n', "class.csv:3: is no CSV"),
            ('name,full_name\nuser-000,"U\nuser-001,"\n', "class.csv:3: the full name of user-000 has"),
            ('"name\nuser-000\n', "class.csv:1: is no CSV"),
            (f"name,full_name\nuser-000,{'U' * 131073}\n", "class.csv:2: is no CSV: field larger than"),
            ("nam\nuser-000\n", "column 'nam' is unknown; did you mean name?"),
            ("full_name\nuser-000\n", "has no column `name`"),
            ("name\n", "names nobody"),
            ("", "has no column `name`"),
            (None, "cannot be read"),
        ],
    )
    def test_a_wrong_line_is_named_and_nothing_is_done(self, class_testbed, tmp_path, text, told):
        (tmp_path / "class.csv").unlink()
        if text is not None:
            (tmp_path / "class.csv").write_text(text)
        assert told in self._onboard(code=2).stderr
        assert not (tmp_path / "class").exists()


def _failing_after(call, endpoint, times):
    """A `_call` that fails at an endpoint after so many times, as a server does that goes away."""
    left = [times]
    lock = threading.Lock()

    def failing(self, called, *arguments, **parameters):
        with lock:
            left[0] -= called == endpoint
            if left[0] < 0 and called in (endpoint, "auth.create_credentials"):
                raise ApiError("the server has gone")
        return call(self, called, *arguments, **parameters)

    return failing


ONBOARD = """
import sys
from pathlib import Path
from provision import leftovers, locks, wheels
from provision.cli import main
from provision.inventory import Wheels
from provision.paths import ROOT
locks.MACHINE_LOCK = Path("machine.lock").absolute()
leftovers.end = lambda *_, **__: None
wheels.build = lambda _: Wheels(lite=ROOT, workload=ROOT)
main(["onboard", "class.csv", *sys.argv[1:]])
"""
KILLED_BUNDLES = f"""
import os, signal, sys
from provision import paths

write, left = paths.write_atomic, [int(sys.argv.pop(1))]


def killing(path, data):
    if path.suffix == ".age":
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    write(path, data)


paths.write_atomic = killing
{ONBOARD}
"""
KILLED_CLASS = """
import os, signal, sys
from provision import paths

write, left = paths.write_atomic, [int(sys.argv[1])]


def killing(path, data):
    if path.suffix == ".conf":
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    write(path, data)


paths.write_atomic = killing
from provision.credentials import keys, onboarding
from provision import spec
from provision.cli.paper import Paper
from provision.secrets import Vault
from pathlib import Path

testbed, found, folder = spec.load(None), Vault("lab").load(), Path("class").absolute()
paths.make_private(folder)
people = onboarding.read(Path("class.csv"), testbed, "laptop", "90d")
with keys.opened(testbed, found) as there:
    onboarding.onboard(
        there, "lab", people, folder, lambda who, _: Paper(testbed, found, folder / who.conf), lambda _: None
    )
"""
