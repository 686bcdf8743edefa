"""A backup is refused, unless it is whole, of this testbed, and not newer than what is here."""

from __future__ import annotations

import json
import stat
import subprocess
from types import SimpleNamespace

import pytest

from provision import archive, backup, deploy, secrets, spec
from provision.archive import BackupError, Here, Manifest
from provision.paths import backups_dir, state_dir
from provision.secrets import KeyPair, Vault

MANIFEST = Manifest(
    format=archive.FORMAT,
    testbed="lab",
    id="an-id",
    made="2026-11-22T22:00:00Z",
    toolkit="0.1.0",
    backend="lite",
    server="0.1.0",
    data_version=1,
    bytes=3,
    files=1,
    downtime=1.5,
)
HERE = Here("lab", "lite", "0.1.0", 1)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE, raising=False)


@pytest.fixture
def whole(tmp_path):
    """A backup with all its parts."""
    with archive.begun(tmp_path / "backups", "lab", "first") as partial:
        for name in archive.PARTS:
            (partial / name).write_bytes(f"content of {name}".encode() * 100)
        (partial / archive.MANIFEST).write_text(MANIFEST.model_dump_json())
        archive.write_sums(partial, {})
    return tmp_path / "backups" / "first"


def test_a_backup_is_read_as_it_was_written(whole):
    assert archive.read(whole) == MANIFEST


def test_its_checksums_are_those_of_sha256sum(whole):
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=whole, check=True)


@pytest.mark.parametrize("name", archive.PARTS)
def test_a_part_that_was_altered_is_refused(whole, name):
    content = bytearray((whole / name).read_bytes())
    content[len(content) // 2] ^= 1
    (whole / name).write_bytes(content)
    with pytest.raises(BackupError, match="altered|damaged"):
        archive.read(whole)


@pytest.mark.parametrize("name", archive.PARTS)
def test_a_part_that_is_cut_off_is_refused(whole, name):
    (whole / name).write_bytes((whole / name).read_bytes()[:-1])
    with pytest.raises(BackupError, match="cut off|damaged"):
        archive.read(whole)


@pytest.mark.parametrize("name", [*archive.PARTS, archive.SUMS])
def test_a_backup_without_one_of_its_parts_is_refused(whole, name):
    (whole / name).unlink()
    with pytest.raises(BackupError, match="missing|is no backup"):
        archive.read(whole)


@pytest.mark.parametrize("content", ["", "nonsense\n", "0" * 64 + "  manifest.json\n"])
def test_a_backup_whose_checksums_are_damaged_is_refused(whole, content):
    (whole / archive.SUMS).write_text(content)
    with pytest.raises(BackupError, match="missing or damaged"):
        archive.read(whole)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "x"}', "\0"])
def test_a_manifest_that_is_none_is_refused(whole, content):
    (whole / archive.MANIFEST).write_text(content)
    with pytest.raises(BackupError, match="is damaged"):
        archive.read(whole)


def test_a_backup_of_a_newer_format_is_refused_with_the_toolkit_that_made_it(whole):
    newer = {"format": archive.FORMAT + 1, "toolkit": "9.1.0", "something": "else"}
    (whole / archive.MANIFEST).write_text(json.dumps(newer))
    with pytest.raises(BackupError, match=r"newer toolkit \(9.1.0\)"):
        archive.read(whole)


@pytest.mark.parametrize(
    ("manifest", "here", "said"),
    [
        ({}, {}, None),
        ({"data_version": 1}, {"data_version": 2}, None),
        ({"server": "0.0.9"}, {}, None),
        ({"data_version": 2}, {}, "is newer than what is here"),
        ({"server": "0.1.1"}, {}, "is newer than what is here"),
        ({"testbed": "other"}, {}, "is of testbed other, and this is testbed lab"),
        ({"backend": "docker"}, {}, "backend docker, and testbed.yaml says lite"),
        ({"backend": "docker", "server": "2.4.0"}, {"backend": "docker", "server": "2.4.0"}, None),
        (
            {"backend": "docker", "server": "2.3.0"},
            {"backend": "docker", "server": "2.4.0"},
            "is of server 2.3.0, and testbed.yaml says 2.4.0",
        ),
        (
            {"elsewhere": ("mongo",)},
            {},
            r"with MongoDB \(tasks, models, users\) elsewhere, and testbed.yaml names no store",
        ),
        ({}, {"elsewhere": ("redis", "mongo")}, "with no store elsewhere, and testbed.yaml names Redis"),
        ({"elsewhere": ("mongo", "redis")}, {"elsewhere": ("redis", "mongo")}, None),
        ({"server": "0.10.0"}, {"server": "0.9.1"}, "is newer than what is here: 0.9.1"),
    ],
)
def test_what_is_restored_where(manifest, here, said):
    found = MANIFEST.model_copy(update=manifest)
    wanted = Here(**{**vars(HERE), **here})
    if said is None:
        archive.refuse_unfit(found, wanted)
    else:
        with pytest.raises(BackupError, match=said) as caught:
            archive.refuse_unfit(found, wanted)
        assert "nothing was changed" in caught.value.remedy


