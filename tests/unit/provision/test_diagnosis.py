"""Each thing that is not well is told with where it is and what to do."""

from __future__ import annotations

import datetime
import json
import subprocess
from types import SimpleNamespace

import pytest
from rich.console import Console

from provision import diagnosis, inventory, mirrors, spec, status, upgrade_begun
from provision.cli import output
from provision.diagnosis import Seen
from provision.reports import (
    CertificateState,
    Clock,
    Disk,
    MirrorState,
    Service,
    StatusProblem,
    StatusReport,
    Urls,
    WorkerState,
)

NOW = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
GB = 1_000_000_000


def a_disk(**fields):
    given = {
        "path": "/data",
        "data": True,
        "size": 100 * GB,
        "free": 60 * GB,
        "used": 0.4,
        "inodes_used": 0.1,
        "writable": True,
    }
    return Disk(host="agent-1", **(given | fields))


def a_worker(age_s, **fields):
    reported = (NOW - datetime.timedelta(seconds=age_s)).isoformat()
    return WorkerState(name="agent-1:gpu", queues=["gpu"], task=None, last_report=reported, drained=None, **fields)


def a_service(running=True):
    return Service(
        host="agent-1", name="testbed-agent-gpu", running=running, state="runs" if running else "does not run"
    )


WORKER = [("agent-1", "gpu")]


@pytest.mark.parametrize(
    ("seen", "message", "remedy"),
    [
        ({"away": {"agent-1": "agent-1: SSH failed"}}, "agent-1: SSH failed", "testbed ssh agent-1"),
        ({"services": [a_service(False)]}, "agent-1: service testbed-agent-gpu does not run", "testbed logs agent-gpu"),
        ({"silent": {"http://s:8008": "refused"}}, "http://s:8008 does not answer: refused", "testbed up"),
        ({"begun": "restore"}, "a restore was begun and is not complete", "testbed up"),
        ({"upgrading": "2.4.0"}, "an upgrade to server 2.4.0 was begun and has not", "testbed upgrade --server 2.4.0"),
        ({"api_error": ("the server refuses the key", "Issue one")}, "the server refuses the key", "Issue one"),
        ({"wanted": WORKER, "workers": []}, "worker agent-1:gpu is not known to the server", "testbed logs agent-gpu"),
        ({"wanted": WORKER, "workers": [a_worker(300)]}, "has not reported for 300 s", "--host agent-1"),
        ({"disk": [a_disk(writable=False)]}, "agent-1: /data is read-only", "dmesg"),
        ({"disk": [a_disk(used=0.9)]}, "agent-1: /data is 90% full, 60.0 GB are left", "du -xh /data"),
        ({"disk": [a_disk(free=4.9 * GB)]}, "4.9 GB are left", "du -xh /data"),
        ({"disk": [a_disk(inodes_used=0.95)]}, "has used 95% of its inodes", "Remove folders"),
        ({"clocks": [Clock(of="agent-1", offset=31)]}, "the clock of agent-1 is 31 s ahead of", "set-ntp"),
        ({"clocks": [Clock(of="http://s:8008", offset=-3600)]}, "is 3600 s behind", "set-ntp"),
    ],
)
def test_a_problem_is_named_with_what_to_do(seen, message, remedy):
    [problem] = diagnosis.problems(Seen(now=NOW, **seen))
    assert message in problem.message
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    "seen",
    [
        {},
        {"services": [a_service()], "wanted": WORKER, "workers": [a_worker(30)]},
        {"wanted": WORKER, "workers": None},  # the API did not tell, which is told as such
        {"away": {}, "disk": [a_disk()], "clocks": [Clock(of="agent-1", offset=-29)]},
    ],
)
def test_what_is_well_is_no_problem(seen):
    assert diagnosis.problems(Seen(now=NOW, **seen)) == []


def test_what_a_host_that_is_away_does_not_tell_is_no_problem_of_its_own():
    seen = Seen(away={"agent-1": "agent-1: SSH failed"}, services=[a_service(False)])
    assert len(diagnosis.problems(seen)) == 1


def test_a_mirror_that_does_not_answer_is_told_once_with_all_hosts_that_need_it():
    def seen_from(host, key, problem):
        return MirrorState(host=host, key=key, url="http://m", problem=problem)

    seen = [seen_from("a", "mirrors.pip", "refused"), seen_from("b", "mirrors.pip", "refused")]
    seen += [seen_from("c", "mirrors.pip", "HTTP 502"), seen_from("a", "mirrors.apt", "")]
    first, second = diagnosis.problems(Seen(mirrors=seen))
    assert first.message == "a, b: mirror http://m (mirrors.pip) does not answer: refused"
    assert "another one in mirrors.pip of testbed.yaml; then testbed up" in first.remedy
    assert second.message == "c: mirror http://m (mirrors.pip) does not answer: HTTP 502"


def test_others_add_checks(monkeypatch):
    found = StatusProblem(message="the certificate ends tomorrow", remedy="Renew it.")
    monkeypatch.setattr(diagnosis, "CHECKS", [*diagnosis.CHECKS, lambda _: [found]])
    assert diagnosis.problems(Seen()) == [found]


