"""The administrators' keys open the account for as long as they are wanted, on a host with a real sshd."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.lab.conftest import Host

PLAYBOOK = Path(__file__).with_name("let_in.yml")


@pytest.fixture
def key(systemd_host: Host, tmp_path: Path) -> Iterator[Path]:
    """A new key pair of an administrator."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    yield tmp_path / "key"
    systemd_host.run("rm", "-rf", "/var/lib/testbed-record")


def logs_in(host: Host, key: Path) -> bool:
    """Tell whether sshd lets the holder of the key in as root."""
    options = ["-F", "none", "-i", str(key), "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", *host.ssh_options()]
    done = subprocess.run(["ssh", *options, f"root@{host.name}", "true"], check=False)
    return done.returncode == 0


def changed(host: Host, lines: list[str], *arguments: str) -> bool:
    """Play with these lines; tell whether anything changed."""
    output = host.play(PLAYBOOK, "--extra-vars", json.dumps({"lab_lines": lines}), *arguments)
    return "changed=1" in output


def test_a_key_opens_the_account_while_it_is_in_the_list(systemd_host: Host, key: Path) -> None:
    line = " ".join(key.with_suffix(".pub").read_text().split()[:2]) + " ada"
    file = "/root/.ssh/authorized_keys"
    before = systemd_host.run("cat", file)
    assert not logs_in(systemd_host, key)
    assert changed(systemd_host, [line], "--check")
    assert not logs_in(systemd_host, key), "check mode let somebody in"
    assert changed(systemd_host, [line])
    assert logs_in(systemd_host, key)
    assert not changed(systemd_host, [line])
    assert changed(systemd_host, [])
    assert not logs_in(systemd_host, key)
    assert systemd_host.run("cat", file) == before, "the keys that were there before stay"
