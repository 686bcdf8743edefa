"""What `secrets rotate` looks at before it begins, and what it replaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from provision.clearml_api import ClearmlApi
from provision.credentials import ensure
from provision.errors import BusyError, SecretsError
from provision.secrets import LOGINS, TOKENS, Secrets
from provision.spec import ADMIN_USER, ExternalTelemetry, Testbed

SHOWN_TASKS = 5


def names(testbed: Testbed, secrets: Secrets) -> list[str]:
    """Return the names (`kind.name`) of what the rotation that `secrets` are of has replaced."""
    if secrets.rotating == "tokens":
        return [f"clearml.{name}" for name in sorted(TOKENS)]
    kinds = secrets.model_dump(include={*LOGINS} - {"toolkit"}, exclude_none=True)
    if isinstance(testbed.telemetry, ExternalTelemetry):
        kinds.pop("influxdb")
    return [f"{kind}.{name}" for kind in sorted(kinds) for name in sorted(kinds[kind])]


def check_theirs(testbed: Testbed, secrets: Secrets) -> None:
    """Raise `SecretsError` unless the server that runs takes `secrets`; `ApiError` where it does not answer."""
    url = testbed.server.url("api")
    username = None if testbed.server.is_external else ADMIN_USER
    if secrets.toolkit is None or not ensure.works(url, secrets.toolkit, username):
        raise SecretsError(
            f"{url} does not take the toolkit's key, so these secrets cannot be rotated",
            "`testbed up` issues a new key where these are its secrets; `testbed secrets status` tells. "
            "If they are lost: `testbed secrets rekey`.",
        )


def running(testbed: Testbed, secrets: Secrets, user: str = "") -> list[str]:
    """Return the tasks that run, in words; with `user`, the ID of one, that user's alone.

    `secrets` are those that the server takes. Raises `ApiError`.
    """
    if secrets.toolkit is None:
        return []
    with ClearmlApi(testbed.server.url("api"), secrets.toolkit) as api:
        fields = ["id", "name", "last_worker"]
        wanted: dict[str, Any] = {"status": ["in_progress"], "only_fields": fields, "search_hidden": True}
        wanted |= {"user": [user]} if user else {}
        found = api.call("tasks.get_all", **wanted)["tasks"]
    return [f"{task.get('name')} ({task['id']}, {task.get('last_worker') or 'no agent'})" for task in found]


def told(tasks: Sequence[str]) -> str:
    """Return which tasks there are, the first of them."""
    more = f" and {len(tasks) - SHOWN_TASKS} more" if len(tasks) > SHOWN_TASKS else ""
    return ", ".join(tasks[:SHOWN_TASKS]) + more


def check_idle(testbed: Testbed, secrets: Secrets, user: str = "") -> None:
    """Raise `BusyError` where a task runs, with `user` one of that user's. `secrets`: those that the server takes."""
    found = running(testbed, secrets, user)
    if not found:
        return
    raise BusyError(
        f"{len(found)} tasks run, and would fail: their keys end, and agents restart with new ones: {told(found)}",
        "Let them end (`testbed drain --wait`), or say --force. --tokens-only leaves keys, agents and tasks alone.",
    )
