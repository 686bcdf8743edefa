"""A live clearml-lite on free ports, and the command with the built-in testbed, for every test that wants one."""

import base64
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest
import yaml

from provision import spec
from provision.secrets import KeyPair
from tests.integration.tls_front import TlsFront, make_certificates

REPOSITORY = Path(__file__).parents[2]
TOKEN_SECRET = "token-secret-of-the-tests-" + "0123456789" * 2
SYSTEM_SECRET = "secret-of-a-system-identity-in-tests"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the kernel gives to outgoing connections and to port 0.

    So nothing that begins between here and the server's own bind can take one of them by chance. 32768 is where the
    kernel's begin (ip-sysctl, ip_local_port_range).
    """
    free: list[int] = []
    while len(free) < count:
        port = random.SystemRandom().randrange(20_000, 32_768)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        if port not in free:
            free.append(port)
    return free


class LiteServer:
    """A server process with a folder of its own; `start`, `stop` and `kill` as often as wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config_file = folder / "clearml-lite.yaml"
        self.log = folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None
        api, files, web = free_ports(3)
        self.config: dict[str, Any] = {
            "bind": "127.0.0.1",
            "api_port": api,
            "files_port": files,
            "web_port": web,
            "data_dir": str(folder / "data"),
            "urls": {name: f"http://127.0.0.1:{port}" for name, port in (("api", api), ("files", files), ("web", web))},
            "token_secret": TOKEN_SECRET,
            "credentials": {
                name: {"user_key": name, "user_secret": SYSTEM_SECRET}
                for name in ("apiserver", "fileserver", "webserver", "services_agent")
            },
            "users": [self.user("alice", "Alice A"), self.user("bob", "Bob")],
        }

    @staticmethod
    def user(username: str, name: str) -> dict[str, str]:
        hashed = bcrypt.hashpw(f"{username}-pass-1".encode(), bcrypt.gensalt(4))
        return {"username": username, "name": name, "password_hash": base64.b64encode(hashed).decode()}

    @property
    def urls(self) -> dict[str, str]:
        """Where it listens itself."""
        return {name: f"http://127.0.0.1:{self.config[f'{name}_port']}" for name in ("api", "files", "web")}

    def command(self) -> list[str]:
        self.config_file.write_text(yaml.safe_dump(self.config))
        return [sys.executable, "-m", "clearml_lite", "serve", "--config", str(self.config_file)]

    def begin(self) -> None:
        """Starts the process."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), cwd=REPOSITORY, stdout=log, stderr=log)

    def start(self) -> None:
        """Starts the process and waits until it answers."""
        begun = time.monotonic()
        self.begin()
        while time.monotonic() - begun < 90:  # on a machine that is busy
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the server has ended: {self.log.read_text()}")
            try:
                if httpx.get(f"{self.urls['api']}/debug.ping").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.005)
        raise AssertionError(f"the server does not answer: {self.log.read_text()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends the process; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(20)

    def call(self, endpoint: str, data: Any = None, user: str = "alice", **headers: str) -> dict[str, Any]:
        """`data` of a successful answer to a user who logs in by password."""
        answer = httpx.post(
            f"{self.urls['api']}/{endpoint}",
            json=data or {},
            auth=(user, f"{user}-pass-1"),
            headers=headers,
            timeout=30,
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def wait_for_end(self, task: str, seconds: float) -> dict[str, Any]:
        """A task's record once it is neither queued nor running; AssertionError where it is so for longer."""
        limit = time.monotonic() + seconds
        while True:
            found: dict[str, Any] = self.call("tasks.get_by_id", {"task": task})["task"]
            if found["status"] not in ("queued", "in_progress"):
                return found
            assert time.monotonic() < limit, found["status"]
            time.sleep(0.2)

    def wait_for_log(self, task: str, words: str, seconds: float = 60) -> str:
        """A task's log once it has these words: an agent sends what it read last after the task has ended."""
        limit = time.monotonic() + seconds
        while True:
            log = "".join(event["msg"] for event in self.call("events.get_task_log", {"task": task})["events"])
            if words in log:
                return log
            assert time.monotonic() < limit, log
            time.sleep(0.2)

    def token(self, user: str = "alice", **data: Any) -> str:
        return self.call("auth.login", data, user)["token"]

    def client_conf(self, name: str = "client", extra: str = "") -> Path:
        """A clearml.conf with a key pair of alice's; caches stay in the server's folder."""
        keys = self.call("auth.create_credentials", {"label": name})["credentials"]
        path = self.folder / f"{name}.conf"
        path.write_text(
            f"""api {{
                api_server: "{self.urls["api"]}", web_server: "{self.urls["web"]}", files_server: "{self.urls["files"]}"
                credentials {{ access_key: "{keys["access_key"]}", secret_key: "{keys["secret_key"]}" }} }}
            sdk {{ storage.cache.default_base_dir: "{self.folder}/cache", development.report_use_subprocess: false }}
            {extra}"""
        )
        return path

    def run_python(self, script: str, conf: Path, timeout: float = 120) -> str:
        """Runs a script as a client would; what it printed."""
        file = self.folder / "script.py"
        file.write_text(script)
        environment = os.environ | {
            "CLEARML_CONFIG_FILE": str(conf),
            "HOME": str(self.folder),
            "TESTS_FOLDER": str(self.folder),
        }
        done = subprocess.run(
            [sys.executable, str(file)],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def make_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], LiteServer]]:
    servers: list[LiteServer] = []

    def make() -> LiteServer:
        servers.append(LiteServer(tmp_path_factory.mktemp("lite")))
        return servers[-1]

    yield make
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            server.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def lite(make_server: Callable[[], LiteServer]) -> LiteServer:
    """A running server that the tests of a module share."""
    server = make_server()
    server.start()
    return server


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`./testbed`, with the built-in testbed, as a person calls it."""

    def call(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        where = [] if "--spec" in arguments else ["--spec", str(spec.EXAMPLE)]
        return subprocess.run(
            [str(REPOSITORY / "testbed"), verb, *arguments, *where],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return call


@pytest.fixture(scope="session")
def said(command: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., str]:
    """What a command that must succeed prints."""

    def call(*arguments: str) -> str:
        done = command(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


@dataclass(frozen=True)
class AnotherServer:
    """A server that somebody else runs, over TLS, and the spec of a testbed that works with it."""

    server: LiteServer
    spec: Path
    own: KeyPair

    def labels(self, user: str) -> dict[str, str]:
        """The labels of a user's keys, by access key."""
        found = self.server.call("auth.get_credentials", user=user)["credentials"]
        return {entry["access_key"]: entry.get("label", "") for entry in found}

    def takes(self, key: KeyPair) -> bool:
        url = f"http://127.0.0.1:{self.server.config['api_port']}"
        return httpx.get(f"{url}/auth.login", auth=(key.access_key, key.secret_key)).status_code == 200


