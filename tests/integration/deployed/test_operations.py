"""backup, restore and logs on a testbed that is up: a kill at any moment loses neither the old data nor the new."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from provision import archive, spec
from provision.clearml_api import ClearmlApi
from provision.credentials import ensure
from provision.credentials.ensure import parse_key
from provision.errors import ApiError
from provision.secrets import Vault

pytestmark = [pytest.mark.deployed, pytest.mark.long]

ROOT = Path(__file__).parents[3]
DATA = Path("/var/lib/testbed/clearml-lite")


@pytest.fixture(scope="module")
def backed_up(said, tmp_path_factory):
    """A backup of the testbed as it is now, and what it reported."""
    report = json.loads(said("backup", "--yes", "--json", "--to", str(tmp_path_factory.mktemp("backups"))))
    return Path(report["backup"]), report


@pytest.fixture
def begun(command):
    """Start a command as a person does, to be killed."""
    started = []

    def start(*arguments):
        words = [str(ROOT / "testbed"), *arguments, "--spec", str(spec.EXAMPLE)]
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        _kill(process)


def _kill(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _projects(testbed):
    with ClearmlApi(testbed.server.url("api"), Vault(testbed.name).load().toolkit) as api:
        return {found["name"] for found in api.call("projects.get_all", only_fields=["name"])["projects"]}


def _make_project(testbed, name):
    with ClearmlApi(testbed.server.url("api"), Vault(testbed.name).load().toolkit) as api:
        api.call("projects.create", name=name)


def _answers(testbed):
    try:
        _projects(testbed)
    except ApiError:
        return False
    return True


def _held(testbed):
    return {user.name: parse_key(Path(f"~{user.name}/clearml.conf").expanduser().read_text()) for user in testbed.users}


def test_a_backup_is_private_whole_and_says_what_it_is_of(backed_up, testbed):
    folder, report = backed_up
    found = archive.read(folder)
    assert (found.testbed, found.backend, found.server) == (testbed.name, "lite", report["server"])
    assert 0 < found.downtime == report["downtime"] < 60
    assert found.files == report["files"] > 1
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


def test_no_secret_is_in_clear_in_it_but_the_data(backed_up, find_secret_values):
    folder, _ = backed_up
    for name in {*archive.PARTS} - {archive.DATA}:
        content = (folder / name).read_bytes()
        assert [value for value in find_secret_values() if value in content] == [], name


def test_what_was_there_comes_back_twice_and_what_came_since_is_gone(backed_up, said, testbed):
    folder, _ = backed_up
    before, keys = _projects(testbed), _held(testbed)
    for number in (1, 2):
        _make_project(testbed, f"came-since-{number}")
        report = json.loads(said("restore", str(folder), "--yes", "--json"))
        assert report["healthy"]
        assert 0 < report["compared"] <= report["files"]
        assert report["kept"] is None, "the secrets are the same"
        now = _projects(testbed)
        assert before <= now
        assert f"came-since-{number}" not in now
        assert _held(testbed) == keys
        assert all(ensure.works(testbed.server.url("api"), key) for key in keys.values())
        assert {path.name for path in DATA.parent.glob(f"{DATA.name}*")} == {DATA.name}
    assert "changed=0" in said("up", "--yes")


def test_an_altered_backup_is_refused_and_nothing_is_changed(backed_up, command, testbed, tmp_path):
    folder = tmp_path / "altered"
    subprocess.run(["cp", "--archive", "--reflink=auto", str(backed_up[0]), str(folder)], check=True)
    with (folder / archive.DATA).open("r+b") as file:
        file.seek(file.seek(0, os.SEEK_END) // 2)
        file.write(b"altered")
    _make_project(testbed, "stays")
    vault = Vault(testbed.name).path.read_bytes()
    done = command("restore", str(folder), "--yes")
    assert done.returncode == 1
    assert "data.tar: is cut off or altered" in done.stderr
    assert "stays" in _projects(testbed)
    assert Vault(testbed.name).path.read_bytes() == vault


def test_after_a_killed_backup_the_server_runs_and_no_half_backup_has_a_name(
    begun, eventually, said, testbed, tmp_path
):
    process = begun("backup", "--yes", "--to", str(tmp_path), "--name", "killed")
    eventually("the server is stopped", lambda: not _answers(testbed), 120)
    _kill(process)
    eventually("the server answers again, though nobody asked for it", lambda: _answers(testbed), 60)
    assert not (tmp_path / "killed").exists()
    said("smoke", "--level", "quick")
    said("backup", "--yes", "--to", str(tmp_path), "--name", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_backup_that_is_stopped_starts_the_server_before_it_ends(begun, eventually, testbed, tmp_path):
    process = begun("backup", "--yes", "--to", str(tmp_path), "--name", "stopped")
    eventually("the server is stopped", lambda: not _answers(testbed), 120)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert _answers(testbed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "stage", ["Look at the server", "Bring the data to the server", "Prepare secrets", "Bring up the server"]
)
def test_after_a_killed_restore_up_brings_one_or_the_other(backed_up, begun, command, said, testbed, stage):
    folder, _ = backed_up
    came = f"came before {stage}"
    _make_project(testbed, came)
    process = begun("restore", str(folder), "--yes")
    for line in process.stdout:
        if stage in line:  # it is over, so the next one is at work
            break
    _kill(process)
    restoring = Vault(testbed.name).load().restoring is not None
    assert restoring is (stage not in ("Look at the server",)), "the vault says whether `up` completes it"
    if restoring:
        problems = json.loads(command("status", "--json").stdout)["problems"]
        assert "a restore was begun and is not complete" in json.dumps(problems)
    said("up", "--yes")
    assert Vault(testbed.name).load().restoring is None
    assert (came in _projects(testbed)) is not restoring
    said("up", "--yes")
    assert {path.name for path in DATA.parent.glob(f"{DATA.name}*")} == {DATA.name}


def test_logs_show_the_server_start(said, command):
    assert "clearml-lite" in said("logs")
    assert "listening: API" in said("logs", "clearml-lite", "--lines", "50")
    done = command("logs", "no-such")
    assert done.returncode == 1
    assert "There are: clearml-lite" in done.stderr


def test_logs_go_on_with_what_is_written_until_ctrl_c(begun):
    following = begun("logs", "clearml-lite", "--follow", "--lines", "1")
    assert following.stdout.readline()
    with Path("/var/log/testbed/testbed-clearml-lite.log").open("a") as log:
        log.write("written by a test\n")
    assert following.stdout.readline() == "written by a test\n"
    following.send_signal(signal.SIGINT)
    assert following.wait(60) == 0
