"""`logs` shows the end of a service's log, what was written since a time, and what is written from now on."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provision import logs_on_host, on_host, service_logs
from provision.service_logs import Log, LogError

SERVICES = [
    ("server", "testbed-clearml-lite"),
    ("agent-1", "testbed-agent-default"),
    ("agent-2", "testbed-agent-default"),
]
LOGS = service_logs.listed(SERVICES)
SCRIPT = Path(logs_on_host.__file__)


@pytest.fixture
def log(tmp_path):
    """A log that was rotated twice."""
    path = tmp_path / "testbed-x.log"
    with gzip.open(f"{path}.2.gz", "wt") as oldest:
        oldest.write("ts=2026-01-01T00:00:00Z oldest\n")
    Path(f"{path}.1").write_text("2026-01-02 00:00:00,123 INFO older\n  and more of it\n")
    path.write_text("no time\n2026-01-03T00:00:00.5Z new\n2026-01-04T00:00:00Z newest\n  its traceback\n")
    return path


def _shown(log, **asked):
    argument = {"container": None, "path": str(log), "lines": None, "since": None, "follow": False, **asked}
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), json.dumps(argument)], capture_output=True, text=True, check=False
    )
    return done.stdout.splitlines() if done.returncode == 0 else done.stderr


@pytest.mark.parametrize(
    ("asked", "arguments"),
    [
        ({}, "logs --tail all testbed-clearml-mongo"),
        ({"lines": 5, "since": 1767225600.5}, "logs --tail 5 --since 1767225600 testbed-clearml-mongo"),
        ({"follow": True}, "logs --tail all --follow testbed-clearml-mongo"),
    ],
)
def test_a_containers_log_is_dockers_with_both_streams(tmp_path, monkeypatch, asked, arguments):
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\n[ "$1" = inspect ] && exit 0\necho "$@"\necho complaint >&2\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    [log] = service_logs.listed([("server", "testbed-clearml-mongo")])
    wanted = service_logs.asked(log, asked.get("lines"), asked.get("since"), follow=asked.get("follow", False))
    assert _shown("x", **wanted) == [arguments, "complaint"]
    docker.write_text("#!/bin/sh\necho no such container >&2; exit 1\n")
    assert "testbed-clearml-mongo: no such container" in _shown("x", **wanted)
    docker.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no docker command here" in _shown("x", **wanted)


def _at(text):
    return service_logs.since(text, time.time())


def test_all_of_a_log_comes_in_its_order_also_what_was_rotated(log):
    shown = _shown(log)
    assert [line.split()[-1] for line in shown] == ["oldest", "older", "it", "time", "new", "newest", "traceback"]


def test_lines_are_the_last_ones(log):
    assert _shown(log, lines=2) == ["2026-01-04T00:00:00Z newest", "  its traceback"]
    assert len(_shown(log, lines=5)) == 5


def test_since_counts_by_the_time_of_a_line_and_one_without_belongs_to_the_one_before(log):
    assert _shown(log, since=_at("2026-01-04T00:00:00+00:00")) == ["2026-01-04T00:00:00Z newest", "  its traceback"]
    shown = _shown(log, since=_at("2026-01-02T00:00:00"))  # a time of the machine's own
    assert shown[:3] == ["2026-01-02 00:00:00,123 INFO older", "  and more of it", "no time"]


def test_a_log_that_is_not_there_is_named(tmp_path):
    assert "there is no such log yet" in _shown(tmp_path / "none.log")


def test_follow_goes_on_with_what_is_written_also_after_a_rotation(log):
    argument = json.dumps({"path": str(log), "lines": 1, "since": None, "follow": True})
    follower = subprocess.Popen([sys.executable, "-I", str(SCRIPT), argument], stdout=subprocess.PIPE, text=True)
    try:
        assert follower.stdout.readline() == "  its traceback\n"
        with log.open("a") as stream:
            stream.write("one more\n")
        assert follower.stdout.readline() == "one more\n"
        log.rename(f"{log}.3")
        log.write_text("after the rotation\n")
        assert follower.stdout.readline() == "after the rotation\n"
    finally:
        follower.kill()
        follower.wait()


@pytest.mark.parametrize(("text", "ago"), [("30s", 30), ("10m", 600), ("2h", 7200), ("3d", 259200)])
def test_since_takes_how_long_ago(text, ago):
    assert service_logs.since(text, 1_000_000.0) == 1_000_000.0 - ago


def test_a_time_that_is_none_is_refused_with_examples():
    with pytest.raises(LogError, match="--since soon: is no time") as caught:
        service_logs.moment("soon")
    assert "10m" in caught.value.remedy


def test_a_service_is_found_by_either_name_on_all_its_hosts_or_on_one():
    assert service_logs.chosen(LOGS, "clearml-lite", None, follow=True) == [
        Log("server", "clearml-lite", "testbed-clearml-lite")
    ]
    assert [log.host for log in service_logs.chosen(LOGS, "testbed-agent-default", None, follow=False)] == [
        "agent-1",
        "agent-2",
    ]
    assert [log.host for log in service_logs.chosen(LOGS, "agent-default", "agent-2", follow=True)] == ["agent-2"]


@pytest.mark.parametrize(
    ("name", "host", "follow", "said"),
    [
        ("redis", None, False, "There are: clearml-lite, agent-default."),
        ("clearml-lite", "agent-1", False, "It is on: server."),
        ("agent-default", None, True, "--host: agent-1, agent-2."),
    ],
)
def test_a_wrong_name_says_which_there_are(name, host, follow, said):
    with pytest.raises(LogError) as caught:
        service_logs.chosen(LOGS, name, host, follow=follow)
    assert said in caught.value.remedy


def test_a_script_runs_here_or_by_ssh_as_root_with_the_mark_of_its_command():
    local = {"ansible_connection": "local", "ansible_become": False}
    words = on_host.command(local, (), "logs", {"path": "/x y"}, mark="`testbed up` of me")
    assert words[:2] == ["env", "TESTBED_RUN=`testbed up` of me"]
    assert json.loads(words[-1]) == {"path": "/x y"}
    remote = {"ansible_host": "192.0.2.7", "ansible_become": True}
    words = on_host.command(remote, ["-o", "Port=2222"], "logs", {"path": "/x y"})
    assert words[0] == "ssh"
    assert words[-3:-1] == ["Port=2222", "192.0.2.7"]
    assert "ControlPath=none" in words
    assert words[-1].startswith("sudo -n env TESTBED_RUN= /usr/bin/python3 -I -c ")
