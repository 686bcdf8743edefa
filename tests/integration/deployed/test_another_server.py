"""The testbed moves to a server that somebody else runs, works with it, and comes back to its own with all data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provision.clearml_api import ClearmlApi
from provision.credentials import ensure
from provision.credentials.ensure import parse_key
from provision.secrets import Vault

pytestmark = [pytest.mark.deployed, pytest.mark.long]


def test_it_moves_to_another_server_and_back(testbed, command, another_server, api):
    user = testbed.users[0].name
    before, tasks = Vault(testbed.name).load(), {task["id"] for task in api.call("tasks.get_all")["tasks"]}
    where = ("--spec", str(another_server.spec))
    try:
        announced = json.loads(command("up", "--check", "--json", *where).stdout)["changes"]
        assert ("service", "testbed-clearml-lite", "remove") in {
            (change["kind"], change["name"], change["action"]) for change in announced
        }
        done = command("up", "--yes", "--json", *where)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        report = json.loads(done.stdout)
        assert report["level"] == "full"
        assert not Path("/etc/testbed/clearml-lite.yaml").exists()
        conf = Path(f"~{user}/clearml.conf").expanduser().read_text()
        assert another_server.server.config["urls"]["api"] in conf
        assert another_server.takes(parse_key(conf))
        labels = another_server.labels(user)
        assert sum(label.startswith(f"testbed:{testbed.name} ") for label in labels.values()) == report["issued"] > 3

        again = json.loads(command("up", "--yes", "--json", *where).stdout)
        assert (again["changed"], again["issued"], again["revoked"], again["healthy"]) == (0, 0, 0, True)
        for verb in (("status",), ("secrets", "status"), ("up", "--check")):
            done = command(*verb, *where)
            assert done.returncode == 0, (verb, done.stdout, done.stderr)
        assert command("secrets", "rotate", "--yes", "--tokens-only", *where).returncode == 1
        assert another_server.takes(another_server.own)
        leaving = json.loads(command("down", "--check", "--json", *where).stdout)["changes"]
        assert {change["name"].rpartition(" ")[2] for change in leaving if change["action"] == "revoke"} == {
            key for key, label in labels.items() if label.startswith("testbed:")
        }
    finally:
        done = command("up", "--yes")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    after = Vault(testbed.name).load()
    assert after.clearml == before.clearml, "its own server's secrets were kept"
    assert ensure.works(testbed.server.url("api"), after.toolkit)
    with ClearmlApi(testbed.server.url("api"), after.toolkit) as its_own:  # the key of before ended with the move
        assert tasks <= {task["id"] for task in its_own.call("tasks.get_all")["tasks"]}
