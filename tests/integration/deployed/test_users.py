"""Users who come and go on the testbed that is up, and keys whose day is over."""

from __future__ import annotations

import datetime
import json
import os
import pwd
import signal
import stat
from pathlib import Path

import httpx
import pytest

from provision import spec
from provision.clearml_api import ClearmlApi
from provision.credentials import ensure
from provision.credentials.conf import parse_key
from provision.credentials.issuer import user_id
from provision.secrets import KeyPair, Vault

pytestmark = pytest.mark.deployed
NAME = "testbed-ada"


@pytest.fixture
def run(command, tmp_path):
    """A command with a testbed.yaml of this test's, which describes the testbed that is up."""
    file = tmp_path / "testbed.yaml"
    file.write_text(spec.EXAMPLE.read_text())

    def call(*words, code=0):
        done = command(*words, "--spec", str(file))
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    call.file = file
    return call


@pytest.mark.long
def test_a_user_comes_works_and_goes_and_the_task_stays(run, testbed, tmp_path, api):
    url, before = testbed.server.url("api"), run.file.read_text()
    (tmp_path / "new.csv").write_text(f"name,full_name\n{NAME},Ada L\n")
    applied = json.loads(run("users", "apply", str(tmp_path / "new.csv"), "--yes", "--json"))
    assert applied["added"] == [NAME]
    assert {user["name"]: user["state"] for user in applied["users"]}[NAME] == "ready"
    secret = Vault(testbed.name).load().users[NAME]
    password = KeyPair(access_key=NAME, secret_key=secret.password)
    assert ensure.works(url, password, NAME)
    settings = Path("/etc/testbed/clearml-lite.yaml").read_text()
    assert secret.password_hash in settings
    assert secret.password not in settings

    conf = Path(f"~{NAME}/clearml.conf").expanduser()
    assert (conf.stat().st_uid, stat.S_IMODE(conf.stat().st_mode)) == (pwd.getpwnam(NAME).pw_uid, 0o600)
    [verified] = json.loads(run("credentials", "verify", NAME, "--json"))["confs"]
    results = {check["name"]: check["result"] for check in verified["checks"]}
    assert {results[name] for name in ("login", "clock", "files", "SDK")} == {"passed"}
    key = parse_key(conf.read_text())
    with ClearmlApi(url, key) as theirs:
        token = theirs.login()
        task = theirs.call("tasks.create", name=f"of {NAME}", type="training")["id"]

    removed = json.loads(run("users", "remove", NAME, "--yes", "--json"))
    assert [each["access_key"] for each in removed["revoked"]] == [key.access_key]
    assert run.file.read_text() == before
    assert not ensure.works(url, key)
    assert not ensure.works(url, password)
    refused = httpx.get(f"{url}/users.get_current_user", headers={"Authorization": f"Bearer {token}"})
    assert refused.status_code == 401
    assert api.call("tasks.get_by_id", task=task)["task"]["name"] == f"of {NAME}"
    api.call("tasks.delete", task=task, force=True)


def test_the_servers_host_revokes_a_key_whose_day_is_over(testbed, secrets, pid_of, eventually):
    settings = Path("/etc/testbed/expiry.json")
    assert (settings.stat().st_uid, stat.S_IMODE(settings.stat().st_mode)) == (0, 0o600)
    user = testbed.users[0].name
    whose = user_id(user)
    past = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=2)
    label = f"testbed:{testbed.name} user:{user} purpose:over issued:{past} expires:{past}"
    with ClearmlApi(testbed.server.url("api"), secrets.clearml.apiserver.pair) as admin:
        made = admin.call("auth.create_credentials", impersonate=whose, label=label)["credentials"]["access_key"]
        service = pid_of("testbed-expiry")
        assert service, "the service does not run"
        os.kill(service, signal.SIGKILL)  # it begins anew, and looks at once

        def is_gone():
            there = admin.call("auth.get_credentials", impersonate=whose)["credentials"]
            return made not in {key["access_key"] for key in there}

        eventually("the key is revoked", is_gone, 60)


def test_a_conf_on_the_hosts_is_verified(command, testbed):
    user = testbed.users[0].name
    done = command("credentials", "verify", user)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"~{user}/clearml.conf on local" in done.stdout
    assert parse_key(Path(f"~{user}/clearml.conf").expanduser().read_text()).secret_key not in done.stdout + done.stderr
