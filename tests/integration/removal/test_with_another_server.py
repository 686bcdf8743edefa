"""A testbed without a server of its own: it comes up with one that somebody else runs, and leaves nothing there either.

Runs after the removal, on the machine that it left; removes its own testbed at the end.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provision import spec
from provision.paths import HOST_MARKER, config_dir
from provision.secrets import Vault
from tests.integration.removal import snapshot

pytestmark = pytest.mark.removes


def test_up_smoke_and_down_with_another_server(command, another_server):
    assert not HOST_MARKER.exists(), "this machine carries a testbed: ./testbed down --yes --purge"
    testbed, where = spec.load(another_server.spec), ("--spec", str(another_server.spec))
    user, before = testbed.users[0].name, snapshot.take()
    try:
        done = command("up", "--yes", "--json", *where)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        report = json.loads(done.stdout)
        assert (report["healthy"], report["level"]) == (True, "full")
        assert report["urls"]["api"] == another_server.server.config["urls"]["api"]
        secrets = Vault(testbed.name).load()
        assert (secrets.clearml, secrets.users) == (None, {})
        assert not Path("/opt/testbed/venvs/clearml-lite").exists()
        assert not Path("/var/lib/testbed/clearml-lite").exists()

        again = json.loads(command("up", "--yes", "--json", *where).stdout)
        assert (again["changed"], again["issued"], again["level"]) == (0, 0, "quick")
        for verb in (("status",), ("secrets", "status"), ("smoke", "--level", "quick")):
            done = command(*verb, *where)
            assert done.returncode == 0, (verb, done.stdout, done.stderr)
        another_server.server.call("tasks.create", {"name": "a user's", "type": "training"}, user=user)
        tasks = {task["id"] for task in another_server.server.call("tasks.get_all", user=user)["tasks"]}
        assert len(tasks) == 1, "what the checks made is gone"
        issued = [key for key, label in another_server.labels(user).items() if label.startswith("testbed:")]
        assert len(issued) == report["issued"] > 3
    finally:
        done = command("down", "--yes", "--purge", "--json", *where)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["revoked"] == len(issued)
    assert list(another_server.labels(user).values()) == ["my laptop"]
    assert another_server.takes(another_server.own)
    assert tasks <= {task["id"] for task in another_server.server.call("tasks.get_all", user=user)["tasks"]}
    assert not config_dir(testbed.name).exists()
    after = snapshot.take()
    for kind in before:
        came, gone = set(after[kind]) - set(before[kind]), set(before[kind]) - set(after[kind])
        assert (sorted(came), sorted(gone)) == ([], []), f"{kind}: left behind, taken away"
