"""Secrets in a file for another administrator: encrypted, checked, and never in the place of others unasked."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from provision import exchange, secrets, spec
from provision.cli import main
from provision.cli.group import PASSPHRASE_VARIABLE
from provision.errors import SecretsError
from provision.secrets import KeyPair, Vault

PASSPHRASE = "five random words of mine"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "first"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE, raising=False)
    monkeypatch.delenv(PASSPHRASE_VARIABLE, raising=False)
    monkeypatch.setattr(secrets, "_user_secret", lambda: {"password": "p", "password_hash": "h"})  # bcrypt takes long
    return tmp_path


@pytest.fixture
def second(home, monkeypatch):
    """Become the second administrator."""
    return lambda: monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "second"))


@pytest.fixture
def found():
    vault = Vault("local")
    made = vault.ensure(spec.load(None))
    vault.save(made.model_copy(update={"toolkit": KeyPair(access_key="A", secret_key="S")}))
    return Vault("local").load()


@pytest.fixture
def file(home, found):
    path = home / "secrets.vault"
    exchange.write(path, "local", found, PASSPHRASE)
    return path


def _call(*arguments, **environment):
    done = CliRunner().invoke(
        main, ["secrets", *map(str, arguments)], env={PASSPHRASE_VARIABLE: PASSPHRASE, **environment}
    )
    return done.exit_code, done.output


def test_the_file_is_private_encrypted_and_without_the_local_password(file, found):
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith("$ANSIBLE_VAULT;1.1;AES256")
    exported = exchange.read(file, "local", PASSPHRASE)
    assert exported.secrets == found
    password = (secrets.config_dir("local") / "vault-password").read_text().strip()
    assert password not in exported.model_dump_json()


def test_ansible_vault_opens_it(file, tmp_path, found):
    passphrase = tmp_path / "passphrase"
    passphrase.write_text(PASSPHRASE + "\n")
    command = [Path(sys.executable).with_name("ansible-vault"), "view", "--vault-password-file", passphrase, file]
    done = subprocess.run(command, env={**os.environ, "LC_ALL": "C.UTF-8"}, capture_output=True, text=True, check=True)
    assert found.clearml.token_secret in done.stdout


@pytest.mark.parametrize("passphrase", ["", "short", " " * 40, "eleven char"])
def test_a_short_passphrase_is_refused(home, found, passphrase):
    code, output = _call("export", home / "out", **{PASSPHRASE_VARIABLE: passphrase})
    assert code == 1
    assert "must have at least 12" in output
    assert not (home / "out").exists()


def test_without_a_terminal_the_passphrase_must_be_given(home, found):
    code, output = _call("export", home / "out", **{PASSPHRASE_VARIABLE: None})
    assert code == 1
    assert "no terminal to ask for the passphrase" in output


def test_a_file_that_is_there_is_replaced_only_when_said(home, found):
    (home / "out").write_text("precious")
    code, output = _call("export", home / "out")
    assert (code, (home / "out").read_text()) == (1, "precious")
    assert "exists already" in output
    assert _call("export", home / "out", "--force")[0] == 0
    assert exchange.read(home / "out", "local", PASSPHRASE).secrets == found


def test_a_folder_keeps_its_mode(home, found):
    folder = home / "shared"
    folder.mkdir()
    folder.chmod(0o755)
    assert _call("export", folder / "out")[0] == 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert _call("export", home / "missing" / "out")[0] == 1


def test_there_must_be_something_to_export(home):
    code, output = _call("export", home / "out")
    assert code == 1
    assert "has no secrets here" in output


def test_a_half_done_rekey_is_not_exported(home, found):
    Vault("local").save(found.model_copy(update={"rekeying": True}))
    code, output = _call("export", home / "out")
    assert code == 1
    assert "re-key" in output


def test_secrets_without_an_id_are_not_exported(home, found):
    Vault("local").save(found.model_copy(update={"id": ""}))
    code, output = _call("export", home / "out")
    assert code == 1
    assert "Run `testbed up` once" in output


def test_a_second_administrator_gets_the_secrets_and_a_password_of_their_own(home, file, found, second):
    first_password = (home / "first/testbed/local/vault-password").read_bytes()
    second()
    code, output = _call("import", file)
    assert code == 0, output
    assert "secrets of testbed local" in output
    assert Vault("local").load() == found
    assert (home / "second/testbed/local/vault-password").read_bytes() != first_password
    before = (home / "second/testbed/local/secrets.yml").read_bytes()
    code, output = _call("import", file)
    assert code == 0
    assert "nothing was changed" in output
    assert (home / "second/testbed/local/secrets.yml").read_bytes() == before


def test_the_passphrase_may_come_from_a_file(home, file, found, second):
    second()
    (home / "passphrase").write_text(PASSPHRASE + "\n")
    assert _call("import", file, "--passphrase-file", home / "passphrase", **{PASSPHRASE_VARIABLE: "no"})[0] == 0
    assert Vault("local").load() == found


@pytest.mark.parametrize("verb", [["secrets", "import", "FILE"], ["version"]])
def test_the_passphrase_leaves_the_environment_whatever_the_verb(file, second, monkeypatch, verb):
    second()
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    main([str(file) if word == "FILE" else word for word in verb], standalone_mode=False)
    assert PASSPHRASE_VARIABLE not in os.environ


def test_other_secrets_are_kept_when_they_are_replaced(file, found, second):
    second()
    other = Vault("local").ensure(spec.load(None))
    code, output = _call("import", file)
    assert code == 1
    assert "other secrets of this testbed" in output
    assert "--replace" in output
    assert Vault("local").load() == other
    assert _call("import", file, "--replace")[0] == 0
    vault = Vault("local")
    assert vault.load() == found
    [kept] = vault.path.parent.glob("secrets.yml.replaced-*")
    vault.path = kept
    assert vault.load() == other


def test_an_unreadable_vault_is_kept_when_it_is_replaced(file, found, second):
    second()
    vault = Vault("local")
    vault.ensure(spec.load(None))
    before = vault.path.read_bytes()
    (vault.path.parent / "vault-password").unlink()
    code, output = _call("import", file)
    assert code == 1
    assert "cannot be opened" in output
    assert vault.path.read_bytes() == before
    assert _call("import", file, "--replace")[0] == 0
    assert Vault("local").load() == found
    [kept] = vault.path.parent.glob("secrets.yml.unreadable-*")
    assert kept.read_bytes() == before


def test_secrets_of_another_testbed_are_refused(home, found, second):
    exchange.write(home / "theirs", "theirs", found, PASSPHRASE)
    second()
    code, output = _call("import", home / "theirs")
    assert code == 1
    assert "holds the secrets of testbed theirs, and this is testbed local" in output
    assert not Vault("local").exists


@pytest.mark.parametrize("passphrase", ["", "another passphrase"])
def test_a_wrong_passphrase_is_said(file, second, passphrase):
    second()
    code, output = _call("import", file, **{PASSPHRASE_VARIABLE: passphrase})
    assert code == 1
    assert "the passphrase does not open it, or the file is damaged" in output
    assert not Vault("local").exists


def _whole_or_refused(path, data, found):
    path.write_bytes(data)
    try:
        read = exchange.read(path, "local", PASSPHRASE)
    except SecretsError as error:
        return error.message.startswith(str(path))
    return read.secrets == found  # a bit that says nothing, such as the case of a digit


def test_a_flipped_bit_or_a_missing_end_never_changes_a_secret(home, file, found):
    data, path = file.read_bytes(), home / "damaged"
    # each place of the header; then some of salt, checksum and content
    for place in [*range(24), *range(24, len(data), max(1, len(data) // 40))]:
        for bit in (0, 5):
            flipped = data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]
            assert _whole_or_refused(path, flipped, found), (place, bit)
    for length in [*range(24), *range(24, len(data) - 1, max(1, len(data) // 20))]:
        path.write_bytes(data[:length])
        with pytest.raises(SecretsError):
            exchange.read(path, "local", PASSPHRASE)


def test_a_vault_that_holds_something_else_is_said(home):
    (home / "other").write_bytes(secrets.encrypt("a: b\n", PASSPHRASE.encode()))
    with pytest.raises(SecretsError, match="holds no secrets of a testbed"):
        exchange.read(home / "other", "local", PASSPHRASE)
