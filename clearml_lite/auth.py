"""Who calls: keys, passwords, tokens, impersonation."""

import base64
import binascii
import hashlib
import hmac
import math
import secrets
import string
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import bcrypt
import jwt

from clearml_lite import __version__
from clearml_lite.config import Config
from clearml_lite.errors import ApiError
from clearml_lite.query import now
from clearml_lite.storage import Document, Storage, Transaction
from clearml_lite.throttle import Throttle

COMPANY = "d1bd92a3b039400cbafc60a7a5b1e52b"
COMPANY_NAME = "clearml"
API_VERSION = "2.34"
SERVER_VERSION = "2.3.0"
SERVER_BUILD = f"clearml-lite-{__version__}"
COOKIE = "clearml_token_basic"
DEFAULT_TOKEN_LIFE = 30 * 24 * 3600
LONGEST_TOKEN_LIFE = 31536000
# wrong passwords that an address may send at once for one user, and the seconds until it may send one more
GUESSES = 10
GUESS_SECONDS = 6.0

# The official server in fixed-users mode refuses its webserver's key; so do we.
_INTERNAL_ROLES = {"apiserver": "system", "fileserver": "system", "services_agent": "admin"}
_ALPHANUMERIC = string.ascii_uppercase + string.digits


@dataclass(frozen=True)
class Identity:
    """Who calls, and with which key; `session` is set when it was a token.

    `created` tells a user from one who had the same username, and so the same ID, and was removed.
    """

    user: str
    name: str
    role: str
    access_key: str | None = None
    session: str | None = None
    created: str | None = None

    @property
    def internal(self) -> bool:
        """Whether this is an identity of the configuration file's `credentials`."""
        return self.user.startswith("__")


def user_id(username: str) -> str:
    """The ID that the official server gives a fixed user."""
    return hashlib.md5(f"{COMPANY}:{username}".encode(), usedforsecurity=False).hexdigest()


