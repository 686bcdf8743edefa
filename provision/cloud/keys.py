"""Whether this administrator's SSH key is one that servers let in; better known before they are made."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from provision.cloud.choose import Problem
from provision.known_hosts import fingerprint
from provision.spec import Testbed

FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
# ssh-keygen and ssh-add answer at once, or wait for a person
PATIENCE_S = 10


def key_problems(testbed: Testbed) -> list[Problem]:
    """Return what is wrong with the keys that ssh would offer to the testbed's servers."""
    openstack = testbed.openstack
    assert openstack is not None  # noqa: S101 (the provider is openstack)
    let_in = {fingerprint(key) for administrator in testbed.administrators for key in administrator.ssh_keys}
    found = []
    if openstack.key is not None:
        found += judge_named(openstack.key, of_file(openstack.key.expanduser()), let_in)
    else:
        elsewhere = {
            str(path.with_suffix("")): of_file(path) for path in sorted(Path("~/.ssh").expanduser().glob("*.pub"))
        }
        found += judge_offered(offered_by_ssh(), elsewhere, let_in)
    if openstack.jump_host and (key := openstack.jump_host.key) and not key.expanduser().is_file():
        found.append(Problem(f"openstack.jump_host.key: {key}: no such file", "Name the private key's file there."))
    return found


def judge_named(key: Path, there: set[str], let_in: set[str]) -> list[Problem]:
    """Return what is wrong with the key that the spec names; `there`: its fingerprints."""
    if not there:
        return [Problem(f"openstack.key: {key}: no such file, or no private key", "Name the private key's file there.")]
    if there & let_in:
        return []
    remedy = "Add the line of its .pub file to `administrators`, or name the private key of one that is there."
    return [Problem(f"openstack.key: {key}: belongs to no public key of `administrators`", remedy)]


def judge_offered(offered: set[str], elsewhere: dict[str, set[str]], let_in: set[str]) -> list[Problem]:
    """Return what is wrong when ssh offers these keys; `elsewhere`: others of this user's, by file."""
    if offered & let_in:
        return []
    what = (
        "no private key of `administrators` is in ssh-agent or a default file of ssh, so servers would not let you in"
    )
    for path, there in elsewhere.items():
        if there & let_in:
            return [Problem(what, f"There is one in {path}: name it in openstack.key, or run: ssh-add {path}")]
    return [Problem(what, "Name its file in openstack.key, load it with ssh-add, or add your public key to the spec.")]


def offered_by_ssh() -> set[str]:
    """Return the fingerprints of the keys that ssh offers by itself: the agent's, and those of its files."""
    said = _lines(["ssh", "-G", "server.invalid"])
    files = {line.split(maxsplit=1)[1] for line in said if line.startswith("identityfile ")}
    found = _fingerprints(_lines(["ssh-add", "-l"]))
    return found.union(*(of_file(Path(file).expanduser()) for file in files))


def of_file(path: Path) -> set[str]:
    """Return the fingerprint of a key file, also of a private key with a passphrase."""
    return _fingerprints(_lines(["ssh-keygen", "-l", "-f", str(path)])) if path.is_file() else set()


def _fingerprints(lines: Iterable[str]) -> set[str]:
    return {found for line in lines for found in FINGERPRINT.findall(line)}


def _lines(command: list[str]) -> list[str]:
    """Return what a command printed; nothing where it fails, for then there is no key."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            start_new_session=True,  # without a terminal nobody is asked for a passphrase
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
