"""The vault: generated once, encrypted, private, and never changed behind anybody's back."""

from __future__ import annotations

import base64
import stat

import bcrypt
import pytest

from provision import secrets, spec
from provision.errors import SecretsError
from provision.secrets import Vault


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE, raising=False)
    return tmp_path / "testbed" / "local"


@pytest.fixture
def testbed():
    return spec.load(None)


def test_secrets_are_generated_once(testbed):
    first = Vault("local").ensure(testbed)
    assert Vault("local").ensure(testbed) == first
    assert Vault("local").load() == first


def test_files_are_private_and_encrypted(home, testbed):
    found = Vault("local").ensure(testbed)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()} == {0o600}
    text = (home / "secrets.yml").read_text()
    assert text.startswith("$ANSIBLE_VAULT;1.1;AES256")
    assert found.clearml.token_secret not in text


def test_a_second_testbed_has_other_secrets(testbed):
    one, other = Vault("local").ensure(testbed), Vault("other").ensure(testbed)
    assert one.clearml != other.clearml
    assert one.influxdb != other.influxdb


def test_a_new_user_gets_a_password_and_nobody_elses_changes(testbed):
    before = Vault("local").ensure(testbed)
    more = testbed.model_copy(update={"users": (*testbed.users, spec.User(name="newcomer"))})
    after = Vault("local").ensure(more)
    assert set(after.users) - set(before.users) == {"newcomer"}
    assert all(after.users[name] == before.users[name] for name in before.users)
    assert after.clearml == before.clearml


def test_a_users_hash_is_bcrypt_of_the_password_in_base64(testbed):
    user = Vault("local").ensure(testbed).users["researcher"]
    assert bcrypt.checkpw(user.password.encode(), base64.b64decode(user.password_hash))


def test_the_password_may_come_from_a_file_or_the_environment(tmp_path, testbed, home, monkeypatch):
    password = tmp_path / "password"
    password.write_text("correct horse\n")
    found = Vault("local", password).ensure(testbed)
    assert not (home / "vault-password").exists()
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, "correct horse")
    assert Vault("local").load() == found


def test_the_password_leaves_the_environment(monkeypatch):
    monkeypatch.setenv(secrets.PASSWORD_VARIABLE, "correct horse")
    Vault("local")
    assert secrets.PASSWORD_VARIABLE not in secrets.os.environ


def test_a_wrong_password_is_said_and_changes_nothing(tmp_path, testbed, home):
    Vault("local").ensure(testbed)
    before = (home / "secrets.yml").read_bytes()
    wrong = tmp_path / "wrong"
    wrong.write_text("no")
    with pytest.raises(SecretsError, match="password does not open it"):
        Vault("local", wrong).ensure(testbed)
    assert (home / "secrets.yml").read_bytes() == before


def test_a_lost_password_is_said_and_not_replaced(testbed, home):
    Vault("local").ensure(testbed)
    (home / "vault-password").unlink()
    with pytest.raises(SecretsError, match="vault password cannot be read"):
        Vault("local").ensure(testbed)
    assert not (home / "vault-password").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"$ANSIBLE_VAULT;1.1;AES256\n00\n"])
def test_a_damaged_vault_is_said_and_not_replaced(testbed, home, content):
    Vault("local").ensure(testbed)
    (home / "secrets.yml").write_bytes(content)
    with pytest.raises(SecretsError):
        Vault("local").ensure(testbed)
    assert (home / "secrets.yml").read_bytes() == content
