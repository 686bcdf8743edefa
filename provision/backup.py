"""`backup` and `restore`: the server's data and the testbed's secrets, cold, as ClearML's documentation has it.

A backup stops the server, streams its data here, and starts it again; the script on the host does that even when nobody
listens any more. A restore unpacks beside the data that are there; from the moment when the vault holds the secrets of
the backup, which say that it is being restored, `up` completes it.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from provision import archive, deploy, inventory, version, volume
from provision.archive import BackupError, Here, Manifest
from provision.console import Stage
from provision.credentials import ensure
from provision.errors import SecretsError
from provision.paths import ROOT, backups_dir, write_private
from provision.secrets import KeyPair, Restoring, Secrets, Vault
from provision.session import Session
from provision.spec import Testbed

BACKUP = ("Look at the server", "Archive the data", "Verify the backup")
RESTORE = ("Look at the server", "Bring the data to the server")
# the server's host starts the server again when nothing was taken of its data for so long
PATIENCE_S = 60
# beside the data: the manifest, checksums of many files
SPARE_BYTES = 200 << 20


@dataclass(frozen=True)
class Made:
    """A backup: its folder, and what it is of."""

    folder: Path
    manifest: Manifest


@dataclass(frozen=True)
class Opened:
    """The secrets of a backup, and the keys that the hosts held when it was made."""

    secrets: Secrets
    keys: dict[str, KeyPair]


def make(session: Session, wanted: Testbed, to: Path, name: str) -> Made:
    """Make a backup `name` below the folder `to`; `wanted` is the testbed as its spec says. Raises `TestbedError`."""
    secrets = _settled(session)
    place = deploy.look_at_server(session, secrets)
    keys = ensure.read_held(session.work / "held")
    moment = time.time()
    with archive.begun(to, session.testbed.name, name) as partial:
        write_private(partial / archive.SECRETS, session.vault.path.read_bytes())
        held = {holder: key.model_dump() for holder, key in keys.items()}
        write_private(partial / archive.KEYS, session.vault.encrypt(yaml.safe_dump(held)))
        spec = wanted.model_dump(mode="json", exclude_unset=True)
        write_private(partial / archive.SPEC, yaml.safe_dump(spec, sort_keys=False).encode())
        with session.stage("Archive the data") as stage:
            found, digest, downtime = _receive(session, place, partial / archive.DATA, stage)
            stage.result = f"{size_of((partial / archive.DATA).stat().st_size)}, server away for {downtime:.1f} s"
        with session.stage("Verify the backup") as stage:
            told = _told(stage)
            whole, files = archive.inspect(partial / archive.DATA, partial / archive.FILES, told)
            if whole != digest:
                raise BackupError(
                    f"{partial / archive.DATA}: reads back other than it was written",
                    "Check the disk here, then make the backup again.",
                )
            server, *data_version = found["version"]
            manifest = Manifest(
                format=archive.FORMAT,
                testbed=session.testbed.name,
                id=secrets.id,
                made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)),
                toolkit=version.current(),
                backend=session.testbed.server.backend,
                server=server,
                data_version=int(data_version[0]) if data_version else None,
                bytes=(partial / archive.DATA).stat().st_size,
                files=files,
                downtime=round(downtime, 3),
                elsewhere=session.testbed.server.stores.elsewhere,
            )
            write_private(partial / archive.MANIFEST, manifest.model_dump_json(indent=2).encode() + b"\n")
            archive.write_sums(partial, {archive.DATA: digest})
            stage.result = f"{files} files"
    return Made(to / name, manifest)


def refuse_another_server(testbed: Testbed) -> None:
    """Raise `BackupError` where the server, and so the data, are somebody else's."""
    if testbed.server.is_external:
        raise BackupError(
            f"{testbed.server.url('api')} is somebody else's, and so are the data there",
            "Ask who runs it. The testbed's own secrets: testbed secrets export FILE",
        )


def _settled(session: Session) -> Secrets:
    """Return the secrets of a testbed that is up. Raises `BackupError`."""
    secrets = session.vault.load()
    if secrets is None or secrets.toolkit is None:
        raise BackupError(f"testbed {session.testbed.name} is not up: it has no keys", "Bring it up: testbed up")
    if secrets.changing:
        raise BackupError(
            f"a {secrets.changing} of the testbed was begun and has not ended", "Let `testbed up` complete it."
        )
    return secrets


def _server_host(session: Session) -> str:
    return inventory.hosts(session.inventory, "server")[0]


def _receive(session: Session, place: dict[str, Any], path: Path, stage: Stage) -> tuple[dict[str, Any], str, float]:
    """Archive the data into `path`; return what the host said of them, the archive's SHA-256, and the downtime in s."""
    asked = {
        "action": "archive",
        "patience_s": PATIENCE_S,
        **{key: place[key] for key in ("path", "version", "server")},
    }
    with volume.opened(session, _server_host(session), asked) as remote:
        found = remote.event("found")
        free = shutil.disk_usage(path.parent).free
        if free < found["bytes"] + SPARE_BYTES:
            raise BackupError(
                f"{path.parent.parent}: {size_of(free)} are free, {size_of(found['bytes'] + SPARE_BYTES)} are needed",
                "Name a folder on a larger disk with --to; the server was not stopped.",
            )
        remote.stdin.write(b"go\n")
        remote.stdin.flush()
        told = _told(stage)
        digest = volume.receive(remote.stdout, path, lambda done: told(done, found["bytes"]))
        stage.step("the server starts")
        return found, digest, float(remote.event("archived")["downtime"])


