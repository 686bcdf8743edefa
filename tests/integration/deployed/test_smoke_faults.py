"""The smoke test finds faults of a whole testbed: broken in one way at a time, the right check names it.

`TESTBED_SEED` draws three of them. Those of a server alone are in tests/integration/smoke/test_faults.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from provision import spec
from provision.clearml_api import ClearmlApi
from provision.credentials.conf import parse_key
from provision.secrets import Vault
from tests.integration.deployed import faketime
from workload.fill import fill
from workload.influx import InfluxDB
from workload.settings import Source

pytestmark = [pytest.mark.deployed, pytest.mark.long]

DRAWN = 3
SYSTEMD = Path("/run/systemd/system").is_dir()
PREPARED = Path("/opt/testbed/venvs/prepared")
AGENT = Path("/opt/testbed/venvs/clearml-agent")
USER = spec.load(spec.EXAMPLE).users[0].name


@dataclass(frozen=True)
class Fault:
    """A way to break a good testbed, and the check that is to find it with these words.

    `broken` yields more arguments for `smoke`; `log`: whether a service's last lines are to be told.
    """

    name: str
    check: str
    words: tuple[str, ...]
    broken: Callable[[Path], Iterator[list[str]]]
    level: str = "quick"
    log: bool = False


FAULTS: list[Fault] = []


def fault(name: str, check: str, *words: str, **more: object) -> Callable[[Callable[..., Iterator[list[str]]]], None]:
    """Put what a function breaks into the table."""
    return lambda broken: FAULTS.append(Fault(name, check, words, broken, **more))


def _manage(verb: str, service: str) -> None:
    subprocess.run(["systemctl" if SYSTEMD else "supervisorctl", verb, service], check=True, capture_output=True)


@contextlib.contextmanager
def _stopped(service: str) -> Iterator[None]:
    _manage("stop", service)
    try:
        yield
    finally:
        _manage("start", service)


@contextlib.contextmanager
def _edited(path: Path, pattern: str, replacement: str) -> Iterator[None]:
    """The file says something else; owner and mode stay."""
    before = path.read_bytes()
    after, count = re.subn(pattern, replacement, before.decode())
    assert count, f"{path} has no {pattern}"
    path.write_text(after)
    try:
        yield
    finally:
        path.write_bytes(before)


def _home() -> Path:
    return Path(f"~{USER}").expanduser()


@contextlib.contextmanager
def _measurement(name: str) -> Iterator[None]:
    """The user's telemetry is that measurement."""
    file = _home() / "telemetry.env"
    before = file.read_bytes()
    lines = [line for line in before.decode().splitlines() if not line.startswith("INFLUXDB_MEASUREMENT=")]
    file.write_text("\n".join([*lines, f"INFLUXDB_MEASUREMENT='{name}'", ""]))
    try:
        yield
    finally:
        file.write_bytes(before)


@fault("agent stopped", "service runs: testbed-agent-default on local", "testbed-agent-default does not run", log=True)
def _(folder):
    """the service manager stops it"""
    with _stopped("testbed-agent-default"):
        yield []


@fault("watchdog stopped", "service runs: testbed-watchdog on local", "testbed-watchdog does not run", log=True)
def _(folder):
    """the service manager stops it"""
    with _stopped("testbed-watchdog"):
        yield []


@fault("InfluxDB down", f"telemetry is readable: {USER}", "telemetry check", log=True)
def _(folder):
    """the service manager stops it"""
    with _stopped("testbed-influxdb"):
        yield []


@fault("wrong password for InfluxDB", f"telemetry is readable: {USER}", "telemetry check", log=True)
def _(folder):
    """another one in the user's telemetry.env"""
    with _edited(_home() / "telemetry.env", r"(?m)^(INFLUXDB_PASSWORD=).*$", r"\g<1>'wrong'"):
        yield []


@fault("InfluxDB empty", f"telemetry is readable: {USER}", "nothing_at_all", log=True)
def _(folder):
    """the user's telemetry.env names a measurement without points"""
    with _measurement("nothing_at_all"):
        yield []