def secret_hash(secret: str) -> str:
    """What is stored of a secret key; it is random and long, so one round of SHA-256 is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Authenticator:
    """Tells who calls, and issues tokens and keys.

    Args:
        config: the configuration, whose users are brought into the storage.
        storage: users, credentials, revoked sessions.
    """

    def __init__(self, config: Config, storage: Storage) -> None:
        self._config = config
        self._storage = storage
        self._passwords = {user.username: base64.b64decode(user.password_hash) for user in config.users}
        self._internal = {
            pair.user_key: (name, pair.user_secret)
            for name, pair in config.credentials.items()
            if name in _INTERNAL_ROLES
        }
        self._guesses = Throttle(GUESSES, GUESS_SECONDS)
        self._decode = lru_cache(maxsize=1024)(self._decoded)  # a client sends the same token with every call
        with storage.write() as transaction:
            self._synchronise_users(transaction)

    def identify(self, headers: Mapping[str, str], cookies: Mapping[str, str], address: str) -> Identity:
        """The caller of an API request, after impersonation.

        Raises:
            ApiError: 401 without valid credentials; 400/6 when impersonation is not allowed.
        """
        identity = self._caller(headers, cookies, address)
        if target := headers.get("x-clearml-impersonate-as"):
            return self._impersonated(identity, target)
        return identity

    def by_credentials(self, name: str, secret: str, address: str) -> Identity:
        """Whoever has this username and password, or this key pair.

        Raises:
            ApiError: 401/22 when they are wrong; 429 after too many wrong passwords from an address for one user.
        """
        return (
            self._by_password(name, secret, address)
            or self._by_internal_key(name, secret)
            or self._by_key(name, secret, address)
        )

    def identify_bearer(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Identity:
        """The caller of the file server, where only tokens count.

        Raises:
            ApiError: 401.
        """
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind and kind.lower() != "bearer":
            raise ApiError(401, 10, "Only bearer token authorization is supported")
        if token := value.strip() or cookies.get(COOKIE):
            return self._by_token(token)
        raise ApiError(401, 20, "Unauthorized (missing credentials)")

    def issue_token(self, identity: Identity, life: int | None = None) -> tuple[str, int]:
        """A token for this identity, and its life in seconds."""
        life = min(life or DEFAULT_TOKEN_LIFE, LONGEST_TOKEN_LIFE)
        issued = int(time.time())
        claims = {
            "exp": issued + life,
            "iat": issued,
            "session_id": uuid.uuid4().hex,
            "auth_type": "Bearer",
            "env": "",
            "identity": {
                "user": identity.user,
                "company": COMPANY,
                "role": identity.role,
                "user_name": identity.name,
                "company_name": COMPANY_NAME,
            },
            "api_version": API_VERSION,
            "server_version": SERVER_VERSION,
            "server_build": SERVER_BUILD,
            "feature_set": "basic",
            "access_key": identity.access_key,
            "user_created": identity.created,
        }
        return jwt.encode(claims, self._config.token_secret, algorithm="HS256"), life

    def verified(self, transaction: Transaction, token: str) -> Identity:
        """The identity that a token stands for.

        Raises:
            ApiError: 401/30 when it is expired or forged, its key or session was revoked, or its user is gone
                (one of the same name who came later is another).
        """
        try:
            claims = self._decode(token)
            if claims["exp"] <= time.time():
                raise jwt.ExpiredSignatureError("Signature has expired")
            user, session, key = claims["identity"]["user"], claims["session_id"], claims.get("access_key")
        except (jwt.InvalidTokenError, KeyError, TypeError) as error:
            raise ApiError(401, 30, f"Invalid token (invalid jwt token): reason={error}") from error
        revoked = transaction.execute("SELECT 1 FROM revoked_sessions WHERE session = ?", (session,)).fetchone()
        if not revoked and user.startswith("__"):
            return _internal_identity(user.strip("_"), session)
        document = transaction.get("users", user)
        known = "SELECT 1 FROM credentials WHERE access_key = ?"
        if (
            revoked
            or document is None
            or claims.get("user_created") != document["created"]
            or (key and not transaction.execute(known, (key,)).fetchone())
        ):
            raise ApiError(401, 30, "Invalid token (revoked token)")
        return of_document(document, access_key=key, session=session)

    def revoke_session(self, transaction: Transaction, identity: Identity) -> None:
        """Ends the session of the caller's token."""
        transaction.execute("DELETE FROM revoked_sessions WHERE expires < ?", (int(time.time()),))
        if identity.session:
            transaction.execute(
                "INSERT OR IGNORE INTO revoked_sessions VALUES (?, ?)",
                (identity.session, int(time.time()) + LONGEST_TOKEN_LIFE),
            )

    def _synchronise_users(self, transaction: Transaction) -> None:
        wanted = {user_id(user.username): user.name for user in self._config.users}
        for user in transaction.all("users", fixed=1):
            if user["id"] not in wanted:
                delete_user(transaction, user["id"])
        for identifier, name in wanted.items():
            existing = transaction.get("users", identifier) or new_user(identifier, name, "user")
            transaction.put("users", existing | {"name": name, "fixed": True})

    def _caller(self, headers: Mapping[str, str], cookies: Mapping[str, str], address: str) -> Identity:
        header = headers.get("authorization")
        if not header:
            if token := cookies.get(COOKIE):
                return self._by_token(token)
            raise ApiError(401, 20, "Unauthorized (missing credentials)")
        kind, _, value = header.partition(" ")
        if kind.lower() == "bearer":
            return self._by_token(value.strip())
        if kind.lower() != "basic":
            raise ApiError(401, 10, "Unauthorized (bad authentication header type)")
        try:
            name, _, secret = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise _unknown_credentials() from error
        return self.by_credentials(name, secret, address)

    def _by_password(self, username: str, password: str, address: str) -> Identity | None:
        hashed = self._passwords.get(username)
        if hashed is None:
            return None
        who = (address, username)
        if wait := self._guesses.take(who):
            raise ApiError(429, 0, f"Too many wrong passwords for this user; wait {math.ceil(wait)} s")
        try:
            correct = bcrypt.checkpw(password.encode(), hashed)
        except ValueError:
            correct = False
        if not correct:
            raise ApiError(401, 22, "Unauthorized (invalid credentials) (bad username or password)")
        self._guesses.forgive(who)
        return self._of_user(user_id(username))

    def _by_internal_key(self, key: str, secret: str) -> Identity | None:
        if key not in self._internal:
            return None
        name, expected = self._internal[key]
        if not hmac.compare_digest(secret.encode(), expected.encode()):
            raise _unknown_credentials()
        return _internal_identity(name)

    def _by_key(self, key: str, secret: str, address: str) -> Identity:
        with self._storage.write() as transaction:
            row = transaction.execute(
                "SELECT user, secret_hash FROM credentials WHERE access_key = ?", (key,)
            ).fetchone()
            if row is None or not hmac.compare_digest(row[1], secret_hash(secret)):
                raise _unknown_credentials()
            transaction.execute(
                "UPDATE credentials SET last_used = ?, last_used_from = ? WHERE access_key = ?",
                (now().removesuffix("+00:00"), address, key),
            )
        return self._of_user(row[0], access_key=key)

    def _decoded(self, token: str) -> dict[str, Any]:
        required = ["exp", "session_id", "identity"]
        return jwt.decode(token, self._config.token_secret, algorithms=["HS256"], options={"require": required})

    def _by_token(self, token: str) -> Identity:
        with self._storage.read() as transaction:
            return self.verified(transaction, token)

    def _of_user(self, user: str, access_key: str | None = None) -> Identity:
        with self._storage.read() as transaction:
            document = transaction.get("users", user)
        if document is None:
            raise _unknown_credentials()
        return of_document(document, access_key=access_key)

    def _impersonated(self, identity: Identity, target: str) -> Identity:
        if identity.role not in ("system", "root", "admin"):
            raise ApiError(400, 6, "Impersonation error (impersonation not allowed)", role=identity.role)
        with self._storage.read() as transaction:
            document = transaction.get("users", target)
        if document is None:
            raise ApiError(400, 6, "Impersonation error (unknown user)", user=target)
        return of_document(document)


def _unknown_credentials() -> ApiError:
    return ApiError(401, 22, "Unauthorized (invalid credentials) (failed to locate provided credentials)")


def _internal_identity(name: str, session: str | None = None) -> Identity:
    return Identity(f"__{name}__", name, _INTERNAL_ROLES[name], session=session)


def of_document(user: Document, *, access_key: str | None = None, session: str | None = None) -> Identity:
    """The identity of a stored user."""
    return Identity(user["id"], user["name"], user["role"], access_key, session, user["created"])


def new_user(identifier: str, name: str, role: str, **fields: Any) -> Document:
    """A user's document."""
    given, _, family = name.partition(" ")
    return {
        "id": identifier, "name": name, "given_name": given, "family_name": family, "role": role,
        "company": COMPANY, "created": now(), "fixed": False,
    } | fields  # fmt: skip


def delete_user(transaction: Transaction, user: str) -> None:
    """Removes a user with all keys."""
    transaction.execute("DELETE FROM credentials WHERE user = ?", (user,))
    transaction.delete("users", [user])


def new_key_pair() -> tuple[str, str]:
    """An access key of 30 characters and its secret key."""
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(30)), secrets.token_urlsafe(48)
