"""A server that lets everybody in fails the checks, whoever runs it, and they say whom to tell."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest

from provision.secrets import KeyPair
from provision.smoke.problem import Broken
from provision.smoke.target import Target


@pytest.fixture
def checks(request):
    """The module of the checks, whose markers are not this project's."""
    for marker in ("of", "hosts"):
        request.config.addinivalue_line("markers", f"{marker}: of the stack checks")
    return importlib.import_module("tests.stack.test_server")


@pytest.fixture(params=[(True, "Tell who runs it."), (False, "Run `testbed up`.")], ids=["external", "own"])
def found(request):
    external, remedy = request.param
    key = KeyPair(access_key="ACCESS", secret_key="secret")
    return Target("lab", {"api": "http://clearml.lab:8008"}, key, theirs=external), remedy


def test_a_public_key_that_works(found, checks, monkeypatch):
    target, remedy = found
    monkeypatch.setattr(checks.ensure, "works", lambda url, key: True)
    with pytest.raises(Broken, match="http://clearml.lab:8008 accepts the public default key of apiserver") as told:
        checks.test_public_default_key_is_dead(target, "apiserver")
    assert told.value.remedy == remedy


def test_a_token_of_the_public_secret_that_works(found, checks, monkeypatch):
    target, remedy = found
    monkeypatch.setattr(checks, "signed", lambda token, secret: token)
    http = SimpleNamespace(get=lambda url, headers: SimpleNamespace(status_code=200))
    api = SimpleNamespace(login=lambda: "token")
    secrets = SimpleNamespace(clearml=SimpleNamespace(token_secret="of its own"))
    with pytest.raises(Broken, match="the secret that everybody knows") as told:
        checks.test_token_forged_with_the_public_secret_is_refused(http, target, api, secrets)
    assert told.value.remedy == remedy
