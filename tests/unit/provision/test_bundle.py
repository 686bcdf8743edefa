"""What is in a bundle, whom it opens for, and that nobody else gets anything out of it."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pyrage
import pytest

from provision.credentials import bundle, start
from provision.credentials.labels import Label
from provision.errors import InputError
from provision.known_hosts import Pin
from provision.machines import Machine, local
from provision.spec import parse
from provision.spec_types import JumpHost

SECRET = "a-secret-key-that-is-nowhere-else"
PLAIN = bundle.pack("lab-ada-laptop", {"clearml.conf": SECRET, "START.md": "# How to start"})
SSH_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGQwKOHVMGWZ4ZGLlVFNYKJ0cJQxJ2A6VZjY0CRYJ0Zs"


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    """An SSH key pair: the file of the private one, with the public one beside."""
    file = tmp_path_factory.mktemp("ssh") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file


@pytest.fixture(scope="module")
def gpg(tmp_path_factory):
    """A user's gpg, with a key pair."""
    home = tmp_path_factory.mktemp("gpg")

    def run(*words, given=b""):
        command = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", *words]
        return subprocess.run(command, input=given, capture_output=True, check=False)

    made = run("--quick-generate-key", "ada@example.org", "future-default", "default", "never")
    assert made.returncode == 0, made.stderr
    yield run
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


def test_the_archive_has_its_files_in_a_folder_for_the_owner_alone():
    with tarfile.open(fileobj=io.BytesIO(PLAIN)) as tar:
        found = {entry.name: (entry.mode, entry.isdir()) for entry in tar}
        assert tar.extractfile("lab-ada-laptop/clearml.conf").read().decode() == SECRET
    assert found == {
        "lab-ada-laptop": (0o700, True),
        "lab-ada-laptop/clearml.conf": (0o600, False),
        "lab-ada-laptop/START.md": (0o600, False),
    }


