"""`up` and `down`: secrets, playbooks and credentials in their order."""

from __future__ import annotations

import dataclasses
import secrets as random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision import drain, forward, inventory, rotation, tls
from provision.changes import Change, resolve, staying
from provision.credentials import ensure, identities
from provision.credentials import issuer as issuers
from provision.errors import ApiError, TestbedError
from provision.machines import described, resolved
from provision.plays import play
from provision.secrets import KeyPair, Secrets
from provision.session import Session
from provision.spec import ExternalTelemetry, ManagedTelemetry, Server, TelemetryCredentials, Testbed, bracketed

DOWN = ("Remove the testbed",)


@dataclass(frozen=True)
class Outcome:
    """What an `up` changed: tasks of the playbooks, and keys issued and revoked."""

    changed: int
    issued: int
    revoked: int


@dataclass(frozen=True)
class Renewal:
    """Keys that an `up` replaces: those of the identities `of`.

    Before anything is replaced, the agents among them take no task any more, and `check` is called. `running` tells the
    tasks that run before old keys are revoked. `force`: whatever runs.
    """

    of: Callable[[identities.Identity], bool]
    check: Callable[[], None]
    running: Callable[[], list[str]]
    force: bool = False


@dataclass(frozen=True)
class Removed:
    """What a `down` changed: tasks of the playbook, keys revoked on somebody else's server, folders that stay."""

    changed: int
    revoked: int = 0
    stay: Sequence[Change] = ()


def stages(testbed: Testbed) -> tuple[str, ...]:
    """Return the stages of `up`."""
    return ("Prepare secrets", _first(testbed), "Make sure of everybody's key", "Bring up agents and clients")


def _first(testbed: Testbed) -> str:
    return "Prepare the hosts" if testbed.server.is_external else "Bring up the server"


def where(testbed: Testbed) -> str:
    """Return which machines the testbed is on, as far as the spec tells."""
    if testbed.hosts is not None:
        return ", ".join(f"{machine.name} ({machine.address})" for machine in testbed.hosts.machines)
    return "this machine" if testbed.provider == "local" else "its servers"


def describe(testbed: Testbed) -> list[str]:
    """Return what `up` installs and runs, a line each."""
    if testbed.hosts is not None:
        testbed = resolved(testbed, described(testbed.hosts))
    server = testbed.server
    lines = [
        f"{_kind(server)}: API {server.url('api')}, web {server.url('web')}, files {server.url('files')}",
        "ClearML agents: "
        + "; ".join(
            f"{worker.name} on queue {', '.join(worker.queues)}"
            + (f" ({', '.join(worker.hosts)})" if worker.hosts else "")
            for worker in testbed.agents.workers
        ),
        "Python environments: "
        + ("server, " if server.backend == "lite" else "")
        + "agents, training (TensorFlow, about 2 GB), one for each user",
        f"Linux accounts with a clearml.conf each: {', '.join(user.name for user in testbed.users)}",
    ]
    if testbed.inference is not None:
        bind, port = testbed.inference.bind, testbed.inference.port
        lines.insert(
            2, f"Predictions on {bracketed(bind)}:{port} by the newest published model of {testbed.inference.project}"
        )
    telemetry = testbed.telemetry
    if isinstance(telemetry, ManagedTelemetry):
        filled = f"at least {telemetry.points:,} synthetic points of {telemetry.measurement}"
        lines.insert(1, f"InfluxDB (package influxdb) on {telemetry.url}, {filled}")
    else:
        lines.insert(1, f"InfluxDB at {telemetry.url} is read, never written")
    if server.tls is not None:
        whose = "a CA of the testbed's own" if server.tls.own_authority else f"{server.tls.certificate_file}"
        lines.insert(1, f"TLS (package nginx) in front of it, with a certificate from {whose}")
    elif not (server.is_external or tls.is_loopback(server.bind)):
        lines.insert(1, "No TLS: whoever is between reads passwords, keys and data; `server.tls` puts nginx in front")
    if testbed.administrators:
        names = ", ".join(administrator.name for administrator in testbed.administrators)
        lines.append(
            f"SSH keys of the administrators {names} in authorized_keys of the account that manages "
            + ("this machine" if testbed.provider == "local" else "each host")
        )
    if keyed := [user.name for user in testbed.users if user.ssh_keys]:
        lines.append(f"SSH keys of the users {', '.join(keyed)} in their authorized_keys")
    if testbed.provider != "local":
        lines.append(
            "Names of the hosts in each other's /etc/hosts; a clock kept by NTP (chrony where nothing keeps it)"
        )
    if testbed.time:
        lines.append(f"Clocks by NTP from {', '.join(testbed.time.servers)}")
    if testbed.updates_itself:
        lines.append("Security updates of the distribution every day (package unattended-upgrades)")
    if proxy := testbed.proxy:
        lines.append(f"Package indexes by way of the proxy {' and '.join(dict.fromkeys(proxy.by_scheme.values()))}")
    if mirrors := testbed.mirrors:
        kinds = {"Debian or Ubuntu": mirrors.apt, "Python": mirrors.pip}
        lines += [f"{kind} packages from {url}, and from no other index" for kind, url in kinds.items() if url]
    return [
        *lines,
        f"Data in {testbed.data_dir}, programs in /opt/testbed, settings in /etc/testbed",
        "Services under systemd, or under supervisord (package supervisor) where there is no systemd",
    ]


