"""What a key's label on the server says: whose it is, what for, since when and until when. Pure.

    testbed:lab user:alice purpose:laptop issued:2026-11-23 expires:2027-02-21

Dates are UTC. What `up` issues has neither date. The last word `unwritten` marks a key whose file is not known to be
written: it goes once the file is there, and a key that keeps it is one that nobody has.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from provision.errors import InputError
from provision.spec_types import MEANINGS, NAME

UNWRITTEN = "unwritten"
NEVER = "never"
# purposes of the keys that `up` issues
CLIENT, TOOLKIT = "client", "toolkit"
RESERVED = (CLIENT, TOOLKIT)
_DAY = r"\d{4}-\d\d-\d\d"
_LABEL = re.compile(
    rf"testbed:(\S+) user:(\S+) purpose:(\S+)(?: issued:({_DAY}))?(?: expires:({_DAY}))?( {UNWRITTEN})?"
)
_SPAN = re.compile(r"([1-9]\d{0,3})([dw])")


@dataclass(frozen=True)
class Label:
    """A label in its parts; `expires` is the first day on which the key is not to work any more."""

    testbed: str
    user: str
    purpose: str
    issued: datetime.date | None = None
    expires: datetime.date | None = None
    unwritten: bool = False

    @property
    def text(self) -> str:
        """The label as the server keeps it."""
        words = [f"testbed:{self.testbed}", f"user:{self.user}", f"purpose:{self.purpose}"]
        words += [f"issued:{self.issued}"] if self.issued else []
        words += [f"expires:{self.expires}"] if self.expires else []
        return " ".join(words + [UNWRITTEN] * self.unwritten)


def parse(text: str) -> Label | None:
    """Return the parts of a label; None for one that the toolkit has not written so."""
    found = _LABEL.fullmatch(text)
    if found is None:
        return None
    testbed, user, purpose, issued, expires, unwritten = found.groups()
    try:
        return Label(testbed, user, purpose, _day(issued), _day(expires), bool(unwritten))
    except ValueError:
        return None


def _day(text: str | None) -> datetime.date | None:
    return datetime.date.fromisoformat(text) if text else None


def check_purpose(purpose: str) -> None:
    """Raise `InputError` for a purpose that no key can be issued for."""
    if purpose in RESERVED:
        raise InputError(f"purpose {purpose} is that of keys which `testbed up` issues", "Take another word.")
    if not re.fullmatch(NAME, purpose):
        raise InputError(f"purpose {purpose!r} must be {MEANINGS[NAME]}", "Take a word such as laptop.")


def expiry(words: str, today: datetime.date) -> datetime.date | None:
    """Return the day that `words` mean (90d, 12w, 2027-02-21); None for `never`. Raises `InputError`."""
    if words == NEVER:
        return None
    try:
        if span := _SPAN.fullmatch(words):
            day = today + datetime.timedelta(days=int(span[1]) * (7 if span[2] == "w" else 1))
        else:
            day = datetime.date.fromisoformat(words)
    except (ValueError, OverflowError):
        raise InputError(
            f"{words!r} is no time until which a key may be used",
            "Write 90d, 12w, a date such as 2027-02-21, or never.",
        ) from None
    if day <= today:
        raise InputError(f"{words} is not in the future: today is {today} (UTC)", "Name a later day.")
    return day
