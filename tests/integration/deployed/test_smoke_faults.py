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

import pytest

from provision import spec

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


@fault("agent stopped", "service runs: testbed-agent-default on local", "testbed-agent-default does not run", log=True)
def _(folder):
    with _stopped("testbed-agent-default"):
        yield []


@fault("watchdog stopped", "service runs: testbed-watchdog on local", "testbed-watchdog does not run", log=True)
def _(folder):
    with _stopped("testbed-watchdog"):
        yield []


@fault("InfluxDB down", f"telemetry is readable: {USER}", "telemetry check", log=True)
def _(folder):
    with _stopped("testbed-influxdb"):
        yield []


@fault("wrong password for InfluxDB", f"telemetry is readable: {USER}", "telemetry check", log=True)
def _(folder):
    with _edited(_home() / "telemetry.env", r"(?m)^(INFLUXDB_PASSWORD=).*$", r"\g<1>'wrong'"):
        yield []


@fault("InfluxDB empty", f"telemetry is readable: {USER}", "nothing_at_all", log=True)
def _(folder):
    file = _home() / "telemetry.env"
    before = file.read_bytes()
    lines = [line for line in before.decode().splitlines() if not line.startswith("INFLUXDB_MEASUREMENT=")]
    file.write_text("\n".join([*lines, "INFLUXDB_MEASUREMENT='nothing_at_all'", ""]))
    try:
        yield []
    finally:
        file.write_bytes(before)


@fault(
    "wrong files URL baked into a clearml.conf", "conf names the servers urls", "files_server: http://127.0.0.1:9999"
)
def _(folder):
    with _edited(_home() / "clearml.conf", r'(files_server: )"[^"]*"', r'\g<1>"http://127.0.0.1:9999"'):
        yield []


@fault("a user's key is another server's", f"users key logs in: {USER}", "does not take its key", log=True)
def _(folder):
    with _edited(_home() / "clearml.conf", r'(secret_key: )"[^"]*"', r'\g<1>"of-another-server"'):
        yield []


@fault("an agent's key is another server's", "agents key logs in: local:default", "does not take its key", log=True)
def _(folder):
    with _edited(Path("/etc/testbed/agent-default.conf"), r'(access_key: )"[^"]*"', r'\g<1>"OFANOTHERSERVER"'):
        yield []


@fault("everybody may read a user's key", f"users key logs in: {USER}", "mode 644")
def _(folder):
    conf = _home() / "clearml.conf"
    conf.chmod(0o644)
    try:
        yield []
    finally:
        conf.chmod(0o600)


@fault("one key in two files", "no key is shared", "has the key of")
def _(folder):
    default, prepared = (Path(f"/etc/testbed/agent-{name}.conf") for name in ("default", "prepared"))
    keys = re.search(r"access_key: .*\n.*secret_key: .*\n", default.read_text()).group()
    with _edited(prepared, r"access_key: .*\n.*secret_key: .*\n", keys.replace("\\", r"\\")):
        yield []


@fault("a port on another address, too", "ports listen where they should", "port 8008 listens on 127.0.0.1, 127.0.0.2")
def _(folder):
    with socket.create_server(("127.0.0.2", 8008)):
        yield []


@fault("disk full", "disk has room", "GB left")
def _(folder):
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
    [package] = PREPARED.glob("lib/python*/site-packages/tensorflow")
    aside = package.with_name("tensorflow-aside")
    package.rename(aside)
    try:
        yield ["--only", "workload completes"]
    finally:
        aside.rename(package)


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