def test_a_backup_has_its_name_only_when_it_is_whole(tmp_path):
    at_work = archive.begun(tmp_path / "backups", "lab", "x")
    partial = at_work.__enter__()
    assert stat.S_IMODE(partial.stat().st_mode) == 0o700
    (partial / archive.DATA).write_text("half")
    assert [path.name for path in (tmp_path / "backups").iterdir()] == [".lab.x.partial"]
    at_work.__exit__(RuntimeError, RuntimeError(), None)
    assert list((tmp_path / "backups").iterdir()) == []
    assert stat.S_IMODE((tmp_path / "backups").stat().st_mode) == 0o700


def test_what_a_killed_backup_left_goes_and_another_testbeds_stays(tmp_path):
    for name in (".lab.old.partial", ".other.old.partial", "lab-old"):
        (tmp_path / name).mkdir()
    with archive.begun(tmp_path, "lab", "x"):
        pass
    assert {path.name for path in tmp_path.iterdir() if "old" in path.name} == {".other.old.partial", "lab-old"}


def test_a_backup_that_is_there_is_not_replaced(whole):
    with pytest.raises(BackupError, match="exists already"), archive.begun(whole.parent, "lab", "first"):
        pass
    assert archive.read(whole) == MANIFEST


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "-x", "a b"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(BackupError, match="is no name for a backup"):
        archive.refuse_name(name)


def test_a_name_carries_the_testbed_and_the_time():
    name = archive.default_name("lab", 1_795_000_000.0)
    archive.refuse_name(name)
    assert name == "lab-20261118-110640"


def test_backups_are_not_where_down_purge_removes():
    assert state_dir("lab") not in backups_dir("lab").parents


def test_another_backup_has_another_id(whole):
    before = archive.short_id(whole)
    (whole / archive.SUMS).write_text("other")
    assert len(before) == 12
    assert archive.short_id(whole) != before


def test_a_backup_is_found_by_path_or_name_and_one_that_is_not_there_says_which_are(whole):
    assert backup.find("lab", str(whole)) == whole
    backups_dir("lab").parent.mkdir(parents=True)
    whole.parent.rename(backups_dir("lab"))
    assert archive.read(backup.find("lab", "first")) == MANIFEST
    with pytest.raises(BackupError, match="there is no such backup") as caught:
        backup.find("lab", "second")
    assert caught.value.remedy.endswith("are: first.")


def test_the_server_here_is_the_one_that_the_toolkit_carries():
    found = backup.here(spec.load(None))
    assert found == Here("local", "lite", found.server, found.data_version)
    assert archive.numbers(found.server) > (0,)
    assert found.data_version >= 1


@pytest.fixture
def sealed(tmp_path):
    """The secrets' part of a backup."""
    vault = Vault("local")
    found = vault.ensure(spec.load(None))
    (tmp_path / archive.SECRETS).write_bytes(vault.path.read_bytes())
    key = KeyPair(access_key="ACCESS", secret_key="secret")
    held = json.dumps({"user/alice": key.model_dump()})
    (tmp_path / archive.KEYS).write_bytes(vault.encrypt(held))
    return tmp_path, found, {"user/alice": key}


def test_the_secrets_of_a_backup_open_with_the_vaults_password(sealed):
    folder, found, keys = sealed
    assert backup.open_secrets(folder, Vault("local"), spec.load(None), None) == backup.Opened(found, keys)


def test_after_a_purge_they_open_with_the_password_of_then(sealed, tmp_path):
    folder, found, keys = sealed
    old = tmp_path / "old-password"
    Vault("local").path.with_name("vault-password").rename(old)
    Vault("local").path.unlink()
    Vault("local").ensure(spec.load(None))  # a new testbed
    with pytest.raises(BackupError, match="the vault password does not open it") as caught:
        backup.open_secrets(folder, Vault("local"), spec.load(None), None)
    assert "--backup-password-file" in caught.value.remedy
    assert backup.open_secrets(folder, Vault("local"), spec.load(None), old) == backup.Opened(found, keys)


def test_secrets_that_came_up_since_are_added_to_those_of_a_backup(sealed):
    folder, found, _ = sealed
    vault = Vault("local")
    earlier = secrets.plain(found)
    del earlier["clearml"]["webserver"]
    (folder / archive.SECRETS).write_bytes(vault.encrypt(json.dumps(earlier)))
    opened = backup.open_secrets(folder, vault, spec.load(None), None).secrets
    assert opened.clearml.webserver != found.clearml.webserver
    assert opened.model_copy(update={"clearml": found.clearml}) == found


def test_secrets_of_a_newer_toolkit_are_refused(sealed):
    folder, found, _ = sealed
    vault = Vault("local")
    (folder / archive.SECRETS).write_bytes(vault.encrypt(json.dumps({**secrets.plain(found), "later": 1})))
    with pytest.raises(BackupError, match="holds secrets of another version"):
        backup.open_secrets(folder, vault, spec.load(None), None)


def test_while_a_restore_goes_on_the_keys_of_then_count(sealed, tmp_path):
    _, found, keys = sealed
    vault = Vault("local")
    restoring = found.model_copy(update={"restoring": secrets.Restoring(id="abc", keys=keys)})
    vault.save(restoring)
    assert vault.load() == restoring
    assert restoring.changing == "restore"
    session = SimpleNamespace(work=tmp_path)
    conf = tmp_path / "held/local/user__alice.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text('api.credentials {"access_key" = "NEW", "secret_key" = "new"}')
    assert deploy._held(session, restoring)["user/alice"] == keys["user/alice"]
