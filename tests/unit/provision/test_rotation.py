"""`secrets rotate`: what is replaced is told by name."""

from __future__ import annotations

import pytest

from provision import rotation, secrets, spec
from provision.away import Away
from provision.secrets import Vault

EXTERNAL = "telemetry: {source: external, dialect: 1, url: 'http://influx.example:8086', database: d}\n"


@pytest.fixture
def rotated(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE, raising=False)
    monkeypatch.setattr(secrets, "_user_secret", lambda: {"password": "p", "password_hash": "h"})  # bcrypt takes long

    def call(extent, more=""):
        testbed = spec.parse(f"name: lab\nprovider: local\nserver: {{}}\nusers: [{{name: ada}}]\n{more}", "t.yaml")
        Vault("lab").ensure(testbed)
        Vault("lab").rotate(testbed, extent)
        return rotation.names(testbed, Vault("lab").load())

    return call


def test_what_is_new_is_told_by_name(rotated):
    found = rotated("all")
    assert {"clearml.token_secret", "clearml.apiserver", "users.ada", "users.testbed-agent", "influxdb.admin"} < {
        *found
    }
    assert len(found) == len(set(found))


def test_passwords_of_an_influxdb_that_is_somebody_elses_are_not_told(rotated):
    assert not [name for name in rotated("all", EXTERNAL) if name.startswith("influxdb")]


def test_of_tokens_only_two_are_new(rotated):
    assert rotated("tokens") == ["clearml.session_secret", "clearml.token_secret"]


def test_time_away_is_the_time_without_an_answer():
    away = Away()
    for answered, seconds in ((True, 5.0), (False, 0.25), (False, 0.5), (True, 1.0), (False, 1.0)):
        away.add(answered, seconds)
    assert away.seconds == 1.75
