"""The server's data on its host: archived in one pass while it is stopped, unpacked beside, compared."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from provision import archive, volume_on_host
from provision.archive import BackupError
from provision.volume_on_host import SUMS, VolumeError

SCRIPT = Path(volume_on_host.__file__)
ODD = "a\\b\nc \udcff"
# a service manager and a server: `service stop` and `start` are told by files, the server answers on the port
# supervisorctl gets the action third, after its configuration, and systemctl first
MANAGER = """#!/bin/sh
[ "$1" != --configuration ] || shift 2
echo "$1" >>"$(dirname "$0")/said"
"""


@pytest.fixture
def data(tmp_path):
    """Data of a server: files, a folder that is empty, a link, a name that is no UTF-8, two names of one file."""
    folder = tmp_path / "server"
    (folder / "files/deep").mkdir(parents=True)
    (folder / "empty").mkdir(mode=0o750)
    (folder / "files/deep/model.bin").write_bytes(os.urandom(3_000_000))
    (folder / "files" / ODD).write_text("odd")
    (folder / "database.sqlite").write_text("rows")
    (folder / "database.sqlite").chmod(0o600)
    os.link(folder / "database.sqlite", folder / "again.sqlite")
    (folder / "link").symlink_to("files/deep")
    os.mkfifo(folder / "pipe")
    return folder


def _archived(folder):
    out = io.BytesIO()
    volume_on_host.write_archive(folder, out)
    return out.getvalue()


def _there(folder):
    found = {}
    for path in sorted(folder.rglob("*")):
        name = os.fsencode(path.relative_to(folder))
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[name] = (content, path.lstat().st_mode)
    return found


def _call(asked, data=b"", **options):
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), json.dumps(asked)], input=data, capture_output=True, check=False, **options
    )
    return done, [json.loads(line) for line in done.stderr.splitlines()]


def _unpack(folder, data, size=0):
    return _call({"action": "unpack", "path": str(folder), "id": "abc", "bytes": size}, data)


def test_what_is_archived_comes_back_as_it_was(data, tmp_path):
    done, told = _unpack(tmp_path / "host/server", _archived(data))
    assert done.returncode == 0, told
    assert told[-1] == {"event": "unpacked", "files": 4}
    back, were = _there(tmp_path / "host/server.restored-abc"), _there(data)
    del were[b"pipe"]
    assert back == were
    assert {path.name for path in (tmp_path / "host").iterdir()} == {"server.restored-abc"}


def test_its_checksums_are_those_of_sha256sum(data, tmp_path):
    with tarfile.open(fileobj=io.BytesIO(_archived(data))) as tar:
        tar.extraction_filter = lambda member, _path: member
        tar.extractall(tmp_path / "out")  # noqa: S202 (made here)
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", SUMS], cwd=tmp_path / "out", capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(b"OK") == 4


@pytest.mark.parametrize("name", ["plain", "a  b", "a\\b", "a\nb", ODD])
def test_a_line_of_checksums_is_read_as_it_was_written(name):
    digest = hashlib.sha256(b"").hexdigest()
    assert volume_on_host.read_line(volume_on_host.line_of(digest, name)) == (digest, name)


@pytest.mark.parametrize("cut", [0.0, 0.2, 0.9])
def test_an_archive_that_is_cut_off_is_not_unpacked(data, tmp_path, cut):
    whole = _archived(data)
    done, told = _unpack(tmp_path / "host/server", whole[: int(len(whole) * cut)])
    assert done.returncode == 1
    assert "cut off" in told[-1]["message"]
    assert list((tmp_path / "host").iterdir()) == []


def test_an_archive_that_was_altered_is_not_unpacked(data, tmp_path):
    whole = bytearray(_archived(data))
    whole[len(whole) // 2] ^= 1  # within the largest file
    done, told = _unpack(tmp_path / "host/server", bytes(whole))
    assert done.returncode == 1
    assert "data/files/deep/model.bin" in told[-1]["message"]
    assert list((tmp_path / "host").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("data/../../evil", tarfile.REGTYPE, ""),
        ("/etc/evil", tarfile.REGTYPE, ""),
        ("other/evil", tarfile.REGTYPE, ""),
        ("data/device", tarfile.CHRTYPE, ""),
        ("data/hard", tarfile.LNKTYPE, "/etc/passwd"),
        ("data/link/evil", tarfile.REGTYPE, ""),
    ],
)
def test_an_archive_writes_nowhere_else(tmp_path, name, kind, target):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for each, type_ in (("data", tarfile.DIRTYPE), ("data/link", tarfile.SYMTYPE), (name, kind)):
            entry = tarfile.TarInfo(each)
            entry.type, entry.linkname = type_, target or str(tmp_path)
            tar.addfile(entry)
    done, told = _unpack(tmp_path / "host/server", out.getvalue())
    assert done.returncode == 1
    assert told[-1]["message"] == f"the archive holds what no backup has: {name}"
    assert not (tmp_path / "evil").exists()


def test_it_is_not_unpacked_where_there_is_no_room(data, tmp_path):
    done, told = _unpack(tmp_path / "host/server", _archived(data), size=1 << 60)
    assert done.returncode == 1
    assert "MiB free" in told[-1]["message"]
    assert list((tmp_path / "host").iterdir()) == []


def test_it_is_not_unpacked_beside_a_mount_point_which_cannot_be_replaced():
    done, told = _unpack("/proc", b"", size=1 << 60)  # there is never so much room
    assert done.returncode == 1
    assert "/proc is a mount point" in told[-1]["message"]
    assert "Mount its disk at / instead" in told[-1]["message"]


def test_a_mount_point_is_found_whatever_its_name(tmp_path):
    named = tmp_path / "the data"
    (tmp_path / "link").symlink_to(tmp_path)
    mounts = f"1 0 8:1 / / rw - ext4 x rw\n2 1 8:1 /elsewhere {tmp_path}/the\\040data rw - ext4 x rw\n"
    assert volume_on_host.is_mount_point(named, mounts)
    assert volume_on_host.is_mount_point(tmp_path / "link/the data", mounts)
    assert not volume_on_host.is_mount_point(tmp_path, mounts)


def test_files_are_compared_with_their_checksums(data):
    with tarfile.open(fileobj=io.BytesIO(_archived(data))) as tar:
        sums = tar.extractfile(SUMS).read()
    asked = {"action": "compare", "path": str(data), "under": "files"}
    assert _call(asked, sums)[1] == [{"event": "compared", "files": 2, "differ": [], "differing": 0}]
    (data / "database.sqlite").write_text("a server at work changes it")
    assert _call(asked, sums)[1][-1]["differing"] == 0
    (data / "files/deep/model.bin").write_text("altered")
    (data / "files" / ODD).unlink()
    assert _call(asked, sums)[1][-1]["differing"] == 2


class Server:
    """A server that answers, and a service manager for it, which is killed with the test."""

    def __init__(self, folder, data):
        self.folder = folder / "bin"
        self.folder.mkdir()
        for name in ("supervisorctl", "systemctl"):
            (self.folder / name).write_text(MANAGER)
            (self.folder / name).chmod(0o755)
        command = [sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(self.folder)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        port = self.process.stdout.readline().split(" port ")[1].split()[0]
        server = {"service": "testbed-x", "answers": f"http://127.0.0.1:{port}/", "wait_s": 20}
        self.asked = {"action": "archive", "path": str(data), "version": ["echo", "0.1.0", "1"], "server": server}
        self.asked["patience_s"] = 60

    @property
    def said(self):
        path = self.folder / "said"
        return path.read_text().split() if path.exists() else []

    def archive(self, **asked):
        environment = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}"}
        words = [sys.executable, "-I", str(SCRIPT), json.dumps({**self.asked, **asked})]
        pipe = subprocess.PIPE
        return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)


@pytest.fixture
def server(tmp_path, data):
    made = Server(tmp_path, data)
    yield made
    made.process.kill()
    made.process.wait()


def _until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_server_is_stopped_while_its_data_are_read_and_then_started(server, data):
    process = server.archive()
    found = json.loads(process.stderr.readline())
    assert found == {"event": "found", "bytes": found["bytes"], "files": 4, "version": ["0.1.0", "1"]}
    assert server.said == []
    out, told = process.communicate(b"go\n")
    assert process.returncode == 0
    assert server.said == ["stop", "start"]
    assert json.loads(told)["event"] == "archived"
    assert json.loads(told)["downtime"] > 0
    assert out == _archived(data)


def test_nothing_is_stopped_when_whoever_asked_does_not_go_on(server):
    process = server.archive()
    process.stderr.readline()
    assert process.communicate()[0] == b""
    assert server.said == []


def test_the_server_is_started_when_nobody_reads_on(server):
    process = server.archive()
    process.stdin.write(b"go\n")
    process.stdin.flush()
    _until(lambda: server.said == ["stop"])
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()  # as when its command is killed
    process.wait(20)
    assert server.said == ["stop", "start"]


def test_the_server_is_started_when_a_reader_stops_and_stays(server):
    process = server.archive(patience_s=1)
    process.stdin.write(b"go\n")
    process.stdin.flush()
    assert process.stdout.read(10)  # and no more, as on a machine that sleeps
    assert process.wait(30) == 1
    assert server.said == ["stop", "start"]
    told = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert told[-1]["event"] == "failed"
    assert "nobody took the data for 1 s" in told[-1]["message"]
    assert "the server started again" in told[-1]["message"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_server_is_started_when_a_signal_comes(server, number):
    process = server.archive()
    process.stdin.write(b"go\n")
    process.stdin.flush()
    process.stdout.read(10)  # it is at work, and waits for a reader
    process.send_signal(number)
    process.stderr.close()
    process.stdout.close()
    assert process.wait(20) == 1
    assert server.said == ["stop", "start"]


def test_the_server_is_started_when_its_data_cannot_be_read(server, data):
    class Broken:
        def write(self, _data):
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        volume_on_host.write_archive(data, Broken())
    process = server.archive(version=["false"])
    _, told = process.communicate(b"go\n")
    assert "does not tell its version" in json.loads(told)["message"]
    assert server.said == []


def test_a_server_that_does_not_answer_again_is_told(server):
    dead = {**server.asked["server"], "answers": "http://127.0.0.1:1/", "wait_s": 0}
    _, told = server.archive(server=dead).communicate(b"go\n")
    assert "does not answer 0 s after its start" in json.loads(told.splitlines()[-1])["message"]


def test_compose_is_asked_for_containers(tmp_path, monkeypatch):
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/said\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    volume_on_host.manage({"compose": "/etc/testbed/clearml/compose.yaml"}, "stop")
    assert (tmp_path / "said").read_text() == "compose --file /etc/testbed/clearml/compose.yaml stop\n"
    docker.write_text("#!/bin/sh\necho no such file >&2\nexit 1\n")
    with pytest.raises(VolumeError, match="no such file"):
        volume_on_host.manage({"compose": "/etc/testbed/clearml/compose.yaml"}, "stop")


DOCKER = """#!/bin/sh
case "$*" in
  *" stop") echo stop >>"$(dirname "$0")/said" ;;
  *" start") echo start >>"$(dirname "$0")/said" ;;
  "compose --file c.yaml ps --all --quiet") printf '1\n2\n3\n' ;;
  inspect*" 1 2 3") cat "$(dirname "$0")/states" ;;
  *) echo "no such command: $*" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def compose(server):
    """The server under Compose, and how its containers ended."""
    (server.folder / "docker").write_text(DOCKER)
    (server.folder / "docker").chmod(0o755)
    server.asked["server"] = {**server.asked["server"], "compose": "c.yaml"}
    return lambda states: (server.folder / "states").write_text(states)


