"""A server that lets everybody in fails the checks, whoever runs it, and they say whom to tell."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.stack import test_server as checks


@pytest.fixture(params=[(True, "tell who runs it"), (False, "run `testbed up`")], ids=["external", "own"])
def found(request):
    external, remedy = request.param
    server = SimpleNamespace(url=lambda _: "http://clearml.lab:8008", is_external=external)
    return SimpleNamespace(testbed=SimpleNamespace(server=server)), remedy


def test_a_public_key_that_works(found, monkeypatch):
    stack, remedy = found
    monkeypatch.setattr(checks.ensure, "works", lambda url, key: True)
    with pytest.raises(AssertionError, match=f"http://clearml.lab:8008 accepts the public default key .*{remedy}"):
        checks.test_public_default_key_is_dead(stack, "apiserver")


def test_a_token_of_the_public_secret_that_works(found, monkeypatch):
    stack, remedy = found
    monkeypatch.setattr(checks, "signed", lambda token, secret: token)
    http = SimpleNamespace(get=lambda url, headers: SimpleNamespace(status_code=200))
    api = SimpleNamespace(login=lambda: "token")
    secrets = SimpleNamespace(clearml=SimpleNamespace(token_secret="of its own"))
    with pytest.raises(AssertionError, match=f"the secret that everybody knows; {remedy}"):
        checks.test_token_forged_with_the_public_secret_is_refused(http, stack, api, secrets)
