"""`down --purge` leaves the machine as it was before `up`.

Needs TESTBED_BEFORE: a snapshot (`snapshot.py`) of the machine from before the testbed came up on it.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from provision import spec
from tests.integration.removal import snapshot

pytestmark = pytest.mark.removes

SUPERVISORD = Path("/run/supervisord.pid")


def test_down_asks_first(command):
    assert command("down").returncode == 3
    assert Path("/etc/testbed/testbed.json").exists()


def test_down_keeps_data_and_purge_leaves_nothing(command):
    before = json.loads(Path(os.environ["TESTBED_BEFORE"]).read_text())
    testbed = spec.load(spec.EXAMPLE)
    kept = [Path(testbed.data_dir) / name for name in ("clearml-lite", "influxdb")]
    kept += [Path(f"~{user.name}").expanduser() for user in testbed.users]
    if SUPERVISORD.exists():  # the harder case: the services run on, and its pid file and socket stay
        os.kill(int(SUPERVISORD.read_text()), signal.SIGKILL)

    done = command("down", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path for path in kept if not path.exists()] == [], "`down` without --purge keeps data"
    assert not Path("/opt/testbed").exists()
    running = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert [line for line in running if line and "/opt/testbed/" in " ".join(line)] == []

    done = command("down", "--yes", "--purge")
    assert done.returncode == 0, done.stdout + done.stderr
    after = snapshot.take()
    for kind in before:
        came, gone = set(after[kind]) - set(before[kind]), set(before[kind]) - set(after[kind])
        assert (sorted(came), sorted(gone)) == ([], []), f"{kind}: left behind, taken away"
    assert not Path("~/.config/testbed/local").expanduser().exists()

    again = command("down", "--yes", "--purge")
    assert again.returncode == 0, "there is nothing left to remove, and that is no error: " + again.stderr
