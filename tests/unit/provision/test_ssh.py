"""How SSH is told to go, and what its refusals mean. The way itself is tested in tests/lab/test_ssh.py."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from provision import ssh
from provision.errors import ReachError
from provision.machines import Console, Machine
from provision.spec_types import JumpHost

KNOWN = Path("/state of 100%/known_hosts")
DIRECT = Machine("agent-1", ("agents",), "10.0.0.5", "10.0.0.5", "ubuntu", key=Path("/keys/id"))
JUMP = JumpHost(host="gate.lab", user="ops", port=2222, key=Path("/keys/50% gate"))
BEHIND = Machine("agent-2", ("agents",), "10.0.0.6", "10.0.0.6", "ubuntu", port=2200, jump_host=JUMP)
LOCAL = Machine("local", ("server",), None, "127.0.0.1", "root")


def understood(machine, *more):
    """What ssh itself makes of the options."""
    command = ssh.command(machine, KNOWN)
    said = subprocess.check_output([command[0], "-G", "-F", "none", *more, *command[1:]], text=True)
    return dict(line.split(maxsplit=1) for line in said.splitlines() if " " in line)


def test_ssh_goes_to_the_host_as_the_account_with_the_key_and_checks_the_host_key():
    found = understood(DIRECT)
    expected = {
        "hostname": "10.0.0.5",
        "port": "22",
        "user": "ubuntu",
        "identityfile": "/keys/id",
        "identitiesonly": "yes",
        "stricthostkeychecking": "true",
        "hashknownhosts": "no",
        "updatehostkeys": "false",
        "forwardagent": "no",
        "globalknownhostsfile": "none",
    }
    assert {name: found[name] for name in expected} == expected
    assert found["userknownhostsfile"] in (str(KNOWN), str(KNOWN).replace("%", "%%"), f'"{KNOWN}"')
    assert "proxycommand" not in found


def test_without_a_key_ssh_offers_what_it_has():
    assert "IdentityFile" not in shlex.join(ssh.options(BEHIND, KNOWN)).partition("ProxyCommand")[0]


def test_the_jump_host_has_its_own_account_port_and_key_and_the_same_known_hosts():
    proxy = dict(word.split("=", 1) for word in ssh.options(BEHIND, KNOWN) if "=" in word)["ProxyCommand"]
    words = shlex.split(proxy.replace("%%", "%"))
    assert words[0] == "ssh"
    assert words[-3:] == ["-W", "[%h]:%p", "gate.lab"]
    said = dict(word.split("=", 1) for word in words if "=" in word)
    assert said["User"], said["Port"] == ("ops", "2222")
    assert said["StrictHostKeyChecking"] == "yes"
    assert said["UserKnownHostsFile"].replace("%%", "%") == f'"{KNOWN}"'
    assert said["IdentityFile"].replace("%%", "%") == '"/keys/50% gate"'


@pytest.mark.parametrize(("ask", "expected"), [(True, False), (False, True)])
def test_only_a_person_is_asked_for_a_passphrase(ask, expected):
    assert ("BatchMode" in shlex.join(ssh.options(BEHIND, KNOWN, ask=ask))) is expected


def test_this_machine_needs_no_ssh(tmp_path):
    with pytest.raises(ReachError, match="local is this machine"):
        ssh.command(LOCAL, KNOWN)
    nobody = {"tell": pytest.fail, "warn": pytest.fail}
    ssh.pin([LOCAL], tmp_path / "known_hosts", **nobody)
    ssh.wait([LOCAL], tmp_path / "known_hosts", **nobody)
    assert not (tmp_path / "known_hosts").exists()


CLOSED = "Connection closed by UNKNOWN port 65535\n"


@pytest.mark.parametrize(
    ("machine", "said", "expected"),
    [
        (DIRECT, "ssh: connect to host 10.0.0.5 port 22: Connection refused", "connection refused: nothing listens on"),
        (DIRECT, "ssh: connect to host 10.0.0.5 port 22: Connection timed out", "no answer from port 22 of 10.0.0.5"),
        (DIRECT, "\ntimed out after 40 s", "no answer from port 22 of 10.0.0.5"),
        (DIRECT, "ssh: connect to host 10.0.0.5 port 22: No route to host", "no route to port 22 of 10.0.0.5"),
        (DIRECT, "ssh: Could not resolve hostname a.lab: Name or service not known", "the name 10.0.0.5 is not known"),
        (DIRECT, "ubuntu@10.0.0.5: Permission denied (publickey).", "denies user ubuntu with the key /keys/id"),
        (DIRECT, "kex_exchange_identification: read: Connection reset by peer", "kex_exchange_identification: read"),
        (DIRECT, "", "ssh ended without a word"),
        (
            BEHIND,
            "ops@gate.lab: Permission denied (publickey).\n" + CLOSED,
            "jump host gate.lab: denies user ops with the key /keys/50% gate",
        ),
        (
            BEHIND,
            "ssh: connect to host gate.lab port 2222: Connection refused\n" + CLOSED,
            "the jump host is not reached: ssh: connect to host gate.lab port 2222: Connection refused",
        ),
        (
            BEHIND,
            "channel 0: open failed: connect failed: Connection refused\nstdio forwarding failed\n" + CLOSED,
            "jump host gate.lab: connection refused: nothing listens on port 2200 of 10.0.0.6",
        ),
        (
            BEHIND,
            "channel 0: open failed: administratively prohibited: open failed\nstdio forwarding failed\n" + CLOSED,
            "jump host gate.lab: may not forward to port 2200 of 10.0.0.6",
        ),
        (BEHIND, "ubuntu@10.0.0.6: Permission denied (publickey).", "denies user ubuntu with the keys that ssh offers"),
    ],
)
def test_a_refusal_says_what_is_wrong_and_where(machine, said, expected):
    assert ssh.refusal(machine, said).text.startswith(expected)


def test_a_console_that_shows_no_keys_is_not_waited_for_until_the_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(ssh, "PAUSE_S", 0.05)
    monkeypatch.setattr(ssh, "_shown", lambda *_: (["ssh-ed25519 AAAA"], ""))
    monkeypatch.setattr(ssh, "_prints", lambda keys: "")
    warnings = []
    ssh.pin(
        [DIRECT],
        tmp_path / "known_hosts",
        tell=lambda name, text: None,
        warn=warnings.append,
        console=lambda machine: Console((), final=False),
        limit_s=1.0,
    )
    assert "is trusted on first use" in warnings[0]
