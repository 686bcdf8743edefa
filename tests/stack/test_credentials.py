"""Everybody has a key of their own that works, in a file that nobody else can read."""

from __future__ import annotations

import re

import pytest

from provision import inventory
from provision.credentials import ensure
from provision.smoke.problem import need
from provision.spec import AGENT_USER, URL_SERVICES

pytestmark = pytest.mark.hosts

AGAIN = "Run `testbed up`, which issues another key and writes the file anew."


def _key(host, path: str, owner: str):
    file = host.file(path)
    need(file.exists, f"{path} is not there", expected=f"{path} holds the key of {owner}", remedy=AGAIN)
    need(
        (file.user, file.mode) == (owner, 0o600),
        f"{path}: owner {file.user}, mode {file.mode:o}",
        expected=f"{path}: owner {owner}, mode 600",
        remedy="Run `testbed up`, which sets them right; who could read the file may have the key: "
        "`testbed credentials rotate`.",
    )
    key = ensure.parse_key(file.content_string)
    need(key is not None, f"{path} holds no key", expected=f"{path} holds the key of {owner}", remedy=AGAIN)
    return key


def _logs_in(stack, where: str, key, username: str) -> None:
    url, theirs = stack.testbed.server.url("api"), stack.testbed.server.is_external
    need(
        ensure.works(url, key, None if theirs else username),
        f"{where}: {url} does not take its key ({key.access_key}) as {username}'s",
        expected=f"{where}: its key logs in as {username}",
        remedy=AGAIN,
    )


@pytest.mark.of("api")
def test_users_key_logs_in(on, stack, user, record_property):
    """The user's clearml.conf on each client has the user's own key, which logs in, and nobody else can read it."""
    for name in inventory.hosts(stack.inventory, "clients"):
        host = on(name)
        path = f"{host.user(user).home}/clearml.conf"
        key = _key(host, path, user)
        record_property("reference", key.access_key)
        _logs_in(stack, f"{name}: {path}", key, user)


@pytest.mark.of("api")
def test_agents_key_logs_in(on, stack, worker, record_property):
    """The worker's clearml.conf has a key of its own, which logs in, and nobody else can read it."""
    host, described = worker
    path = f"/etc/testbed/agent-{described.name}.conf"
    key = _key(on(host), path, "clearml-agent")
    record_property("reference", key.access_key)
    _logs_in(stack, f"{host}: {path}", key, AGENT_USER)


@pytest.mark.of("api", "watchdogs")
def test_watchdogs_key_logs_in(on, stack, watchdog, record_property):
    """The watchdog has a key of its own, which logs in."""
    path = "/etc/testbed/watchdog.json"
    key = _key(on(watchdog), path, "root")
    record_property("reference", key.access_key)
    _logs_in(stack, f"{watchdog}: {path}", key, AGENT_USER)


def test_conf_names_the_servers_urls(on, stack):
    """Every clearml.conf on the hosts has the URLs of this testbed's server: what runs there goes to no other."""
    for host, path, holder in _confs(on, stack):
        text = on(host).file(path).content_string
        for of in URL_SERVICES:
            found = re.search(rf'"?\b{of}_server"?\s*[:=]\s*"([^"]*)"', text)
            said, wanted = found.group(1) if found else "nothing", stack.testbed.server.url(of)
            need(
                said == wanted,
                f"{host}: {path} ({holder}) says {of}_server: {said}",
                expected=f"{of}_server: {wanted}",
                remedy="Run `testbed up`, which writes the file anew.",
            )


def test_no_key_is_shared(on, stack, secrets):
    """No two holders have the same key: the toolkit, each worker, inference service and watchdog, each user."""
    holders = {secrets.toolkit.access_key: "toolkit"}
    confs = _confs(on, stack)
    confs += [
        (host, "/etc/testbed/watchdog.json", f"{host}: watchdog")
        for host in inventory.hosts(stack.inventory, "watchdogs")
    ]
    for host, path, holder in confs:
        key = ensure.parse_key(on(host).file(path).content_string)
        need(key is not None, f"{host}: {path} holds no key", remedy=AGAIN)
        first = holders.setdefault(key.access_key, holder)
        need(first == holder, f"{host}: {path} ({holder}) has the key of {first}", remedy=AGAIN)


def _confs(on, stack) -> list[tuple[str, str, str]]:
    """Return (host, path, holder) of every clearml.conf; users have the same key on every host."""
    confs = [
        (host, f"/etc/testbed/agent-{worker.name}.conf", f"{host}: worker {worker.name}")
        for host, worker in inventory.workers(stack.testbed, stack.inventory)
    ]
    confs += [
        (host, "/etc/testbed/inference.conf", f"{host}: inference service")
        for host in inventory.hosts(stack.inventory, "inference")
    ]
    for host in inventory.hosts(stack.inventory, "clients"):
        users = [user.name for user in stack.testbed.users]
        confs += [(host, f"{on(host).user(user).home}/clearml.conf", f"user {user}") for user in users]
    return confs
