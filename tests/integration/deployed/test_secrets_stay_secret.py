"""No generated secret is in a log, an argument list, a file for others, what Ansible leaves, or the repository."""

from __future__ import annotations

import base64
import json
import os
import stat
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.paths import ROOT, state_dir

pytestmark = pytest.mark.deployed

CHUNK = 1 << 20


@pytest.fixture(scope="module")
def needles(find_secret_values) -> list[bytes]:
    """Every secret of the deployment as it is now."""
    return find_secret_values()


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
def written(second_up) -> list[bytes]:
    """Every secret, as it was during that `up`, in every form that programs write text in."""
    forms = set(second_up.secret_values)
    for needle in second_up.secret_values:
        text = needle.decode()
        forms |= {json.dumps(text)[1:-1].encode(), urllib.parse.quote(text, safe="").encode()}
        forms |= {base64.b64encode(needle), base64.urlsafe_b64encode(needle), repr(text)[1:-1].encode()}
    return sorted(forms)


def test_no_secret_is_in_a_log_an_argument_list_or_an_environment_at_the_highest_verbosity(written, second_up, testbed):
    seen, done = second_up.seen, second_up.done
    assert any(b"ansible-playbook" in line for line in seen["cmdline"]), "the watch saw nothing"
    assert any(b"ANSIBLE_CONFIG=" in block for block in seen["environ"]), "the watch saw nothing of Ansible"
    for blocks in seen.values():
        assert [block for block in blocks if any(form in block for form in written)] == []
    assert "module_args" in second_up.log, "-vvv tells what modules were called with"
    folders = [state_dir(testbed.name), Path("/var/log/testbed"), Path("/tmp")]
    assert [path for folder in folders for path in _regular_files(folder) if _holds(path, written)] == []
    assert not any(form in (done.stdout + done.stderr).encode() for form in written)


def test_ansible_leaves_nothing(command, second_up, leavings, testbed):
    assert second_up.left == set()
    there = leavings()
    for arguments in (["smoke", "--level", "quick"], ["status"]):
        assert command(*arguments).returncode == 0
    assert leavings() - there == set()
    assert [path for path in there if path.is_relative_to(state_dir(testbed.name))] == [], "an earlier command left it"


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
