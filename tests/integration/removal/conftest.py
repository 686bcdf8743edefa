"""What the tests that remove a testbed share."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def snapshot() -> ModuleType:
    described = importlib.util.spec_from_file_location("snapshot", Path(__file__).with_name("snapshot.py"))
    assert described
    assert described.loader
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module
