"""The users of a testbed: who is to be one, whom its server has, and that it lets in those and nobody else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from provision.clearml_api import ClearmlApi
from provision.credentials import ensure, onboarding
from provision.credentials import issuer as issuers
from provision.credentials.issuer import user_id
from provision.credentials.keys import AT_ONCE, Key, Keys
from provision.errors import ApiError, InputError, TestbedError
from provision.reports import UserState
from provision.secrets import KeyPair, Secrets, UserSecret
from provision.spec import ADMIN_USER, AGENT_USER, RESERVED_USERS, Testbed
from provision.spec_types import MEANINGS, USER_NAME

STATES = {
    "ready": "the server has them",
    "missing": "in testbed.yaml, and not on the server yet: testbed users apply",
    "left": "not in testbed.yaml any more, and the server has them: testbed users remove",
}


@dataclass(frozen=True)
class Person:
    """A row of a CSV: who is to be a user."""

    name: str
    full_name: str = ""

    @property
    def entry(self) -> dict[str, str]:
        """The person as an entry of `users` in testbed.yaml."""
        return {"name": self.name} | ({"full_name": self.full_name} if self.full_name else {})


def read(path: Path) -> list[Person]:
    """Return who is in the CSV at `path`, which may be one for `onboard`.

    Raises `InputError`, which names every line that is wrong.
    """
    people: list[Person] = []
    wrong: list[str] = []
    for line, row in onboarding.read_rows(path):
        try:
            people.append(_person(row, people))
        except InputError as error:
            wrong.append(f"{path}:{line}: {error.message}")
    if wrong:
        raise InputError("\n".join(wrong), "Mend these lines; nothing was done.")
    if not people:
        raise InputError(f"{path}: names nobody", "Below the line of columns (name, full_name), write one a user.")
    return people


def _person(row: Mapping[str, str | None], people: Sequence[Person]) -> Person:
    if None in row:
        raise InputError("has more cells than there are columns")
    person = Person((row.get("name") or "").strip(), (row.get("full_name") or "").strip())
    if not re.fullmatch(USER_NAME, person.name):
        raise InputError(f"user name {person.name!r} must be {MEANINGS[USER_NAME]}")
    if person.name in RESERVED_USERS:
        raise InputError(f"user name {person.name!r} is used by the system or by the testbed itself")
    if not person.full_name.isprintable():
        raise InputError(f"the full name of {person.name} has characters that cannot be shown")
    if any(other.name == person.name for other in people):
        raise InputError(f"{person.name} is there twice")
    return person


def unknown_there(testbed: Testbed) -> list[str]:
    """Return those of the testbed's users whom its server, which is somebody else's, does not have.

    Raises `TestbedError` where `server.credentials_file` may not issue keys for them, `ApiError`.
    """
    ids = issuers.of_another(testbed, missing_ok=True)
    return [user.name for user in testbed.users if not ids.alone and user.name not in ids.ids]


def standing(testbed: Testbed, secrets: Secrets, keys: Keys) -> list[UserState]:
    """Return how every user stands, in the order of testbed.yaml; then who has left it. Raises `ApiError`."""
    issuer = issuers.of(testbed, secrets)
    with ClearmlApi(testbed.server.url("api"), issuer.key) as api:
        there = issuer.people(api)
    held: dict[str, list[Key]] = {}
    for key in keys.all():
        held.setdefault(key.user_id, []).append(key)
    found = [
        _state(user.name, user.full_name, "ready" if issuer.id_of(user.name) in there else "missing", of)
        for user in testbed.users
        for of in [held.get(issuer.id_of(user.name), [])]
    ]
    ours = {issuer.id_of(name) for name in (*(user.name for user in testbed.users), ADMIN_USER, AGENT_USER)}
    known = {user_id(name): name for name in secrets.users}  # whom this testbed has made, by the IDs that they have
    for identifier in there.keys() - ours:
        of = held.get(identifier, [])
        if identifier in known or any(key.labelled_for == testbed.name for key in of):
            found.append(_state(known.get(identifier, there[identifier]), None, "left", of))
    return found


def _state(
    name: str, full_name: str | None, state: Literal["ready", "missing", "left"], keys: Iterable[Key]
) -> UserState:
    keys = list(keys)
    used = max((key.last_used for key in keys if key.last_used), default=None)
    return UserState(
        name=name,
        full_name=full_name,
        state=state,
        keys=len(keys),
        last_used=f"{used:%Y-%m-%dT%H:%M:%SZ}" if used else None,
    )


def prove(testbed: Testbed, secrets: Secrets) -> None:
    """Read back from the testbed's own server that only its users get in, and each with the password of the vault.

    Raises `ApiError`.
    """
    url = testbed.server.url("api")
    with ClearmlApi(url, issuers.of(testbed, secrets).key) as api:
        if not api.call("auth.fixed_users_mode").get("enabled"):
            raise ApiError(f"{url}: lets in whoever gives a name: fixed users are off", "Look at the server's log.")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        names = [user.name for user in testbed.users]
        lets_in = pool.map(lambda name: _lets_in(url, name, secrets.users[name]), names)
        refused = [name for name, good in zip(names, lets_in, strict=True) if not good]
    if refused:
        raise ApiError(f"{url}: does not let in {', '.join(refused)}", "Run it again, and look at the server's log.")


def prove_gone(testbed: Testbed, names: Sequence[str], passwords: Mapping[str, UserSecret]) -> None:
    """Read back from the testbed's own server that it lets in none of `names` any more. Raises `TestbedError`."""
    url = testbed.server.url("api")
    if there := [name for name in names if name in passwords and _lets_in(url, name, passwords[name])]:
        raise TestbedError(
            f"{url}: still lets in {', '.join(there)}", "Run it again, and look at whether the server has restarted."
        )


def _lets_in(url: str, name: str, secret: UserSecret) -> bool:
    return ensure.works(url, KeyPair(access_key=name, secret_key=secret.password), name)


def keys_to_revoke(testbed: Testbed, secrets: Secrets, keys: Keys, name: str) -> list[Key]:
    """Return the keys that go with a user: all but those of services; on another's server this testbed's alone.

    Raises `InputError` for one whom neither testbed.yaml, nor the vault, nor the server knows, `ApiError`.
    """
    if name in {user.name for user in testbed.users}:
        found = keys.of(name)
    else:
        try:
            found = keys.of_anybody(name)
        except InputError:
            if name not in secrets.users or name in (ADMIN_USER, AGENT_USER):
                raise
            found = []
    if testbed.server.is_external:
        return [key for key in found if key.label is not None and keys.is_revocable(key)]
    return [key for key in found if keys.is_revocable(key)]
