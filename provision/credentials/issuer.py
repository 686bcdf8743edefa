"""Who issues keys on a ClearML server: an identity of the server's own or an administrator, for all; or a user."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from provision.clearml_api import ClearmlApi
from provision.credentials.conf import parse_key
from provision.errors import ApiError, TestbedError
from provision.secrets import KeyPair, Secrets
from provision.spec import Testbed

# The company of the open-source server, official and lite; a fixed user's ID is the MD5 of "<company>:<username>".
COMPANY = "d1bd92a3b039400cbafc60a7a5b1e52b"
PAGE = 500
MAY_IMPERSONATE = ("system", "root", "admin")  # roles, as the claims of a token name them


@dataclass(frozen=True)
class Issuer:
    """Who issues keys, with which key.

    `ids`: users' IDs by name, where they are not those of fixed users. `alone`: the ID of a user who issues keys for
    nobody else; empty: of one who may act for all.
    """

    key: KeyPair
    ids: Mapping[str, str] = field(default_factory=dict)
    alone: str = ""

    def id_of(self, username: str) -> str:
        """Return the ClearML ID of a user."""
        return self.alone or self.ids.get(username) or user_id(username)

    def acting_for(self, user: str) -> str | None:
        """Return whom to impersonate to act for the user with the ID `user`; None: nobody, it is the issuer."""
        return None if self.alone else user

    def users(self, api: ClearmlApi) -> Iterator[str]:
        """Yield the IDs of those for whom keys can be issued."""
        if self.alone:
            yield self.alone
        else:
            yield from (str(user["id"]) for user in _users(api))

    def people(self, api: ClearmlApi) -> dict[str, str]:
        """Return those for whom keys can be issued: their names by ID."""
        if self.alone:
            return {self.alone: self.alone}
        return {str(user["id"]): str(user.get("name") or user["id"]) for user in _users(api)}


def user_id(username: str) -> str:
    """Return the ClearML ID of a fixed user."""
    return hashlib.md5(f"{COMPANY}:{username}".encode(), usedforsecurity=False).hexdigest()


def of(testbed: Testbed, secrets: Secrets) -> Issuer:
    """Return who issues the keys of `testbed`: its server's own identity, or whom `credentials_file` is of.

    Raises `TestbedError` where that key cannot do it, `ApiError` where somebody else's server does not answer.
    """
    if secrets.clearml is not None and not testbed.server.is_external:
        return Issuer(secrets.clearml.apiserver.pair)
    return of_another(testbed)


def of_another(testbed: Testbed, *, missing_ok: bool = False) -> Issuer:
    """Return whom `credentials_file` is of, on somebody else's server. Raises as `of` does.

    `missing_ok`: users whom that server does not have are no error; `ids` are those of the others.
    """
    file, url = testbed.server.credentials_file, testbed.server.url("api")
    key = _read(testbed)
    with ClearmlApi(url, key) as api:
        try:
            claims = _claims(api.login())
        except ApiError as error:
            if error.code != 401:
                raise
            raise TestbedError(
                f"server.credentials_file: {file}: {url} does not take its key",
                "Have a new one made in the web app of that server (Settings, Workspace), or ask who runs it.",
            ) from None
        if claims.get("role") not in MAY_IMPERSONATE:
            if len(testbed.users) > 1:
                raise TestbedError(
                    f"server.credentials_file: {file}: is the key of a user, who may not issue keys for the "
                    f"{len(testbed.users)} users of the testbed",
                    "Name a file with an administrator's key, or leave one user in testbed.yaml.",
                )
            return Issuer(key, alone=str(claims.get("user")))
        ids = _match(testbed, list(_users(api)))
    missing = [user.name for user in testbed.users if user.name not in ids]
    if missing and not missing_ok:
        raise TestbedError(
            f"{url}: has no user {', '.join(missing)}",
            "Ask who runs it to make them (username or name as in testbed.yaml), or take them out of `users`.",
        )
    return Issuer(key, ids=ids)


def _match(testbed: Testbed, there: list[dict[str, Any]]) -> dict[str, str]:
    """Return users' IDs by the names that testbed.yaml may have for them; a name that two have is left out."""
    by_id = {str(user["id"]) for user in there}
    by_name: dict[str, list[str]] = {}
    for user in there:
        by_name.setdefault(str(user.get("name")), []).append(str(user["id"]))
    found = {name: ids[0] for name, ids in by_name.items() if len(ids) == 1}
    for person in testbed.users:
        full = found.get(person.full_name or "")
        own = user_id(person.name)
        if own in by_id:
            found[person.name] = own
        elif person.name not in found and full:
            found[person.name] = full
    return found


def _read(testbed: Testbed) -> KeyPair:
    file = testbed.server.credentials_file
    assert file is not None  # noqa: S101 (the spec has one, or names no server of somebody else's)
    try:
        key = parse_key(file.expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise TestbedError(
            f"server.credentials_file: {file}: cannot be read: {error}",
            "Name a file with what the web app shows when it makes a key.",
        ) from None
    if key is None:
        raise TestbedError(
            f"server.credentials_file: {file}: has no access_key and secret_key",
            "Put into it what the web app shows when it makes a key.",
        )
    return key


def _users(api: ClearmlApi) -> Iterator[dict[str, Any]]:
    for page in itertools.count():
        found = api.call("users.get_all", page=page, page_size=PAGE, only_fields=["id", "name"])["users"]
        yield from found
        if len(found) < PAGE:
            return


def _claims(token: str) -> dict[str, Any]:
    """Return whose a token is (`user`, `role`), in the words of the server that issued it."""
    part = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return dict(claims.get("identity") or {})
