"""Makes sure that every identity has a key that works, and that no other key carries its label."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from provision.clearml_api import ClearmlApi
from provision.credentials.conf import identity_of, parse_key, read_held, read_url
from provision.credentials.identities import Identity, of_label
from provision.credentials.issuer import Issuer, user_id
from provision.errors import ApiError, TestbedError
from provision.secrets import KeyPair
from provision.spec import AGENT_USER

__all__ = ["parse_key", "read_held", "read_url", "user_id"]

AT_ONCE = 8
UNKNOWN_USER = (400, 6)  # HTTP status and ClearML's subcode of an impersonation that failed
Found = TypeVar("Found")


@dataclass(frozen=True)
class Ensured:
    """A key that works, and whether this run had to issue it."""

    key: KeyPair
    issued: bool
    revoked: int


@dataclass(frozen=True)
class Stale:
    """A key of this testbed whose holder, a user or a service on an agent host, is no longer in the spec."""

    holder: Identity
    user_id: str
    access_key: str


@dataclass(frozen=True)
class Decision:
    """What is to be done about an identity's key: the one that is kept (None: one is issued), those to revoke."""

    kept: KeyPair | None
    orphans: tuple[str, ...] = ()


def ensure_all(
    url: str, issuer: Issuer, testbed: str, identities: list[Identity], held: Mapping[str, KeyPair]
) -> dict[str, Ensured]:
    """Return a working key for each identity, by name.

    `held` has the keys that hosts hold now, `issuer` may issue them.

    A held key that logs in as its user is kept; else a new one is issued. Every other key with the identity's label is
    an orphan (of a run that was killed, of a host that is gone) and is revoked. Raises `ApiError`.
    """

    def ensure(admin: ClearmlApi, identity: Identity) -> Ensured:
        return _ensure(admin, issuer, url, identity, identity.label(testbed), held.get(identity.name))

    return _for_each(url, issuer, identities, ensure)


def issue_anew(url: str, issuer: Issuer, testbed: str, identities: list[Identity]) -> dict[str, KeyPair]:
    """Return a new key for each identity, by name, that works beside the one of until now. Raises `ApiError`."""

    def issue(admin: ClearmlApi, identity: Identity) -> KeyPair:
        user = issuer.id_of(identity.user)
        key = _create(admin, issuer, user, identity.label(testbed))
        if _logs_in_as(url, key) != user:
            _revoke(admin, issuer, user, key.access_key)
            raise ApiError(f"{url}: does not take the key that it has issued", "Look at the server's log.")
        return key

    return _for_each(url, issuer, identities, issue)


def check_held(folder: Path, keys: Mapping[str, KeyPair]) -> None:
    """Raise `TestbedError` where a conf that was collected from a host has another key than `keys` has for its name."""
    for path in sorted(folder.glob("*/*.conf")):
        name = identity_of(path)
        wanted = keys.get(name)
        if wanted is not None and parse_key(path.read_text(encoding="utf-8", errors="replace")) != wanted:
            raise TestbedError(
                f"{path.parent.name} has not got the new key of {name}, so no old one was revoked",
                "Run the same command again; `testbed up` goes back to the keys that the hosts have.",
            )


def find_stale(url: str, issuer: Issuer, testbed: str, identities: Collection[Identity]) -> list[Stale]:
    """Return this testbed's keys for users, workers and watchdogs that are not in `identities`. Raises `ApiError`.

    A key counts by its label and by whose it is: labels are editable by their owners.
    """
    wanted = {(identity.user, identity.purpose) for identity in identities}
    users = {identity.user for identity in identities}
    workers = {AGENT_USER} | {identity.user for identity in identities if identity.is_service}
    at_home = {issuer.id_of(user) for user in users} - {issuer.id_of(user) for user in workers}
    stale = []
    with ClearmlApi(url, issuer.key) as admin:
        for user in {*issuer.users(admin)} - at_home:
            for entry in credentials_of(admin, issuer, user):
                holder = of_label(entry.get("label") or "", testbed)
                if holder is None or issuer.id_of(holder.user) != user or (holder.user, holder.purpose) in wanted:
                    continue
                if holder.user not in users or holder.is_service:
                    stale.append(Stale(holder, user, entry["access_key"]))
    return sorted(stale, key=lambda found: (found.holder.name, found.access_key))


def revoke_stale(url: str, issuer: Issuer, testbed: str, identities: Collection[Identity]) -> int:
    """Revoke what `find_stale` finds; return how many. Raises `ApiError`."""
    return revoke(url, issuer, find_stale(url, issuer, testbed, identities))


def revoke(url: str, issuer: Issuer, stale: Collection[Stale]) -> int:
    """Revoke `stale`; return how many. Raises `ApiError`."""
    with ClearmlApi(url, issuer.key) as admin:
        for found in stale:
            _revoke(admin, issuer, found.user_id, found.access_key)
    return len(stale)


