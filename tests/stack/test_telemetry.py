"""The telemetry source answers each user, has points, and keeps strangers out."""

from __future__ import annotations

import json

from provision import forward, hosts, inventory
from provision.spec import ManagedTelemetry

OLDEST_HOURS = 48


def _check(on, stack, user: str) -> dict:
    host = on(inventory.hosts(stack.inventory, "clients")[0])
    home = host.user(user).home
    done = hosts.run_as(host, user, f"{home}/clearml-venv/bin/testbed-workload", "telemetry", "check", "--json")
    assert done.rc == 0, f"telemetry check as {user}: {done.stderr.strip() or done.stdout.strip()}"
    return json.loads(done.stdout)


def test_telemetry_is_readable(on, stack, user, record_property):
    found = _check(on, stack, user)
    record_property("reference", f"{found['measurement']}: {found['points']} points, newest {found['newest']}")
    if isinstance(stack.testbed.telemetry, ManagedTelemetry):
        assert found["points"] >= stack.testbed.telemetry.points, f"too few points: {found['points']}; run `testbed up`"
        assert found["age_seconds"] <= OLDEST_HOURS * 3600, (
            f"the newest point is of {found['newest']}; run `testbed up`"
        )


def test_telemetry_keeps_strangers_out(stack):
    telemetry = stack.testbed.telemetry
    with forward.client(timeout=30) as http:
        if telemetry.dialect == 1:
            answer = http.get(f"{telemetry.url}/query", params={"q": "SHOW DATABASES"})
        else:
            answer = http.get(f"{telemetry.url}/api/v2/buckets")
    assert answer.status_code == 401, (
        f"{telemetry.url} answers without a login (HTTP {answer.status_code}): turn authentication on"
    )
