"""What errors of the SDK mean."""

from __future__ import annotations

import pytest
from keystoneauth1 import exceptions as auth
from openstack import exceptions as sdk

from provision.cloud.connect import explain


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (auth.Unauthorized("The request you have made requires authentication."), "user, password or application"),
        (auth.NotFound("Failed to validate token"), "new token"),
        (sdk.NotFoundException("No server with that ID"), "same command again"),
        (sdk.ForbiddenException("Quota exceeded for cores"), "larger quota"),
        (auth.ConnectFailure("Unable to establish connection to http://192.0.2.1:5000/v3"), "auth_url"),
        (auth.SSLError("SSL exception connecting to https://192.0.2.1:5000: certificate verify failed"), "cacert"),
    ],
)
def test_an_error_comes_with_its_remedy(error: Exception, remedy: str) -> None:
    found = explain(error, "create server agent-1")
    assert remedy in found.remedy
    assert "create server agent-1" in found.message or "no connection to" in found.message
