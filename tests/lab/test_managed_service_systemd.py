"""Role managed_service on a host that really runs systemd. The tests build on one another, in this order."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.lab.conftest import Host

PLAYBOOK = Path(__file__).with_name("service.yml")
NOT_OURS = ["/proc", "/sys", "/root", "/tmp", "/var/tmp", "/var/log/journal", "/var/lib/systemd"]  # systemd's own
SKIP = [word for path in NOT_OURS for word in ("-path", path, "-prune", "-o")]
WRITTEN = ["find", "/", "-xdev", *SKIP, "-printf", "%p %m %u\\n"]


def changed(output: str) -> int:
    """Return the number of changed tasks in a play's recap."""
    found = re.search(r"changed=(\d+)", output)
    assert found
    return int(found[1])


def main_pid(host: Host) -> int:
    """Return the process ID of the service."""
    return int(host.run("systemctl", "show", "--property", "MainPID", "--value", "testbed-lab"))


def answer(host: Host) -> str:
    """Return what the service serves, or nothing."""
    ask = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/lab.conf').read().decode())"
    return host.run("python3", "-c", ask, check=False).strip()


@pytest.fixture(scope="module")
def before(systemd_host: Host) -> list[str]:
    """The host's files before anything was brought up."""
    return sorted(systemd_host.run(*WRITTEN).splitlines())


def test_check_mode_changes_nothing(systemd_host: Host, before: list[str]) -> None:
    assert changed(systemd_host.play(PLAYBOOK, "--tags", "up", "--check", "--diff")) > 0
    assert sorted(systemd_host.run(*WRITTEN).splitlines()) == before


def test_the_service_comes_up_and_at_boot(systemd_host: Host) -> None:
    assert changed(systemd_host.play(PLAYBOOK, "--tags", "up")) > 0
    assert answer(systemd_host) == "first"
    assert systemd_host.run("systemctl", "is-enabled", "testbed-lab").strip() == "enabled"
    assert systemd_host.run("ps", "-o", "user=", "-p", str(main_pid(systemd_host))).strip() == "nobody"


def test_its_environment_arrives_whole_and_is_nobodys_to_read(systemd_host: Host) -> None:
    environment = systemd_host.run("cat", f"/proc/{main_pid(systemd_host)}/environ").split("\0")
    assert "LAB_WORD=a b$c" in environment
    assert systemd_host.run("stat", "-c", "%a %U", "/etc/testbed/services/testbed-lab.env").strip() == "600 root"
    assert "LAB_WORD" not in systemd_host.run("systemctl", "show", "--property", "Environment", "testbed-lab")


def test_a_second_run_changes_nothing(systemd_host: Host) -> None:
    pid = main_pid(systemd_host)
    assert changed(systemd_host.play(PLAYBOOK, "--tags", "up")) == 0
    assert main_pid(systemd_host) == pid


def test_it_comes_back_after_kill_9(systemd_host: Host) -> None:
    pid = main_pid(systemd_host)
    systemd_host.run("kill", "-9", str(pid))
    deadline = time.monotonic() + 30
    while answer(systemd_host) != "first":
        assert time.monotonic() < deadline, systemd_host.run("journalctl", "-u", "testbed-lab")
    assert main_pid(systemd_host) not in (0, pid)
    assert changed(systemd_host.play(PLAYBOOK, "--tags", "up")) == 0


def test_it_is_restarted_when_its_settings_change(systemd_host: Host) -> None:
    pid = main_pid(systemd_host)
    assert changed(systemd_host.play(PLAYBOOK, "--tags", "up", "--extra-vars", "lab_settings=second")) > 0
    assert main_pid(systemd_host) not in (0, pid)


def test_a_run_killed_between_change_and_restart_is_made_good(systemd_host: Host) -> None:
    pid = main_pid(systemd_host)
    systemd_host.run("sh", "-c", "printf third >/etc/testbed/lab.conf")  # as a killed run leaves it
    assert changed(systemd_host.play(PLAYBOOK, "--tags", "up", "--extra-vars", "lab_settings=third")) == 1
    assert main_pid(systemd_host) not in (0, pid)


def test_removal_leaves_nothing(systemd_host: Host, before: list[str]) -> None:
    systemd_host.play(PLAYBOOK, "--tags", "down")
    assert systemd_host.run("systemctl", "list-units", "--all", "--no-legend", "testbed-*").strip() == ""
    assert sorted(systemd_host.run(*WRITTEN).splitlines()) == before
    assert changed(systemd_host.play(PLAYBOOK, "--tags", "down")) == 0