def test_an_age_key_opens_it_and_every_flipped_byte_is_refused():
    mine, other = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
    lock = bundle.for_key(f"# ada's\n{mine.to_public()}\n".encode(), "ada.age")
    sealed = lock.seal(PLAIN)
    assert SECRET.encode() not in sealed
    assert pyrage.decrypt(sealed, [mine]) == PLAIN
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(sealed, [other])
    for place in range(len(sealed)):
        altered = bytearray(sealed)
        altered[place] ^= 1 << place % 8
        with pytest.raises(pyrage.DecryptError):
            pyrage.decrypt(bytes(altered), [mine])
    for length in (0, 1, len(sealed) // 2, len(sealed) - 1):
        with pytest.raises(pyrage.DecryptError):
            pyrage.decrypt(sealed[:length], [mine])


def test_one_of_several_keys_opens_it():
    mine = [pyrage.x25519.Identity.generate() for _ in range(2)]
    sealed = bundle.for_key("\n".join(str(each.to_public()) for each in mine).encode(), "ada.age").seal(PLAIN)
    assert [pyrage.decrypt(sealed, [each]) for each in mine] == [PLAIN, PLAIN]


def test_an_ssh_key_opens_it(ssh):
    lock = bundle.for_key_file(ssh.with_suffix(".pub"))
    assert (lock.ending, lock.command) == ("age", "age -d -i ~/.ssh/id_ed25519")
    assert pyrage.decrypt(lock.seal(PLAIN), [pyrage.ssh.Identity.from_buffer(ssh.read_bytes())]) == PLAIN


def test_of_the_ssh_keys_of_testbed_yaml_those_count_that_can_decrypt(ssh):
    line = ssh.with_suffix(".pub").read_text().rpartition(" ")[0]
    hardware = "sk-ssh-ed25519@openssh.com AAAA"
    sealed = bundle.for_ssh_keys([hardware, line], "ssh_keys of ada").seal(PLAIN)
    assert pyrage.decrypt(sealed, [pyrage.ssh.Identity.from_buffer(ssh.read_bytes())]) == PLAIN
    assert bundle.for_ssh_keys([hardware], "ssh_keys of ada") is None


def test_a_passphrase_opens_it_and_no_other():
    sealed = bundle.for_passphrase("five random words for ada").seal(PLAIN)
    assert pyrage.passphrase.decrypt(sealed, "five random words for ada") == PLAIN
    with pytest.raises(pyrage.DecryptError):
        pyrage.passphrase.decrypt(sealed, "five random words for bob")
    altered = sealed[:-1] + bytes([sealed[-1] ^ 1])
    with pytest.raises(pyrage.DecryptError):
        pyrage.passphrase.decrypt(altered, "five random words for ada")


@pytest.mark.parametrize("armor", [["--armor"], []], ids=["armor", "binary"])
def test_a_gpg_key_opens_it(gpg, armor):
    lock = bundle.for_key(gpg(*armor, "--export").stdout, "ada.asc")
    assert (lock.ending, lock.command) == ("gpg", "gpg -d")
    sealed = lock.seal(PLAIN)
    assert gpg("--decrypt", given=sealed).stdout == PLAIN


def _altered(sealed, place):
    altered = bytearray(sealed)
    altered[place] ^= 1 << place % 8
    return bytes(altered)


# the first packet has the session key, and bits of lengths there do not count; a packet that is none leaves gpg with
# nothing to open, which is no error to it, but to tar
@pytest.mark.parametrize("places", [pytest.param(1, id="all", marks=pytest.mark.long), pytest.param(11, id="sample")])
def test_no_flipped_byte_of_a_gpg_bundle_gives_anything_but_what_was_sent(gpg, places):
    sealed = bundle.for_key(gpg("--export", "ada@example.org").stdout, "ada.gpg").seal(PLAIN)
    seal = 22  # bytes: the packet that ends it, with the archive's hash (RFC 4880, 5.14)
    archive = range(len(sealed) - seal - len(PLAIN), len(sealed))
    for place in {*range(0, len(sealed), places), *(len(sealed) - back for back in (1, 20, seal))}:
        opened = gpg("--decrypt", given=_altered(sealed, place))
        if place in archive:
            assert opened.returncode != 0, place
        elif opened.returncode == 0:
            assert opened.stdout in (PLAIN, b""), place


def test_no_keyring_of_the_administrators_is_asked_or_changed(gpg, tmp_path, monkeypatch):
    monkeypatch.setenv("GNUPGHOME", str(tmp_path))
    bundle.for_key(gpg("--armor", "--export").stdout, "ada.asc").seal(PLAIN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "holds no public key"),
        (b"# nothing but words\n", "holds no public key"),
        (b"\xef\xbb\xbfhello", "OpenPGP"),
        (b"hello\n", "no public key that a bundle can be encrypted to"),
        (b"age1notakey", "cut off, mistyped or too short"),
        (SSH_KEY[:-9].encode(), "cut off, mistyped or too short"),
        (b"sk-ssh-ed25519@openssh.com AAAA", "no public key that a bundle can be encrypted to"),
        (b"AGE-SECRET-KEY-1QQQQ", "holds a private key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n", "holds a private key"),
        (b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nAAAA\n", "holds a private key"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n", "no OpenPGP key"),
        (b"\x99\x01\x00 not a key", "no OpenPGP key"),
    ],
)
def test_what_is_no_public_key_is_told_and_never_shown(data, told):
    with pytest.raises(InputError, match="ada.pub") as error:
        bundle.for_key(data, "ada.pub")
    assert told in error.value.message
    assert error.value.remedy
    assert "AAAA" not in error.value.message
    assert "\n" not in error.value.message


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        bundle.for_key_file(tmp_path / "ada.pub")


def test_a_gpg_key_that_only_signs_or_has_expired_is_told(gpg):
    gpg("--quick-generate-key", "signer@example.org", "ed25519", "sign", "never")
    gpg("--quick-generate-key", "old@example.org", "future-default", "default", "20200101T000000")
    with pytest.raises(InputError, match="cannot be encrypted to"):
        bundle.for_key(gpg("--armor", "--export", "signer@example.org").stdout, "signer.asc")
    with pytest.raises(InputError, match="holds 2 OpenPGP keys|holds 3 OpenPGP keys"):
        bundle.for_key(gpg("--armor", "--export").stdout, "all.asc")


def test_what_gpg_says_when_it_fails_comes_with_what_to_do(gpg, monkeypatch):
    lock = bundle.for_key(gpg("--armor", "--export", "ada@example.org").stdout, "ada.asc")
    monkeypatch.setattr(bundle, "_gpg", lambda *_, given: subprocess.CompletedProcess([], 2, b"", b"gpg: no room"))
    with pytest.raises(InputError, match="ada.asc: gpg does not encrypt to it: gpg: no room") as error:
        lock.seal(b"plain")
    assert "age1" in error.value.remedy


def test_the_name_tells_which_key_is_in_it_and_stays_in_its_folder(tmp_path):
    assert bundle.file_name("ada", "laptop", "0123456789ABCDEF", "age") == "clearml-ada-laptop-01234567.tar.gz.age"
    assert "/" not in bundle.file_name("ada", "laptop", "../../../etc", "age")
    (tmp_path / "clearml-ada-laptop-01234567.tar.gz.gpg").touch()
    assert [path.name for path in bundle.find(tmp_path, "ada", "laptop", "0123456789ABCDEF")] == [
        "clearml-ada-laptop-01234567.tar.gz.gpg"
    ]
    assert bundle.find(tmp_path, "ada", "laptop", "1123456789ABCDEF") == []


