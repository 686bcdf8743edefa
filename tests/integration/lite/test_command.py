"""The command `clearml-lite` beside a server that runs: backups while clients write, restore, check, users."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

REPOSITORY = Path(__file__).parents[3]
# when all is unpacked and nothing is in its place
KILLED_RESTORE = """
import os, signal
from clearml_lite import backup, cli
backup._put_in_place = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
cli.main()
"""


def run(server: Any, *words: str, typed: str | None = None) -> subprocess.CompletedProcess[str]:
    verb = [word for word in words if not word.startswith("/")]
    rest = [word for word in words if word.startswith("/")]
    return subprocess.run(
        [sys.executable, "-m", "clearml_lite", *verb, "--config", str(server.config_file), *rest],
        input=typed or "",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=REPOSITORY,
    )


class Writer(threading.Thread):
    """Makes tasks, each after the file that it names, until it is told to stop."""

    def __init__(self, server: Any) -> None:
        super().__init__()
        self.server = server
        self.headers = {"Authorization": f"Bearer {server.token()}"}
        self.written = 0
        self.stopping = threading.Event()

    def run(self) -> None:
        api, files = self.server.urls["api"], self.server.urls["files"]
        with httpx.Client(headers=self.headers, timeout=60) as client:
            while not self.stopping.is_set():
                path, content = f"made/{self.written}", f"content {self.written}".encode() * 500
                client.post(files, files={path: content}).raise_for_status()
                artifact = {
                    "key": "a",
                    "type": "x",
                    "mode": "output",
                    "uri": f"{files}/{path}",
                    "content_size": len(content),
                }
                task = {"name": f"task {self.written}", "type": "testing", "execution": {"artifacts": [artifact]}}
                client.post(f"{api}/tasks.create", json=task).raise_for_status()
                self.written += 1


def test_a_backup_made_while_clients_write_is_whole_and_comes_back(
    make_server: Callable[[], Any], tmp_path: Path
) -> None:
    server, other = make_server(), make_server()
    server.start()
    writer = Writer(server)
    writer.start()
    try:
        while writer.written < 5:
            assert writer.is_alive(), server.log.read_text()
        before = writer.written
        archive = tmp_path / "hot.tar"
        done = run(server, "backup", str(archive))
        after = writer.written
        while writer.written < after + 3:  # it goes on writing
            assert writer.is_alive(), server.log.read_text()
    finally:
        writer.stopping.set()
        writer.join()
    assert done.returncode == 0, done.stderr
    assert "read again and whole" in done.stdout
    other.config["urls"] = server.config["urls"]
    other.command()
    (other.folder / "data").mkdir()
    restored = run(other, "restore", str(archive))
    assert restored.returncode == 0, restored.stderr
    assert "Keys that were revoked since then work again" in restored.stdout
    checked = run(other, "check")
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
    assert "No problem found." in checked.stdout
    other.start()
    found = other.call("tasks.get_all", {"name": "^task ", "only_fields": ["name"]})["tasks"]
    there = {task["name"] for task in found}
    assert {f"task {number}" for number in range(before)} <= there
    # without a gap: all of one moment
    assert there == {f"task {number}" for number in range(len(there))}


def test_what_runs_is_not_restored_to(make_server: Callable[[], Any], lite: Any, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar"
    assert run(lite, "backup", str(archive)).returncode == 0
    done = run(lite, "restore", str(archive))
    assert done.returncode == 2
    assert done.stderr == f"clearml-lite: data_dir {lite.config['data_dir']}: is in use by another clearml-lite\n"


def test_a_check_tells_what_is_missing_while_the_server_runs(make_server: Callable[[], Any]) -> None:
    server = make_server()
    server.start()
    artifact = {"key": "a", "type": "x", "mode": "output", "uri": f"{server.urls['files']}/lost/file"}
    server.call("tasks.create", {"name": "loses", "type": "testing", "execution": {"artifacts": [artifact]}})
    done = run(server, "check")
    assert done.returncode == 1
    assert f"{server.folder}/data/files/lost/file (artifact a of task " in done.stdout
    assert "→ upload it again or bring it back from a backup" in done.stdout


def test_a_restore_that_is_killed_leaves_no_server_that_starts_empty(
    make_server: Callable[[], Any], tmp_path: Path
) -> None:
    server, other = make_server(), make_server()
    server.start()
    headers = {"Authorization": f"Bearer {server.token()}"}
    httpx.post(server.urls["files"], files={"kept": b"content"}, headers=headers, timeout=60).raise_for_status()
    archive = tmp_path / "b.tar"
    assert run(server, "backup", str(archive)).returncode == 0
    other.command()
    (other.folder / "data").mkdir()
    words = ["restore", "--config", str(other.config_file), str(archive)]
    killed = subprocess.run([sys.executable, "-c", KILLED_RESTORE, *words], cwd=REPOSITORY, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL
    refused = subprocess.run(other.command(), cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert "a restore was cut off here: run clearml-lite restore again" in refused.stderr
    assert run(other, "restore", str(archive)).returncode == 0
    other.start()
    assert httpx.get(f"{other.urls['files']}/kept", headers=headers, timeout=60).content == b"content"


def test_a_user_is_added_changed_and_removed_and_no_password_is_shown(make_server: Callable[[], Any]) -> None:
    server = make_server()
    server.command()
    login = f"{server.urls['api']}/auth.login"

    def let_in(password: str) -> bool:
        process = subprocess.Popen(
            [sys.executable, "-m", "clearml_lite", "serve", "--config", str(server.config_file)], cwd=REPOSITORY
        )
        try:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    return httpx.get(login, auth=("carol", password), timeout=60).status_code == 200
                assert process.poll() is None
                time.sleep(0.01)
        finally:
            process.terminate()
            process.wait(60)

    added = run(server, "user", "add", "carol", typed="carol-pass-1\n")
    assert (added.returncode, added.stderr) == (0, "")
    assert let_in("carol-pass-1")
    changed = run(server, "user", "password", "carol", typed="carol-pass-2\n")
    assert "goes by it when it is started again" in changed.stdout
    assert not let_in("carol-pass-1")
    assert let_in("carol-pass-2")
    assert run(server, "user", "list").stdout == "alice\tAlice A\nbob\tBob\ncarol\tcarol\n"
    assert run(server, "user", "remove", "carol").returncode == 0
    assert not let_in("carol-pass-2")
    refused = run(server, "user", "remove", "carol")
    assert refused.returncode == 2
    assert refused.stderr.endswith("there is no user 'carol'; there are: alice, bob\n")
    for done in (added, changed, refused):
        assert "carol-pass" not in done.stdout + done.stderr


def _add_carol_on_a_terminal(config: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The command that asks for her password, and the other side of its terminal."""
    terminal, side = pty.openpty()
    asking = subprocess.Popen(
        [sys.executable, "-m", "clearml_lite", "user", "add", "carol", "--config", str(config)],
        cwd=REPOSITORY,
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
    )
    os.close(side)
    return asking, terminal


