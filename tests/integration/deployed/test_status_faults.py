"""`status` names what is broken, says what to do about it, and ends with another exit code."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from provision import spec
from provision.paths import ROOT
from provision.secrets import Vault
from tests.integration.deployed import faketime

pytestmark = pytest.mark.deployed

SYSTEMD = Path("/run/systemd/system").is_dir()
SERVER = "testbed-clearml-lite"
PROGRAM = Path(f"/etc/supervisor/conf.d/{SERVER}.conf")
AHEAD_S = 7200


@pytest.fixture
def problems(command):
    """What `status` says is not well, as {message: remedy}."""

    def look(*arguments: str) -> dict[str, str]:
        done = command("status", "--json", *arguments)
        found = json.loads(done.stdout)
        assert done.returncode == (0 if found["healthy"] else 1)
        assert found["healthy"] == (not found["problems"])
        assert all(problem["remedy"] for problem in found["problems"])
        return {problem["message"]: problem["remedy"] for problem in found["problems"]}

    return look


def _manage(verb: str, service: str) -> None:
    program = "systemctl" if SYSTEMD else "supervisorctl"
    subprocess.run([program, verb, service], check=True, capture_output=True)


def test_watched_by_a_script_each_look_is_a_line_until_ctrl_c():
    words = [str(ROOT / "testbed"), "status", "--json", "--watch", "1", "--spec", str(spec.EXAMPLE)]
    watching = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        looks = [json.loads(watching.stdout.readline()) for _ in range(2)]
        assert [look["healthy"] for look in looks] == [True, True]
        assert looks[0]["at"] < looks[1]["at"]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 0
    finally:
        watching.kill()
        watching.wait()


def _one(found: dict[str, str], piece: str) -> str:
    [message] = [message for message in found if piece in message]
    return message


def test_a_stopped_service(problems, command):
    _manage("stop", "testbed-agent-default")
    try:
        found = problems()
        shown = command("status").stdout
    finally:
        _manage("start", "testbed-agent-default")
    remedy = found["local: service testbed-agent-default does not run"]
    assert "testbed logs agent-default" in remedy
    assert "testbed up" in remedy
    assert f"✗ local: service testbed-agent-default does not run\n    {remedy}\n" in shown


def test_a_stopped_server(problems, eventually):
    _manage("stop", SERVER)
    try:
        found = problems()
    finally:
        _manage("start", SERVER)
    assert f"local: service {SERVER} does not run" in found
    for port in (8008, 8080, 8081):
        assert _one(found, f"http://127.0.0.1:{port} does not answer")
    eventually("all is well", lambda: not problems(), 90)


@pytest.fixture
def elsewhere(tmp_path):
    """A small disk, and a spec of this testbed that has its data there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m,nr_inodes=200", "tmpfs", str(disk)], capture_output=True, check=False
    )
    assert mounted.returncode == 0, mounted.stderr.decode()
    file = tmp_path / "testbed.yaml"
    text = spec.EXAMPLE.read_text()
    line = next(line for line in text.splitlines() if line.startswith("# data_dir:"))
    file.write_text(text.replace(line, f"data_dir: {disk}"))
    yield disk, ("--spec", str(file))
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk(problems, elsewhere):
    disk, arguments = elsewhere
    (disk / "large").write_bytes(bytes(19 * 1024**2))
    found = problems(*arguments)
    message = _one(found, f"local: {disk} is 95% full")
    assert f"du -xh {disk}" in found[message]


@pytest.fixture
def full_logs():
    """A small file system over the logs, full; what writes there goes on below it."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", "/var/log"], check=True)
    try:
        Path("/var/log/large").write_bytes(bytes(19 * 1024**2))
        yield
    finally:
        subprocess.run(["umount", "--lazy", "/var/log"], check=True)


def test_a_full_disk_beside_the_data(problems, full_logs):
    found = problems()
    message = _one(found, "local: /var/log is 95% full")
    assert "du -xh /var/log" in found[message]


def test_a_disk_without_inodes(problems, elsewhere):
    disk, arguments = elsewhere
    for number in range(190):
        (disk / str(number)).touch()
    assert _one(problems(*arguments), f"local: {disk} has used 9")


def test_a_disk_that_is_read_only(problems, elsewhere):
    disk, arguments = elsewhere
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    found = problems(*arguments)
    assert "dmesg" in found[f"local: {disk} is read-only"]


def test_a_mirror_that_nobody_reaches(problems, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = f"http://127.0.0.1:{listening.getsockname()[1]}/debian"
    file = tmp_path / "testbed.yaml"
    file.write_text(f"{spec.EXAMPLE.read_text()}\nmirrors: {{apt: '{closed}'}}\n")
    found = problems("--spec", str(file))
    message = f"local: mirror {closed} (mirrors.apt) does not answer: [Errno 111] Connection refused"
    assert list(found) == [message], "all else is as the testbed has it"
    assert "another one in mirrors.apt" in found[message]


def test_a_key_that_is_not_the_toolkits(problems, testbed):
    vault = Vault(testbed.name)
    secrets = vault.load()
    wrong = secrets.toolkit.model_copy(update={"secret_key": "wrong" * 8})
    vault.save(secrets.model_copy(update={"toolkit": wrong}))
    try:
        found = problems()
    finally:
        vault.save(secrets)
    message = _one(found, "the server refuses the toolkit's key")
    assert "testbed up" in found[message]
    assert "wrongwrong" not in message


@pytest.mark.long
@pytest.mark.skipif(SYSTEMD, reason="rewrites the server's program of supervisord")
def test_a_service_with_a_clock_of_its_own(problems, eventually):
    program = PROGRAM.read_text()
    with faketime.library() as library:
        faked = f'environment=LD_PRELOAD="{library}",FAKETIME="+{AHEAD_S}s",FAKETIME_DONT_FAKE_MONOTONIC="1",'
        try:
            PROGRAM.write_text(program.replace("environment=", faked, 1))
            subprocess.run(["supervisorctl", "update", SERVER], check=True, capture_output=True)
            eventually(
                "the server answers", lambda: not any("does not answer" in message for message in problems()), 60
            )
            found = problems()
        finally:
            PROGRAM.write_text(program)
            subprocess.run(["supervisorctl", "update", SERVER], check=True, capture_output=True)
    assert [message for message in found if "the clock of" in message] == [
        message for message in found if message.startswith("the clock of http://127.0.0.1:") and "s ahead of" in message
    ], "the host's own clock is right"
    message = _one(found, "the clock of http://127.0.0.1:8008 is ")
    assert abs(float(message.split(" is ")[1].split(" s ")[0]) - AHEAD_S) < 5
    assert "set-ntp" in found[message]
    eventually("all is well", lambda: not problems(), 120)