@pytest.mark.parametrize(
    ("line", "used", "inodes_used", "writable"),
    [
        ("writable\t100 30 60 1000 100", 0.3333, 0.1, True),  # as df: what root alone may use does not count
        ("read-only\t  100 0 0 0 0", 1.0, 0.0, False),
        ("writable\t100 50 50 - -", 0.5, 0.0, True),  # btrfs has no limit of inodes
    ],
)
def test_a_disk_is_read_from_df(line, used, inodes_used, writable):
    found = status.disk_of("h", f"/data dir\t{line}", "/data")
    assert (found.used, found.inodes_used, found.writable) == (used, inodes_used, writable)
    assert (found.path, found.data) == ("/data dir", False)


def test_of_folders_on_one_file_system_the_first_is_told_and_none_that_is_not_there(tmp_path):
    data, other = str(tmp_path / "not/yet there"), str(tmp_path)
    [clock, *lines] = subprocess.run(
        ["sh", "-c", status.LOOK, "sh", data, other, "/dev", "/not/there"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert float(clock) > 0
    disks = [status.disk_of("h", line, data) for line in lines]
    assert [(disk.path, disk.data, disk.writable) for disk in disks] == [(data, True, True), ("/dev", False, True)]
    assert all(disk.size > 0 for disk in disks)


def test_where_there_is_no_data_little_room_is_enough_but_not_none():
    assert diagnosis.problems(Seen(disk=[a_disk(path="/tmp", data=False, free=GB)])) == []
    [found] = diagnosis.problems(Seen(disk=[a_disk(path="/var/log", data=False, used=0.97, free=0.1 * GB)]))
    assert found.message == "agent-1: /var/log is 97% full, 0.1 GB are left"


def a_report(*problems):
    urls = Urls(web="w", api="a", files="f", telemetry="t", outside=None)
    return StatusReport(
        testbed="lab",
        at="2026-01-01T12:00:00Z",
        healthy=not problems,
        problems=list(problems),
        urls=urls,
        services=[a_service()],
        versions={"clearml-agent": "3.0.3"},
        workers=[a_worker(0).model_copy(update={"drained": "2026-01-01 by ada@desk"})],
        queues=[],
        disk=[a_disk(writable=False)],
        clocks=[Clock(of="agent-1", offset=40)],
        certificates=[],
        mirrors=[],
        stores=[],
    )


PROBLEM = StatusProblem(message="the disk [of agent-1] is full", remedy="Make room")


def shown(found):
    console = Console(width=200, highlight=False)
    with console.capture() as captured:
        output.show_status(console, found)
    return captured.get()


def test_people_see_problems_with_what_to_do_below():
    text = shown(a_report(PROBLEM))
    assert "✗ the disk [of agent-1] is full\n    Make room\n" in text
    assert "All is well" not in text
    for piece in ("2026-01-01 by ada@desk", "/data (read-only)", "40.0 s", "40%"):
        assert piece in text
    assert "All is well" in shown(a_report())


def test_watched_by_a_script_each_look_is_one_line_until_ctrl_c(monkeypatch, capsys):
    looks = iter([a_report(), a_report(PROBLEM)])
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(output.time, "sleep", sleep)
    output.watch_status(Console(), lambda: next(looks), 7, as_json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["healthy"] for line in lines] == [True, False]
    assert lines[1]["problems"] == [PROBLEM.model_dump()]
    assert slept == [7, 7]


def test_watched_on_a_terminal_problems_come_first(monkeypatch):
    text = output._status_text(Console(width=200), a_report(PROBLEM), "Every 7 s").plain
    assert text.index("the disk [of agent-1] is full") < text.index("Services")
    assert text.count("the disk [of agent-1] is full") == 1


def test_a_bad_certificate_is_named_once():
    bad = CertificateState(url="https://lab:8008", ends=None, problem="its certificate has expired", remedy="Renew it")
    good = CertificateState(url="https://lab:8081", ends="2027-01-01", problem="", remedy="")
    seen = Seen(certificates=[bad, good], silent={"https://lab:8008": "certificate verify failed"})
    assert [(each.message, each.remedy) for each in diagnosis.problems(seen)] == [
        ("its certificate has expired", "Renew it")
    ]
    seen.silent["https://lab:8081"] = "refused"
    assert len(diagnosis.problems(seen)) == 2


def test_an_upgrade_that_has_not_ended_is_read_from_its_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    testbed = spec.load(None)
    for name in ("_look_at_urls", "_look_at_hosts", "_look_at_api"):
        monkeypatch.setattr(status, name, lambda *_: None)
    monkeypatch.setattr(status, "away", lambda _: {})
    monkeypatch.setattr(status, "_versions", lambda *_: {})
    monkeypatch.setattr(mirrors, "look", lambda *_: [])
    monkeypatch.setattr(inventory, "services", lambda *_: [])
    monkeypatch.setattr(inventory, "workers", lambda *_: [])
    vault = SimpleNamespace(load=lambda: None)
    session = SimpleNamespace(testbed=testbed, vault=vault, inventory={}, machines=())
    assert status.collect(session).healthy
    upgrade_begun.write(testbed.name, upgrade_begun.Begun("2.3.0", "2.4.0", "/b"))
    [problem] = status.collect(session).problems
    assert problem.remedy == "Complete it: testbed upgrade --server 2.4.0"