def test_of_a_store_that_was_killed_as_it_stopped_there_is_no_backup(server, compose):
    compose("redis 0\nmongo 137\napiserver 0\n")
    out, told = server.archive().communicate(b"go\n")
    message = json.loads(told.splitlines()[-1])["message"]
    assert "mongo did not stop in time or ran out of memory, and was killed" in message
    assert out == b""
    assert server.said == ["stop", "start"]


@pytest.mark.parametrize("states", ["redis 0\nmongo 0\nelasticsearch 143\n", "redis 0\nfileserver 137\n"])
def test_of_stores_that_stopped_there_is(server, compose, data, states):
    compose(states)
    out, told = server.archive().communicate(b"go\n")
    assert json.loads(told.splitlines()[-1])["event"] == "archived"
    assert out == _archived(data)
    assert server.said == ["stop", "start"]


def test_where_docker_does_not_tell_how_they_ended_there_is_none(server, compose):
    _, told = server.archive().communicate(b"go\n")
    assert "docker inspect --format: " in json.loads(told.splitlines()[-1])["message"]
    assert server.said == ["stop", "start"]


def test_what_is_on_disk_here_is_compared_with_what_the_host_read(data, tmp_path):
    path, sums = tmp_path / "data.tar", tmp_path / "files.sha256"
    path.write_bytes(_archived(data))
    digest, files = archive.inspect(path, sums)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert files == 4
    with tarfile.open(path) as tar:
        assert sums.read_bytes() == tar.extractfile(SUMS).read()


@pytest.mark.parametrize("damage", ["cut off", "cut before its checksums", "altered"])
def test_what_was_damaged_on_the_way_here_is_found(data, tmp_path, damage):
    whole = bytearray(_archived(data))
    if damage == "altered":
        whole[len(whole) // 2] ^= 1
    elif damage == "cut off":
        whole = whole[: len(whole) // 2]
    else:
        with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
            whole = whole[: tar.getmember(SUMS).offset]
    (tmp_path / "data.tar").write_bytes(whole)
    with pytest.raises(BackupError, match="cut off|differs from what the host read"):
        archive.inspect(tmp_path / "data.tar", tmp_path / "files.sha256")
