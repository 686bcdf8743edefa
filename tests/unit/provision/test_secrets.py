"""The vault: generated once, encrypted, private, and never changed behind anybody's back."""

from __future__ import annotations

import base64
import stat

import bcrypt
import pytest

from provision import secrets, spec
from provision.errors import SecretsError
from provision.secrets import KeyPair, Vault


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


def test_secrets_have_an_id_of_their_own_that_stays(testbed):
    one, other = Vault("local").ensure(testbed), Vault("other").ensure(testbed)
    assert one.id
    assert one.id != other.id
    assert Vault("local").ensure(testbed).id == one.id


def test_a_vault_from_before_there_were_ids_gets_one_and_keeps_its_secrets(testbed):
    vault = Vault("local")
    made = vault.ensure(testbed)
    vault.save(made.model_copy(update={"id": ""}))
    assert vault.load().id == ""
    after = vault.ensure(testbed)
    assert after.id
    assert after.model_copy(update={"id": made.id}) == made


def _values(found):
    if isinstance(found, dict):
        return {text for value in found.values() for text in _values(value)}
    return {found} if isinstance(found, str) else set()


def test_a_rekey_replaces_everything_and_says_so_until_it_is_done(testbed):
    vault = Vault("local")
    before = vault.ensure(testbed)
    aside = vault.rekey(testbed)
    after = vault.load()
    assert _values(before.model_dump()) & _values(after.model_dump()) == set()
    assert after.rekeying
    assert after.toolkit is None
    assert vault.ensure(testbed) == after
    vault.path = aside
    assert vault.load() == before, "nothing is lost, should the re-key be refused"


def test_a_rekey_that_was_begun_goes_on_with_the_same_secrets(testbed):
    Vault("local").rekey(testbed)
    begun = Vault("local").load()
    assert Vault("local").rekey(testbed) is None
    assert Vault("local").load() == begun


def test_a_rekey_without_a_vault_makes_one(testbed):
    Vault("local").rekey(testbed)
    assert Vault("local").load().rekeying


def test_a_rekey_moves_a_vault_aside_whose_password_is_lost(testbed, home):
    Vault("local").ensure(testbed)
    before = (home / "secrets.yml").read_bytes()
    (home / "vault-password").unlink()
    aside = Vault("local").rekey(testbed)
    assert aside.name.startswith("secrets.yml.unreadable-")
    assert aside.read_bytes() == before
    assert Vault("local").load().rekeying


def test_a_rekey_with_a_password_that_cannot_be_used_moves_nothing(tmp_path, testbed, home):
    Vault("local").ensure(testbed)
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(SecretsError, match="password is empty"):
        Vault("local", empty).rekey(testbed)
    assert sorted(path.name for path in home.iterdir()) == ["secrets.yml", "vault-password"]


def test_a_rotation_replaces_whatever_anybody_logs_in_with(testbed):
    vault = Vault("local")
    before = vault.ensure(testbed)
    vault.save(before.model_copy(update={"toolkit": KeyPair(access_key="A" * 20, secret_key="S" * 20)}))
    aside = vault.rotate(testbed, "all")
    after = vault.load()
    assert _values(before.model_dump()) & _values(after.model_dump()) == set()
    assert (after.rotating, after.toolkit, after.keys_are_new) == ("all", None, True)
    assert vault.ensure(testbed) == after
    vault.path = aside
    assert vault.load().clearml == before.clearml


def test_a_rotation_of_tokens_replaces_what_signs_them_and_nothing_else(testbed):
    vault = Vault("local")
    before = vault.ensure(testbed)
    vault.rotate(testbed, "tokens")
    after = vault.load()
    assert (after.rotating, after.keys_are_new) == ("tokens", False)
    assert after.id != before.id, "whoever still has the old ones is told"
    signs = {"token_secret", "session_secret"}
    assert {name for name, value in after.clearml if value != getattr(before.clearml, name)} == signs
    same = {"users", "influxdb", "toolkit"}
    assert after.model_dump(include=same) == before.model_dump(include=same)


@pytest.mark.parametrize(("begun", "asked"), [("all", "all"), ("tokens", "tokens"), ("all", "tokens")])
def test_a_rotation_that_was_begun_goes_on_with_the_same_secrets(testbed, begun, asked):
    Vault("local").ensure(testbed)
    Vault("local").rotate(testbed, begun)
    before = Vault("local").load()
    assert Vault("local").rotate(testbed, asked) is None
    assert Vault("local").load() == before


def test_a_rotation_of_tokens_that_was_begun_does_not_stand_in_for_one_of_all(testbed):
    Vault("local").ensure(testbed)
    Vault("local").rotate(testbed, "tokens")
    tokens = Vault("local").load()
    assert Vault("local").rotate(testbed, "all")
    assert _values(tokens.model_dump()) & _values(Vault("local").load().model_dump()) == set()


def test_a_rekey_that_was_begun_is_not_weakened_to_a_rotation(testbed):
    Vault("local").rekey(testbed)
    begun = Vault("local").load()
    assert Vault("local").rotate(testbed, "all") is None
    assert Vault("local").load() == begun


@pytest.mark.parametrize("replace", [Vault.rekey, lambda vault, testbed: vault.rotate(testbed, "all")])
def test_killed_before_the_new_secrets_are_written_the_old_ones_are_there(testbed, monkeypatch, replace):
    before = Vault("local").ensure(testbed)

    class KilledError(Exception):
        pass

    def killed(vault, found):
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(Vault, "save", killed)
        with pytest.raises(KilledError):
            replace(Vault("local"), testbed)
    assert Vault("local").load() == before


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
    with pytest.raises(SecretsError) as error:
        Vault("local").load()
    assert "secrets import FILE" in error.value.remedy
    assert "secrets rekey" in error.value.remedy


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe", b"$ANSIBLE_VAULT;1.1;AES256\n00\n"])
def test_a_damaged_vault_is_said_and_not_replaced(testbed, home, content):
    Vault("local").ensure(testbed)
    (home / "secrets.yml").write_bytes(content)
    with pytest.raises(SecretsError):
        Vault("local").ensure(testbed)
    assert (home / "secrets.yml").read_bytes() == content


def test_a_vault_from_before_there_were_some_can_be_read_and_is_completed(home, testbed):
    first = Vault("local").ensure(testbed)
    before = first.clearml.model_copy(update={"tests": None, "redis_password": None})
    Vault("local").save(first.model_copy(update={"clearml": before}))
    assert Vault("local").load().clearml == before
    completed = Vault("local").ensure(testbed).clearml
    assert completed.tests.user_key != completed.webserver.user_key
    assert len(completed.redis_password) > 40
    assert completed.token_secret == before.token_secret
