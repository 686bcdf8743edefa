"""What the tests of a testbed that is up on this machine share. They need root, as `testbed up` does."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from provision import spec
from provision.clearml_api import ClearmlApi
from provision.secrets import Secrets, Vault

pytestmark = pytest.mark.deployed


@pytest.fixture(scope="session")
def testbed() -> spec.Testbed:
    return spec.load(spec.EXAMPLE)


@pytest.fixture(scope="module")
def secrets(testbed) -> Secrets:
    """The secrets of now: a test may have replaced those of the module before."""
    found = Vault(testbed.name).load()
    assert found is not None, "no testbed is up on this machine; ./testbed up --yes"
    return found


@pytest.fixture
def api(testbed, secrets):
    with ClearmlApi(testbed.server.url("api"), secrets.toolkit) as api:
        yield api


@pytest.fixture(scope="session")
def eventually() -> Callable[..., object]:
    """Ask until there is an answer that is true; fail with what was awaited when `seconds` are over."""

    def wait(what: str, ask: Callable[[], object], seconds: float) -> object:
        end = time.monotonic() + seconds
        while not (found := ask()):
            assert time.monotonic() < end, f"{what}: not within {seconds} s"
            time.sleep(0.2)
        return found

    return wait