def revoke_others(url: str, issuer: Issuer, keep: Collection[str]) -> int:
    """Revoke every key of every user but those with an access key in `keep`; return how many. Raises `ApiError`."""
    revoked = 0
    with ClearmlApi(url, issuer.key) as admin:
        for user in issuer.users(admin):
            for entry in credentials_of(admin, issuer, user):
                if entry["access_key"] not in keep:
                    _revoke(admin, issuer, user, entry["access_key"])
                    revoked += 1
    return revoked


def find_all(url: str, issuer: Issuer, testbed: str) -> list[Stale]:
    """Return every key that this testbed has issued and not revoked yet. Raises `ApiError`."""
    return find_stale(url, issuer, testbed, [])


def _revoke(admin: ClearmlApi, issuer: Issuer, user: str, access_key: str) -> None:
    admin.call("auth.revoke_credentials", impersonate=issuer.acting_for(user), access_key=access_key)


def credentials_of(admin: ClearmlApi, issuer: Issuer, user: str) -> list[dict[str, Any]]:
    """Return a user's keys; one that cannot be impersonated (an internal one, or none of the server's) has none."""
    try:
        return list(admin.call("auth.get_credentials", impersonate=issuer.acting_for(user))["credentials"])
    except ApiError as error:
        if (error.code, error.subcode) == UNKNOWN_USER:
            return []
        raise


def decide_all(
    url: str, issuer: Issuer, testbed: str, identities: list[Identity], held: Mapping[str, KeyPair]
) -> dict[str, Decision]:
    """Return what `ensure_all` would do, by name; only reads. Raises `ApiError`."""

    def decide(admin: ClearmlApi, identity: Identity) -> Decision:
        try:
            return _decide(admin, issuer, url, identity, identity.label(testbed), held.get(identity.name))
        except ApiError as error:
            if (error.code, error.subcode) == UNKNOWN_USER:  # one that the server gets in the same run
                return Decision(None)
            raise

    return _for_each(url, issuer, identities, decide)


def _for_each(
    url: str, issuer: Issuer, identities: list[Identity], work: Callable[[ClearmlApi, Identity], Found]
) -> dict[str, Found]:
    """Do `work` for every identity, some at once, with the server's own key; return what it gave, by name."""
    with ClearmlApi(url, issuer.key) as admin, ThreadPoolExecutor(AT_ONCE) as pool:
        admin.login()
        found = pool.map(lambda identity: work(admin, identity), identities)
        return dict(zip([identity.name for identity in identities], found, strict=True))


def works(url: str, key: KeyPair, username: str | None = None) -> bool:
    """Return whether `key` logs in (as the fixed user `username`, if given). Raises `ApiError` without an answer."""
    found = _logs_in_as(url, key)
    return found is not None and (username is None or found == user_id(username))


def _logs_in_as(url: str, key: KeyPair) -> str | None:
    """Return the ID of the user as whom `key` logs in; None where the server does not take it."""
    try:
        with ClearmlApi(url, key) as api:
            return str(api.call("users.get_current_user")["user"]["id"])
    except ApiError as error:
        if error.code in (401, 403):
            return None
        raise


def _ensure(
    admin: ClearmlApi, issuer: Issuer, url: str, identity: Identity, label: str, held: KeyPair | None
) -> Ensured:
    decided = _decide(admin, issuer, url, identity, label, held)
    user, key = issuer.id_of(identity.user), decided.kept
    if key is None:
        key = _create(admin, issuer, user, label)
    for access_key in decided.orphans:
        _revoke(admin, issuer, user, access_key)
    return Ensured(key, issued=decided.kept is None, revoked=len(decided.orphans))


def _create(admin: ClearmlApi, issuer: Issuer, user: str, label: str) -> KeyPair:
    issued = admin.call("auth.create_credentials", impersonate=issuer.acting_for(user), label=label)["credentials"]
    return KeyPair(access_key=issued["access_key"], secret_key=issued["secret_key"])


def _decide(
    admin: ClearmlApi, issuer: Issuer, url: str, identity: Identity, label: str, held: KeyPair | None
) -> Decision:
    user = issuer.id_of(identity.user)
    kept = held if held is not None and _logs_in_as(url, held) == user else None
    labelled = [
        entry["access_key"]
        for entry in admin.call("auth.get_credentials", impersonate=issuer.acting_for(user))["credentials"]
        if entry.get("label") == label
    ]
    if kept is not None and kept.access_key not in labelled:
        kept = None  # somebody's own key, not the one that this testbed issued for the purpose
    return Decision(kept, tuple(key for key in labelled if kept is None or key != kept.access_key))
