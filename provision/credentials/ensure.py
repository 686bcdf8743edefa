"""Makes sure that every identity has a key that works, and that no other key carries its label."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from provision.clearml_api import ClearmlApi
from provision.credentials.identities import Identity, of_label
from provision.errors import ApiError
from provision.secrets import KeyPair, SystemKey
from provision.spec import AGENT_USER

# The company of the open-source server, official and lite; a fixed user's ID is the MD5 of "<company>:<username>".
COMPANY = "d1bd92a3b039400cbafc60a7a5b1e52b"
AT_ONCE = 8
PAGE = 500
UNKNOWN_USER = (400, 6)  # HTTP status and ClearML's subcode of an impersonation that failed
Found = TypeVar("Found")
HELD_URL = re.compile(r'"?api_server"?\s*[:=]\s*"([^"]*)"')
HELD_KEY = re.compile(r'"?(access_key|secret_key)"?\s*[:=]\s*"([^"]*)"')


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


def user_id(username: str) -> str:
    """Return the ClearML ID of a fixed user."""
    return hashlib.md5(f"{COMPANY}:{username}".encode(), usedforsecurity=False).hexdigest()


def read_held(folder: Path) -> dict[str, KeyPair]:
    """Return the keys in the confs that `server.yml` collected from hosts, by identity name.

    A user has the same key on all hosts; of several, the last one counts.
    """
    held = {}
    for path in sorted(folder.glob("*/*.conf")):
        key = parse_key(path.read_text(encoding="utf-8", errors="replace"))
        if key is not None:
            held[path.stem.replace("__", "/")] = key
    return held


def read_url(folder: Path) -> str | None:
    """Return the API server that the collected confs name: where it answers now, whatever the spec wants next."""
    for path in sorted(folder.glob("*/*.conf")):
        if found := HELD_URL.search(path.read_text(encoding="utf-8", errors="replace")):
            return found.group(1)
    return None


def parse_key(conf: str) -> KeyPair | None:
    """Return the key pair in the text of a clearml.conf that the toolkit wrote, or None where there is none."""
    found = dict(HELD_KEY.findall(conf))
    return KeyPair(**found) if found.get("access_key") and found.get("secret_key") else None


def ensure_all(
    url: str, system: SystemKey, testbed: str, identities: list[Identity], held: Mapping[str, KeyPair]
) -> dict[str, Ensured]:
    """Return a working key for each identity, by name.

    `held` has the keys that hosts hold now, `system` is the server's own.

    A held key that logs in as its user is kept; else a new one is issued. Every other key with the identity's label is
    an orphan (of a run that was killed, of a host that is gone) and is revoked. Raises `ApiError`.
    """

    def ensure(admin: ClearmlApi, identity: Identity) -> Ensured:
        return _ensure(admin, url, identity, identity.label(testbed), held.get(identity.name))

    return _for_each(url, system, identities, ensure)


def find_stale(url: str, system: SystemKey, testbed: str, identities: Collection[Identity]) -> list[Stale]:
    """Return this testbed's keys for users, workers and watchdogs that are not in `identities`. Raises `ApiError`.

    A key counts by its label and by whose it is: labels are editable by their owners.
    """
    wanted = {(identity.user, identity.purpose) for identity in identities}
    users = {identity.user for identity in identities}
    at_home = {user_id(user) for user in users} - {user_id(AGENT_USER)}
    stale = []
    with ClearmlApi(url, system.pair) as admin:
        for user in {*_users(admin)} - at_home:
            for entry in _credentials(admin, user):
                holder = of_label(entry.get("label") or "", testbed)
                if holder is None or user_id(holder.user) != user or (holder.user, holder.purpose) in wanted:
                    continue
                if holder.user not in users or holder.is_service:
                    stale.append(Stale(holder, user, entry["access_key"]))
    return sorted(stale, key=lambda found: (found.holder.name, found.access_key))


def revoke_stale(url: str, system: SystemKey, testbed: str, identities: Collection[Identity]) -> int:
    """Revoke what `find_stale` finds; return how many. Raises `ApiError`."""
    stale = find_stale(url, system, testbed, identities)
    with ClearmlApi(url, system.pair) as admin:
        for found in stale:
            admin.call("auth.revoke_credentials", impersonate=found.user_id, access_key=found.access_key)
    return len(stale)


def revoke_others(url: str, system: SystemKey, keep: Collection[str]) -> int:
    """Revoke every key of every user but those with an access key in `keep`; return how many. Raises `ApiError`."""
    revoked = 0
    with ClearmlApi(url, system.pair) as admin:
        for user in _users(admin):
            for entry in _credentials(admin, user):
                if entry["access_key"] not in keep:
                    admin.call("auth.revoke_credentials", impersonate=user, access_key=entry["access_key"])
                    revoked += 1
    return revoked


def _credentials(admin: ClearmlApi, user: str) -> list[dict[str, Any]]:
    """Return a user's keys; one that cannot be impersonated (an internal one of the server's) has none of ours."""
    try:
        return list(admin.call("auth.get_credentials", impersonate=user)["credentials"])
    except ApiError as error:
        if (error.code, error.subcode) == UNKNOWN_USER:
            return []
        raise


def _users(admin: ClearmlApi) -> Iterator[str]:
    for page in itertools.count():
        found = admin.call("users.get_all", page=page, page_size=PAGE, only_fields=["id"])["users"]
        yield from (user["id"] for user in found)
        if len(found) < PAGE:
            return


def decide_all(
    url: str, system: SystemKey, testbed: str, identities: list[Identity], held: Mapping[str, KeyPair]
) -> dict[str, Decision]:
    """Return what `ensure_all` would do, by name; only reads. Raises `ApiError`."""

    def decide(admin: ClearmlApi, identity: Identity) -> Decision:
        try:
            return _decide(admin, url, identity, identity.label(testbed), held.get(identity.name))
        except ApiError as error:
            if (error.code, error.subcode) == UNKNOWN_USER:  # one that the server gets in the same run
                return Decision(None)
            raise

    return _for_each(url, system, identities, decide)


def _for_each(
    url: str, system: SystemKey, identities: list[Identity], work: Callable[[ClearmlApi, Identity], Found]
) -> dict[str, Found]:
    """Do `work` for every identity, some at once, with the server's own key; return what it gave, by name."""
    with ClearmlApi(url, system.pair) as admin, ThreadPoolExecutor(AT_ONCE) as pool:
        admin.login()
        found = pool.map(lambda identity: work(admin, identity), identities)
        return dict(zip([identity.name for identity in identities], found, strict=True))


