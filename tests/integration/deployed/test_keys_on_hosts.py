"""Keys that are delivered to hosts, and replaced there, on the testbed that is up; none is ever seen on the way."""

from __future__ import annotations

import contextlib
import json
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from provision.clearml_api import ClearmlApi
from provision.credentials import ensure
from provision.credentials.conf import parse_key
from provision.paths import state_dir
from tests.integration.deployed.rotating import ORDER, rotation, seen_during

pytestmark = [pytest.mark.deployed, pytest.mark.long]


@pytest.fixture
def url(testbed):
    return testbed.server.url("api")


@pytest.fixture
def api(testbed, url, secrets):
    """With the server's own identity, whose key is not replaced here."""
    with ClearmlApi(url, secrets.clearml.apiserver.pair) as api:
        yield api


@pytest.fixture
def delivered(testbed, command):
    """Where a key for `nightly` is delivered; it goes afterwards."""
    user = testbed.users[0].name
    file = Path(f"~{user}/clearml-nightly.conf").expanduser()
    yield file
    file.unlink(missing_ok=True)
    command("credentials", "revoke", user, "--purpose", "nightly", "--yes")


@contextlib.contextmanager
def _watched():
    """What every process had as arguments and environment while the block ran."""
    seen, over = set(), threading.Event()

    def watch():
        while not over.wait(0.01):
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        seen.add((process / name).read_bytes())
                    except OSError:
                        continue  # the process has ended

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _with(secret, testbed):
    """Logs and temporary files that have the secret; what others' work removes meanwhile is gone."""
    temporary = [path for start in ("testbed", "ansible", "tmp") for path in Path("/tmp").glob(f"{start}*")]
    found = []
    for top in (state_dir(testbed.name), Path("/var/log/testbed"), *temporary):
        for path in [top, *top.rglob("*")]:
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink() and secret in path.read_bytes():
                    found.append(path)
    return found


def test_a_delivered_key_is_the_users_alone_and_seen_nowhere_on_the_way(testbed, command, url, delivered):
    user = testbed.users[0].name
    before = Path(f"~{user}/clearml.conf").expanduser().read_bytes()
    with _watched() as seen:
        done = command("credentials", "issue", user, "--purpose", "nightly", "--deliver", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["file"], report["hosts"]) == (f"~{user}/clearml-nightly.conf", ["local"])
    assert (delivered.owner(), stat.S_IMODE(delivered.stat().st_mode)) == (user, 0o600)
    key = parse_key(delivered.read_text())
    assert key.access_key == report["access_key"]
    assert ensure.works(url, key, user)
    assert Path(f"~{user}/clearml.conf").expanduser().read_bytes() == before
    secret = key.secret_key.encode()
    assert any(b"ansible-playbook" in line for line in seen), "the watch saw nothing"
    assert [block for block in seen if secret in block] == []
    assert _with(secret, testbed) == []
    assert key.secret_key not in done.stdout + done.stderr

    done = command("credentials", "rotate", user, "--purpose", "nightly", "--deliver")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not ensure.works(url, key)
    assert ensure.works(url, parse_key(delivered.read_text()), user)


def test_a_users_own_file_is_left_alone_and_no_key_is_left(testbed, command, delivered, api):
    user = testbed.users[0].name
    delivered.write_text("my own\n")
    done = command("credentials", "issue", user, "--purpose", "nightly", "--deliver")
    assert done.returncode == 1, done.stdout
    assert "was not written by this toolkit" in done.stdout + done.stderr
    assert delivered.read_text() == "my own\n"
    listed = json.loads(command("credentials", "list", user, "--json").stdout)["keys"]
    assert [key for key in listed if key["purpose"] == "nightly"] == []


def test_the_key_of_one_user_on_the_hosts_is_replaced_alone(testbed, command, url, keys_in_use):
    user = testbed.users[0].name
    before = keys_in_use()
    done = command("credentials", "rotate", user, "--purpose", "client", "--json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert (report["renewed"], report["issued"], report["revoked"]) == ([f"user/{user}"], 1, 1)
    after = keys_in_use()
    assert {name for name in before if before[name] != after[name]} == {f"user {user}"}
    assert not ensure.works(url, before[f"user {user}"])
    assert ensure.works(url, after[f"user {user}"], user)


def test_all_keys_on_the_hosts_are_replaced_and_the_testbed_is_well(testbed, command, url, keys_in_use):
    before = keys_in_use()
    done = command("credentials", "rotate", "--all", "--yes", "--json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report["healthy"]
    assert report["issued"] == report["revoked"] == len(report["renewed"]) == len(before)
    after = keys_in_use()
    assert [name for name in before if before[name] == after[name]] == []
    assert [ensure.works(url, key) for key in before.values()] == [False] * len(before)
    assert [ensure.works(url, key) for key in after.values()] == [True] * len(after)
    assert command("status").returncode == 0


def test_nothing_is_replaced_while_a_task_runs(testbed, command, url, keys_in_use):
    before, user = keys_in_use(), testbed.users[0].name
    with ClearmlApi(url, before[f"user {user}"]) as api:
        task = api.call("tasks.create", name="a task that runs", type="testing", project="")["id"]
        api.call("tasks.started", task=task, force=True)
        try:
            for words in (["--all", "--yes"], [user, "--purpose", "client"]):
                done = command("credentials", "rotate", *words)
                assert done.returncode == 4, done.stdout + done.stderr
                assert task in done.stderr
        finally:
            api.call("tasks.delete", task=task, force=True)
    assert keys_in_use() == before


def test_a_task_that_comes_while_keys_are_replaced_waits_for_the_new_ones(
    url, keys_in_use, enqueue, status_of, eventually
):
    before = keys_in_use()
    with rotation("credentials", "rotate", "--all") as begun:
        task = enqueue(0)
        assert seen_during(begun, lambda: status_of(task)) == {"queued"}
        said = begun.stdout.read()
    assert begun.returncode == 0, said
    assert json.loads(said)["revoked"] == len(before)
    eventually("the task is completed", lambda: status_of(task) == "completed", 120)
    assert [ensure.works(url, key) for key in before.values()] == [False] * len(before)


def test_up_lets_agents_work_that_a_killed_rotation_has_stopped(
    command, url, keys_in_use, enqueue, status_of, eventually
):
    with rotation("credentials", "rotate", "--all"):
        pass
    assert ORDER.exists()
    task = enqueue(0)
    done = command("up", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(ORDER.parent.glob("rotation.*"))
    eventually("the task is completed", lambda: status_of(task) == "completed", 120)
    assert [name for name, key in keys_in_use().items() if not ensure.works(url, key)] == []


def test_a_key_and_its_tokens_end_at_once_and_tokens_of_others_go_on(testbed, command, url, tmp_path):
    user = testbed.users[0].name
    file = tmp_path / "short.conf"
    assert command("credentials", "issue", user, "--purpose", "short", "--out", str(file)).returncode == 0
    with ClearmlApi(url, parse_key(file.read_text())) as api:
        token = api.login()
    header = ["-H", f"Authorization: Bearer {token}"]

    def answer():
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *header, f"{url}/users.get_current_user"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert answer() == "200"
    assert command("credentials", "revoke", user, "--purpose", "short", "--now", "--yes").returncode == 0
    assert answer() == "401"
