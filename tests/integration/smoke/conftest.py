"""A good stack without hosts: a live clearml-lite, its clearml.conf, and the checks run on it in this process."""

from __future__ import annotations

import contextlib
import datetime
import io
import re
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from provision import console, forward
from provision.smoke import run as smoke
from provision.smoke import target
from provision.smoke.plugin import Options
from tests.integration.conftest import LiteServer
from tests.integration.smoke.front import Front, Manner
from tests.integration.tls_front import TlsFront


class Ground:
    """A server, and what a fault needs: confs that lead elsewhere, proxies, certificates, disks, workers."""

    def __init__(self, server: LiteServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.fronts: list[Front | TlsFront] = []
        self.mounts: list[Path] = []
        self.good = server.client_conf(folder.name)

    @property
    def secret(self) -> str:
        """The secret key in the conf."""
        return re.findall(r'secret_key: "([^"]+)"', self.good.read_text())[0]

    def conf(self, extra: str = "", **urls: str) -> Path:
        """The good clearml.conf with other URLs."""
        text = self.good.read_text()
        for name, url in urls.items():
            text = re.sub(rf'{name}_server: "[^"]*"', f'{name}_server: "{url}"', text)
        path = self.folder / "clearml.conf"
        path.write_text(extra + text)
        return path

    def behind(self, of: str, **manner: Any) -> str:
        """The URL of a proxy before a service."""
        self.fronts.append(Front(self.server.config[f"{of}_port"], Manner(**manner)))
        return self.fronts[-1].url

    def with_tls(self, of: str, certificate: Path) -> str:
        """The URL of a service behind TLS with that certificate and its key."""
        self.fronts.append(TlsFront(certificate, self.server.config[f"{of}_port"]))
        return self.fronts[-1].url

    def bind_read_only(self, path: Path) -> None:
        """Nobody can write to that folder any more."""
        for command in (["--bind", path, path], ["-o", "remount,ro,bind", path]):
            subprocess.run(["mount", *command], check=True)
            if path not in self.mounts:
                self.mounts.append(path)

    def worker(self, name: str, *queues: str) -> None:
        """A worker that listens on queues, which are made where they are not there."""
        ids = []
        for queue in queues:
            there = self.server.call("queues.get_all", {"name": f"^{queue}$"})["queues"]
            ids.append((there[0] if there else self.server.call("queues.create", {"name": queue}))["id"])
        self.server.call("workers.register", {"worker": name, "queues": ids})

    def silence(self, name: str, seconds: float) -> None:
        """That worker has last reported so long ago."""
        moment = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
        database = Path(self.server.config["data_dir"]) / "clearml.sqlite"
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(
                "UPDATE workers SET doc = json_set(doc, '$.last_report_time', ?) WHERE id = ?",
                (moment.isoformat(), name),
            )

    def close(self) -> None:
        """Take away what a fault needed."""
        for front in self.fronts:
            front.close()
        for path in reversed(self.mounts):
            subprocess.run(["umount", path], check=True)
        for worker in _workers(self.server):
            self.server.call("workers.unregister", {"worker": worker})
        for queue in self.server.call("queues.get_all")["queues"]:
            self.server.call("queues.delete", {"queue": queue["id"], "force": True})


def _workers(server: LiteServer) -> list[str]:
    return [worker["id"] for worker in server.call("workers.get_all")["workers"]]


@pytest.fixture
def ground(lite: LiteServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ground]:
    """The module's server, which is well again afterwards."""
    monkeypatch.setattr(forward, "_TRUSTED", {})
    made = Ground(lite, tmp_path)
    yield made
    if lite.process is None or lite.process.poll() is not None:
        lite.start()
    made.close()


@pytest.fixture
def checked(tmp_path: Path) -> Callable[..., smoke.Outcome]:
    """A function that runs the checks on the server of a clearml.conf."""

    def check(conf: Path, level: smoke.Level = "quick", queue: str | None = None, only: str = "") -> smoke.Outcome:
        return smoke.run_conf(
            target.of_conf(conf, queue),
            level,
            Options(only=only),
            1,
            tmp_path / "smoke.log",
            lambda title: console.stage(Console(file=io.StringIO()), title),
        )

    return check
