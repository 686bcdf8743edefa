"""A real InfluxDB with authentication, a clearml-lite and a clearml-agent, all of the tests' own."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.integration.conftest import LiteServer, free_ports
from workload.fill import fill
from workload.influx import InfluxDB
from workload.settings import Source

REPOSITORY = Path(__file__).parents[3]
DATABASE = "ran"
PASSWORDS = {"admin": "admin-pass-1", "reader": "reader-pass-1", "writer": "writer-pass-1"}


class Influx:
    """A running influxd: its URL, and our client as one of its users."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("influxd")
        if not program:
            pytest.fail("influxd is not on PATH: install the distribution's package `influxdb`")
        http, rpc = free_ports(2)
        self.url = f"http://127.0.0.1:{http}"
        conf = folder / "influxdb.conf"
        conf.write_text(
            f"""reporting-disabled = true
            bind-address = "127.0.0.1:{rpc}"
            [meta]
              dir = "{folder}/meta"
            [data]
              dir = "{folder}/data"
              wal-dir = "{folder}/wal"
              query-log-enabled = false
            [monitor]
              store-enabled = false
            [http]
              bind-address = "127.0.0.1:{http}"
              auth-enabled = true
              log-enabled = false
            """
        )
        self.log = folder / "influxd.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([program, "-config", str(conf)], stdout=log, stderr=log)
        self._wait()
        # With authentication on and nobody there yet, this one statement is let through
        self.admin(f"CREATE USER admin WITH PASSWORD '{PASSWORDS['admin']}' WITH ALL PRIVILEGES", login=False)
        self.admin(f"CREATE DATABASE {DATABASE}")
        for user, privilege in (("reader", "READ"), ("writer", "ALL")):
            self.admin(f"CREATE USER {user} WITH PASSWORD '{PASSWORDS[user]}'")
            self.admin(f"GRANT {privilege} ON {DATABASE} TO {user}")

    def _wait(self) -> None:
        limit = time.monotonic() + 90
        while time.monotonic() < limit:
            assert self.process.poll() is None, self.log.read_text()
            try:
                requests.get(f"{self.url}/ping", timeout=5)
            except requests.ConnectionError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"influxd does not answer: {self.log.read_text()}")

    def admin(self, statement: str, login: bool = True) -> None:
        answer = requests.post(
            f"{self.url}/query",
            data={"q": statement},
            auth=("admin", PASSWORDS["admin"]) if login else None,
            timeout=60,
        )
        assert "error" not in answer.text, answer.text

    def client(self, measurement: str, user: str = "writer", external: bool = False) -> InfluxDB:
        return InfluxDB(
            Source(self.url, 1, DATABASE, measurement, user, secret=PASSWORDS[user], external=external),
        )

    def env_file(self, folder: Path, **changes: str) -> Path:
        """Settings of the reader, as a user has them; `changes` go before."""
        settings = {
            "INFLUXDB_URL": self.url,
            "INFLUXDB_DIALECT": "1",
            "INFLUXDB_DATABASE": DATABASE,
            "INFLUXDB_USER": "reader",
            "INFLUXDB_PASSWORD": PASSWORDS["reader"],
            **changes,
        }
        path = folder / "telemetry.env"
        path.touch(0o600)
        path.write_text("".join(f"{key}='{value}'\n" for key, value in settings.items()))
        return path


def environment(home: Path, conf: Path | None = None, **more: str) -> dict[str, str]:
    """Of a user who has nothing but a home and, perhaps, a clearml.conf."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("INFLUXDB_", "CLEARML_"))}
    found = {**kept, "HOME": str(home), "PYTHONPATH": str(REPOSITORY), **more}
    return {**found, "CLEARML_CONFIG_FILE": str(conf)} if conf else found


def start(home: Path, *arguments: str | Path, conf: Path | None = None) -> subprocess.Popen[str]:
    """`testbed-workload ARGUMENTS…` of a user with this home."""
    return subprocess.Popen(
        [sys.executable, "-m", "workload", *map(str, arguments)],
        env=environment(home, conf),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def workload(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """`start` in a home of the test's own."""
    return functools.partial(start, tmp_path)


def results(process: subprocess.Popen[str], timeout: float = 60) -> list[dict]:
    """What a run that must succeed printed: one JSON object a line, and nothing else."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, out + err
    return [json.loads(line) for line in out.splitlines()]


def refusal(process: subprocess.Popen[str], timeout: float = 60) -> str:
    """The last line of a run that must fail without a traceback."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 1, out + err
    assert "Traceback" not in err, err
    assert out == ""
    return err.splitlines()[-1]


@pytest.fixture(scope="session")
def influx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    running = Influx(tmp_path_factory.mktemp("influx"))
    yield running
    running.process.terminate()
    running.process.wait(20)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteServer]:
    running = LiteServer(tmp_path_factory.mktemp("lite"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def conf(server: LiteServer) -> Path:
    return server.client_conf("workload")


@contextlib.contextmanager
def running_agent(server: LiteServer, home: Path, name: str = "workload") -> Iterator[str]:
    """The queue of a real agent that runs tasks in the environment of these tests, without building one."""
    conf = server.client_conf(f"agent-{name}", f'agent {{ worker_name: "tests-{name}", venvs_dir: "{home}/venvs" }}')
    prepared = {"CLEARML_AGENT_SKIP_PYTHON_ENV_INSTALL": "1", "CLEARML_AGENT_SKIP_PIP_VENV_INSTALL": sys.executable}
    settings = environment(home, conf, **prepared)
    command = [str(Path(sys.executable).with_name("clearml-agent")), "daemon", "--foreground"]
    with (home / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--queue", "prepared", "--create-queue"],
            env=settings,
            cwd=home,
            stdout=log,
            stderr=log,
        )
    try:
        limit = time.monotonic() + 300
        while not server.call("queues.get_all", {"name": "^prepared$"})["queues"]:
            assert process.poll() is None, (home / "agent.log").read_text()
            assert time.monotonic() < limit, (home / "agent.log").read_text()
            time.sleep(0.2)
        yield "prepared"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def agent(server: LiteServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_agent(server, tmp_path_factory.mktemp("agent")) as queue:
        yield queue


@pytest.fixture(scope="session")
def filled(influx: Influx) -> str:
    """A measurement with a month of telemetry up to now."""
    fill(influx.client("month"), 24_000, 30, 1, 60, int(time.time()), only_missing=False)
    return "month"
