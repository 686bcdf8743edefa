"""`up` and `down`: secrets, playbooks and credentials in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from provision import converge
from provision.console import stage
from provision.credentials import ensure, identities
from provision.errors import TestbedError
from provision.paths import PLAYBOOKS
from provision.secrets import Secrets
from provision.session import Session
from provision.spec import ExternalTelemetry, ManagedTelemetry, TelemetryCredentials, Testbed


@dataclass(frozen=True)
class Outcome:
    """What an `up` changed: tasks of the playbooks, and keys issued."""

    changed: int
    issued: int


def describe(testbed: Testbed) -> list[str]:
    """Return what `up` installs and runs, a line each."""
    server = testbed.server
    lines = [
        f"ClearML server (clearml_lite): API {server.url('api')}, web {server.url('web')}, files {server.url('files')}",
        "ClearML agents: "
        + "; ".join(f"{worker.name} on queue {', '.join(worker.queues)}" for worker in testbed.agents.workers),
        "Python environments: server, agents, training (TensorFlow, about 2 GB), one for each user",
        f"Linux accounts with a clearml.conf each: {', '.join(user.name for user in testbed.users)}",
    ]
    telemetry = testbed.telemetry
    if isinstance(telemetry, ManagedTelemetry):
        filled = f"at least {telemetry.points:,} synthetic points of {telemetry.measurement}"
        lines.insert(1, f"InfluxDB (package influxdb) on {telemetry.url}, {filled}")
    else:
        lines.insert(1, f"InfluxDB at {telemetry.url} is read, never written")
    if testbed.administrators:
        names = ", ".join(administrator.name for administrator in testbed.administrators)
        lines.append(
            f"SSH keys of the administrators {names} in authorized_keys of the account that manages this machine"
        )
    return [
        *lines,
        f"Data in {testbed.data_dir}, programs in /opt/testbed, settings in /etc/testbed",
        "Services under systemd, or under supervisord (package supervisor) where there is no systemd",
    ]


def up(session: Session) -> Outcome:
    """Bring the testbed up, or up to date, and complete a re-key that was begun. Raises `TestbedError`."""
    if not session.vault.exists:
        _play(session, "whose", "Look whose machine this is", {}, {})
    with stage(session.console, "Prepare secrets and wheels") as current:
        secrets = session.vault.ensure(session.testbed)
        hosts = session.inventory
        variables = _secret_variables(session.testbed, secrets)
        current.result = "ready"
    whose = {"common_testbed_id": secrets.id, "common_testbed_rekeying": secrets.rekeying}
    server = _play(session, "server", "Bring up the server", whose, variables)
    with stage(session.console, "Make sure of everybody's key") as current:
        everybody = identities.of(session.testbed, hosts)
        url, system = session.testbed.server.url("api"), secrets.clearml.apiserver
        held = {} if secrets.rekeying else ensure.read_held(session.work / "held")
        if secrets.toolkit is not None and not secrets.rekeying:
            held[identities.TOOLKIT] = secrets.toolkit
        keys = ensure.ensure_all(url, system, session.testbed.name, everybody, held)
        issued = sum(found.issued for found in keys.values())
        toolkit = keys[identities.TOOLKIT].key
        if toolkit != secrets.toolkit:
            secrets = secrets.model_copy(update={"toolkit": toolkit})
            session.vault.save(secrets)
        revoked = sum(found.revoked for found in keys.values())
        if secrets.rekeying:  # whoever had the secrets could issue keys of any user, under any label
            revoked += ensure.revoke_others(url, system, {found.key.access_key for found in keys.values()})
        current.result = f"{len(keys)} keys, {issued} issued, {revoked} revoked"
    variables["testbed_keys"] = {name: found.key.model_dump() for name, found in keys.items()}
    rest = _play(session, "hosts", "Bring up agents and clients", {}, variables)
    if secrets.rekeying:
        session.vault.save(secrets.model_copy(update={"rekeying": False}))
    return Outcome(changed=server.changed + rest.changed, issued=issued)


def down(session: Session, *, purge: bool) -> converge.PlayResult:
    """Remove what `up` installed; data only with `purge`. Raises `TestbedError`."""
    session.proven.unlink(missing_ok=True)
    return _play(session, "down", "Remove the testbed", {"testbed_purge": purge}, {})


def _play(
    session: Session, name: str, title: str, variables: dict[str, Any], secret_variables: dict[str, Any]
) -> converge.PlayResult:
    with stage(session.console, title) as current:
        result = converge.run_playbook(
            PLAYBOOKS / f"{name}.yml",
            session.inventory,
            session.vault,
            stage=current,
            log=session.log,
            work=session.work,
            variables={"testbed_private_dir": str(session.work), **variables},
            secret_variables=secret_variables,
        )
        current.result = f"ok={result.ok} changed={result.changed}"
        return result


def _secret_variables(testbed: Testbed, secrets: Secrets) -> dict[str, Any]:
    telemetry = testbed.telemetry
    found = secrets.model_dump(exclude={"id", "rekeying", "toolkit"})
    found["telemetry"] = (
        _external_credentials(telemetry.credentials) if isinstance(telemetry, ExternalTelemetry) else {}
    )
    return {"testbed_secrets": found}


def _external_credentials(credentials: TelemetryCredentials) -> dict[str, str]:
    found = {"username": credentials.username} if credentials.username else {}
    for name, path in (("password", credentials.password_file), ("token", credentials.token_file)):
        if path is not None:
            try:
                found[name] = path.expanduser().read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise TestbedError(
                    f"telemetry.credentials.{name}_file: {path}: cannot be read: {error}",
                    "Name a file that holds nothing else.",
                ) from None
    return found
