"""A command that is stopped ends what it started and says what was done; one that is killed leaves that to the next."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provision.paths import ROOT

# a verb as up is: stages, one of which runs a playbook
WORK = """
import sys
from pathlib import Path

from provision import converge, locks
from provision.cli.group import load, main, make_console
from provision.session import open_session

folder, seconds, locks.VARIABLE = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
locks.MACHINE_LOCK = folder / "machine.lock"

@main.command()
def work():
    stages = ("Think", "Play", "Rest")
    with open_session(load(None), "work", make_console(), None, stages=stages) as session:
        with session.stage("Think"):
            pass
        with session.stage("Play") as current:
            converge.run_playbook(
                folder / "play.yml", session.inventory, session.vault, stage=current, log=session.log,
                work=session.work, variables={"seconds": seconds}, secret_variables={},
            )
        with session.stage("Rest"):
            pass

main(["work"])
"""
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Take long
      ansible.builtin.command: sleep {{ seconds }}
      become: false
"""


@pytest.fixture
def work(tmp_path):
    """Start the verb; its processes can be told from all others."""
    (tmp_path / "play.yml").write_text(PLAY)
    variable = f"TESTBED_RUN_OF_TEST_{os.getpid()}"
    started = []

    def start(seconds):
        places = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "state")}
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", WORK, str(tmp_path), str(seconds), variable],
            env={**os.environ, **places, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=_listen,
        )
        started.append(process)
        return process

    start.variable = variable
    yield start
    for process in started:
        process.kill()
        process.communicate()
    for pid in _carrying(variable):
        os.kill(pid, signal.SIGKILL)


def _listen() -> None:
    """Let signals stop the process, also where the tests run in the background or under nohup."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _carrying(variable: str) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"\0{variable}=".encode() in b"\0" + (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def _takes_long(process, variable):
    """Wait until the task of the playbook runs."""
    end = time.monotonic() + 120
    while not any(_words(pid)[:1] == ["sleep"] for pid in _carrying(variable)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the playbook does not begin"
        time.sleep(0.1)


def _words(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "by Ctrl-C"),
        (signal.SIGTERM, 143, "by SIGTERM"),
        (signal.SIGHUP, 129, "as its terminal was closed"),
    ],
)
def test_a_stopped_command_says_what_was_done_and_leaves_nothing_behind(work, number, code, said, tmp_path):
    process = work(1000)
    _takes_long(process, work.variable)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == code, output + errors
    assert errors.splitlines() == [
        f"testbed: stopped {said}",
        "  done         Think",
        "  stopped in   Play, at local: Take long",
        "  not started  Rest",
        "  Run the same command again to go on.",
    ]
    assert _carrying(work.variable) == []
    assert list(tmp_path.glob("state/testbed/local/run-*")) == []
    assert not (tmp_path / "machine.lock").exists()


@pytest.mark.parametrize("whole_group", [False, True])
def test_what_a_killed_command_left_is_ended_by_the_next(work, tmp_path, whole_group):
    killed = work(1000)
    _takes_long(killed, work.variable)
    (os.killpg if whole_group else os.kill)(killed.pid, signal.SIGKILL)
    killed.wait()
    assert _carrying(work.variable), "Ansible outlives the command that started it"
    after = work(0)
    output, errors = after.communicate(timeout=120)
    assert after.returncode == 0, output + errors
    assert re.search(rf"left by `testbed work` of \S+ on testbed local, process {killed.pid}, since", output)
    assert "End what a killed command left" in output
    assert _carrying(work.variable) == []
    assert list(tmp_path.glob("state/testbed/local/run-*")) == []


def test_the_second_of_two_is_refused_and_the_first_one_goes_on(work):
    first = work(8)
    _takes_long(first, work.variable)
    second = work(0)
    output, errors = second.communicate(timeout=120)
    assert second.returncode == 4
    assert re.fullmatch(
        rf"testbed: this machine: another command works on it: `testbed work` of \S+ on testbed local, "
        rf"process {first.pid}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d \S+\n  Wait until it has ended.\n",
        errors,
    )
    output, errors = first.communicate(timeout=120)
    assert first.returncode == 0, output + errors
