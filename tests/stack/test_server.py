"""The ClearML server answers on its three URLs, keeps strangers out, and keeps files."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os

import pytest

from provision import forward
from provision.clearml_api import ClearmlApi
from provision.credentials import ensure
from provision.credentials.public import PUBLIC_KEYS

PUBLIC_TOKEN_SECRET = "Rq8FW84sSqVgq7WvBB_4EzNl9y8z8IGiDXX3C345_a5AZfcwZcwCIA"  # noqa: S105 (published, too)


def signed(token: str, secret: str) -> str:
    """Return a token with the same claims, signed with another secret."""
    content = token.rpartition(".")[0]
    signature = hmac.digest(secret.encode(), content.encode(), "sha256")
    return f"{content}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


@pytest.fixture(scope="module")
def http():
    with forward.client(timeout=30) as client:
        yield client


def test_api_answers(http, stack, record_property):
    url = stack.testbed.server.url("api")
    record_property("reference", url)
    assert http.get(f"{url}/debug.ping").status_code == 200, f"{url}/debug.ping does not answer; see `testbed status`"


def test_web_answers(http, stack, record_property):
    url = stack.testbed.server.url("web")
    record_property("reference", url)
    answer = http.get(url)
    assert answer.status_code == 200, f"{url}: HTTP {answer.status_code}"
    if stack.testbed.server.backend == "docker":  # its web server leads to the API itself
        ping = f"{url}/api/debug.ping"
        assert http.get(ping).status_code == 200, f"{ping} does not answer: the web server does not reach the API"
    else:
        assert stack.testbed.server.url("api") in answer.text, f"{url} does not say where the API is"


def test_strangers_stay_out(http, stack):
    url = stack.testbed.server.url("api")
    assert http.get(f"{url}/tasks.get_all").status_code == 401, f"{url} answers without a login"
    assert http.get(f"{url}/auth.login", auth=("researcher", "guess")).status_code == 401


def remedy(stack) -> str:
    """What to do about a server that lets everybody in."""
    return "tell who runs it" if stack.testbed.server.is_external else "run `testbed up`"


@pytest.mark.parametrize("identity", PUBLIC_KEYS)
def test_public_default_key_is_dead(stack, identity):
    url = stack.testbed.server.url("api")
    alive = ensure.works(url, PUBLIC_KEYS[identity])
    assert not alive, f"{url} accepts the public default key of {identity}: anyone can log in with it; {remedy(stack)}"


def test_token_forged_with_the_public_secret_is_refused(http, stack, api: ClearmlApi, secrets):
    url, token = stack.testbed.server.url("api"), api.login()

    def status(secret: str) -> int:
        headers = {"Authorization": f"Bearer {signed(token, secret)}"}
        return http.get(f"{url}/users.get_current_user", headers=headers).status_code

    if not stack.testbed.server.is_external:
        assert status(secrets.clearml.token_secret) == 200, f"{url}: tokens are not signed with this testbed's secret"
    known = f"{url} accepts tokens signed with the secret that everybody knows"
    assert status(PUBLIC_TOKEN_SECRET) == 401, f"{known}; {remedy(stack)}"


def test_fixed_users_are_on(api, stack):
    if stack.testbed.server.is_external:
        pytest.skip("who may log in is decided by whoever runs the server")
    assert api.call("auth.fixed_users_mode")["enabled"], "anyone who reaches the web server is in; run `testbed up`"


def test_file_round_trip(http, stack, api: ClearmlApi, record_property):
    url = stack.testbed.server.url("files")
    content = os.urandom(1 << 20)
    path = f"smoke/round-trip-{hashlib.sha256(content).hexdigest()[:16]}.bin"
    record_property("reference", f"{url}/{path}")
    token = {"Authorization": f"Bearer {api.login()}"}
    assert http.post(url, files={path: ("x.bin", content)}).status_code == 401, f"{url} takes files without a login"
    sent = http.post(url, files={path: ("x.bin", content)}, headers=token)
    assert sent.status_code == 200, f"{url} refuses a file: HTTP {sent.status_code} {sent.text[:200]}"
    try:
        assert http.get(f"{url}/{path}").status_code == 401, f"{url} gives files without a login"
        got = http.get(f"{url}/{path}", headers=token)
        assert got.content == content, f"{url}/{path}: other bytes came back than were sent"
    finally:
        removed = http.delete(f"{url}/{path}", headers=token)
    assert removed.status_code == 200, f"{url}/{path} cannot be deleted: HTTP {removed.status_code}"
