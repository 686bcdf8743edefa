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
    return [
        *lines,
        f"Data in {testbed.data_dir}, programs in /opt/testbed, settings in /etc/testbed",
        "Services under systemd, or under supervisord (package supervisor) where there is no systemd",
    ]


def up(session: Session) -> Outcome:
    """Bring the testbed up, or up to date. Raises `TestbedError`."""
    with stage(session.console, "Prepare secrets and wheels") as current:
        secrets = session.vault.ensure(session.testbed)
        hosts = session.inventory
        variables = _secret_variables(session.testbed, secrets)
        current.result = "ready"
    server = _play(session, "server", "Bring up the server", {}, variables)
    with stage(session.console, "Make sure of everybody's key") as current:
        everybody = identities.of(session.testbed, hosts)
        held = ensure.read_held(session.work / "held")
        if secrets.toolkit is not None:
            held[identities.TOOLKIT] = secrets.toolkit
        keys = ensure.ensure_all(
            session.testbed.server.url("api"), secrets.clearml.apiserver, session.testbed.name, everybody, held
        )
        issued = sum(found.issued for found in keys.values())
        toolkit = keys[identities.TOOLKIT].key
        if toolkit != secrets.toolkit:
            session.vault.save(secrets.model_copy(update={"toolkit": toolkit}))
        revoked = sum(found.revoked for found in keys.values())
        current.result = f"{len(keys)} keys, {issued} issued, {revoked} revoked"
    variables["testbed_keys"] = {name: found.key.model_dump() for name, found in keys.items()}
    rest = _play(session, "hosts", "Bring up agents and clients", {}, variables)
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
    found = secrets.model_dump(exclude={"toolkit"})
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