def _kind(server: Server) -> str:
    if server.is_external:
        return "ClearML server of somebody else's, where keys are issued and nothing else is changed"
    if server.backend == "lite":
        return "ClearML server (clearml_lite)"
    elsewhere = server.stores.elsewhere
    stores = f", with {' and '.join(elsewhere)} elsewhere" if elsewhere else ""
    return f"ClearML server {server.version} under Docker Compose{stores}"


def up(
    session: Session,
    proven: Callable[[], None] = lambda: None,
    renewal: Renewal | None = None,
    paused: Mapping[str, Sequence[str]] | None = None,
) -> Outcome:
    """Bring the testbed up, or up to date, and complete a re-key, a rotation or a restore that was begun.

    `proven` is called when all is up, before that is said to be complete. `renewal`: keys to replace; the old ones go
    when the new ones are on the hosts and work. Where it was killed, the next `up` revokes those that no host has.
    `paused`: workers, by host, that take no task until they have their keys. Raises `TestbedError`.
    """
    secrets, told, variables = _prepare(session)
    server = play(session, "server", _first(session.testbed), told, variables)
    with session.stage("Make sure of everybody's key") as current:
        everybody = identities.of(session.testbed, session.inventory)
        url, issuer = session.testbed.server.url("api"), issuers.of(session.testbed, secrets)
        held = _held(session, secrets)
        keys = ensure.ensure_all(url, issuer, session.testbed.name, everybody, held)
        issued = sum(found.issued for found in keys.values())
        # the server answers there, and nobody has been told of it yet: nothing is stored under it before it is kept
        known = secrets.model_copy(
            update={"toolkit": keys[identities.TOOLKIT].key, "files_urls": _files_urls(session.testbed, secrets)}
        )
        if known != secrets:
            secrets = known
            session.vault.save(secrets)
        revoked = sum(found.revoked for found in keys.values())
        if secrets.rekeying and not session.testbed.server.is_external:
            # whoever had the secrets could issue keys of any user, under any label
            revoked += ensure.revoke_others(url, issuer, {found.key.access_key for found in keys.values()})
        else:
            revoked += ensure.revoke_stale(url, issuer, session.testbed.name, everybody)
        current.result = f"{len(keys)} keys, {issued} issued, {revoked} revoked"
    now = {name: found.key for name, found in keys.items()}
    renewed = [identity for identity in everybody if renewal is not None and renewal.of(identity)]
    waiting = {} if renewal is None or renewal.force else _workers(session, renewed, held)
    told["clearml_agent_rotation"] = bool(waiting or paused)  # without one, what a killed rotation left is taken away
    with drain.paused(session, waiting):
        if renewal is not None:
            renewal.check()
            with session.stage("Issue new keys") as current:
                fresh = ensure.issue_anew(url, issuer, session.testbed.name, renewed)
                current.result = f"{len(fresh)} issued"
            now, issued = now | fresh, issued + len(fresh)
            if now[identities.TOOLKIT] != secrets.toolkit:
                secrets = secrets.model_copy(update={"toolkit": now[identities.TOOLKIT]})
                session.vault.save(secrets)
        variables["testbed_keys"] = {name: key.model_dump() for name, key in now.items()}
        rest = play(session, "hosts", "Bring up agents and clients", told, variables)
        if renewal is not None:
            play(session, "held", "Read the new keys back")
            with session.stage("Revoke the old keys") as current:
                ensure.check_held(session.work / "held", now)
                _require_none_began(renewal)
                left = ensure.ensure_all(url, issuer, session.testbed.name, renewed, now)
                current.result = f"{(old := sum(found.revoked for found in left.values()))} revoked"
            revoked += old
    if paused:
        drain.resume(session, paused)
    proven()
    if secrets.changing:
        session.vault.save(secrets.model_copy(update={"rekeying": False, "rotating": None, "restoring": None}))
    return Outcome(changed=server.changed + rest.changed, issued=issued, revoked=revoked)


