"""One command at a time: the second is told who works since when, whoever it is, and a kill leaves no lock behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from provision import lock_file, locks
from provision.errors import BusyError, TestbedError
from provision.paths import ROOT

HOLD = """
import sys
from pathlib import Path
from provision import locks
with locks.hold(Path(sys.argv[1]), "this machine", locks.this_command("lab", "up"), shared=True):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    """A folder as /run/lock is: everybody's, and sticky."""
    path = tmp_path / "lock"
    path.mkdir()
    path.chmod(0o1777)
    for above in (tmp_path, *tmp_path.parents):
        above.chmod(0o755)
        if above.name.startswith("pytest-of-"):  # deeper where tests run side by side
            break
    return path


@pytest.fixture
def other(folder):
    """Another process that holds the lock; it is killed in the end."""
    started = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder / "lock")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    assert started.stdout.readline() == "held\n"
    yield started
    started.kill()
    started.communicate()


def _hold(path):
    return locks.hold(path, "this machine", "me", shared=True)


def test_the_second_is_told_who_and_since_when(other, folder):
    with pytest.raises(BusyError) as error, _hold(folder / "lock"):
        pass
    assert (
        f"`testbed up` of {os.environ.get('USER', 'root')} on testbed lab, process {other.pid}" in error.value.message
    )
    assert " since 20" in error.value.message, "the date is told, too"
    assert error.value.exit_code == 4


def test_a_killed_holder_holds_no_more(other, folder):
    other.kill()
    other.wait()
    with _hold(folder / "lock"):
        assert (folder / "lock").read_text() == "me"


def test_nothing_is_left_of_a_lock_that_users_share(folder):
    with _hold(folder / "lock"):
        assert (folder / "lock").stat().st_mode & 0o777 == 0o666, "or another user could not lock it"
    assert list(folder.iterdir()) == []


def test_a_lock_that_its_holder_removed_is_not_taken(folder, monkeypatch):
    path = folder / "lock"
    path.touch()
    opened = lock_file._open
    calls = []

    def open_slowly(*arguments):
        descriptor = opened(*arguments)
        if not calls:  # between opening and locking, its holder ends
            path.unlink()
        calls.append(descriptor)
        return descriptor

    monkeypatch.setattr(lock_file, "_open", open_slowly)
    with _hold(path):
        assert len(calls) == 2
        assert path.read_text() == "me"


def test_a_link_in_its_place_is_not_followed(folder, tmp_path):
    (folder / "lock").symlink_to(tmp_path / "victim")
    (tmp_path / "victim").write_text("precious")
    with pytest.raises(OSError, match="symbolic links"), _hold(folder / "lock"):
        pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_pipe_in_its_place_is_refused_and_not_waited_for(folder):
    os.mkfifo(folder / "lock")
    with pytest.raises(TestbedError, match="is no file"), _hold(folder / "lock"):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("first", [0, 65534])
def test_users_of_one_machine_exclude_each_other(folder, first):
    def locked_by(uid):
        # Python's own folders may be root's alone: another user's attempt is the system's flock
        command = ["flock", "--nonblock", str(folder / "lock"), "true"]
        return subprocess.run(command, user=uid, group=uid, check=False).returncode == 0

    (folder / "lock").touch()
    os.chown(folder / "lock", first, first)
    (folder / "lock").chmod(0o666)
    assert locked_by(65534)
    with _hold(folder / "lock"):
        assert not locked_by(65534)
