"""users.*, login.*, server.*: who is there, preferences."""

from collections.abc import Callable
from typing import Any

Call = Callable[..., Any]


def test_a_user_by_id(call: Call) -> None:
    me = call("users.get_current_user")["user"]["id"]
    user = call("users.get_by_id", user=me)["user"]
    assert (user["name"], user["role"]) == ("Alice A", "user")
    assert call("users.get_by_id", user="nobody")[:2] == (400, 300)


def test_preferences_are_the_callers_own(client: Any, call: Call) -> None:
    assert call("users.get_preferences") == {"preferences": {}}
    call("users.set_preferences", preferences={"theme": "dark", "rows": 20})
    call("users.set_preferences", preferences={"rows": 50})
    assert call("users.get_preferences") == {"preferences": {"theme": "dark", "rows": 50}}
    bob = client.get("/auth.login", auth=("bob", "alice-pass-1")).json()["data"]["token"]
    headers = {"Authorization": f"Bearer {bob}"}
    assert client.get("/users.get_preferences", headers=headers).json()["data"] == {"preferences": {}}
    assert all("preferences" not in user for user in call("users.get_all")["users"])


def test_one_changes_ones_own_name_only(call: Call) -> None:
    users = {user["name"]: user["id"] for user in call("users.get_all")["users"]}
    assert call("users.update", user=users["Alice A"], name="Alice B")["updated"] == 1
    assert call("users.get_current_user")["user"]["name"] == "Alice B"
    assert call("users.update", user=users["Bob"], name="Robert")[:2] == (403, 20)


def test_how_one_can_log_in(client: Any) -> None:
    modes = client.get("/login.supported_modes", headers={"Authorization": ""}).json()["data"]
    assert modes["basic"] == {"enabled": True, "guest": {"enabled": False}}


def test_nobody_is_told_how_the_server_is_used(call: Call) -> None:
    assert call("server.report_stats_option") == {"supported": False, "enabled": False}
