"""Writes docs/evidence/smoke-faults.md from the tables of the tests: each fault, how it is made, who finds it, and how.

.venv/bin/python -P -m tests.integration.smoke.fault_table
"""

from __future__ import annotations

import inspect
from typing import Any

from provision.paths import ROOT
from tests.integration.deployed import test_smoke_faults as of_testbed
from tests.integration.smoke import test_faults as of_server

PAGE = ROOT / "docs/evidence/smoke-faults.md"
HEAD = """# Faults that the smoke test finds

Each is made on a good stack, really and alone, and taken back afterwards; the check beside it must fail, and its
message must have these words in it. `./testbed test -m long tests/integration/smoke` makes those of a server, and
`./testbed test -m long tests/integration/deployed/test_smoke_faults.py` those of a testbed that is up. CI draws a
sample by its seed: six and three. Made by tests/integration/smoke/fault_table.py.
"""
ALTERED = [
    (
        "dataset altered on disk",
        "a byte of each of the dataset's files on the file server's disk is changed as soon as it is there",
        "generated dataset is what was uploaded",
        ("has other bytes than were uploaded",),
    ),
    (
        "model file swapped",
        "the same, for the registered model's file",
        "registered model is the trained one",
        ("is another file than was trained",),
    ),
]


def page() -> str:
    """Return the page."""
    return "\n".join(
        [
            HEAD,
            f"## Of a server: {len(of_server.FAULTS) + len(ALTERED)}\n",
            _table([*map(_row, of_server.FAULTS), *ALTERED]),
            f"## Of a testbed: {len(of_testbed.FAULTS)}\n",
            _table(list(map(_row, of_testbed.FAULTS))),
        ]
    )


def _row(fault: Any) -> tuple[str, str, str, tuple[str, ...]]:
    return fault.name, inspect.getdoc(fault.broken) or "", fault.check, fault.words


def _table(rows: list[tuple[str, str, str, tuple[str, ...]]]) -> str:
    lines = ["| fault | how | check | its message has |", "| --- | --- | --- | --- |"]
    for name, how, check, words in rows:
        said = " … ".join(words)
        lines.append(f"| {name} | {how} | {check} | {said} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
