"""A restore removes the data that it replaced only when the testbed is well with the new ones."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from provision import backup, deploy
from provision.cli import operations


@pytest.mark.parametrize(("healthy", "done", "left"), [(True, ["forgotten"], None), (False, [], "/data/lite.before")])
def test_the_data_of_before_go_only_when_all_checks_passed(monkeypatch, healthy, done, left):
    happened = []

    def bring_up(_session, *, prove, proven):
        assert prove
        proven()
        return types.SimpleNamespace(healthy=healthy)

    monkeypatch.setattr(backup, "bring", lambda *_: ({"path": "/data/lite"}, None))
    monkeypatch.setattr(backup, "compare", lambda *_: 7)
    monkeypatch.setattr(deploy, "forget_replaced", lambda _: happened.append("forgotten"))
    monkeypatch.setattr(operations, "bring_up", bring_up)
    found = operations.put_back(None, Path("/backup"), None, None)
    assert (found.compared, found.data) == (7, left)
    assert happened == done