SPEC = "name: lab\nprovider: local\nserver: {}\nusers: [{name: ada, full_name: Ada Lovelace}]\n"
JUMP = JumpHost(host="gate.example.org", user="admin", port=2222)
CLIENT = Machine("client-1", ("clients",), "10.0.0.5", "10.0.0.5", user="root", jump_host=JUMP)
AGENT = Machine("agent-1", ("agents",), "10.0.0.6", "10.0.0.6", user="root", jump_host=JUMP)
PINS = [
    Pin("[gate.example.org]:2222", "ssh-ed25519 GATE", "id"),
    Pin("10.0.0.5", "ssh-ed25519 CLIENT"),
    Pin("10.0.0.6", "ssh-ed25519 AGENT"),
]


def test_the_way_leads_to_hosts_with_users_accounts_and_checks_their_keys(tmp_path):
    way = start.way("lab", "ada", [CLIENT, AGENT], PINS)
    assert way.hosts == ["lab-client-1"]
    assert way.known_hosts == "[gate.example.org]:2222 ssh-ed25519 GATE\n10.0.0.5 ssh-ed25519 CLIENT\n"
    (tmp_path / "ssh_config").write_text(way.config)
    shown = subprocess.run(
        ["ssh", "-G", "-F", str(tmp_path / "ssh_config"), "lab-client-1"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for line in (
        "hostname 10.0.0.5",
        "user ada",
        "proxyjump lab-gateway",
        "userknownhostsfile ssh_known_hosts",
        "stricthostkeychecking true",
    ):
        assert line in shown
    gate = subprocess.run(
        ["ssh", "-G", "-F", str(tmp_path / "ssh_config"), "lab-gateway"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {"hostname gate.example.org", "port 2222"} < {*gate}


def test_there_is_no_way_to_the_administrators_own_machine():
    assert start.way("lab", "ada", local("root"), []) is None


def test_the_page_is_for_exactly_this_testbed_user_and_key():
    testbed, way = parse(SPEC, "testbed.yaml"), start.way("lab", "ada", [CLIENT], PINS)
    page = start.page(testbed, Label("lab", "ada", "laptop"), way, "clearml-lab-ca.pem")
    for words in (
        "# How to start on testbed lab",
        "For Ada Lovelace.",
        "for `laptop`.",
        "cp -i clearml.conf clearml-lab-ca.pem ~/",
        "pip install clearml==2.1.12",
        testbed.server.url("web"),
        'execute_remotely(queue_name="default")',
        "| `prepared` |",
        "ssh -F ssh_config lab-client-1",
        "over the gateway gate.example.org",
        "They do not know your SSH key yet",
    ):
        assert words in page
    plain = start.page(testbed, Label("lab", "ada", "laptop"), None, None)
    assert plain.index("`~/clearml.conf` already") < plain.index("cp -i clearml.conf ~/\n```")
    assert not [words for words in ("ssh", "pem", "gateway") if words in plain]


def test_nothing_plain_is_in_a_file_an_argument_list_or_an_environment(gpg, tmp_path, monkeypatch):
    """A gpg that tells what it got: its arguments, its environment, and the files of its home."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    real = subprocess.run(["which", "gpg"], capture_output=True, text=True, check=True).stdout.strip()
    spy = tmp_path / "bin" / "gpg"
    spy.parent.mkdir()
    spy.write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" >>{tmp_path}/seen; env >>{tmp_path}/seen\n"
        f'cp -r {tmp_path}/tmp {tmp_path}/files.$$\nexec {real} "$@"\n'
    )
    spy.chmod(0o755)
    key = gpg("--armor", "--export", "ada@example.org").stdout
    monkeypatch.setenv("PATH", f"{spy.parent}{os.pathsep}{os.environ['PATH']}")
    sealed = bundle.for_key(key, "ada.asc").seal(SECRET.encode())
    monkeypatch.undo()
    assert gpg("--decrypt", given=sealed).stdout == SECRET.encode()
    files = [path for path in Path(tmp_path).rglob("*") if path.is_file()]
    assert any(path.name == "recipient" for path in files), "the spy saw nothing"
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not any(stat.S_IMODE(path.stat().st_mode) & 0o077 for path in tmp_path.glob("files.*/tmp*"))
