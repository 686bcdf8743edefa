"""Where a key goes that was issued: into a clearml.conf here, into a user's bundle, or into a home on the hosts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.errors import InputError

if TYPE_CHECKING:
    from provision.credentials.bundle import Lock
    from provision.credentials.keys import Issued, Keys
    from provision.credentials.labels import Label
    from provision.secrets import KeyPair, Secrets
    from provision.session import Session
    from provision.spec import Testbed


class Paper:
    """The clearml.conf of one key: its text once it is issued, and its file, with the CA beside it."""

    hosts: tuple[str, ...] = ()

    def __init__(self, testbed: Testbed, secrets: Secrets, path: Path) -> None:
        from provision import inventory, tls
        from provision.credentials.conf import ca_name

        self.path, self.text = path, ""
        self._former = inventory.former_files_urls(testbed.server, secrets.files_urls)
        self._testbed, self.authority = testbed, tls.authority(testbed, secrets)
        self.ca_name = ca_name(testbed) if self.authority else None
        self.ca_file = path.with_name(self.ca_name) if self.ca_name else None

    @property
    def file(self) -> str:
        """The clearml.conf."""
        return str(self.path)

    def keep(self, key: KeyPair) -> None:
        """Make its text."""
        from provision.credentials.conf import render

        self.text = render(self._testbed, key, self._former, with_ca=self.ca_name is not None)

    def show(self, key: KeyPair) -> None:
        """Print it, and write no file."""
        self.keep(key)
        click.echo(self.text, nl=False)  # flushed, so who is killed from here on has shown it

    def put(self, key: KeyPair) -> None:
        """Write it to its file (0600 from the first byte)."""
        self.keep(key)
        if self.ca_file is not None:
            _write(self.ca_file, self.authority.encode())
        _write(self.path, self.text.encode())

    def check(self, found: Keys, label: Label, *, replaced: bool = False) -> None:
        """Raise `InputError` where the file is not of an earlier command for the same user and purpose."""
        from provision.credentials.conf import parse_key
        from provision.credentials.keys import today

        if not self.path.exists():
            return
        key = parse_key(self.path.read_text(encoding="utf-8", errors="replace"))
        theirs = {
            each.access_key
            for each in found.of(label.user)
            if each.purpose == label.purpose and (replaced or each.state(today()) != "good")
        }
        if key is None or key.access_key not in theirs:
            raise InputError(
                f"{self.path}: is there already, and is left alone", "Move it away, or name another with --out."
            )

    def done(self, issued: Issued) -> None:
        """Do what is left to do when the key counts as given."""

    def told(self) -> list[str]:
        """Return where it is, in words, a line each."""
        lines = [f"It is in {self.path}, which only you can read; there it belongs into ~/clearml.conf"]
        return lines + ([f"With it goes {self.ca_file}, into the same home."] if self.ca_file else [])


class Bundle:
    """A user's bundle: clearml.conf, CA, the way to the hosts and the page that says how to start, locked."""

    ca_file: Path | None = None
    hosts: tuple[str, ...] = ()

    def __init__(self, session: Session, secrets: Secrets, folder: Path, label: Label, lock: Lock) -> None:
        from provision import remote
        from provision.credentials import start
        from provision.known_hosts import parse

        self._folder, self._label, self._lock = folder, label, lock
        self._paper = Paper(session.testbed, secrets, folder / "clearml.conf")
        known = remote.known_hosts(session.testbed.name)
        pins = parse(known.read_text(encoding="utf-8")) if known.exists() else []
        way = start.way(session.testbed.name, label.user, session.machines, pins)
        self._files = {start.PAGE: start.page(session.testbed, label, way, self._paper.ca_name)}
        if way is not None:
            self._files |= {start.SSH_CONFIG: way.config, start.KNOWN_HOSTS: way.known_hosts}
        if self._paper.ca_name:
            self._files[self._paper.ca_name] = self._paper.authority
        self._name = f"{session.testbed.name}-{label.user}-{label.purpose}"
        self.file = ""

    def put(self, key: KeyPair) -> None:
        """Write it to its file, which is named by the access key; nothing of it is ever on disk in clear."""
        from provision.credentials.bundle import file_name, pack

        self._paper.keep(key)
        sealed = self._lock.seal(pack(self._name, {"clearml.conf": self._paper.text, **self._files}))
        name = file_name(self._label.user, self._label.purpose, key.access_key, self._lock.ending)
        self.file = str(self._folder / name)
        _write(self._folder / name, sealed)

    def check(self, found: Keys, label: Label, *, replaced: bool = False) -> None:
        """Raise `InputError` where the folder is none."""
        if not self._folder.is_dir():
            raise InputError(f"{self._folder}: is no folder", "With --bundle, --out names the folder for the bundle.")

    def done(self, issued: Issued) -> None:
        """Remove the bundles of the keys that were replaced."""
        from provision.credentials.bundle import find

        for access_key in issued.replaced:
            for path in find(self._folder, issued.label.user, issued.label.purpose, access_key):
                path.unlink(missing_ok=True)

    def told(self) -> list[str]:
        """Return where it is, in words, a line each."""
        command = f"{self._lock.command} {Path(self.file).name} | tar -xz"
        return [f"It is in {self.file}, which {self._lock.key} opens:", f"  {command}"]


class Delivery:
    """A clearml.conf in the user's home on every host with users' accounts, beside the one that `up` keeps there."""

    ca_file: Path | None = None

    def __init__(self, session: Session, secrets: Secrets, label: Label) -> None:
        from provision.machines import with_group

        self._session, self._secrets, self._label = session, secrets, label
        self.file = f"~{label.user}/clearml-{label.purpose}.conf"
        self.hosts = tuple(machine.name for machine in with_group(session.machines, "clients"))

    def put(self, key: KeyPair) -> None:
        """Write it there (0600, the user's), and read back that it is there."""
        from provision import deploy

        deploy.deliver(self._session, self._secrets, self._label.user, self.file, key)

    def check(self, found: Keys, label: Label, *, replaced: bool = False) -> None:
        """Nothing is in the way here; the hosts are looked at before anything is written there."""

    def done(self, issued: Issued) -> None:
        """Do what is left to do when the key counts as given."""

    def told(self) -> list[str]:
        """Return where it is, in words, a line each."""
        return [f"It is in {self.file} on {', '.join(self.hosts)}; there: export CLEARML_CONFIG_FILE={self.file}"]


def _write(path: Path, data: bytes) -> None:
    from provision.paths import write_atomic

    try:
        write_atomic(path, data)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written: {error.strerror}",
            "Name a place where you may write, with --out. No key was issued.",
        ) from None
