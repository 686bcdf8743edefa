"""Deployment secrets: generated once per testbed, kept in one Ansible Vault file.

The vault's password comes from `--vault-password-file`, else from the environment (`TESTBED_VAULT_PASSWORD`), else from
a generated file beside the vault. What is missing in the vault is generated; what is there is never changed, but by
`Vault.rekey`, which replaces all of it, and `Vault.rotate`, which replaces what people and services log in with.
"""

from __future__ import annotations

import base64
import os
import secrets as random
import string
import time
import uuid
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from provision.errors import SecretsError
from provision.paths import config_dir, write_private
from provision.spec import ADMIN_USER, AGENT_USER, Testbed

PASSWORD_VARIABLE = "TESTBED_VAULT_PASSWORD"  # noqa: S105 (the name of a variable)
IF_LOST = (
    "If it is lost: `testbed secrets import FILE --replace` from a colleague or a backup, or `testbed secrets rekey`."
)
KEY_ALPHABET = string.ascii_uppercase + string.digits
Extent = Literal["all", "tokens"]
TOKENS = ("token_secret", "session_secret")
LOGINS = ("clearml", "users", "influxdb", "toolkit")


class Secret(BaseModel):
    """Secret values; unknown ones are kept out so that a typo does not become a setting."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class KeyPair(Secret):
    """An access key and its secret key."""

    access_key: str
    secret_key: str


class SystemKey(Secret):
    """The key pair of an identity of the server itself, named as in ClearML's secure.conf."""

    user_key: str
    user_secret: str

    @property
    def pair(self) -> KeyPair:
        """The same, as a key pair to log in with."""
        return KeyPair(access_key=self.user_key, secret_key=self.user_secret)


class ServerSecrets(Secret):
    """What the official server ships with public defaults for, or without any; all of it is generated here.

    `tests` and `redis_password` are None in a vault from before there were any, until `up` completes it.
    """

    token_secret: str
    session_secret: str
    apiserver: SystemKey
    fileserver: SystemKey
    webserver: SystemKey
    services_agent: SystemKey
    tests: SystemKey | None = None
    redis_password: str | None = None


class UserSecret(Secret):
    """A fixed user's password, and its hash as ClearML keeps it: base64 of bcrypt."""

    password: str
    password_hash: str


class InfluxSecrets(Secret):
    """Passwords of the managed InfluxDB's three users."""

    admin: str
    writer: str
    reader: str


class Restoring(Secret):
    """A restore that has begun and is not proven: the short ID of its backup, and the keys that the hosts held then."""

    id: str
    keys: dict[str, KeyPair]


class TlsSecrets(Secret):
    """The CA of the testbed's own and the server's certificate from it, with their private keys; PEM texts."""

    authority: str
    authority_key: str
    certificate: str
    certificate_key: str


class Secrets(Secret):
    """All secrets of one testbed. `toolkit` is the toolkit's own ClearML key; None until it is issued.

    `clearml` and `users`: of the testbed's own server; none where somebody else runs it.
    `tls`: None until the testbed has a CA of its own.
    `id` is no secret: the testbed's hosts carry it, too, which tells these secrets from others of the same testbed.
    Nor is `files_urls`: the URLs that the testbed's own file server has had, the first one first. Data carry them, and
    a backup brings them along.
    `rekeying`: these are new, and the testbed has not taken all of them yet; `rotating`: the same of a rotation, of all
    that somebody logs in with, or of what signs tokens; `restoring`: these are those of a backup, whose data the
    testbed has not taken yet.
    """

    id: str = ""
    files_urls: list[str] = []
    rekeying: bool = False
    rotating: Extent | None = None
    clearml: ServerSecrets | None = None
    users: dict[str, UserSecret] = {}
    influxdb: InfluxSecrets
    toolkit: KeyPair | None = None
    restoring: Restoring | None = None
    tls: TlsSecrets | None = None

    @property
    def changing(self) -> str:
        """What was begun and is not complete: a re-key, a rotation, a restore, or nothing (empty)."""
        return "re-key" if self.rekeying else "rotation" if self.rotating else "restore" if self.restoring else ""

    @property
    def keys_are_new(self) -> bool:
        """Whether every key that the testbed has issued until now is to be replaced."""
        return self.rekeying or self.rotating == "all"


def plain(secrets: Secrets) -> dict[str, Any]:
    """Return `secrets` as they are kept: what is not there, or as usual, is left out."""
    return secrets.model_dump(exclude_none=True, exclude=None if secrets.rekeying else {"rekeying"})