@pytest.mark.parametrize(("again", "code"), [("carol-pass-1", 0), ("other", 2)])
def test_a_password_is_typed_twice_and_not_shown(make_server: Callable[[], Any], again: str, code: int) -> None:
    server = make_server()
    server.command()
    before = server.config_file.read_text()
    asking, terminal = _add_carol_on_a_terminal(server.config_file)
    shown = b""
    for prompt, typed in ((b"Password: ", "carol-pass-1"), (b"Again: ", again)):
        while not shown.endswith(prompt):
            shown += os.read(terminal, 1000)
        os.write(terminal, f"{typed}\n".encode())
    while chunk := _read(terminal):
        shown += chunk
    os.close(terminal)
    assert asking.wait(60) == code
    assert b"carol-pass" not in shown
    assert ("carol" in server.config_file.read_text()) == (code == 0)
    assert code == 0 or server.config_file.read_text() == before


def test_who_ends_the_input_where_a_password_is_asked_for_has_changed_nothing(make_server: Callable[[], Any]) -> None:
    server = make_server()
    server.command()
    before = server.config_file.read_text()
    asking, terminal = _add_carol_on_a_terminal(server.config_file)
    shown = b""
    while not shown.endswith(b"Password: "):
        shown += os.read(terminal, 1000)
    os.write(terminal, b"\x04")
    while chunk := _read(terminal):
        shown += chunk
    os.close(terminal)
    assert asking.wait(60) == 130
    assert shown.split() == [b"Password:"]
    assert server.config_file.read_text() == before


def test_a_password_that_is_no_text_is_told(make_server: Callable[[], Any]) -> None:
    server = make_server()
    server.command()
    words = [sys.executable, "-m", "clearml_lite", "user", "add", "carol", "--config", str(server.config_file)]
    done = subprocess.run(words, input=b"carol-\xff\n", capture_output=True, timeout=120, check=False, cwd=REPOSITORY)
    assert done.returncode == 2
    assert done.stderr.startswith(b"clearml-lite: the password is not UTF-8: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_name_that_no_file_can_have_is_told_in_one_line(make_server: Callable[[], Any]) -> None:
    server = make_server()
    server.start()
    name = f"/tmp/{'n' * 300}"
    done = run(server, "backup", name)
    assert done.returncode == 1
    assert done.stderr == f"clearml-lite: {name}: File name too long\n"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1000)
    except OSError:  # the other end is closed
        return b""


def test_the_archive_says_what_it_is(lite: Any, tmp_path: Path) -> None:
    archive = tmp_path / "b.tar"
    run(lite, "backup", str(archive))
    done = subprocess.run(["tar", "xOf", str(archive), "manifest.json"], capture_output=True, check=True)
    manifest = json.loads(done.stdout)
    assert set(manifest) == {"version", "data_version", "made", "hashes"}
