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

from provision import leftovers, leftovers_on_host, locks
from provision.errors import BusyError, TestbedError

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
    asked = {"variable": locks.VARIABLE, "run": MINE, "whose": leftovers.LOCAL, "folders": [], "folder": ""}
    signalled, waits = leftovers._signal(inventory, "local", "SIGTERM", asked=asked)
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


# commands on other machines, of two administrators
ADA = " of ada@laptop (0123abcd) on testbed lab,"
FAR = f"`testbed up`{ADA} process 1, since long ago"
FAR_MINE = f"`testbed up`{ADA} process 2, since now"
BOB = "`testbed up` of bob@desk (4567cdef) on testbed lab, process 7, since this morning"


def _end_far(inventory, name="local", whose=ADA, folders=(), folder=""):
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    leftovers.end(console, inventory, [name], FAR_MINE, own=False, whose=whose, folders=folders, folder=str(folder))
    return shown.getvalue()


@pytest.mark.parametrize("name", ["local", leftovers.HERE])
def test_on_other_machines_an_administrator_ends_what_is_their_own(inventory, start, name):
    _, [mine] = start("python3", run=FAR_MINE)
    _, [left] = start("python3", run=FAR)
    assert f"left by {FAR}" in _end_far(inventory, name)
    assert (_lives(mine), _lives(left)) == (True, False)


def test_another_administrators_command_is_not_ended_but_told(inventory, start, tmp_path):
    _, [left] = start("python3", run=FAR)
    _, [other] = start("python3", run=BOB)
    with pytest.raises(BusyError) as error:
        _end_far(inventory, folder=tmp_path / "new")
    assert BOB in error.value.message
    assert _lives(other)
    _end_far(inventory, whose=leftovers.EVERYBODY, folder=tmp_path / "new")
    assert not any(map(_lives, (left, other)))
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o700


def test_other_testbeds_commands_here_are_nobodys_business(inventory, start):
    """This machine may be the testbed of one command and the administrator's machine of another one."""
    _, [far] = start("python3", run=FAR)
    _, [other] = start("python3", run=KILLED)
    assert _end_far(inventory, leftovers.HERE, whose=" of eve@laptop (89abcdef) on testbed far,") == ""
    assert (_lives(far), _lives(other)) == (True, True)
    _end(inventory)
    assert (_lives(far), _lives(other)) == (True, False)


def test_folders_of_ones_own_killed_commands_go_by_their_pattern(inventory, tmp_path):
    for name in ("testbed-0123abcd-x", "testbed-0123abcd-y", "testbed-4567cdef-z"):
        (tmp_path / name / "sub").mkdir(parents=True)
    _end_far(inventory, folders=[tmp_path / "testbed-0123abcd-*"], folder=tmp_path / "testbed-0123abcd-new")
    assert sorted(path.name for path in tmp_path.glob("testbed-*")) == ["testbed-0123abcd-new", "testbed-4567cdef-z"]


def test_a_folder_that_somebody_else_made_first_is_not_taken(inventory, tmp_path):
    (tmp_path / "new").mkdir()
    with pytest.raises(TestbedError, match="FileExistsError"):
        _end_far(inventory, folder=tmp_path / "new")


def test_the_mark_of_a_command_on_other_machines_is_known_as_such(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    whose = locks.administrator("lab")
    mark = locks.this_command("lab", "secrets-rekey", whose=whose)
    assert leftovers_on_host.ELSEWHERE.match(mark)
    assert locks.mine(whose, "lab") in mark
    assert locks.mine(whose, "lab") not in locks.this_command("lab-2", "up", whose=whose)
    assert not leftovers_on_host.ELSEWHERE.match(locks.this_command("lab", "up"))
    monkeypatch.setenv("XDG_STATE_HOME", "/elsewhere")
    assert locks.administrator("lab") != whose, "two that are called the same, on machines that are called the same"