@fault(
    "wrong files URL baked into a clearml.conf", "conf names the servers urls", "files_server: http://127.0.0.1:9999"
)
def _(folder):
    """another port for files_server in the user's clearml.conf"""
    with _edited(_home() / "clearml.conf", r'(files_server: )"[^"]*"', r'\g<1>"http://127.0.0.1:9999"'):
        yield []


@fault("a user's key is another server's", f"users key logs in: {USER}", "does not take its key", log=True)
def _(folder):
    """another secret key in the user's clearml.conf"""
    with _edited(_home() / "clearml.conf", r'(secret_key: )"[^"]*"', r'\g<1>"of-another-server"'):
        yield []


@fault("an agent's key is another server's", "agents key logs in: local:default", "does not take its key", log=True)
def _(folder):
    """another access key in the agent's clearml.conf"""
    with _edited(Path("/etc/testbed/agent-default.conf"), r'(access_key: )"[^"]*"', r'\g<1>"OFANOTHERSERVER"'):
        yield []


@fault("everybody may read a user's key", f"users key logs in: {USER}", "mode 644")
def _(folder):
    """mode 644 for the user's clearml.conf"""
    conf = _home() / "clearml.conf"
    conf.chmod(0o644)
    try:
        yield []
    finally:
        conf.chmod(0o600)


@fault("one key in two files", "no key is shared", "has the key of")
def _(folder):
    """the key of one agent in the file of another"""
    default, prepared = (Path(f"/etc/testbed/agent-{name}.conf") for name in ("default", "prepared"))
    keys = re.search(r"access_key: .*\n.*secret_key: .*\n", default.read_text()).group()
    with _edited(prepared, r"access_key: .*\n.*secret_key: .*\n", keys.replace("\\", r"\\")):
        yield []


@fault("a port on another address, too", "ports listen where they should", "port 8008 listens on 127.0.0.1, 127.0.0.2")
def _(folder):
    """a socket that listens on 127.0.0.2, too"""
    with socket.create_server(("127.0.0.2", 8008)):
        yield []


@fault("disk full", "disk has room", "GB left")
def _(folder):
    """a tmpfs of 20 MB as the data folder"""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], check=True)
    try:
        file = folder / "testbed.yaml"
        text = spec.EXAMPLE.read_text()
        line = next(line for line in text.splitlines() if line.startswith("# data_dir:"))
        file.write_text(text.replace(line, f"data_dir: {disk}"))
        yield ["--spec", str(file)]
    finally:
        subprocess.run(["umount", disk], check=True)


