"""Everybody has a key of their own that works, in a file that nobody else can read."""

from __future__ import annotations

from provision import inventory
from provision.credentials import ensure
from provision.spec import AGENT_USER


def _key(host, path: str, owner: str):
    file = host.file(path)
    assert file.exists, f"{path} is not there; run `testbed up`"
    assert (file.user, file.mode) == (owner, 0o600), (
        f"{path}: owner {file.user}, mode {file.mode:o}; must be {owner}, 600"
    )
    key = ensure.parse_key(file.content_string)
    assert key is not None, f"{path} holds no key; run `testbed up`"
    return key


def test_users_key_logs_in(on, stack, user, record_property):
    for name in inventory.hosts(stack.inventory, "clients"):
        host = on(name)
        path = f"{host.user(user).home}/clearml.conf"
        key = _key(host, path, user)
        record_property("reference", key.access_key)
        assert ensure.works(stack.testbed.server.url("api"), key, None if stack.testbed.server.is_external else user), (
            f"{path}: its key does not log in as {user}; run `testbed up`"
        )


def test_agents_key_logs_in(on, stack, worker, record_property):
    host, described = worker
    path = f"/etc/testbed/agent-{described.name}.conf"
    key = _key(on(host), path, "clearml-agent")
    record_property("reference", key.access_key)
    username = None if stack.testbed.server.is_external else AGENT_USER
    assert ensure.works(stack.testbed.server.url("api"), key, username), (
        f"{host}: {path}: its key does not log in; run `testbed up`"
    )


def test_watchdogs_key_logs_in(on, stack, watchdog, record_property):
    path = "/etc/testbed/watchdog.json"
    key = _key(on(watchdog), path, "root")
    record_property("reference", key.access_key)
    assert ensure.works(stack.testbed.server.url("api"), key, AGENT_USER), (
        f"{watchdog}: {path}: its key does not log in; run `testbed up`"
    )


def test_no_key_is_shared(on, stack, secrets):
    holders = {secrets.toolkit.access_key: "toolkit"}
    confs = [
        (host, f"/etc/testbed/agent-{worker.name}.conf", f"{host}: worker {worker.name}")
        for host, worker in inventory.workers(stack.testbed, stack.inventory)
    ]
    confs += [
        (host, "/etc/testbed/watchdog.json", f"{host}: watchdog")
        for host in inventory.hosts(stack.inventory, "watchdogs")
    ]
    for host in inventory.hosts(stack.inventory, "clients"):
        users = [user.name for user in stack.testbed.users]  # who have the same key on every host
        confs += [(host, f"{on(host).user(user).home}/clearml.conf", f"user {user}") for user in users]
    for host, path, holder in confs:
        key = ensure.parse_key(on(host).file(path).content_string)
        assert key is not None, f"{host}: {path} holds no key"
        assert holders.setdefault(key.access_key, holder) == holder, (
            f"{host}: {path} has the key of {holders[key.access_key]}; run `testbed up`"
        )
