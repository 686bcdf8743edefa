"""One command at a time works on hosts that are other machines, and the lock there goes with the command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provision import forward, locks
from provision.errors import BusyError, ReachError
from provision.paths import ROOT

# in ssh's place: the command, its last word, runs here
HERE = '#!/bin/sh\nfor command; do :; done\nexec sh -c "$command"\n'
HOLD = """
import os, sys
from pathlib import Path
from provision import forward
lock = forward.Lock(Path(sys.argv[1]) / "lock", sys.argv[2])
with forward.opened("server", [f"{sys.argv[1]}/ssh"], {}, Path(sys.argv[1]), sudo=False, lock=lock):
    print("held", flush=True)
    sys.stdin.read()
"""
ADA = "`testbed up` of ada@laptop (0123abcd) on testbed lab, process 1, since this morning"


@pytest.fixture
def ada(tmp_path):
    """Another administrator's command, which holds the lock of the host."""
    _ssh(tmp_path)
    started = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), ADA],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout.readline() == "held\n"
    yield started
    started.kill()
    started.communicate()


def _ssh(folder: Path, text: str = HERE) -> str:
    path = folder / "ssh"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def _opened(folder: Path, *, take: bool = False, ssh: str = HERE):
    lock = forward.Lock(folder / "lock", "me", take)
    return forward.opened("server", [_ssh(folder, ssh)], {}, folder, sudo=False, lock=lock)


def _free(folder: Path) -> bool:
    return subprocess.run(["flock", "--nonblock", str(folder / "lock"), "true"], check=False).returncode == 0


def _wait_until(what) -> None:
    end = time.monotonic() + 10
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_lock_of_the_host_is_held_while_the_command_runs(tmp_path):
    with _opened(tmp_path):
        assert (tmp_path / "lock").read_text() == "me"
        assert not _free(tmp_path)
    assert not (tmp_path / "lock").exists()


def test_a_second_administrator_is_told_who_works_since_when(ada, tmp_path):
    with pytest.raises(BusyError) as error, _opened(tmp_path):
        pass
    assert ADA in error.value.message
    assert ada.poll() is None


def test_the_lock_can_be_taken_from_who_is_away(ada, tmp_path):
    with _opened(tmp_path, take=True):
        assert (tmp_path / "lock").read_text() == "me"


def test_a_killed_command_holds_it_no_more(ada, tmp_path):
    ada.kill()
    ada.wait()
    _wait_until(lambda: _free(tmp_path))


def test_what_ssh_says_is_told(tmp_path):
    ssh = "#!/bin/sh\necho Permission denied >&2; exit 255\n"
    with pytest.raises(ReachError, match="server: SSH to it failed: Permission denied"), _opened(tmp_path, ssh=ssh):
        pass


def test_the_forward_is_not_ended_with_what_the_command_started(tmp_path, monkeypatch):
    monkeypatch.setenv(locks.VARIABLE, "me")
    ssh = HERE.replace("\n", f"\nenv >{tmp_path}/environment\n", 1)
    with _opened(tmp_path, ssh=ssh):
        assert locks.VARIABLE not in (tmp_path / "environment").read_text()
    assert os.environ[locks.VARIABLE] == "me"