def works(url: str, key: KeyPair, username: str | None = None) -> bool:
    """Return whether `key` logs in (as `username`, if given). Raises `ApiError` when the server does not answer."""
    try:
        with ClearmlApi(url, key) as api:
            user = api.call("users.get_current_user")["user"]
    except ApiError as error:
        if error.code in (401, 403):
            return False
        raise
    return username is None or user["id"] == user_id(username)


def _ensure(admin: ClearmlApi, url: str, identity: Identity, label: str, held: KeyPair | None) -> Ensured:
    decided = _decide(admin, url, identity, label, held)
    user, key = user_id(identity.user), decided.kept
    if key is None:
        issued = admin.call("auth.create_credentials", impersonate=user, label=label)["credentials"]
        key = KeyPair(access_key=issued["access_key"], secret_key=issued["secret_key"])
    for access_key in decided.orphans:
        admin.call("auth.revoke_credentials", impersonate=user, access_key=access_key)
    return Ensured(key, issued=decided.kept is None, revoked=len(decided.orphans))


def _decide(admin: ClearmlApi, url: str, identity: Identity, label: str, held: KeyPair | None) -> Decision:
    user = user_id(identity.user)
    kept = held if held is not None and works(url, held, identity.user) else None
    labelled = [
        entry["access_key"]
        for entry in admin.call("auth.get_credentials", impersonate=user)["credentials"]
        if entry.get("label") == label
    ]
    if kept is not None and kept.access_key not in labelled:
        kept = None  # somebody's own key, not the one that this testbed issued for the purpose
    return Decision(kept, tuple(key for key in labelled if kept is None or key != kept.access_key))
