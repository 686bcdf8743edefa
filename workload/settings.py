"""Where the telemetry is: from environment variables or a file of them."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping
from urllib.parse import urlsplit

from workload.errors import SettingsError
from workload.generator import MEASUREMENT

DEFAULT_ENV_FILE = Path("~/telemetry.env")


@dataclass(frozen=True)
class Source:
    """An InfluxDB measurement. Dialect 1: user, password and database; dialect 2: token, org and bucket."""

    url: str
    dialect: int
    database: str  # the bucket, in dialect 2
    measurement: str = MEASUREMENT
    user: str = ""
    org: str = ""
    secret: str = field(default="", repr=False)  # password or token
    external: bool = False  # somebody else's: only ever read


def load_settings(env_file: Path | None = None) -> dict[str, str]:
    """The environment over ~/telemetry.env; a file that is named goes before both. Raises SettingsError."""
    if env_file:
        return {**os.environ, **read_env_file(env_file)}
    default = DEFAULT_ENV_FILE.expanduser()
    return {**(read_env_file(default) if default.exists() else {}), **os.environ}


def read_env_file(path: Path) -> dict[str, str]:
    """KEY=value lines as a shell would read them: comments, `export` and quotes around the value are allowed."""
    try:
        text = path.read_text(encoding="utf-8")
        shared = path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the settings in {path}: {error}") from error
    if shared:
        raise SettingsError(f"{path} holds credentials, and other users may open it: chmod 600 {path}")
    values = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise SettingsError(f"{path}, line {number}: expected KEY=value")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        values[key[7:].strip() if key.startswith("export ") else key.strip()] = value
    return values


def source(values: Mapping[str, str]) -> Source:
    """The telemetry source that the settings name. Raises SettingsError for one that is missing or cannot be."""

    def need(*names: str) -> str:
        for name in names:
            if values.get(name):
                return values[name]
        raise SettingsError(f"{names[0]} is not set: set it in the environment or in {DEFAULT_ENV_FILE}")

    url = need("INFLUXDB_URL").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(
            f"INFLUXDB_URL is no URL of a server: {parts.scheme}://{parts.hostname}, e.g. http://host:8086"
        )
    if parts.username or parts.password:
        raise SettingsError("INFLUXDB_URL carries credentials: give them as INFLUXDB_USER and INFLUXDB_PASSWORD")
    has_token = values.get("INFLUXDB_TOKEN") or values.get("TOKEN")
    dialect = values.get("INFLUXDB_DIALECT") or ("2" if has_token else "1")
    common = {
        "url": url,
        "measurement": values.get("INFLUXDB_MEASUREMENT") or MEASUREMENT,
        "external": values.get("INFLUXDB_SOURCE") == "external",
    }
    if dialect == "1":
        return Source(
            dialect=1,
            database=need("INFLUXDB_DATABASE"),
            user=need("INFLUXDB_USER"),
            secret=need("INFLUXDB_PASSWORD"),
            **common,
        )
    if dialect == "2":
        return Source(
            dialect=2,
            database=need("INFLUXDB_BUCKET", "BUCKET"),
            org=need("INFLUXDB_ORG", "ORG"),
            secret=need("INFLUXDB_TOKEN", "TOKEN"),
            **common,
        )
    raise SettingsError(f"INFLUXDB_DIALECT is {dialect!r}: 1 (InfluxDB 1.x) or 2 (InfluxDB 2.x)")
