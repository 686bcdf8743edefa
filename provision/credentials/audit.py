"""What is not well with the keys on a server, and what to do about it. Pure."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Literal

from provision.credentials.keys import Key
from provision.credentials.labels import CLIENT
from provision.reports import Finding

Kind = Literal[
    "expired", "unwritten", "edited", "unlabelled", "twice", "left", "never used", "unused", "elsewhere", "other"
]


def findings(
    keys: Iterable[Key],
    now: datetime.datetime,
    unused_days: int,
    hosts: Collection[str],
    *,
    users: Collection[str] | None = None,
    shared: bool = False,
) -> list[Finding]:
    """Return what is not well with `keys`; `hosts`: the addresses of the testbed's own, `users`: those it has now.

    `unused_days`: a key that was not used for so long is told, and so is one that never was, since it was issued.
    `shared`: the server is somebody else's, and the keys of other testbeds there are none of this one's business.
    """
    keys = [key for key in keys if not shared or key.state(now.date()) != "other"]
    held = Counter((key.user, key.purpose) for key in keys if key.state(now.date()) == "good")
    left = {key.label.user for key in keys if key.label} - {*users} if users is not None else set()
    return [finding for key in keys for finding in _of(key, now, unused_days, hosts, held, left)]


def _of(
    key: Key,
    now: datetime.datetime,
    unused_days: int,
    hosts: Collection[str],
    held: Counter[tuple[str, str]],
    left: Collection[str],
) -> Iterator[Finding]:
    state, revoke = key.state(now.date()), f"testbed credentials revoke {key.access_key}"

    def found(kind: Kind, message: str, remedy: str) -> Finding:
        return Finding(kind=kind, user=key.user, access_key=key.access_key, message=message, remedy=remedy)

    whose = f"{key.user}: key {key.access_key}"
    named = f"{whose} for {key.purpose}" if key.purpose else whose
    if state == "other":
        message = f"{whose} has the label of another testbed: {key.text!r}"
        yield found("other", message, f"Where none works with this server: {revoke}")
        return
    if state == "expired":
        yield found("expired", f"{named} is past its day", "testbed credentials expire")
    if state == "unwritten":
        yield found("unwritten", f"{named} was issued by a command that was killed", "testbed credentials expire")
    if state == "edited":
        yield found("edited", f"{whose} has a label that somebody changed: {key.text!r}", f"Ask, then: {revoke}")
    if state == "own":
        what = f"was made by the user: {key.text!r}" if key.text else "has no label"
        yield found("unlabelled", f"{whose} {what}", f"Ask what it is for; one with an end in its place: {_issue(key)}")
    if state == "good" and held[key.user, key.purpose] > 1:
        yield found("twice", f"{named} is one of {held[key.user, key.purpose]}", f"{_rotate(key)} leaves one")
    if state == "good" and key.user in left:
        yield found("left", f"{named} works, and testbed.yaml has no user {key.user}", _revoke_all(key))
    if key.last_used is None:
        issued = key.label.issued if key.label else None
        if issued is not None and (now.date() - issued).days >= unused_days:
            yield found("never used", f"{named} was never used since {issued}", revoke)
    elif (now - key.last_used).days >= unused_days and not key.is_service:
        yield found("unused", f"{named} was last used on {key.last_used:%Y-%m-%d}", revoke)
    stays = key.is_service or key.purpose == CLIENT  # it is on the testbed's hosts, and nowhere else by us
    if stays and hosts and key.last_used_from and key.last_used_from not in hosts:
        remedy = "Where nobody copied it on purpose: testbed secrets rotate"
        yield found("elsewhere", f"{named} was last used from {key.last_used_from}, which is no host", remedy)


def _issue(key: Key) -> str:
    return f"testbed credentials issue {key.user} --purpose WORD"


def _revoke_all(key: Key) -> str:
    return f"testbed credentials revoke {key.user}"


def _rotate(key: Key) -> str:
    return f"testbed credentials rotate {key.user} --purpose {key.purpose}"
