"""The server's configuration file, checked."""

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clearml_lite.errors import ConfigError

SHORTEST_SECRET = 32
IDENTITIES = ("apiserver", "fileserver", "webserver", "services_agent")


@dataclass(frozen=True)
class KeyPair:
    """An access key and its secret."""

    user_key: str
    user_secret: str


@dataclass(frozen=True)
class FixedUser:
    """A user of the configuration file; `password_hash` is base64 of bcrypt."""

    username: str
    name: str
    password_hash: str


@dataclass(frozen=True)
class Urls:
    """Public addresses of the three servers."""

    api: str
    web: str
    files: str


@dataclass(frozen=True)
class Config:
    """What `clearml-lite serve --config FILE` reads."""

    bind: str
    api_port: int
    files_port: int
    web_port: int
    data_dir: Path
    urls: Urls
    token_secret: str
    credentials: dict[str, KeyPair]
    users: tuple[FixedUser, ...]


def load(path: Path) -> Config:
    """Reads and checks a configuration file.

    Raises:
        ConfigError: the file cannot be read, is no YAML, or a key is missing, unknown or wrong.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    root = _Mapping(path, "", content)
    config = Config(
        bind=root.text("bind"),
        api_port=root.port("api_port"),
        files_port=root.port("files_port"),
        web_port=root.port("web_port"),
        data_dir=Path(root.text("data_dir")),
        urls=_urls(root.mapping("urls")),
        token_secret=root.secret("token_secret"),
        credentials=_credentials(root.mapping("credentials")),
        users=_users(root),
    )
    root.nothing_else()
    return config


class _Mapping:
    """A mapping of the file, which names itself in errors."""

    def __init__(self, path: Path, prefix: str, content: Any) -> None:
        self.path = path
        self.prefix = prefix
        if not isinstance(content, dict):
            raise self.error("" if prefix else "(whole file)", "must be a mapping of keys to values")
        self.content = content
        self.used: set[str] = set()

    def error(self, key: str, reason: str) -> ConfigError:
        return ConfigError(f"{self.path}: {self.prefix}{key}: {reason}")

    def value(self, key: str) -> Any:
        self.used.add(key)
        if self.content.get(key) is None:
            raise self.error(key, "is missing")
        return self.content[key]

    def text(self, key: str) -> str:
        value = self.value(key)
        if not isinstance(value, str) or not value:
            raise self.error(key, "must be a text that is not empty")
        return value

    def secret(self, key: str) -> str:
        value = self.text(key)
        if len(value) < SHORTEST_SECRET:
            raise self.error(
                key, f"must have at least {SHORTEST_SECRET} characters; generate it, e.g. openssl rand -hex 32"
            )
        return value

    def port(self, key: str) -> int:
        value = self.value(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
            raise self.error(key, f"must be a port number from 1 to 65535, not {value!r}")
        return value

    def mapping(self, key: str) -> "_Mapping":
        return _Mapping(self.path, f"{self.prefix}{key}.", self.value(key))

    def nothing_else(self) -> None:
        unknown = sorted(str(key) for key in self.content.keys() - self.used)
        if unknown:
            raise self.error(unknown[0], f"is not a known key; known are {', '.join(sorted(self.used))}")


def _urls(mapping: _Mapping) -> Urls:
    values = {}
    for key in ("api", "web", "files"):
        values[key] = mapping.text(key).rstrip("/")
        if not values[key].startswith(("http://", "https://")):
            raise mapping.error(key, "must be a URL that starts with http:// or https://")
    mapping.nothing_else()
    return Urls(**values)


def _credentials(mapping: _Mapping) -> dict[str, KeyPair]:
    pairs = {}
    for identity in IDENTITIES:
        pair = mapping.mapping(identity)
        pairs[identity] = KeyPair(pair.text("user_key"), pair.secret("user_secret"))
        pair.nothing_else()
        if [other.user_key for other in pairs.values()].count(pairs[identity].user_key) > 1:
            raise pair.error("user_key", "is used by two identities; each needs its own")
    mapping.nothing_else()
    return pairs


def _users(root: _Mapping) -> tuple[FixedUser, ...]:
    entries = root.value("users")
    if not isinstance(entries, list):
        raise root.error("users", "must be a list")
    users: list[FixedUser] = []
    for number, entry in enumerate(entries):
        mapping = _Mapping(root.path, f"users[{number}].", entry)
        user = FixedUser(mapping.text("username"), mapping.text("name"), mapping.text("password_hash"))
        mapping.nothing_else()
        if user.username in (other.username for other in users):
            raise mapping.error("username", f"{user.username!r} is there twice")
        try:
            decoded = base64.b64decode(user.password_hash, validate=True)
        except binascii.Error:
            decoded = b""
        if not decoded.startswith(b"$2"):
            raise mapping.error("password_hash", "must be base64 of a bcrypt hash")
        users.append(user)
    return tuple(users)
