"""The keys of a testbed's users on its server: what is there, issue one, revoke one.

A key is issued in three steps, each of which may be the last: the server makes it under a label that ends in
`unwritten`, its file is written, the mark is taken off. Who comes next finds what was left half way by its label.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from provision.clearml_api import ClearmlApi
from provision.credentials import identities
from provision.credentials import issuer as issuers
from provision.credentials.ensure import UNKNOWN_USER, credentials_of
from provision.credentials.identities import Identity
from provision.credentials.issuer import Issuer
from provision.credentials.labels import Label, parse
from provision.errors import ApiError, InputError
from provision.reports import KeyState
from provision.secrets import KeyPair, Secrets
from provision.spec import Testbed

AT_ONCE = 8
State = Literal["good", "expired", "unwritten", "edited", "own", "other"]
# what each state means to a person
STATES: dict[State, str] = {
    "good": "issued by this testbed, and within its time",
    "expired": "past its day; `credentials expire` revokes it",
    "unwritten": "issued by a command that was killed; nobody has it, and `credentials expire` revokes it",
    "edited": "its label begins as this testbed's do, and is none that it wrote for this user",
    "own": "made by the user",
    "other": "issued by another testbed, as its label says",
}


@dataclass(frozen=True)
class Key:
    """A key as the server tells of it. `label`: the parts of its `text`, where this testbed wrote that."""

    user: str
    user_id: str
    access_key: str
    text: str = ""
    label: Label | None = None
    last_used: datetime.datetime | None = None
    last_used_from: str | None = None
    labelled_for: str = ""  # the testbed that its label names, whoever wrote that
    testbed: str = ""

    @property
    def purpose(self) -> str:
        """What it is for; empty where nobody knows."""
        return self.label.purpose if self.label else ""

    @property
    def is_service(self) -> bool:
        """Whether an agent, a watchdog or the toolkit holds it."""
        return _is_of_service(self.user, self.purpose)

    @property
    def is_foreign(self) -> bool:
        """Whether its label names another testbed."""
        return self.labelled_for not in ("", self.testbed)

    def state(self, today: datetime.date) -> State:
        """Return how it is on a day (UTC)."""
        if self.label is None:
            return "other" if self.is_foreign else "edited" if self.labelled_for else "own"
        if self.label.unwritten:
            return "unwritten"
        return "expired" if self.label.expires is not None and self.label.expires <= today else "good"

    def report(self, today: datetime.date) -> KeyState:
        """Return it as commands report it."""
        label = self.label
        return KeyState(
            user=self.user,
            purpose=self.purpose,
            access_key=self.access_key,
            issued=str(label.issued) if label and label.issued else None,
            expires=str(label.expires) if label and label.expires else None,
            last_used=f"{self.last_used:%Y-%m-%dT%H:%M:%SZ}" if self.last_used else None,
            last_used_from=self.last_used_from,
            state=self.state(today),
            label=self.text,
        )


@dataclass(frozen=True)
class Issued:
    """A new key; `replaced`: the access keys of those that were revoked, as it takes their place."""

    key: KeyPair
    label: Label
    replaced: tuple[str, ...]


def today() -> datetime.date:
    """Return the day, UTC."""
    return datetime.datetime.now(datetime.UTC).date()


def read_key(
    entry: dict[str, Any],
    testbed: str,
    user: str,
    user_id: str,
    names: Collection[str],
    services: Collection[str] = (),
) -> Key:
    """Return the key of `user` that the server describes in `entry`; `names`: all that labels may call that user.

    A label counts only on a key of the user that it names, and that of a service only on a key of one of `services`,
    the users that services work as: labels are editable by their owners.
    """
    text = str(entry.get("label") or "")
    label = parse(text)
    ours = label is not None and label.testbed == testbed and label.user in names
    if label and _is_of_service(label.user, label.purpose):
        ours = ours and label.user in services
    used = entry.get("last_used")
    return Key(
        user=label.user if ours and label else user,
        user_id=user_id,
        access_key=str(entry["access_key"]),
        text=text,
        label=label if ours else None,
        last_used=_moment(str(used)) if used else None,
        last_used_from=entry.get("last_used_from"),
        labelled_for=text.partition(" ")[0].removeprefix("testbed:") if text.startswith("testbed:") else "",
        testbed=testbed,
    )


def _is_of_service(user: str, purpose: str) -> bool:
    return purpose == identities.TOOLKIT or Identity("", user, purpose).is_service


def _moment(text: str) -> datetime.datetime:
    found = datetime.datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


class Keys:
    """The keys of the users of one testbed, by the API of its server."""

    def __init__(self, api: ClearmlApi, issuer: Issuer, testbed: Testbed) -> None:
        self._api, self._issuer, self._testbed = api, issuer, testbed

    def user_named(self, name: str) -> str:
        """Return the name of a user of the testbed. Raises `InputError` for another."""
        if name not in [user.name for user in self._testbed.users]:
            raise self._unknown(name, "`users` in testbed.yaml has all that there are.")
        return name

    def id_of(self, user: str) -> str:
        """Return the ID of the user with that name."""
        return self._issuer.id_of(user)

    def of(self, user: str) -> list[Key]:
        """Return the keys of the user with that name. Raises `ApiError`."""
        return self._read(self._issuer.id_of(user), user)

    def of_anybody(self, name: str) -> list[Key]:
        """Return the keys of the user with that name, also of one whom the server has and testbed.yaml has no more.

        The name is the username, or else what the server calls the user. Raises `InputError`, `ApiError`.
        """
        if self._issuer.alone or name in self._names():
            return self.of(self.user_named(name))
        ours = {self._issuer.id_of(user) for user in self._names()}  # they are named as in testbed.yaml, not otherwise
        people = {user: called for user, called in self._issuer.people(self._api).items() if user not in ours}
        own = issuers.user_id(name)
        if own in people:
            return self._read(own, name, {name})
        found = [user for user, called in people.items() if called == name]
        if len(found) > 1:
            raise InputError(
                f"{self._api.url}: has {len(found)} users with the name {name}",
                "Revoke their keys one by one, by access key: `testbed credentials list` has these.",
            )
        if not found:
            raise self._unknown(name, "Nor has its server. `testbed credentials list` tells who has keys there.")
        return self._read(found[0], name)

    def _unknown(self, name: str, remedy: str) -> InputError:
        import difflib

        near = difflib.get_close_matches(name, [user.name for user in self._testbed.users], n=1)
        message = f"testbed {self._testbed.name} has no user {name}"
        return InputError(message, f"Did you mean {near[0]}?" if near else remedy)

    def all(self) -> list[Key]:
        """Return the keys of everybody on the server, also of those who are no users of the testbed."""
        people = self._issuer.people(self._api)
        people |= {self._issuer.id_of(name): name for name in self._names()}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(lambda person: self._read(*person), people.items()))
        return sorted((key for keys in found for key in keys), key=lambda key: (key.user, key.purpose, key.access_key))

    def issue(self, label: Label, write: Callable[[KeyPair], None]) -> Issued:
        """Issue a key with `label` and have it written; revoke what earlier commands left half way.

        Raises `InputError` where the user has a key for that purpose, `ApiError`, and what `write` raises: then there
        is no key.
        """
        found = self.ensure(label, write)
        if isinstance(found, Issued):
            return found
        since = f", issued {found.label.issued}" if found.label and found.label.issued else ""
        raise InputError(
            f"{label.user} has a key for {label.purpose} already{since}",
            f"To replace it: testbed credentials rotate {label.user} --purpose {label.purpose}; for another machine, "
            "name another --purpose.",
        )

    def ensure(self, label: Label, write: Callable[[KeyPair], None]) -> Issued | Key:
        """Return the key that the user has for the purpose, else issue one, as `issue` does and with what it raises."""
        same = [key for key in self.of(label.user) if key.purpose == label.purpose]
        good = [key for key in same if key.state(today()) == "good"]
        return good[0] if good else self._issue(label, write, same)

    def replace(self, label: Label, write: Callable[[KeyPair], None], prove: Callable[[KeyPair], None]) -> Issued:
        """Issue a key with `label`, have it proven and written, and only then revoke those that it replaces.

        Raises `InputError` where there is none to replace, and as `issue` does.
        """
        same = [key for key in self.of(label.user) if key.purpose == label.purpose]
        if not same:
            raise InputError(
                f"{label.user} has no key for {label.purpose}",
                f"To issue one: testbed credentials issue {label.user} --purpose {label.purpose}",
            )

        def prove_and_write(key: KeyPair) -> None:
            prove(key)  # first: the file of the old key is replaced by a key that works, or stays
            write(key)

        half = [key for key in same if key.state(today()) == "unwritten"]
        issued = self._issue(label, prove_and_write, half)
        old = [key for key in same if key not in half]
        for key in old:
            self.revoke(key)
        return replace(issued, replaced=tuple(key.access_key for key in same))

    def revoke(self, key: Key) -> None:
        """Revoke a key; one that has gone meanwhile is no error. Raises `ApiError`."""
        self._revoke(key.user_id, key.access_key)

    def unwanted(self, keys: Iterable[Key]) -> list[Key]:
        """Return those of `keys` that are past their day, or that nobody has since yesterday or longer."""
        day = today()
        return [
            key
            for key in keys
            if (state := key.state(day)) == "expired"
            or (state == "unwritten" and key.label and key.label.issued and key.label.issued < day)
        ]

    def is_revocable(self, key: Key) -> bool:
        """Return whether a key goes with its user: not what services work with, nor what another testbed issued."""
        return key.access_key != self._issuer.key.access_key and not key.is_service and not key.is_foreign

    def check_revocable(self, key: Key) -> None:
        """Raise `InputError` for a key that the toolkit itself works with."""
        if key.access_key == self._issuer.key.access_key:
            raise InputError(
                f"{key.access_key} is the key in server.credentials_file, with which keys are issued",
                "Revoke it in the web app of that server when the testbed is gone.",
            )
        if key.purpose == identities.TOOLKIT:
            raise InputError(f"{key.access_key} is the toolkit's own key", "To replace it: testbed secrets rotate")

    def _issue(self, label: Label, write: Callable[[KeyPair], None], left: Iterable[Key]) -> Issued:
        left = list(left)
        for old in left:
            self.revoke(old)
        user = self._issuer.id_of(label.user)
        marked = replace(label, unwritten=True)
        made = self._call("auth.create_credentials", user, label.user, label=marked.text)["credentials"]
        key = KeyPair(access_key=made["access_key"], secret_key=made["secret_key"])
        try:
            write(key)
        except BaseException:
            with suppress(ApiError):  # the next run finds it by its label
                self._revoke(user, key.access_key)
            raise
        self._call("auth.edit_credentials", user, label.user, access_key=key.access_key, label=label.text)
        return Issued(key, label, tuple(old.access_key for old in left))

    def _revoke(self, user_id: str, access_key: str) -> None:
        acting = self._issuer.acting_for(user_id)
        try:
            self._api.call("auth.revoke_credentials", impersonate=acting, access_key=access_key)
        except ApiError:
            if access_key in {entry["access_key"] for entry in self._entries(user_id)}:
                raise

    def _read(self, user_id: str, user: str, more: Collection[str] = ()) -> list[Key]:
        names = {name for name in self._names() if self._issuer.id_of(name) == user_id} | {*more}
        services = {self._testbed.agent_user, self._testbed.admin_user}
        entries = self._entries(user_id)
        if not names:  # somebody whom testbed.yaml has no more: a fixed user's ID is that of one name
            labels = [parse(str(entry.get("label") or "")) for entry in entries]
            names = {label.user for label in labels if label and issuers.user_id(label.user) == user_id}
        return [read_key(entry, self._testbed.name, user, user_id, names, services) for entry in entries]

    def _entries(self, user_id: str) -> list[dict[str, Any]]:
        return credentials_of(self._api, self._issuer, user_id)

    def _call(self, endpoint: str, user_id: str, user: str, **parameters: str) -> dict[str, Any]:
        try:
            return self._api.call(endpoint, impersonate=self._issuer.acting_for(user_id), **parameters)
        except ApiError as error:
            if (error.code, error.subcode) == UNKNOWN_USER:
                raise InputError(
                    f"{self._api.url}: has no user {user}, who is in testbed.yaml",
                    "Have the server get it: testbed up. On a server of somebody else's, ask who runs it.",
                ) from None
            raise

    def _names(self) -> list[str]:
        return [*(user.name for user in self._testbed.users), self._testbed.agent_user, self._testbed.admin_user]


@contextmanager
def opened(testbed: Testbed, secrets: Secrets) -> Iterator[Keys]:
    """Yield the keys of the users of `testbed`. Raises `TestbedError`, `ApiError`."""
    issuer = issuers.of(testbed, secrets)
    with ClearmlApi(testbed.server.url("api"), issuer.key) as api:
        api.login()  # once, before some work at a time
        yield Keys(api, issuer, testbed)