def _told(stage: Stage) -> Callable[[int, int], None]:
    return lambda done, whole: stage.step(f"{size_of(done)} of {size_of(max(done, whole))}")


def size_of(count: int) -> str:
    """Return a number of bytes as people write it."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def find(testbed: str, given: str) -> Path:
    """Return the folder of a backup by its path, or by its name in the default folder. Raises `BackupError`."""
    default = backups_dir(testbed)
    for folder in (Path(given), default / given):
        if folder.is_dir():
            return folder
    there = sorted(path.name for path in default.glob("*/") if (path / archive.MANIFEST).is_file())
    remedy = f"In {default} are: {', '.join(there)}." if there else "Name the folder that `backup` wrote."
    raise BackupError(f"{given}: there is no such backup", remedy)


def here(testbed: Testbed) -> Here:
    """Return what of a backup can be restored to `testbed` with this toolkit."""
    if testbed.server.backend == "docker":
        server = testbed.server
        return Here(testbed.name, server.backend, server.version, None, server.stores.elsewhere)
    lite = ROOT / "clearml_lite"
    found = re.search(r'^__version__ = "(.+)"$', (lite / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    spec = importlib.util.spec_from_file_location("clearml_lite_migrations", lite / "migrations.py")
    assert found and spec and spec.loader  # noqa: S101, PT018 (they are files of ours)
    migrations = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(migrations)
    return Here(testbed.name, testbed.server.backend, found[1], len(migrations.MIGRATIONS))


def open_secrets(folder: Path, vault: Vault, testbed: Testbed, password_file: Path | None) -> Opened:
    """Return the secrets of `testbed` in a backup, with those that came up since.

    `password_file` holds the vault's password of then. Raises `BackupError`.
    """
    secrets, keys = (
        vault.decrypt((folder / name).read_bytes(), password_file) for name in (archive.SECRETS, archive.KEYS)
    )
    if secrets is None or keys is None:
        raise BackupError(
            f"{folder / archive.SECRETS}: the vault password does not open it",
            "Give the password that the vault had when the backup was made with --backup-password-file; "
            "nothing was changed.",
        )
    try:
        return Opened(
            vault.completed(secrets, testbed), {holder: KeyPair.model_validate(key) for holder, key in keys.items()}
        )
    except (SecretsError, ValidationError):
        raise BackupError(
            f"{folder / archive.SECRETS}: holds secrets of another version", "Take the toolkit that made the backup."
        ) from None


def bring(session: Session, folder: Path, manifest: Manifest, opened: Opened) -> tuple[dict[str, Any], Path | None]:
    """Unpack a backup beside the server's data, and take its secrets; `up` does the rest.

    Returns where the data are to be, and where the vault that was replaced is kept. Raises `TestbedError`.
    """
    before = _now(session.vault)
    place = deploy.prepare_restore(session, unproven=before is not None and before.restoring is not None)
    identifier = archive.short_id(folder)
    asked = {"action": "unpack", "path": place["path"], "id": identifier, "bytes": manifest.bytes}
    kept = None
    with session.stage("Bring the data to the server") as stage:
        with volume.opened(session, _server_host(session), asked) as remote:
            remote.event("ready")
            told = _told(stage)
            volume.send(folder / archive.DATA, remote.stdin, lambda done: told(done, manifest.bytes))
            stage.step("the host compares what it wrote")
            files = remote.event("unpacked")["files"]
        restored = opened.secrets.model_copy(update={"restoring": Restoring(id=identifier, keys=opened.keys)})
        if session.vault.exists and (before is None or before.model_copy(update={"restoring": None}) != opened.secrets):
            session.vault.check_password()
            kept = session.vault.copy_aside("unreadable" if before is None else "replaced")
        session.vault.save(restored)
        stage.result = f"{size_of(manifest.bytes)}, {files} files compared"
    return place, kept


def _now(vault: Vault) -> Secrets | None:
    """Return the secrets that are here; None where there are none, or none that open."""
    try:
        return vault.load()
    except SecretsError:
        return None


def compare(session: Session, folder: Path, place: dict[str, Any]) -> int:
    """Compare what the running server does not change with the backup; return how many files. Raises `BackupError`."""
    asked = {"action": "compare", "path": place["path"], "under": place["steady"]}
    with (
        session.stage("Compare the files with the backup") as stage,
        volume.opened(session, _server_host(session), asked) as remote,
    ):
        volume.send(folder / archive.FILES, remote.stdin, lambda _done: None)
        found = remote.event("compared")
        if found["differing"]:
            raise BackupError(
                f"{found['differing']} files differ from the backup, such as {found['differ'][0]}",
                f"What was there before is kept in {place['path']}.before. Check the disk, then restore again.",
            )
        stage.result = f"{found['files']} files"
    return int(found["files"])
