"""The URLs that the file server has had: known to the vault, and led to the present one by every conf."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from provision import deploy, inventory, machines, secrets, spec
from provision.secrets import Vault

NAMES = "names: {api: api.lab.example, web: app.lab.example, files: files.lab.example}"
EXTERNAL = """\
{backend: external, credentials_file: /k,
 urls: {api: 'https://c.example/api', web: 'https://c.example', files: 'https://c.example/files'}}"""


def _testbed(server: str) -> spec.Testbed:
    return spec.parse(f"name: lab\nprovider: local\nserver: {server}\nusers: [{{name: ada}}]\n", "t.yaml")


@pytest.fixture
def vault(tmp_path, monkeypatch) -> Vault:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv(secrets.PASSWORD_VARIABLE, raising=False)
    monkeypatch.setattr(secrets, "_user_secret", lambda: {"password": "p", "password_hash": "h"})  # bcrypt takes long
    return Vault("lab")


@pytest.mark.parametrize(
    ("server", "had", "former"),
    [
        ("{tls: {}}", [], ["http://127.0.0.1:8081"]),
        ("{}", [], ["https://127.0.0.1:8081"]),
        ("{host: lab.example, ports: {files: 9081}}", [], ["https://lab.example:9081"]),
        (f"{{host: lab.example, tls: {{{NAMES}}}}}", [], ["http://lab.example:8081"]),
        ("{tls: {}}", ["http://127.0.0.1:8081", "https://127.0.0.1:8081"], ["http://127.0.0.1:8081"]),
        ("{tls: {}}", ["http://old.example:81"], ["http://127.0.0.1:8081", "http://old.example:81"]),
        (
            "{host: files.lab.example, tls: {}}",
            ["https://files.lab.example"],
            ["https://files.lab.example:8081", "http://files.lab.example:8081", "https://files.lab.example"],
        ),
        (EXTERNAL, ["http://127.0.0.1:8081"], []),
    ],
    ids=["TLS came", "TLS went", "its port", "three names", "known", "another name", "one begins with it", "external"],
)
def test_data_may_carry_what_it_had_and_what_it_has_with_tls_the_other_way(server, had, former):
    assert inventory.former_files_urls(_testbed(server).server, had) == former


def _prepared(vault: Vault, testbed: spec.Testbed, tmp_path) -> dict[str, Any]:
    from rich.console import Console

    from provision.session import Session

    session = Session(testbed, vault, Console(quiet=True), tmp_path, tmp_path, tmp_path / "log")
    session.machines = machines.local("root")
    session.__dict__["inventory"] = {}
    return deploy._prepare(session)[1]


def test_playbooks_are_told_the_urls_that_the_vault_knows(vault, tmp_path):
    testbed = _testbed("{}")
    found = vault.ensure(testbed)
    vault.save(found.model_copy(update={"files_urls": ["http://old.example:8081"]}))
    told = _prepared(vault, testbed, tmp_path)["clearml_conf_former_files_urls"]
    assert told == ["http://old.example:8081", "https://127.0.0.1:8081"]


def test_each_url_is_kept_once_in_the_order_in_which_they_came(vault):
    found = vault.ensure(_testbed("{}"))
    for server in ("{}", "{tls: {}}", "{}", EXTERNAL):
        found = found.model_copy(update={"files_urls": deploy._files_urls(_testbed(server), found)})
    assert found.files_urls == ["http://127.0.0.1:8081", "https://127.0.0.1:8081"]
    vault.save(found)
    assert vault.load().files_urls == found.files_urls


@pytest.mark.parametrize(
    "replace",
    [Vault.rekey, lambda vault, testbed: vault.rotate(testbed, "all"), lambda vault, testbed: vault.ensure(testbed)],
    ids=["rekey", "rotate", "ensure"],
)
def test_new_secrets_know_the_same_urls(vault, replace):
    testbed = _testbed("{}")
    vault.save(vault.ensure(testbed).model_copy(update={"files_urls": ["http://old.example:8081"]}))
    replace(vault, testbed)
    assert vault.load().files_urls == ["http://old.example:8081"]


def test_a_backup_brings_them_along(vault):
    testbed = _testbed("{}")
    found = vault.ensure(testbed).model_copy(update={"files_urls": ["http://old.example:8081"]})
    assert vault.completed(secrets.plain(found), testbed).files_urls == ["http://old.example:8081"]


def test_urls_are_no_secret_and_roles_get_them_in_clear(vault):
    found = vault.ensure(_testbed("{}")).model_copy(update={"files_urls": ["http://old.example:8081"]})
    assert "files_urls" not in deploy._secret_variables(_testbed("{}"), found, None)["testbed_secrets"]


def test_up_keeps_the_url_before_anybody_is_told_of_it(vault, tmp_path, monkeypatch):
    testbed, played = _testbed("{}"), []

    def play(session, name, *_):
        played.append((name, vault.load().files_urls))
        return SimpleNamespace(changed=0)

    monkeypatch.setattr(deploy, "play", play)
    monkeypatch.setattr(deploy.identities, "of", lambda *_: [])
    key = SimpleNamespace(key=secrets.KeyPair(access_key="a", secret_key="b"), issued=0, revoked=0)  # noqa: S106
    monkeypatch.setattr(deploy.ensure, "ensure_all", lambda *_: {deploy.identities.TOOLKIT: key})
    monkeypatch.setattr(deploy.ensure, "revoke_stale", lambda *_: 0)
    from rich.console import Console

    from provision.session import Session

    vault.ensure(testbed)
    session = Session(testbed, vault, Console(quiet=True), tmp_path, tmp_path, tmp_path / "log")
    session.machines = machines.local("root")
    session.__dict__["inventory"] = {}
    deploy.up(session)
    assert played == [("server", []), ("hosts", ["http://127.0.0.1:8081"])]
