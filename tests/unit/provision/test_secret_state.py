"""`secrets status`: what it says of vaults and hosts; what it says of a running testbed is in the integration tests."""

from __future__ import annotations

import json
import socket

import pytest
from click.testing import CliRunner

from provision import secret_state, secrets, spec
from provision.cli import main
from provision.secrets import KeyPair, Vault


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE, raising=False)
    monkeypatch.setattr(secrets, "_user_secret", lambda: {"password": "p", "password_hash": "h"})  # bcrypt takes long
    return tmp_path / "testbed" / "local"


@pytest.fixture
def testbed():
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        api, influxdb = one.getsockname()[1], other.getsockname()[1]
    text = f"name: local\nprovider: local\nserver: {{ports: {{api: {api}}}}}\ntelemetry: {{port: {influxdb}}}\n"
    return spec.parse(text + "users: [{name: ada}]\n", "t.yaml")


@pytest.fixture
def vault(testbed):
    made = Vault("local").ensure(testbed)
    Vault("local").save(made.model_copy(update={"toolkit": KeyPair(access_key="A" * 20, secret_key="S" * 20)}))
    return Vault("local")


def _results(found):
    return {check.name: check.result for check in found.checks}


def test_names_and_counts_are_shown_and_no_value(testbed, vault, tmp_path):
    found = secret_state.collect(testbed, vault, tmp_path / "marker")
    values = [text for text in _strings(vault.load().model_dump(exclude={"id"})) if len(text) > 1]
    assert values
    assert [value for value in values if value in found.model_dump_json()] == []
    assert found.vault.mode == "0600"
    assert found.holds["users"] == ["ada", "testbed-admin", "testbed-agent"]
    assert found.id == vault.load().id
    assert "vault-password" in found.vault.password_from


def _strings(found):
    if isinstance(found, dict):
        return [text for value in found.values() for text in _strings(value)]
    return [found] if isinstance(found, str) else []


def test_what_does_not_run_is_said_and_is_not_well(testbed, vault, tmp_path):
    found = secret_state.collect(testbed, vault, tmp_path / "marker")
    assert _results(found) == {
        "only you can read the vault": "yes",
        "the vault opens": "yes",
        "no re-key, rotation or restore is half done": "yes",
        "the testbed on this machine is theirs": "not running",
        "the ClearML server takes the toolkit's key": "not running",
        "InfluxDB takes the passwords": "not running",
    }
    assert not found.healthy
    assert all(check.remedy for check in found.checks if check.result != "yes")


@pytest.mark.parametrize(
    ("marker", "result", "remedy"),
    [
        ({"name": "local", "id": "ID"}, "yes", None),
        ({"name": "local", "id": "other"}, "no", "secrets rekey"),
        ({"name": "local"}, "no", "earlier version"),
        ({"name": "theirs", "id": "ID"}, "no", "testbed theirs"),
    ],
)
def test_the_machines_marker_is_compared(testbed, vault, tmp_path, marker, result, remedy):
    vault.save(vault.load().model_copy(update={"id": "ID"}))
    (tmp_path / "marker").write_text(json.dumps(marker))
    found = secret_state.collect(testbed, vault, tmp_path / "marker")
    check = next(check for check in found.checks if check.name == "the testbed on this machine is theirs")
    assert check.result == result
    assert remedy in check.remedy if remedy else check.remedy == ""


def test_a_vault_that_is_lost_open_to_others_or_unreadable_is_said(testbed, vault, home):
    vault.path.chmod(0o644)
    assert _results(secret_state.collect(testbed, vault))["only you can read the vault"] == "no"
    (home / "vault-password").unlink()
    found = secret_state.collect(testbed, vault)
    assert _results(found)["the vault opens"] == "no"
    assert "secrets rekey" in found.checks[-1].remedy
    vault.path.unlink()
    found = secret_state.collect(testbed, vault)
    assert (found.healthy, found.vault.there) == (False, False)


@pytest.mark.parametrize(("begun", "told"), [({"rekeying": True}, (True, False)), ({"rotating": "all"}, (False, True))])
def test_what_is_half_done_is_not_well(testbed, vault, tmp_path, begun, told):
    vault.save(vault.load().model_copy(update=begun))
    found = secret_state.collect(testbed, vault, tmp_path / "marker")
    assert (found.rekeying, found.rotating) == told
    assert _results(found)["no re-key, rotation or restore is half done"] == "no"


def test_people_and_scripts_see_the_same(testbed, vault, tmp_path):
    file = tmp_path / "testbed.yaml"
    file.write_text(
        f"name: local\nprovider: local\nserver: {{ports: {{api: {testbed.server.ports.api}}}}}\n"
        f"telemetry: {{port: {testbed.telemetry.port}}}\nusers: [{{name: ada}}]\n"
    )
    machine = CliRunner().invoke(main, ["secrets", "status", "--spec", str(file), "--json"])
    people = CliRunner().invoke(main, ["secrets", "status", "--spec", str(file)])
    assert (machine.exit_code, people.exit_code) == (1, 1)
    found = json.loads(machine.output)
    assert found["vault"]["path"] in people.output
    for check in found["checks"]:
        assert f"{check['name']}: {check['result']}" in people.output