@fault("two agents with one worker ID", "worker ids are used once", "two agents work as local:default")
def _(folder):
    """a second clearml-agent with the first one's configuration"""
    shared = Path("/tmp/testbed-tests-twin")
    shared.mkdir(mode=0o700)
    shutil.chown(shared, "clearml-agent", "clearml-agent")
    agent = [str(AGENT / "bin/python"), str(AGENT / "bin/clearml-agent"), "--config-file"]
    agent += ["/etc/testbed/agent-default.conf", "daemon", "--foreground", "--queue", "default"]
    environment = ["env", f"TMPDIR={shared}", f"HOME={shared}", "CLEARML_AGENT_SKIP_DOCKER_TEST=1"]
    twin = subprocess.Popen(
        ["runuser", "-u", "clearml-agent", "--", *environment, *agent],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        time.sleep(10)
        assert twin.poll() is None, "the second agent runs"
        yield []
    finally:
        os.killpg(twin.pid, signal.SIGKILL)
        twin.wait()
        shutil.rmtree(shared, ignore_errors=True)


@fault("venv without TensorFlow", "workload completes: train", "No module named 'tensorflow'", level="full", log=True)
def _(folder):
    """its folder in the prepared environment is moved away"""
    [package] = PREPARED.glob("lib/python*/site-packages/tensorflow")
    aside = package.with_name("tensorflow-aside")
    package.rename(aside)
    try:
        yield ["--only", "workload completes"]
    finally:
        aside.rename(package)


@fault("InfluxDB stale", f"telemetry is readable: {USER}", "the newest point of smoke_stale is of", log=True)
def _(folder):
    """as many points as there should be, up to three days ago, in a measurement that the user's settings name"""
    testbed = spec.load(spec.EXAMPLE)
    passwords, telemetry = Vault(testbed.name).load().influxdb, testbed.telemetry
    source = Source(telemetry.url, 1, "telemetry", "smoke_stale", "writer", secret=passwords.writer)
    fill(InfluxDB(source), telemetry.points, 30, 1, 60, int(time.time()) - 3 * 86400, only_missing=False)
    try:
        with _measurement("smoke_stale"):
            yield []
    finally:
        answer = httpx.post(
            f"{telemetry.url}/query",
            data={"db": "telemetry", "q": "DROP MEASUREMENT smoke_stale"},
            auth=("admin", passwords.admin),
            timeout=60,
        )
        assert answer.status_code == 200, answer.text


@fault("wrong Keras line in an agent's venv", "prepared environment is whole", "keras 2.13.1", "tensorflow")
def _(folder):
    """Keras 2.13.1 beside TensorFlow 2.21 in the prepared environment, from the package index"""
    [site] = PREPARED.glob("lib/python*/site-packages")
    there = [site / "keras", *site.glob("keras-*.dist-info")]
    aside = folder / "aside"
    aside.mkdir()
    shutil.copytree(site / "keras", aside / "keras", symlinks=True)
    python = str(PREPARED / "bin/python")
    for path in there[1:]:
        shutil.copytree(path, aside / path.name)
    options = ["--disable-pip-version-check", "--no-deps", "--no-compile", "--quiet"]
    try:
        subprocess.run([python, "-I", "-m", "pip", "install", *options, "keras==2.13.1"], check=True)
        yield []
    finally:
        for path in [site / "keras", *site.glob("keras-*.dist-info")]:
            shutil.rmtree(path, ignore_errors=True)
        for path in aside.iterdir():
            shutil.copytree(path, site / path.name, symlinks=True)


@fault("clock of one service ahead by 2 h", "clock agrees", "s ahead")
def _(folder):
    """clearml_lite started with libfaketime (Debian's package), which tells it a time two hours ahead"""
    with (
        faketime.library() as library,
        _environment_of(
            "testbed-clearml-lite", LD_PRELOAD=str(library), FAKETIME="+7200", FAKETIME_DONT_FAKE_MONOTONIC="1"
        ),
    ):
        yield []


@contextlib.contextmanager
def _environment_of(service: str, **variables: str) -> Iterator[None]:
    """The service runs with more in its environment."""
    if SYSTEMD:
        file = Path(f"/run/systemd/system/{service}.service.d/fault.conf")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("[Service]\n" + "".join(f'Environment="{key}={value}"\n' for key, value in variables.items()))
        before, again = None, [["systemctl", "daemon-reload"], ["systemctl", "restart", service]]
    else:
        file = Path(f"/etc/supervisor/conf.d/{service}.conf")
        before, again = file.read_bytes(), [["supervisorctl", "update", service]]
        more = "".join(f'{key}="{value}",' for key, value in variables.items())
        file.write_text(re.sub(r"(?m)^environment=", f"environment={more}", before.decode()))
    try:
        for command in again:
            subprocess.run(command, check=True, capture_output=True)
        _wait_for_api()
        yield
    finally:
        file.write_bytes(before) if before is not None else file.unlink()
        for command in again:
            subprocess.run(command, check=True, capture_output=True)
        _wait_for_api()


def _wait_for_api() -> None:
    url, end = spec.load(spec.EXAMPLE).server.url("api"), time.monotonic() + 60
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/debug.ping").status_code == 200:
                return
        assert time.monotonic() < end, f"{url} does not answer"
        time.sleep(0.2)


@fault(
    "wrong name on one host",
    "canonical url answers on every host: files",
    "local does not reach http://clearml.test:8081",
)
def _(folder):
    """a testbed.yaml that names the server clearml.test, which the host's /etc/hosts gives another address"""
    hosts, file = Path("/etc/hosts"), folder / "testbed.yaml"
    before, text = hosts.read_text(), spec.EXAMPLE.read_text()
    line = next(line for line in text.splitlines() if line.startswith("  # host: 127.0.0.1    # name or address"))
    file.write_text(text.replace(line, "  host: clearml.test", 1))
    hosts.write_text(f"{before.rstrip()}\n127.0.0.9 clearml.test\n")
    try:
        yield ["--spec", str(file)]
    finally:
        hosts.write_text(before)


@fault(
    "port blocked between agent and file server",
    "canonical url answers on every host: files",
    "local, as clearml-agent, does not reach http://127.0.0.1:8081",
)
def _(folder):
    """iptables refuses the account of the agents the file server's port"""
    rule = ["OUTPUT", "-p", "tcp", "--dport", "8081", "-m", "owner", "--uid-owner", "clearml-agent", "-j", "REJECT"]
    subprocess.run(["iptables", "-A", *rule], check=True)
    try:
        yield []
    finally:
        subprocess.run(["iptables", "-D", *rule], check=True)


@fault("a user's key is revoked", f"users key logs in: {USER}", "does not take its key", log=True)
def _(folder):
    """another key of the user's, put into clearml.conf and revoked"""
    conf = _home() / "clearml.conf"
    with ClearmlApi(spec.load(spec.EXAMPLE).server.url("api"), parse_key(conf.read_text())) as api:
        made = api.call("auth.create_credentials", label="a fault of the tests")["credentials"]
        api.call("auth.revoke_credentials", access_key=made["access_key"])
    before = conf.read_bytes()
    text = re.sub(r'(access_key: )"[^"]*"', rf'\g<1>"{made["access_key"]}"', before.decode())
    conf.write_text(re.sub(r'(secret_key: )"[^"]*"', rf'\g<1>"{made["secret_key"]}"', text))
    try:
        yield []
    finally:
        conf.write_bytes(before)


@fault("agent that hangs", "agent runs a task: local:default", "has taken no task from default", level="full", log=True)
def _(folder):
    """SIGSTOP for the agent and all below it: its service runs, and the server still lists its worker"""
    process = psutil.Process(_pid_of("testbed-agent-default"))
    frozen = [process, *process.children(recursive=True)]
    for each in frozen:
        each.suspend()
    try:
        yield ["--only", "agent runs a task"]
    finally:
        for each in frozen:
            each.resume()


def _pid_of(service: str) -> int:
    ask = ["systemctl", "show", "--property=MainPID", "--value"] if SYSTEMD else ["supervisorctl", "pid"]
    return int(subprocess.run([*ask, service], capture_output=True, text=True, check=True).stdout)


def drawn() -> list[Fault]:
    """Three by the seed; all of them without one."""
    seed = os.environ.get("TESTBED_SEED")
    return random.Random(int(seed)).sample(FAULTS, DRAWN) if seed else FAULTS


@pytest.mark.parametrize("each", [pytest.param(each, id=each.name) for each in drawn()])
def test_a_fault_is_found_by_the_right_check(command, api, tmp_path, each, find_secret_values):
    secrets = find_secret_values()
    with contextlib.contextmanager(each.broken)(tmp_path) as arguments:
        done = command("smoke", "--level", each.level, "--json", *arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = {check["name"]: check for check in json.loads(done.stdout)["checks"] if check["result"] == "failed"}
    assert each.check in failed, f"failed: {sorted(failed)}"
    right = failed[each.check]
    for words in each.words:
        assert words in right["seen"]
    assert right["expected"]
    assert right["remedy"]
    assert bool(right["log"]) or not each.log
    assert not any(value in done.stdout.encode() for value in secrets)
    left = api.call("projects.get_all", name="^smoke/2", search_hidden=True)["projects"]
    assert left == [], "nothing is left on the server"


def test_a_stopped_smoke_leaves_nothing(command, api, eventually):
    process = subprocess.Popen(
        ["./testbed", "smoke", "--spec", str(spec.EXAMPLE)],
        cwd=spec.EXAMPLE.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )

    def projects() -> list[str]:
        found = api.call("projects.get_all", name="^smoke/2", search_hidden=True)["projects"]
        return [project["id"] for project in found]

    def works() -> bool:
        assert process.poll() is None, process.communicate()
        return (
            bool(api.call("tasks.get_all", project=projects(), status=["in_progress"])["tasks"])
            if projects()
            else False
        )

    eventually("a task of the workload runs", works, 300)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert projects() == []