def _workers(session: Session, renewed: Sequence[identities.Identity], held: Collection[str]) -> dict[str, list[str]]:
    """Return the workers among `renewed` that are there, by host: those whose keys hosts hold."""
    names = {identity.name for identity in renewed} & {*held}
    chosen: dict[str, list[str]] = {}
    for host, worker in inventory.workers(session.testbed, session.inventory):
        if f"agent/{host}/{worker.name}" in names:
            chosen.setdefault(host, []).append(worker.name)
    return chosen


def _require_none_began(renewal: Renewal) -> None:
    """Raise `TestbedError` where tasks run that may have begun with an old key."""
    began = [] if renewal.force else renewal.running()
    if began:
        raise TestbedError(
            f"{len(began)} tasks began meanwhile, and may work with old keys, of which none was revoked: "
            + rotation.told(began),
            "All else has its new key. When these tasks have ended, `testbed up` revokes the old keys.",
        )


def check_up(session: Session) -> list[Change]:
    """Return what `up` would change, and change nothing. Raises `TestbedError`."""
    secrets, told, variables = _prepare(session)
    found = play(session, "server", "Check the server", told, variables).changes
    with session.stage("Check everybody's key") as current:
        changed, keys = _check_keys(session, secrets, resolve(found))
        current.result = f"{len(keys)} keys"
    variables["testbed_keys"] = {name: key.model_dump() for name, key in keys.items()}
    return resolve([*found, *changed, *play(session, "hosts", "Check agents and clients", told, variables).changes])


def check_down(session: Session, *, purge: bool) -> list[Change]:
    """Return what `down` would remove, and remove nothing. Raises `TestbedError`."""
    found = play(session, "down", "Check what is there", {"testbed_purge": purge}, {}).changes
    if session.testbed.server.is_external:
        with session.stage("Check the testbed's keys") as current:
            keys, current.result = _ours_elsewhere(session.testbed)
        found += [
            Change("", "key", f"{key.holder.name} {key.access_key}", "revoke", _whose(key.holder)) for key in keys
        ]
    return resolve(found)


def deliver(session: Session, secrets: Secrets, user: str, path: str, key: KeyPair) -> None:
    """Write a clearml.conf with a user's key to `path`, in the user's home, on all hosts with users' accounts.

    Raises `TestbedError`, also where a file is in the way that the toolkit has not written.
    """
    former = inventory.former_files_urls(session.testbed.server, secrets.files_urls)
    told = {
        "deliver_files": [{"path": path, "owner": user, "identity": f"user/{user}"}],
        "clearml_conf_former_files_urls": former,
    }
    keys = {"clearml_conf_keys": {f"user/{user}": key.model_dump()}}
    play(session, "deliver", f"Deliver {path}", told, keys)


