"""A lost InfluxDB password is replaced with authentication on, by a token that only the new one can sign."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest

from tests.integration.workload.conftest import PASSWORDS, Influx

MODULE = Path(__file__).parents[3] / "roles/influxdb/library/testbed_influxdb.py"
NEW = {user: f"new-{password}" for user, password in PASSWORDS.items()}


@pytest.fixture
def module():
    described = importlib.util.spec_from_file_location("testbed_influxdb", MODULE)
    found = importlib.util.module_from_spec(described)
    described.loader.exec_module(found)
    return found


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """An InfluxDB whose passwords are lost, as the role runs it meanwhile."""
    monkeypatch.setenv("INFLUXDB_HTTP_SHARED_SECRET", hashlib.sha256(NEW["admin"].encode()).hexdigest())
    server = Influx(tmp_path)
    yield server
    server.process.kill()
    server.process.wait()


def test_the_new_password_lets_in_before_it_is_set_and_nothing_else_does(shared, module):
    for stranger in (
        module.Influx(shared.url),
        module.Influx(shared.url, "admin", NEW["admin"]),
        module.Influx(shared.url, bearer=module.token("admin", "guessed-password")),
    ):
        with pytest.raises(module.Refused) as refused:
            stranger.ask("SHOW USERS")
        assert refused.value.status == 401
    admin = module.Influx(shared.url, bearer=module.token("admin", NEW["admin"]))
    users = dict(admin.ask("SHOW USERS"))
    module.set_admin(admin, users, NEW["admin"])
    module.converge(admin, users, "telemetry", NEW, True, False)
    for user, password in NEW.items():
        assert module.can_log_in(shared.url, user, password)
        assert not module.can_log_in(shared.url, user, PASSWORDS[user])
