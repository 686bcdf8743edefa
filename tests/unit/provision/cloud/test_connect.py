"""What errors of the SDK mean."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from keystoneauth1 import exceptions as auth
from openstack import exceptions as sdk

from provision.cloud.connect import _retry, connect, explain
from provision.errors import CloudError


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (auth.Unauthorized("The request you have made requires authentication."), "user, password or application"),
        (auth.NotFound("Failed to validate token"), "new token"),
        (sdk.NotFoundException("No server with that ID"), "same command again"),
        (sdk.ForbiddenException("Quota exceeded for cores"), "larger quota"),
        (sdk.ConflictException("Quota exceeded for resources: ['port'].", http_status=409), "larger quota"),
        (sdk.HttpException("VolumeLimitExceeded: quota", http_status=413), "larger quota"),
        (sdk.ConflictException("Port is in use", http_status=409), "same command again"),
        (auth.ConnectFailure("Unable to establish connection to http://192.0.2.1:5000/v3"), "auth_url"),
        (auth.SSLError("SSL exception connecting to https://192.0.2.1:5000: certificate verify failed"), "cacert"),
    ],
)
def test_an_error_comes_with_its_remedy(error: Exception, remedy: str) -> None:
    found = explain(error, "create server agent-1")
    assert remedy in found.remedy
    assert "create server agent-1" in found.message or "no connection to" in found.message


@contextmanager
def serving(*answers: int) -> Iterator[tuple[str, list[str]]]:
    """Serve these statuses one after the other, 0: hang up without one; yields the URL and the methods that came."""
    left, came = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            came.append(self.command)
            if status := left.pop(0):
                self.send_response(status)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
            self.close_connection = True

        do_GET = do_POST = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", came
    server.shutdown()
    server.server_close()


def connection(auth_url: str = "http://192.0.2.1:5000/v3") -> Any:
    session = requests.Session()
    session.trust_env = False
    config = SimpleNamespace(get_auth_args=lambda: {"auth_url": auth_url})
    return SimpleNamespace(session=SimpleNamespace(session=session), config=config)


@pytest.mark.parametrize(
    ("method", "answers", "came"),
    [
        ("GET", (503, 200), 2),
        ("POST", (503, 201), 2),
        ("POST", (503, 429, 201), 3),
        ("POST", (502,), 1),  # what is behind it may have done it
        ("GET", (502, 200), 2),
        ("POST", (409,), 1),
        ("GET", (0, 200), 2),
        ("POST", (0,), 1),  # it may have been done: who looks finds out
    ],
)
def test_what_is_repeated(method: str, answers: tuple[int, ...], came: int) -> None:
    there = connection()
    _retry(there, parallel=1, again=1)
    with serving(*answers) as (url, methods):
        if answers[-1]:
            assert there.session.session.request(method, url, timeout=5).status_code == answers[-1]
        else:
            with pytest.raises(requests.ConnectionError):
                there.session.session.request(method, url, timeout=5)
    assert methods == [method] * came


@pytest.mark.parametrize("again", [1, 6])
def test_a_token_is_asked_for_again(again: int) -> None:
    with serving(0, 201) as (url, methods):
        there = connection(url)
        _retry(there, parallel=1, again=again)
        assert there.session.session.post(f"{url}auth/tokens", timeout=5).status_code == 201
    assert methods == ["POST", "POST"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clouds:\n\tlab: {}\n", ("clouds.yaml:2: bad YAML", "tabs")),
        (None, ("clouds.yaml: cannot be read", "owner or mode")),
        (
            "clouds: {lab: {auth: {auth_url: 'https://192.0.2.1', username: a, password: b}, cacert: /nowhere.crt}}",
            ("/nowhere.crt", "`cacert`"),
        ),
    ],
    ids=["no YAML", "not readable", "a CA that is not there"],
)
def test_a_mistake_in_clouds_yaml_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, words: tuple[str, str]
) -> None:
    file = tmp_path / "clouds.yaml"
    if text is None:
        file.symlink_to(file)
    else:
        file.write_text(text)
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(file))
    with pytest.raises(CloudError) as error:
        connect("lab", 1)
    assert words[0] in error.value.message
    assert words[1] in error.value.remedy
