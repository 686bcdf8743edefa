"""The telemetry source answers each user, has points, and keeps strangers out."""

from __future__ import annotations

import json

import pytest

from provision import forward, hosts, inventory
from provision.smoke.problem import need
from provision.spec import ManagedTelemetry

pytestmark = [pytest.mark.hosts, pytest.mark.of("telemetry")]

OLDEST_HOURS = 48


def _remedy(stack) -> str:
    if isinstance(stack.testbed.telemetry, ManagedTelemetry):
        return "Run `testbed up`, which starts InfluxDB, sets its users right and fills in what is missing."
    return "Check `telemetry` in testbed.yaml and ask who runs that InfluxDB; then `testbed up`."


def _check(on, stack, user: str) -> dict:
    host = on(inventory.hosts(stack.inventory, "clients")[0])
    home = host.user(user).home
    done = hosts.run_as(host, user, f"{home}/clearml-venv/bin/testbed-workload", "telemetry", "check", "--json")
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
    need(
        done.rc == 0,
        f"`testbed-workload telemetry check` as {user}: {' '.join(said) or f'ended with code {done.rc}'}",
        remedy=_remedy(stack),
    )
    return json.loads(done.stdout)


def test_telemetry_is_readable(on, stack, user, record_property):
    """The user reads the telemetry with what the user's home holds; that of the testbed is whole and of today."""
    found = _check(on, stack, user)
    record_property("reference", f"{found['measurement']}: {found['points']} points, newest {found['newest']}")
    telemetry = stack.testbed.telemetry
    if isinstance(telemetry, ManagedTelemetry):
        need(
            found["points"] >= telemetry.points,
            f"{telemetry.url}: {found['measurement']} has {found['points']} points",
            expected=f"at least {telemetry.points} points",
            remedy=_remedy(stack),
        )
        need(
            found["age_seconds"] <= OLDEST_HOURS * 3600,
            f"{telemetry.url}: the newest point of {found['measurement']} is of {found['newest']}",
            expected=f"a point of the last {OLDEST_HOURS} hours",
            remedy=_remedy(stack),
        )


def test_telemetry_keeps_strangers_out(stack):
    """InfluxDB answers nobody without a login."""
    telemetry = stack.testbed.telemetry
    with forward.client(timeout=30) as http:
        if telemetry.dialect == 1:
            answer = http.get(f"{telemetry.url}/query", params={"q": "SHOW DATABASES"})
        else:
            answer = http.get(f"{telemetry.url}/api/v2/buckets")
    need(
        answer.status_code == 401,
        f"{telemetry.url} answers without a login: HTTP {answer.status_code}",
        expected=f"{telemetry.url} refuses with HTTP 401",
        remedy="Turn its authentication on.",
    )
