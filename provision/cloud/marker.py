"""Who works on a testbed: two tags of its security group, for other administrators to see. Pure.

It is a courtesy and no lock: two who begin at once may both think that they are alone, and what they double is removed.
"""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

HOLDER, SINCE = "testbed-holder:", "testbed-since:"
TIME = "%Y-%m-%dT%H:%M:%SZ"
LONGEST_TAG = 60  # neutron's limit
# nobody works for longer; who is still marked then was killed, or lost the way to the cloud
OLD = timedelta(hours=2)


@dataclass(frozen=True)
class Marker:
    """Who works on the testbed, as USER@HOST, and since when."""

    holder: str
    since: datetime

    @property
    def tags(self) -> list[str]:
        """The marker as tags."""
        return [f"{HOLDER}{self.holder}", f"{SINCE}{self.since.strftime(TIME)}"]

    def is_old(self, now: datetime) -> bool:
        """Whether its holder cannot be at work any more."""
        return now - self.since > OLD

    def __str__(self) -> str:
        return f"{self.holder} since {self.since.strftime('%Y-%m-%d %H:%M:%S')} UTC"


def mine(now: datetime) -> Marker:
    """Return the marker of this administrator on this machine."""
    who = re.sub(r"[^A-Za-z0-9_.@-]", "_", f"{getpass.getuser()}@{socket.gethostname()}")
    return Marker(who[: LONGEST_TAG - len(HOLDER)], now.replace(microsecond=0))


def read(tags: Iterable[str]) -> Marker | None:
    """Return the marker among `tags`; None where there is none, or none that makes sense."""
    said = {prefix: tag.removeprefix(prefix) for tag in tags for prefix in (HOLDER, SINCE) if tag.startswith(prefix)}
    try:
        return Marker(said[HOLDER], datetime.strptime(said[SINCE], TIME).replace(tzinfo=UTC))
    except (KeyError, ValueError):
        return None


def others(tags: Iterable[str]) -> list[str]:
    """Return the tags that are no marker."""
    return [tag for tag in tags if not tag.startswith((HOLDER, SINCE))]


def in_the_way(found: Marker | None, me: Marker) -> bool:
    """Whether somebody else works on the testbed now."""
    return found is not None and found.holder != me.holder and not found.is_old(me.since)