def encrypt(text: str, password: bytes) -> bytes:
    """Return `text` as the bytes of an Ansible Vault file."""
    from ansible.parsing.vault import VaultLib, VaultSecret  # a second to import: only where secrets are needed

    encrypted: bytes = VaultLib([("default", VaultSecret(password))]).encrypt(text)
    return encrypted


def decrypt(data: bytes, password: bytes) -> dict[str, Any] | None:
    """Return the mapping in an Ansible Vault file; None where the password is another's, or the file is damaged."""
    from ansible.errors import AnsibleError
    from ansible.parsing.vault import VaultLib, VaultSecret

    try:
        found = yaml.safe_load(VaultLib([("default", VaultSecret(password))]).decrypt(data))
    except (AnsibleError, yaml.YAMLError, ValueError):
        return None
    return found if isinstance(found, dict) else None


class Vault:
    """The Ansible Vault file of one testbed, and the password that opens it."""

    def __init__(self, testbed: str, password_file: Path | None = None) -> None:
        folder = config_dir(testbed)
        self.path = folder / "secrets.yml"
        self._password_file = password_file
        self._generated = folder / "vault-password"
        # taken out of the environment, so that no child process inherits it
        from_environment = os.environ.pop(PASSWORD_VARIABLE, None)
        self._from_environment = None if from_environment is None or password_file else from_environment.encode()

    @property
    def exists(self) -> bool:
        """Whether there are secrets here, readable or not."""
        return self.path.exists()

    @property
    def password_source(self) -> str:
        """Where the vault's password comes from, for people."""
        if self._from_environment is not None:
            return f"the environment ({PASSWORD_VARIABLE})"
        return f"the file {self._password_file or self._generated}"

    def load(self) -> Secrets | None:
        """Return the secrets, or None where there are none yet. Raises `SecretsError`."""
        found = self._read()
        return None if found is None else self._validate(found)

    def ensure(self, testbed: Testbed) -> Secrets:
        """Return the secrets of `testbed`, generating and keeping those that are missing. Raises `SecretsError`."""
        found = self._read() or {}
        secrets = self._complete(found, testbed)
        if plain(secrets) != found:
            self.save(secrets)
        return secrets

    def rekey(self, testbed: Testbed) -> Path | None:
        """Replace all secrets of `testbed` by new ones, which say `rekeying`; a re-key that was begun goes on.

        The vault of until now is moved aside, whether it can be opened or not; its new name is returned, None where
        there was none. Raises `SecretsError`.
        """
        found, aside = None, None
        try:
            found = self.load()
        except SecretsError:
            self.check_password()
            aside = self.move_aside("unreadable")
        if found is not None and found.rekeying:
            return None
        if found is not None:
            aside = self.copy_aside("replaced")
        known = found.files_urls if found is not None else []
        self.save(self._complete({"rekeying": True, "files_urls": known}, testbed))
        return aside

    def rotate(self, testbed: Testbed, extent: Extent) -> Path | None:
        """Replace what `extent` says by new secrets, which say `rotating`; what was begun (a re-key, too) goes on.

        They get an id of their own, by which others who still have the old ones are told. The vault of until now is
        kept beside under another name, which is returned; None where something goes on. Raises `SecretsError`.
        """
        found = self._read() or {}
        now = self._validate(found)
        if now.rekeying or now.rotating in ("all", extent):
            return None
        if extent == "all":
            kept = {key: value for key, value in found.items() if key not in LOGINS}
        else:
            kept = {**found, "clearml": {key: value for key, value in found["clearml"].items() if key not in TOKENS}}
        aside = self.copy_aside("replaced")
        self.save(self._complete({**kept, "id": "", "rotating": extent}, testbed))
        return aside

    def completed(self, found: dict[str, Any], testbed: Testbed) -> Secrets:
        """Return the secrets of `testbed` in `found`, which may be an earlier version's; what is missing is generated.

        Nothing is kept. Raises `SecretsError`.
        """
        return self._complete(found, testbed)

    def check_password(self) -> None:
        """Raise `SecretsError` unless a new vault can be made: a password that was given must be readable."""
        if self._from_environment is not None or self._password_file is not None:
            self._password()

    def move_aside(self, reason: str) -> Path:
        """Give the vault's file another name in its folder, and return that."""
        path = self._aside(reason)
        self.path.rename(path)
        return path

    def copy_aside(self, reason: str) -> Path:
        """Copy the vault's file to another name in its folder, and return that: who is killed then has the old one."""
        path = self._aside(reason)
        write_private(path, self.path.read_bytes())
        return path

    def _aside(self, reason: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{reason}-{time.strftime('%Y%m%d-%H%M%S')}")

    def _complete(self, found: dict[str, Any], testbed: Testbed) -> Secrets:
        wanted = {**found, "id": found.get("id") or str(uuid.uuid4())}
        passwords = {user: random.token_urlsafe(24) for user in InfluxSecrets.model_fields}
        wanted["influxdb"] = {**passwords, **found.get("influxdb", {})}
        if testbed.server.is_external:  # what an own server had before is kept
            return self._validate(wanted)
        wanted["clearml"] = {**_server_secrets(), **found.get("clearml", {})}
        users = dict(found.get("users", {}))
        for name in (ADMIN_USER, AGENT_USER, *(user.name for user in testbed.users)):
            if name not in users:
                users[name] = _user_secret()
        wanted["users"] = users
        return self._validate(wanted)

    def save(self, secrets: Secrets) -> None:
        """Replace the vault's content, atomically."""
        write_private(self.path, self.encrypt(yaml.safe_dump(plain(secrets))))

    def encrypt(self, text: str) -> bytes:
        """Return `text` as the bytes of a vaulted file."""
        return encrypt(text, self._password())

    def decrypt(self, data: bytes, password_file: Path | None = None) -> dict[str, Any] | None:
        """Return the mapping in a vaulted file, by the password in `password_file`, else by the vault's.

        None where that does not open it. Raises `SecretsError`.
        """
        return decrypt(data, _read_password(password_file) if password_file else self._password())

    def password_path(self, work: Path) -> Path:
        """Return a file with the vault's password, for Ansible; one that came by environment is put into `work`."""
        if self._from_environment is None:
            return (self._password_file or self._generated).absolute()
        path = work / "vault-password"
        write_private(path, self._from_environment)
        return path

    def _read(self) -> dict[str, Any] | None:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SecretsError(f"{self.path}: cannot be read: {error.strerror}", "Check its owner and mode.") from None
        found = decrypt(data, self._password())
        if found is None:
            raise SecretsError(
                f"{self.path}: the vault password does not open it, or it is damaged",
                f"Give the right one with --vault-password-file or {PASSWORD_VARIABLE}. {IF_LOST}",
            )
        return found

    def _validate(self, found: dict[str, Any]) -> Secrets:
        try:
            return Secrets.model_validate(found)
        except ValidationError as error:
            keys = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors(include_input=False))
            raise SecretsError(
                f"{self.path}: missing or unknown: {keys}", f"Restore the file from a backup. {IF_LOST}"
            ) from None

    def _password(self) -> bytes:
        if self._from_environment is not None:
            password = self._from_environment
        else:
            path = self._password_file or self._generated
            if path == self._generated and not path.exists() and not self.path.exists():
                write_private(path, random.token_urlsafe(32).encode() + b"\n")
            password = _read_password(path)
        if not password:
            raise SecretsError(
                "the vault password is empty", f"Give one with --vault-password-file or {PASSWORD_VARIABLE}."
            )
        return password


