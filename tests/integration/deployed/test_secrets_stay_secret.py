"""No generated secret is in a log, an argument list, a file for others, what Ansible leaves, or the repository."""

from __future__ import annotations

import base64
import json
import os
import stat
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.credentials.ensure import parse_key
from provision.paths import ROOT, state_dir

pytestmark = pytest.mark.deployed

CHUNK = 1 << 20


def _values(found: object) -> Iterator[str]:
    if isinstance(found, dict):
        for value in found.values():
            yield from _values(value)
    elif isinstance(found, str):
        yield found


@pytest.fixture(scope="module")
def needles(secrets, testbed) -> list[bytes]:
    """Every secret of the deployment: the vault's, and the secret keys that only hosts hold."""
    values = set(_values(secrets.model_dump(exclude={"id"})))
    confs = [Path(f"~{user.name}/clearml.conf").expanduser() for user in testbed.users]
    confs += [Path(f"/etc/testbed/agent-{worker.name}.conf") for worker in testbed.agents.workers]
    for conf in confs:
        key = parse_key(conf.read_text())
        assert key is not None, conf
        values.add(key.secret_key)
    # an access key is a name, not a secret: it is shown in labels, logs and tables
    public = {secrets.toolkit.access_key} | {
        key["user_key"] for key in secrets.clearml.model_dump().values() if isinstance(key, dict)
    }
    return sorted(value.encode() for value in values - public)


def _holds(path: Path, needles: list[bytes]) -> bool:
    overlap = max(map(len, needles))
    tail = b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            window = tail + chunk
            if any(needle in window for needle in needles):
                return True
            tail = window[-overlap:]
    return False


def _regular_files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        device = Path(parent).stat().st_dev
        # what is mounted there, such as the namespaces of containers, is no file of ours
        folders[:] = [name for name in folders if (Path(parent) / name).lstat().st_dev == device]
        for name in names:
            path = Path(parent) / name
            if path.is_file() and not path.is_symlink() and path.stat().st_dev == device:
                yield path


def test_the_search_finds_a_secret_that_is_there(needles, tmp_path):
    leak = tmp_path / "leak"
    leak.write_bytes(b"x" * (CHUNK - 5) + needles[0] + b"y")
    found = _holds(leak, needles)
    leak.unlink()  # or the next test finds it
    assert found


def test_no_secret_is_in_a_file_that_others_can_read(needles):
    folders = [
        "/etc",
        "/opt/testbed",
        "/var/lib/testbed",
        "/var/lib/testbed-record",
        "/var/log",
        "/home",
        "/tmp",
        "/var/tmp",
        "/run",
    ]
    leaks = [
        path
        for folder in folders
        for path in _regular_files(Path(folder))
        if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
        and "site-packages" not in path.parts
        and _holds(path, needles)
    ]
    assert leaks == []


def test_no_secret_is_in_logs_or_in_what_ansible_leaves(needles, testbed):
    folders = [state_dir(testbed.name), Path("/var/log/testbed"), Path("~/.ansible").expanduser(), Path("/tmp")]
    leaks = [path for folder in folders for path in _regular_files(folder) if _holds(path, needles)]
    assert leaks == []
    assert list(state_dir(testbed.name).glob("run-*")) == [], "a command left its private folder behind"


def test_no_secret_is_in_the_repository(needles):
    leaks = [
        path for path in _regular_files(ROOT) if ".venv" not in path.relative_to(ROOT).parts and _holds(path, needles)
    ]
    assert leaks == []


@pytest.fixture(scope="module")
def written(needles) -> list[bytes]:
    """Every secret in every form that programs write text in."""
    forms = set(needles)
    for needle in needles:
        text = needle.decode()
        forms |= {json.dumps(text)[1:-1].encode(), urllib.parse.quote(text, safe="").encode()}
        forms |= {base64.b64encode(needle), base64.urlsafe_b64encode(needle), repr(text)[1:-1].encode()}
    return sorted(forms)


def test_no_secret_is_in_a_log_an_argument_list_or_an_environment_at_the_highest_verbosity(written, command, testbed):
    seen: dict[str, set[bytes]] = {"cmdline": set(), "environ": set()}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):  # the command needs the cores, too
            for process in Path("/proc").glob("[0-9]*"):
                for name, found in seen.items():
                    try:
                        found.add((process / name).read_bytes())
                    except OSError:
                        continue  # the process has ended

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = command("up", "--yes", "-vvv")
    finally:
        over.set()
        watcher.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(b"ansible-playbook" in line for line in seen["cmdline"]), "the watch saw nothing"
    assert any(b"ANSIBLE_CONFIG=" in block for block in seen["environ"]), "the watch saw nothing of Ansible"
    for blocks in seen.values():
        assert [block for block in blocks if any(form in block for form in written)] == []
    log = max((state_dir(testbed.name) / "logs").glob("up-*.log"), key=lambda path: path.stat().st_mtime)
    assert "module_args" in log.read_text(encoding="utf-8"), "-vvv tells what modules were called with"
    folders = [state_dir(testbed.name), Path("/var/log/testbed"), Path("/tmp")]
    assert [path for folder in folders for path in _regular_files(folder) if _holds(path, written)] == []
    assert not any(form in (done.stdout + done.stderr).encode() for form in written)


@pytest.mark.parametrize("arguments", [["up", "--yes"], ["up", "--check"], ["smoke", "--level", "quick"], ["status"]])
def test_ansible_leaves_nothing(command, testbed, arguments):
    homes = [Path("~").expanduser(), *(Path(f"~{user.name}").expanduser() for user in testbed.users)]
    places = [home / ".ansible" for home in homes]

    def there() -> set[Path]:
        left = {path for path in Path("/tmp").iterdir() if "ansible" in path.name or "testbed-check" in path.name}
        return left | {path for place in places for path in [place, *place.rglob("*")] if path.exists()}

    before = there()
    assert command(*arguments).returncode == 0
    assert there() - before == set()
    state = state_dir(testbed.name)
    assert [path for name in ("run-*", "look-*", "**/artifacts", "**/fact_cache") for path in state.glob(name)] == []


def test_confs_and_vault_are_for_their_owners_only(testbed):
    private = [*Path("~/.config/testbed/local").expanduser().iterdir(), Path("/etc/testbed/clearml-lite.yaml")]
    private += [
        Path(f"~{user.name}/{name}").expanduser()
        for user in testbed.users
        for name in ("clearml.conf", "telemetry.env")
    ]
    assert {path: oct(stat.S_IMODE(path.stat().st_mode)) for path in private} == dict.fromkeys(private, "0o600")


def test_the_log_is_there_for_people(testbed):
    assert list((state_dir(testbed.name) / "logs").glob("up-*.log"))
