"""How a container is, from Docker's own words."""

from __future__ import annotations

import pytest

from provision import hosts


@pytest.mark.parametrize(
    ("words", "state"),
    [
        ("running healthy", "runs"),
        ("running", "runs"),
        ("running starting", "is starting"),
        ("running unhealthy", "is unhealthy"),
        ("restarting unhealthy", "is restarting"),
        ("exited unhealthy", "is exited"),
        ("", "is not there"),
    ],
)
def test_a_container_runs_when_it_is_healthy(words, state):
    assert hosts.container_state(words.split()) == state
