"""What `secrets status` tells: where the vault is, what it holds, and whether the running testbed takes it."""

from __future__ import annotations

import json
import os
import pwd
import stat
from pathlib import Path
from typing import Literal

import httpx
from testinfra.host import Host

from provision import forward, tls
from provision.credentials import ensure
from provision.errors import ApiError, SecretsError
from provision.paths import HOST_MARKER
from provision.reports import SecretsCheck, SecretsReport, VaultState
from provision.secrets import InfluxSecrets, Secrets, Vault
from provision.spec import ADMIN_USER, ManagedTelemetry, Testbed

TIMEOUT_S = 10.0
FOREIGN = "Get the right ones: `testbed secrets import FILE`. If they are lost: `testbed secrets rekey`."
UP = "`testbed up` brings it up."
Result = Literal["yes", "no", "not running"]
YES: Result = "yes"
NO: Result = "no"
NOT_RUNNING: Result = "not running"


def collect(testbed: Testbed, vault: Vault, marker: Path = HOST_MARKER, host: Host | None = None) -> SecretsReport:
    """Return the state of the secrets of `testbed`; no value of a secret is in it.

    `host`: where the server is, if that is another machine, and `marker` there.
    """
    secrets, checks = _open(vault)
    tls.trust(testbed, vault)
    if secrets is not None:
        checks += [
            _check(
                "no re-key, rotation or restore is half done",
                NO if secrets.changing else YES,
                "`testbed up` completes it.",
            ),
            _host(testbed, secrets, marker, host),
            _api(testbed, secrets),
        ]
        if isinstance(testbed.telemetry, ManagedTelemetry):
            checks.append(_influxdb(testbed.telemetry.url, secrets.influxdb))
    return SecretsReport(
        testbed=testbed.name,
        healthy=all(check.result == YES for check in checks),
        vault=_file(vault),
        id=secrets.id if secrets else None,
        rekeying=secrets.rekeying if secrets else False,
        rotating=secrets.rotating is not None if secrets else False,
        holds=_names(secrets) if secrets else {},
        checks=checks,
    )


def _check(name: str, result: Result, remedy: str) -> SecretsCheck:
    return SecretsCheck(name=name, result=result, remedy="" if result == YES else remedy)


def _file(vault: Vault) -> VaultState:
    path, source = str(vault.path), vault.password_source
    try:
        found = vault.path.stat()
    except OSError:
        return VaultState(path=path, there=False, mode=None, owner=None, password_from=source)
    try:
        owner = pwd.getpwuid(found.st_uid).pw_name
    except KeyError:
        owner = str(found.st_uid)
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    return VaultState(path=path, there=True, mode=mode, owner=owner, password_from=source)


def _open(vault: Vault) -> tuple[Secrets | None, list[SecretsCheck]]:
    if not vault.exists:
        return None, [_check("the vault is there", NO, f"`testbed up` makes one for a new testbed. {FOREIGN}")]
    found = vault.path.stat()
    private = stat.S_IMODE(found.st_mode) & 0o077 == 0 and found.st_uid == os.geteuid()
    checks = [_check("only you can read the vault", YES if private else NO, f"chmod 600 {vault.path}, and own it.")]
    try:
        secrets = vault.load()
    except SecretsError as error:
        return None, [*checks, _check("the vault opens", NO, f"{error.message}. {error.remedy}")]
    return secrets, [*checks, _check("the vault opens", YES, "")]


def _names(secrets: Secrets) -> dict[str, list[str]]:
    return {
        "server": sorted(secrets.clearml.model_dump()) if secrets.clearml else [],
        "users": sorted(secrets.users),
        "influxdb": sorted(secrets.influxdb.model_dump()),
        "toolkit": ["toolkit"] if secrets.toolkit else [],
        "tls": sorted(secrets.tls.model_dump()) if secrets.tls else [],
    }


def _host(testbed: Testbed, secrets: Secrets, marker: Path, host: Host | None) -> SecretsCheck:
    name = f"the testbed on {'the server' if host else 'this machine'} is theirs"
    try:
        if host is None:
            found = json.loads(marker.read_text(encoding="utf-8"))
        elif host.file(str(marker)).exists:
            found = json.loads(host.file(str(marker)).content_string)
        else:
            raise FileNotFoundError
    except FileNotFoundError:
        return _check(name, NOT_RUNNING, UP)
    except (OSError, ValueError) as error:
        return _check(name, NO, f"{marker}: {error}. `testbed up` writes it anew.")
    if found.get("name") != testbed.name:
        return _check(name, NO, f"It carries testbed {found.get('name')}: name its spec with --spec.")
    if "id" not in found:
        return _check(name, NO, "It was brought up by an earlier version: `testbed up` writes their id to it.")
    return _check(name, YES if found["id"] == secrets.id else NO, FOREIGN)


def _api(testbed: Testbed, secrets: Secrets) -> SecretsCheck:
    name = "the ClearML server takes the toolkit's key"
    if secrets.toolkit is None:
        return _check(name, NO, "There is none yet: `testbed up` issues it.")
    try:
        taken = ensure.works(
            testbed.server.url("api"), secrets.toolkit, None if testbed.server.is_external else ADMIN_USER
        )
    except ApiError as error:
        return _check(name, NOT_RUNNING if error.code == 0 else NO, f"{error.message}. {UP}")
    return _check(name, YES if taken else NO, f"`testbed up` issues a new one where these are its secrets. {FOREIGN}")


def _influxdb(url: str, passwords: InfluxSecrets) -> SecretsCheck:
    name = "InfluxDB takes the passwords"
    refused = []
    with forward.client(base_url=url, timeout=TIMEOUT_S) as client:
        for user, password in passwords.model_dump().items():
            try:
                answer = client.post("/query", data={"q": "SHOW DATABASES"}, auth=(user, password))
            except httpx.HTTPError as error:
                return _check(name, NOT_RUNNING, f"{url}: {error or type(error).__name__}. {UP}")
            if not answer.is_success:
                refused.append(user)
    remedy = f"It refuses {', '.join(refused)}: `testbed up` sets them where these are its secrets. {FOREIGN}"
    return _check(name, NO if refused else YES, remedy)
