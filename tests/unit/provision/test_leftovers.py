"""What a killed command left is found wherever it went, and ended; what must not be interrupted is waited for."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from provision import leftovers, locks
from provision.errors import BusyError

KILLED = "`testbed up` of somebody on testbed lab, process 1, since long ago"
MINE = "`testbed up` of me"
# a process of a name; starts another one if told to, in a session of its own, and awaits it
NAMED = """
import os, subprocess, sys
from pathlib import Path
name, *below = sys.argv[1:]
Path("/proc/self/comm").write_text(name)
print(os.getpid(), flush=True)
if below:
    subprocess.run([sys.executable, "-c", os.environ["CODE"], *below], start_new_session=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _variable_of_this_test(monkeypatch):
    """A command, or a test, that runs beside this one is none of its business."""
    monkeypatch.setattr(locks, "VARIABLE", f"TESTBED_RUN_OF_TEST_{os.getpid()}")


@pytest.fixture
def inventory(tmp_path):
    path = tmp_path / "inventory.json"
    host = {"ansible_connection": "local", "ansible_become": False}
    path.write_text(json.dumps({"all": {"hosts": {"local": host}}}))
    return path


@pytest.fixture
def start():
    """Start a process (and those below it) that carries `run`; return it and the IDs of all of them."""
    started = []

    def call(*names, run=KILLED, **variables):
        environment = {**os.environ, locks.VARIABLE: run, "CODE": NAMED, **variables}
        process = subprocess.Popen(
            [sys.executable, "-c", NAMED, *names],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, [int(process.stdout.readline()) for _ in names]

    yield call
    for process in started:
        process.kill()
        process.communicate()


def _end(inventory, own=False, run=MINE, folders=()):
    shown = io.StringIO()
    leftovers.end(Console(file=shown, width=200), inventory, ["local"], run, own=own, folders=folders)
    return shown.getvalue()


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_quiet_machine_is_passed_in_silence(inventory):
    assert _end(inventory) == ""


def test_what_another_command_left_is_ended_and_told(inventory, start):
    _, pids = start("python3", "pip")
    said = _end(inventory)
    assert not any(map(_lives, pids))
    assert f"left by {KILLED}" in said


def test_folders_of_killed_commands_go_when_the_last_process_has_ended(inventory, start, monkeypatch, tmp_path):
    killed, other = tmp_path / "run-1-x", tmp_path / "other"
    for folder in (killed, other):
        (folder / "tmp/ansible_command_payload_x").mkdir(parents=True)
    (killed / "to-other").symlink_to(other)
    start("python3")
    there = []

    def signal(*arguments, **options):
        there.append((killed / "tmp").exists())
        return real_signal(*arguments, **options)

    real_signal = leftovers._signal
    monkeypatch.setattr(leftovers, "_signal", signal)
    _end(inventory, folders=[killed, tmp_path / "gone"])
    assert len(there) > 1
    assert all(there), "it went while a process was there that may need it"
    assert not killed.exists()
    assert list(other.rglob("*payload*"))


def test_what_ignores_sigterm_is_killed(inventory, start, monkeypatch):
    monkeypatch.setattr(leftovers, "GENTLE_S", 1)
    process, _ = start("python3")
    deaf = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo deaf; sleep 1000"],
        env={**os.environ, locks.VARIABLE: KILLED},
        stdout=subprocess.PIPE,
    )
    assert deaf.stdout.readline() == b"deaf\n"
    _end(inventory)
    assert deaf.wait() == -9
    deaf.stdout.close()
    assert process.wait() == -15


def test_a_commands_own_processes_are_left_to_it(inventory, start):
    _, pids = start("python3", run=MINE)
    assert _end(inventory) == ""
    assert all(map(_lives, pids))
    _end(inventory, own=True)
    assert not any(map(_lives, pids))


def test_a_package_manager_and_what_awaits_it_are_waited_for(inventory, start, monkeypatch):
    process, pids = start("python3", "apt-get", "dpkg", "postinst")
    _, [other] = start("python3")
    ended = []

    def sleep(seconds):
        if not _lives(other):  # the others are not waited for
            ended.append([_lives(pid) for pid in pids])
            for pid in [pid for pid in pids if _lives(pid)][-1:]:  # they end one after the other, the last one first
                os.kill(pid, 15)
        real_sleep(seconds)

    real_sleep = time.sleep
    monkeypatch.setattr(leftovers.time, "sleep", sleep)
    said = _end(inventory)
    assert ended[0] == [True] * 4, "nothing of it was signalled while it worked"
    assert process.wait() in (0, -15)
    assert not any(map(_lives, pids))
    assert f"left by {KILLED}" in said


def test_ansible_starts_nothing_more_while_its_package_manager_is_waited_for(inventory, start, tmp_path):
    code = tmp_path / "ansible-playbook"
    code.write_text(NAMED)
    process = subprocess.Popen(
        [sys.executable, str(code), "python3", "python3", "dpkg"],
        env={**os.environ, locks.VARIABLE: KILLED, "CODE": NAMED},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pids = [int(process.stdout.readline()) for _ in range(3)]
    signalled, waits = leftovers._signal(inventory, "local", "SIGTERM", run=MINE, own=False)
    assert [pid for _, pid, _ in signalled] == pids[:1]
    assert sorted(pid for _, pid, _ in waits) == sorted(pids[1:])
    assert process.wait() == -9, "at SIGTERM, a worker of Ansible would take the package manager with it"
    process.communicate()
    for pid in pids[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)


def test_what_does_not_end_is_named(inventory, start, monkeypatch):
    monkeypatch.setattr(leftovers, "UNINTERRUPTED_S", 0)
    _, [pid] = start("dpkg")
    with pytest.raises(BusyError, match=rf"dpkg \({pid}\)"):
        _end(inventory)
    assert _lives(pid)
