"""Deployment secrets: generated once per testbed, kept in one Ansible Vault file.

The vault's password comes from `--vault-password-file`, else from the environment (`TESTBED_VAULT_PASSWORD`), else from
a generated file beside the vault. What is missing in the vault is generated; what is there is never changed.
"""

from __future__ import annotations

import base64
import os
import secrets as random
import string
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from provision.errors import SecretsError
from provision.paths import config_dir, write_private
from provision.spec import ADMIN_USER, AGENT_USER, Testbed

PASSWORD_VARIABLE = "TESTBED_VAULT_PASSWORD"  # noqa: S105 (the name of a variable)
KEY_ALPHABET = string.ascii_uppercase + string.digits


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


class ServerSecrets(Secret):
    """What the official server ships with public defaults for; all of it is generated here."""

    token_secret: str
    session_secret: str
    apiserver: SystemKey
    fileserver: SystemKey
    webserver: SystemKey
    services_agent: SystemKey


class UserSecret(Secret):
    """A fixed user's password, and its hash as ClearML keeps it: base64 of bcrypt."""

    password: str
    password_hash: str


class InfluxSecrets(Secret):
    """Passwords of the managed InfluxDB's three users."""

    admin: str
    writer: str
    reader: str


class Secrets(Secret):
    """All secrets of one testbed. `toolkit` is the toolkit's own ClearML key; None until it is issued."""

    clearml: ServerSecrets
    users: dict[str, UserSecret]
    influxdb: InfluxSecrets
    toolkit: KeyPair | None = None


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

    def load(self) -> Secrets | None:
        """Return the secrets, or None where there are none yet. Raises `SecretsError`."""
        found = self._read()
        return None if found is None else self._validate(found)

    def ensure(self, testbed: Testbed) -> Secrets:
        """Return the secrets of `testbed`, generating and keeping those that are missing. Raises `SecretsError`."""
        found = self._read() or {}
        wanted = {**found, "clearml": {**_server_secrets(), **found.get("clearml", {})}}
        passwords = {user: random.token_urlsafe(24) for user in InfluxSecrets.model_fields}
        wanted["influxdb"] = {**passwords, **found.get("influxdb", {})}
        users = dict(found.get("users", {}))
        for name in (ADMIN_USER, AGENT_USER, *(user.name for user in testbed.users)):
            if name not in users:
                users[name] = _user_secret()
        wanted["users"] = users
        secrets = self._validate(wanted)
        if wanted != found:
            self.save(secrets)
        return secrets

    def save(self, secrets: Secrets) -> None:
        """Replace the vault's content, atomically."""
        write_private(self.path, self.encrypt(yaml.safe_dump(secrets.model_dump(exclude_none=True))))

    def encrypt(self, text: str) -> bytes:
        """Return `text` as the bytes of a vaulted file."""
        encrypted: bytes = self._library().encrypt(text)
        return encrypted

    def password_path(self, work: Path) -> Path:
        """Return a file with the vault's password, for Ansible; one that came by environment is put into `work`."""
        if self._from_environment is None:
            return (self._password_file or self._generated).absolute()
        path = work / "vault-password"
        write_private(path, self._from_environment)
        return path

    def _read(self) -> dict[str, Any] | None:
        from ansible.errors import AnsibleError  # a second to import: only where secrets are needed

        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SecretsError(f"{self.path}: cannot be read: {error.strerror}", "Check its owner and mode.") from None
        try:
            found = yaml.safe_load(self._library().decrypt(data))
        except AnsibleError:
            raise SecretsError(
                f"{self.path}: the vault password does not open it",
                f"Give the right one with --vault-password-file or {PASSWORD_VARIABLE}.",
            ) from None
        except yaml.YAMLError:
            found = None
        if not isinstance(found, dict):
            raise SecretsError(f"{self.path}: holds no secrets of a testbed", "Restore the file from a backup.")
        return found

    def _validate(self, found: dict[str, Any]) -> Secrets:
        try:
            return Secrets.model_validate(found)
        except ValidationError as error:
            keys = ", ".join(".".join(map(str, detail["loc"])) for detail in error.errors(include_input=False))
            raise SecretsError(f"{self.path}: missing or unknown: {keys}", "Restore the file from a backup.") from None

    def _library(self) -> Any:
        from ansible.parsing.vault import VaultLib, VaultSecret

        return VaultLib([("default", VaultSecret(self._password()))])

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


def _read_password(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise SecretsError(
            f"{path}: the vault password cannot be read: {error.strerror}",
            f"Give it with --vault-password-file or {PASSWORD_VARIABLE}.",
        ) from None


def _server_secrets() -> dict[str, Any]:
    return {
        "token_secret": random.token_urlsafe(40),
        "session_secret": random.token_urlsafe(40),
        **{
            identity: {
                "user_key": "".join(random.choice(KEY_ALPHABET) for _ in range(30)),
                "user_secret": random.token_urlsafe(42),
            }
            for identity in ("apiserver", "fileserver", "webserver", "services_agent")
        },
    }


def _user_secret() -> dict[str, str]:
    import bcrypt

    password = random.token_urlsafe(15)
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt())
    return {"password": password, "password_hash": base64.b64encode(hashed).decode()}
