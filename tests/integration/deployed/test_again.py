"""A second `up` changes nothing and downloads nothing; what would break the testbed is found before any change."""

from __future__ import annotations

import json
import re
import socket

import pytest

from provision import spec

pytestmark = pytest.mark.deployed

# what a quiet machine hears on its network meanwhile; package lists and wheels are larger
NOISE_BYTES = 1_000_000


def test_a_second_up_changes_nothing_and_downloads_nothing(second_up):
    done = second_up.done
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"changed=(\d+)", done.stdout) == ["0", "0"], done.stdout
    assert "0 issued, 0 revoked" in done.stdout
    assert "(quick)" in done.stdout, "nothing changed, and yet the full chain ran"
    assert second_up.received < NOISE_BYTES
    assert second_up.files_after == second_up.files_before


def test_a_port_in_use_is_found_before_anything_changes(command, files, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        file = tmp_path / "testbed.yaml"
        text = spec.EXAMPLE.read_text().replace("  # ports: {api: 8008", f"  ports: {{api: {port}")
        assert str(port) in text
        file.write_text(text)
        before = files()
        done = command("up", "--yes", "--spec", str(file))
    assert done.returncode == 1
    assert f"{port}" in done.stderr
    assert "python" in done.stderr, "the message names the process that holds the port"
    assert "server.ports.api" in done.stderr, "the message names the setting to change"
    assert "Traceback" not in done.stderr
    assert files() == before


def test_a_second_testbed_on_this_machine_is_refused(command, files, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # its secrets are nobody's
    file = tmp_path / "testbed.yaml"
    file.write_text(spec.EXAMPLE.read_text().replace("name: local ", "name: other "))
    before = files()
    done = command("up", "--yes", "--spec", str(file))
    assert done.returncode == 1
    assert "this machine already carries the testbed 'local'" in done.stderr
    assert "Traceback" not in done.stderr
    assert files() == before


def test_status_tells_scripts_that_all_is_well(command, testbed):
    done = command("status", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["healthy"] is True
    assert {service["name"] for service in found["services"]} == {
        "testbed-clearml-lite",
        "testbed-expiry",
        "testbed-influxdb",
        "testbed-agent-default",
        "testbed-agent-prepared",
        "testbed-inference",
        "testbed-watchdog",
    }
    assert {"default", "prepared"} <= {queue["name"] for queue in found["queues"]}
    assert {worker["name"] for worker in found["workers"]} == {"local:default", "local:prepared"}
    assert all(found["versions"].values())
    assert found["disk"][0]["free"] > 0
    assert found["urls"]["api"] == testbed.server.url("api")
    human = command("status")
    assert human.returncode == 0
    assert "All is well" in human.stdout