@pytest.fixture
def another_server(make_server: Callable[[], LiteServer], tmp_path: Path) -> Iterator[AnotherServer]:
    """A running one, with the built-in testbed's user, who has a key of their own there."""
    server = make_server()
    make_certificates(tmp_path)
    fronts = {
        name: TlsFront(tmp_path / "server.pem", server.config[f"{name}_port"]) for name in ("api", "web", "files")
    }
    user = spec.load(spec.EXAMPLE).users[0].name
    server.config["users"].append(server.user(user, user))
    server.config["urls"] = {name: front.url for name, front in fronts.items()}
    server.start()
    made = server.call("auth.create_credentials", {"label": "my laptop"}, user=user)["credentials"]
    system = server.config["credentials"]["apiserver"]
    key = tmp_path / "clearml.key"
    key.write_text(f'"access_key" = "{system["user_key"]}"\n"secret_key" = "{system["user_secret"]}"\n')
    described = yaml.safe_load(spec.EXAMPLE.read_text())
    described["server"] = {
        "backend": "external",
        "urls": server.config["urls"],
        "ca_file": str(tmp_path / "ca.pem"),
        "credentials_file": str(key),
    }
    file = tmp_path / "testbed.yaml"
    file.write_text(yaml.safe_dump(described))
    yield AnotherServer(server, file, KeyPair(access_key=made["access_key"], secret_key=made["secret_key"]))
    for front in fronts.values():
        front.close()
    server.stop()
