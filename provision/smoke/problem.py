"""What a check of the stack found wrong: what was expected, what was seen, whose log tells more, what to try."""

from __future__ import annotations

from collections.abc import Sequence

HostService = tuple[str, str]


class Broken(AssertionError):
    """A promise of the stack that does not hold.

    `seen`: what there is, by name. `expected`: what should be; empty: what its docstring says. `remedy`: what to
    try; empty: the plugin's general one. `of`: (host, service) whose log tells more; none: those of its marker.
    """

    def __init__(self, seen: str, *, expected: str = "", remedy: str = "", of: Sequence[HostService] = ()) -> None:
        super().__init__(seen)
        self.seen = seen
        self.expected = expected
        self.remedy = remedy
        self.of = tuple(of)


def need(holds: object, seen: str, *, expected: str = "", remedy: str = "", of: Sequence[HostService] = ()) -> None:
    """Raise `Broken` unless `holds`."""
    if not holds:
        raise Broken(seen, expected=expected, remedy=remedy, of=of)


def told(expected: str, seen: str, remedy: str, logs: Sequence[tuple[HostService, Sequence[str]]]) -> str:
    """Return the message of a failed check; `logs`: the last lines of each service concerned. Pure."""
    lines = [f"Expected: {expected}", f"Seen: {seen}", f"Try: {remedy}"]
    for (host, service), last in logs:
        lines.append(f"Last lines of {service} on {host}:")
        lines += [f"  {line}" for line in last] or ["  (none)"]
    return "\n".join(lines)