def _prepare(session: Session) -> tuple[Secrets, dict[str, Any], dict[str, Any]]:
    """Return the secrets, what the playbooks are told of them in clear, and their secret variables."""
    if not session.vault.exists:
        look_whose(session, {"whose_id": ""})
    with session.stage("Prepare secrets and wheels") as current:
        secrets = session.vault.ensure(session.testbed)
        before, (secrets, served) = secrets, tls.prepare(session.testbed, session.machines, secrets)
        if secrets != before:
            session.vault.save(secrets)
        if served is not None and served.authority:
            forward.trust(session.testbed.name, served.authority)
        session.inventory  # noqa: B018 (builds the wheels)
        variables = _secret_variables(session.testbed, secrets, served)
        current.result = "in memory" if session.check else "ready"
    told = {
        "common_testbed_id": secrets.id,
        # the testbed that a backup is restored to may have had others
        "common_testbed_rekeying": bool(secrets.changing),
        "clearml_server_restoring": secrets.restoring.id if secrets.restoring else "",
        "clearml_conf_former_files_urls": inventory.former_files_urls(session.testbed.server, secrets.files_urls),
    }
    return secrets, told, variables


def _files_urls(testbed: Testbed, secrets: Secrets) -> list[str]:
    """Return the URLs that the testbed's own file server has had, with the present one where it is its own."""
    if testbed.server.is_external:
        return secrets.files_urls
    return list(dict.fromkeys([*secrets.files_urls, testbed.server.url("files")]))


def _held(session: Session, secrets: Secrets) -> dict[str, KeyPair]:
    """Return the keys that hosts and the vault have, by holder; where all are to be new none counts."""
    if secrets.keys_are_new:
        return {}
    held = ensure.read_held(session.work / "held")
    if secrets.restoring is not None:  # the data are from when these were held
        held |= secrets.restoring.keys
    if secrets.toolkit is not None:
        held[identities.TOOLKIT] = secrets.toolkit
    return held


def _check_keys(session: Session, secrets: Secrets, found: list[Change]) -> tuple[list[Change], dict[str, KeyPair]]:
    """Return the keys to come and to go as changes, and a key for everybody: where it is to come, one made up."""
    testbed = session.testbed
    everybody = identities.of(testbed, session.inventory)
    held = _held(session, secrets)
    external = testbed.server.is_external
    # others are reached by a forward
    now = ensure.read_url(session.work / "held") if session.is_local and not external else None
    url = now or testbed.server.url("api")
    decisions = {identity.name: ensure.Decision(held.get(identity.name)) for identity in everybody}
    server = f"service {inventory.api_service(testbed)}"
    changes = []
    if secrets.changing and not external:  # the server takes the new secrets first
        if secrets.rekeying:
            changes.append(Change("", "key", "all others", "revoke", "of every user: the testbed is being re-keyed"))
    elif not any(f"{change.kind} {change.name}" == server and change.action == "add" for change in found):
        try:
            issuer = issuers.of(testbed, secrets)
            decisions = ensure.decide_all(url, issuer, testbed.name, everybody, held)
            changes += [
                Change(
                    "", "key", f"{stale.holder.name} {stale.access_key}", "revoke", f"{_whose(stale.holder)}, who left"
                )
                for stale in ensure.find_stale(url, issuer, testbed.name, everybody)
            ]
        except ApiError as error:
            if error.code != 0 or external:
                raise
            # the server is down, and `up` starts it: keys that are held are taken to work
    for identity in everybody:
        decision = decisions[identity.name]
        told = Change("", "key", identity.name, "add", _whose(identity), () if external else (server,))
        if decision.kept is None:
            changes.append(told)
        changes += [
            dataclasses.replace(told, name=f"{identity.name} {orphan}", action="revoke") for orphan in decision.orphans
        ]
    made_up = KeyPair(access_key=random.token_hex(10), secret_key=random.token_hex(20))
    return changes, {name: decision.kept or made_up for name, decision in decisions.items()}


def _whose(identity: identities.Identity) -> str:
    return f"of {identity.user}, for {identity.purpose}"


def look_whose(session: Session, variables: dict[str, str] | None = None) -> None:
    """Raise `TestbedError` where the machine carries another testbed or, with an empty `whose_id`, this one."""
    play(session, "whose", "Look whose machine this is", variables or {}, {})