class UnsavedVault(Vault):
    """A vault that is read and never written: what is generated stays in memory, and a new password in `work`."""

    def __init__(self, testbed: str, password_file: Path | None, work: Path) -> None:
        super().__init__(testbed, password_file)
        if not self.path.exists() and not self._generated.exists():
            self._generated = work / self._generated.name

    def save(self, secrets: Secrets) -> None:
        """Keep nothing."""


def _read_password(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise SecretsError(
            f"{path}: the vault password cannot be read: {error.strerror}",
            f"Give it with --vault-password-file or {PASSWORD_VARIABLE}. {IF_LOST}",
        ) from None


def _server_secrets() -> dict[str, Any]:
    return {
        "token_secret": random.token_urlsafe(40),
        "session_secret": random.token_urlsafe(40),
        "redis_password": random.token_urlsafe(40),
        **{
            identity: {
                "user_key": "".join(random.choice(KEY_ALPHABET) for _ in range(30)),
                "user_secret": random.token_urlsafe(42),
            }
            for identity in ("apiserver", "fileserver", "webserver", "services_agent", "tests")
        },
    }


def _user_secret() -> dict[str, str]:
    import bcrypt

    password = random.token_urlsafe(15)
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt())
    return {"password": password, "password_hash": base64.b64encode(hashed).decode()}
