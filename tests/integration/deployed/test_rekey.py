"""Secrets that are lost: `up` with none or others is refused; a re-key replaces all of them, and data stays."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from provision.clearml_api import ClearmlApi
from provision.credentials import ensure
from provision.paths import HOST_MARKER
from provision.secrets import Vault

pytestmark = [pytest.mark.deployed, pytest.mark.long]

PASSPHRASE = "five random words of mine"


def _influxdb(testbed, user, password, statement="SHOW DATABASES"):
    url = f"{testbed.telemetry.url}/query"
    with httpx.Client(trust_env=False, timeout=30) as client:
        return client.post(url, params={"db": testbed.telemetry.database}, data={"q": statement}, auth=(user, password))


def _data(testbed):
    """What users would miss: tasks, datasets, models, points."""
    found = Vault(testbed.name).load()
    with ClearmlApi(testbed.server.url("api"), found.toolkit) as api:
        wanted = {"only_fields": ["id"], "search_hidden": True, "page_size": 500, "page": 0}
        data = {
            kind: {entry["id"] for entry in api.call(f"{kind}.get_all", **wanted)[kind]} for kind in ("tasks", "models")
        }
    count = f'SELECT COUNT(*) FROM "{testbed.telemetry.measurement}"'
    series = _influxdb(testbed, "reader", found.influxdb.reader, count).json()["results"][0]["series"]
    return data, max(value for value in series[0]["values"][0][1:] if value)


def _settings():
    return {path: path.read_bytes() for path in Path("/etc/testbed").rglob("*") if path.is_file()}


def test_lost_secrets_are_refused_imported_or_replaced(
    testbed, command, keys_in_use, kill_when_taken, tmp_path, monkeypatch
):
    old, old_keys, (old_data, old_points) = Vault(testbed.name).load(), keys_in_use(), _data(testbed)
    assert old_data["tasks"]
    with ClearmlApi(testbed.server.url("api"), old.toolkit) as api:
        old_token = api.login()

    # a second administrator without the secrets, then with others
    file = tmp_path / "exported"
    monkeypatch.setenv("TESTBED_PASSPHRASE", PASSPHRASE)
    done = command("secrets", "export", str(file))
    assert done.returncode == 0, done.stderr
    before = _settings()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "second"))
    for _ in ("none", "others"):
        done = command("up", "--yes")
        assert done.returncode == 1, done.stdout
        assert "secrets import FILE" in done.stderr
        assert "secrets rekey" in done.stderr
        assert "Traceback" not in done.stderr
        assert _settings() == before
        assert command("secrets", "status").returncode == 1
        Vault(testbed.name).ensure(testbed)
    done = command("secrets", "import", str(file))
    assert done.returncode == 1
    assert "--replace" in done.stderr
    done = command("secrets", "import", str(file), "--replace")
    assert done.returncode == 0, done.stderr
    found = command("secrets", "status", "--json")
    assert found.returncode == 0, found.stdout + found.stderr
    assert json.loads(found.stdout)["healthy"]
    monkeypatch.delenv("XDG_CONFIG_HOME")

    # lost for good
    vault = Vault(testbed.name).path
    vault.unlink()  # the exported file is what a failed test can be mended with
    done = command("up", "--yes")
    assert done.returncode == 1, done.stdout
    assert not vault.exists(), "nothing is made in place of the secrets that are lost"

    # killed half way, then completed
    kill_when_taken("secrets", "rekey")
    taken = Vault(testbed.name).load()
    assert taken.rekeying
    assert command("secrets", "status").returncode == 1
    done = command("up", "--yes")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr

    new, new_keys = Vault(testbed.name).load(), keys_in_use()
    assert not new.rekeying
    assert (new.id, new.clearml) == (taken.id, taken.clearml), "the re-key that was begun was completed, not begun anew"
    assert json.loads(HOST_MARKER.read_text()) == {"name": testbed.name, "id": new.id}
    assert new.id != old.id
    api_url = testbed.server.url("api")
    assert {name: ensure.works(api_url, key) for name, key in old_keys.items()} == dict.fromkeys(old_keys, False)
    assert {name: ensure.works(api_url, key) for name, key in new_keys.items()} == dict.fromkeys(new_keys, True)
    with httpx.Client(base_url=api_url, trust_env=False) as client:
        answer = client.get("/users.get_current_user", headers={"Authorization": f"Bearer {old_token}"})
        assert answer.status_code == 401
        refused = [(name, user.password) for name, user in old.users.items()]
        refused += [(old.clearml.apiserver.user_key, old.clearml.apiserver.user_secret)]
        assert [client.get("/auth.login", auth=pair).status_code for pair in refused] == [401] * len(refused)
    for user, password in old.influxdb.model_dump().items():
        assert _influxdb(testbed, user, password).status_code == 401, user
    for user, password in new.influxdb.model_dump().items():
        assert _influxdb(testbed, user, password).status_code == 200, user

    data, points = _data(testbed)
    assert {kind: entries - data[kind] for kind, entries in old_data.items()} == {"tasks": set(), "models": set()}
    assert points >= old_points
    assert command("secrets", "status").returncode == 0
    assert command("status").returncode == 0
    # who still has the old secrets is told, and changes nothing
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "second"))
    assert command("up", "--yes").returncode == 1
    assert ensure.works(api_url, new_keys["toolkit"])
