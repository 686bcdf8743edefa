"""`up --check` on a testbed that is up: nothing to do, or exactly what a changed spec brings, and nothing changes."""

from __future__ import annotations

import json

import pytest

from provision import spec

pytestmark = pytest.mark.deployed

AGENTS = {"testbed-agent-default", "testbed-agent-prepared"}
WATCHDOG, ITS_CONF = "testbed-watchdog", "/etc/testbed/watchdog.json"
INFERENCE = "testbed-inference"
CONFS = {"~researcher/clearml.conf", "/etc/testbed/agent-default.conf", "/etc/testbed/agent-prepared.conf", ITS_CONF}
CONFS |= {"/etc/testbed/expiry.json", "/etc/testbed/inference.conf"}


@pytest.fixture
def check(command, tmp_path):
    """What would change with another line in the spec, as {(kind, action): names}."""

    def call(old: str, new: str) -> dict[tuple[str, str], set[str]]:
        file = tmp_path / "testbed.yaml"
        text = spec.EXAMPLE.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
        done = command("up", "--check", "--json", "--spec", str(file))
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[tuple[str, str], set[str]] = {}
        for change in json.loads(done.stdout)["changes"]:
            found.setdefault((change["kind"], change["action"]), set()).add(change["name"])
        return found

    return call


def test_nothing_would_change_after_up(second_up, command, leavings):
    assert second_up.done.returncode == 0
    there = leavings()
    done = command("up", "--check")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Nothing would change."
    assert leavings() - there == set()


@pytest.mark.long
def test_another_user_brings_an_account_a_home_an_environment_files_and_a_key(check):
    assert check("\n  - name: researcher", "\n  - name: newcomer\n  - name: researcher") == {
        ("account", "add"): {"newcomer"},
        ("environment", "add"): {"/home/newcomer/clearml-venv"},
        ("folder", "add"): {"/home/newcomer"},
        ("file", "add"): {"~newcomer/clearml.conf", "~newcomer/telemetry.env"},
        ("file", "change"): {"/etc/testbed/clearml-lite.yaml"},
        ("service", "restart"): {"testbed-clearml-lite"},
        ("key", "add"): {"user/newcomer"},
    }


@pytest.mark.long
def test_another_port_changes_every_conf_and_restarts_what_reads_it(check):
    assert check("  # ports: {api: 8008", "  ports: {api: 8018") == {
        ("file", "change"): {"/etc/testbed/clearml-lite.yaml", *CONFS},
        ("service", "restart"): {"testbed-clearml-lite", "testbed-expiry", *AGENTS, INFERENCE, WATCHDOG},
    }


@pytest.mark.long
def test_without_its_section_the_inference_service_and_its_key_go(check):
    section = spec.EXAMPLE.read_text().partition("\ninference:")[2].partition("\n\n")[0]
    found = check(f"\ninference:{section}\n", "\n")
    [key] = found.pop(("key", "revoke"))
    assert key.startswith("inference/local ")
    assert "/etc/testbed/inference.conf" in found.pop(("file", "remove"))  # and those of the service manager
    assert found == {("service", "remove"): {INFERENCE}}


@pytest.mark.long
def test_a_worker_and_a_user_that_left_lose_their_keys(check):
    worker = spec.EXAMPLE.read_text().partition("    - name: default\n")[2].partition("    - name: ")[0]
    found = check(f"    - name: default\n{worker}", "")
    [key] = found.pop(("key", "revoke"))
    assert key.startswith("agent/local/default ")
    assert "/etc/testbed/agent-default.conf" in found.pop(("file", "remove"))  # and those of the service manager
    assert found == {
        ("service", "remove"): {"testbed-agent-default"},
        ("service", "restart"): {WATCHDOG},
        ("file", "change"): {ITS_CONF},
    }
    left = check("\n  - name: researcher", "\n  - name: newcomer")
    [key] = left[("key", "revoke")]
    assert key.startswith("user/researcher ")
    assert left[("key", "add")] == {"user/newcomer"}


def test_down_says_what_would_go(command):
    done = command("down", "--check", "--json")
    assert done.returncode == 0, done.stderr
    changes = json.loads(done.stdout)["changes"]
    assert {change["action"] for change in changes} == {"remove"}
    gone = {kind: {change["name"] for change in changes if change["kind"] == kind} for kind in ("service", "account")}
    assert gone["service"] == {
        "testbed-clearml-lite",
        "testbed-expiry",
        "testbed-influxdb",
        *AGENTS,
        INFERENCE,
        WATCHDOG,
    }
    assert gone["account"] == {"clearml-agent", "clearml-inference", "clearml-lite", "influxdb", "researcher"}
    assert command("status", "--json").returncode == 0, "and nothing went"
