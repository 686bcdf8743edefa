"""`upgrade --server`: to which version of the official server a testbed may go."""

from __future__ import annotations

from functools import cache

import yaml

from provision.errors import TestbedError
from provision.paths import ROLES

VERSIONS = ROLES / "clearml_server" / "vars" / "main.yml"
# major versions of MongoDB and Elasticsearch cannot be skipped: who is below one of these stops there (ClearML's docs)
STOPS = ((1, 17), (2, 0))


class UpgradeError(TestbedError):
    """The server cannot go to that version."""


@cache
def known_versions() -> list[str]:
    """Return the versions whose images role clearml_server knows, the oldest first."""
    found = yaml.safe_load(VERSIONS.read_text(encoding="utf-8"))["clearml_server_versions"]
    return sorted(found, key=parse)


def parse(version: str) -> tuple[int, ...]:
    """Return a version's numbers."""
    return tuple(int(part) for part in version.split("."))


def check_hop(current: str, wanted: str, known: list[str]) -> None:
    """Raise `UpgradeError` unless a server of version `current` may go to `wanted` at once. Pure."""
    now, then = parse(current), parse(wanted)
    if then < now:
        raise UpgradeError(
            f"the server is {current}, and {wanted} is older: stores that have migrated their data start no older one",
            "Restore a backup of then on a new testbed; nothing was changed.",
        )
    for stop in STOPS:
        if now[:2] < stop < then[:2]:
            through = ".".join(map(str, stop))
            raise UpgradeError(
                f"from {current} the way to {wanted} leads through {through}: its stores migrate their data there",
                f"Upgrade to {through} first, as ClearML's documentation has it; nothing was changed.",
            )
    if wanted not in known:
        raise UpgradeError(
            f"version {wanted} of the server is not known here", f"There are: {', '.join(known)}; nothing was changed."
        )
