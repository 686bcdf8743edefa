"""Whether the administrator's SSH key is one that servers let in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from provision import spec
from provision.cloud.keys import fingerprint, judge_named, judge_offered, key_problems, of_file

A, B = {"SHA256:a"}, {"SHA256:b"}
SPEC = """\
name: ran
provider: openstack
openstack: {{cloud: lab, image: focal, network: net{more}}}
server: {{}}
users: [{{name: alice}}]
administrators: [{{name: ada, ssh_keys: ["{line}"]}}]
"""


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A private key with a passphrase, and its .pub file."""
    key = tmp_path / "lab key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "a passphrase", "-C", "ada", "-f", key], check=True)
    return key


def line_of(key: Path) -> str:
    return " ".join(Path(f"{key}.pub").read_text().split()[:2])


@pytest.mark.parametrize(
    ("there", "let_in", "said"),
    [
        (A, A | B, []),
        (set(), A, ["openstack.key: k: no such file, or no private key"]),
        (B, A, ["openstack.key: k: belongs to no public key of `administrators`"]),
    ],
)
def test_the_key_that_the_spec_names_belongs_to_an_administrator(there: set[str], let_in: set[str], said: list[str]):
    assert [problem.what for problem in judge_named(Path("k"), there, let_in)] == said


@pytest.mark.parametrize(
    ("offered", "elsewhere", "remedy"),
    [
        (A, {}, None),
        (B | A, {}, None),
        (B, {}, "ssh-add, or add your public key"),
        (set(), {"~/.ssh/lab": A}, "openstack.key, or run: ssh-add ~/.ssh/lab"),
        (set(), {"~/.ssh/lab": B}, "ssh-add, or add your public key"),
    ],
)
def test_ssh_offers_a_key_of_an_administrator(offered: set[str], elsewhere: dict[str, set[str]], remedy: str | None):
    found = judge_offered(offered, elsewhere, A)
    assert [remedy in problem.remedy for problem in found] == ([True] if remedy else [])


def test_a_key_is_known_without_its_passphrase(pair: Path):
    wanted = {fingerprint(line_of(pair))}
    assert of_file(pair) == wanted
    Path(f"{pair}.pub").unlink()
    assert of_file(pair) == wanted
    assert of_file(pair.with_name("none")) == set()


def test_a_spec_is_judged_with_the_files_of_this_machine(pair: Path):
    def problems(more: str) -> list[str]:
        found = key_problems(spec.parse(SPEC.format(line=line_of(pair), more=more), "testbed.yaml"))
        return [problem.what for problem in found]

    assert problems(f", key: '{pair}'") == []
    assert problems(f", key: '{pair}.not'") == [f"openstack.key: {pair}.not: no such file, or no private key"]
    jump = "jump_host: {host: gate, user: ada, key: /nowhere}, security: {ssh: [192.0.2.1/32]}"
    assert problems(f", key: '{pair}', {jump}") == ["openstack.jump_host.key: /nowhere: no such file"]
