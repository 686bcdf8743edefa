"""What the tests of Ansible's modules share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    """Files have their usual modes, and a module that runs within this process leaves that as it was."""
    before = os.umask(0o022)
    yield
    os.umask(before)