def look_at_server(session: Session, secrets: Secrets) -> dict[str, Any]:
    """Return where the server's data are and how it is stopped; collect the keys that the hosts hold.

    Raises `TestbedError` where the machine carries another testbed, or this one with other secrets.
    """
    volume: dict[str, Any] = play(session, "backup", "Look at the server", {"whose_id": secrets.id}, {}).data["volume"]
    return volume


def prepare_restore(session: Session, *, unproven: bool) -> dict[str, Any]:
    """Return where the server's data are to be; clear away what an earlier restore left, unless it is `unproven`.

    Raises `TestbedError` where the machine carries another testbed.
    """
    volume: dict[str, Any] = play(session, "restore", "Look at the server", {"restore_unproven": unproven}, {}).data[
        "volume"
    ]
    return volume


def forget_replaced(session: Session) -> None:
    """Remove the data that a restore replaced."""
    play(session, "restored", "Clear away what was replaced", {}, {})


def down(session: Session, *, purge: bool) -> Removed:
    """Remove what `up` installed; data only with `purge`. Raises `TestbedError`."""
    session.proven.unlink(missing_ok=True)
    done = play(session, "down", "Remove the testbed", {"testbed_purge": purge}, {})
    stay = staying(done.changes)
    if not session.testbed.server.is_external:
        return Removed(done.changed, stay=stay)
    with session.stage("Revoke the testbed's keys") as current:
        revoked, current.result = revoke_elsewhere(session.testbed)
    return Removed(done.changed, revoked, stay)


def revoke_elsewhere(testbed: Testbed) -> tuple[int, str]:
    """Revoke what `testbed` has issued on somebody else's server; return how many keys, and what to tell of it.

    A server that does not answer or refuses is told, and no error: the testbed is gone all the same.
    """
    keys, told = _ours_elsewhere(testbed)
    if not keys:
        return 0, told
    url = testbed.server.url("api")
    try:
        revoked = ensure.revoke(url, issuers.of_another(testbed), keys)
    except TestbedError as error:
        return 0, _kept(testbed, error)
    return revoked, f"{revoked} keys on {url}; users, tasks and data there stay"


def _ours_elsewhere(testbed: Testbed) -> tuple[list[ensure.Stale], str]:
    """Return the keys that `testbed` has issued on somebody else's server, and what to tell of them."""
    url = testbed.server.url("api")
    try:
        found = ensure.find_all(url, issuers.of_another(testbed), testbed.name)
    except TestbedError as error:
        return [], _kept(testbed, error)
    return found, f"{len(found)} keys on {url}"


def _kept(testbed: Testbed, error: TestbedError) -> str:
    return f"not done: {error.message}. Revoke keys labelled testbed:{testbed.name} in the web app of that server"


def _secret_variables(testbed: Testbed, secrets: Secrets, served: tls.Served | None) -> dict[str, Any]:
    telemetry = testbed.telemetry
    kept_here = {"id", "files_urls", "rekeying", "rotating", "restoring", "toolkit", "tls"}
    found = secrets.model_dump(exclude=kept_here)
    found["tls"] = served._asdict() if served else {}
    found["telemetry"] = (
        _external_credentials(telemetry.credentials) if isinstance(telemetry, ExternalTelemetry) else {}
    )
    found["stores"] = {
        name: _read_secret(f"server.stores.{name}.password_file", path)
        for name, path in testbed.server.stores.password_files.items()
    }
    if login := testbed.server.registry_login:
        found["registry_password"] = _read_secret("server.registry_login.password_file", login.password_file)
    return {"testbed_secrets": found}


def _external_credentials(credentials: TelemetryCredentials) -> dict[str, str]:
    found = {"username": credentials.username} if credentials.username else {}
    for name, path in (("password", credentials.password_file), ("token", credentials.token_file)):
        if path is not None:
            found[name] = _read_secret(f"telemetry.credentials.{name}_file", path)
    return found


def _read_secret(key: str, path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TestbedError(f"{key}: {path}: cannot be read: {error}", "Name a file that holds nothing else.") from None
