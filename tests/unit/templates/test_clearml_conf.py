"""templates/clearml.conf.j2 against the HOCON parser that the ClearML SDK reads clearml.conf with."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
from clearml.utilities.pyhocon import ConfigFactory, ConfigTree
from hypothesis import example, given, settings
from hypothesis import strategies as st

from provision import inventory, spec

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pyparsing, which the SDK's parser calls

TEMPLATES = Path(__file__).parents[3] / "templates"
# Ansible trims the newline after a block and keeps the last one; plain jinja2 does neither
ENVIRONMENTS = [
    jinja2.Environment(  # noqa: S701 (what it renders is no HTML)
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=as_ansible,
        keep_trailing_newline=as_ansible,
    )
    for as_ansible in (False, True)
]
USER = {
    "api_url": "https://api.example.org",
    "web_url": "https://app.example.org",
    "files_url": "https://files.example.org",
    "access_key": "KEY",
    "secret_key": "SECRET",
}
AGENT = {
    "worker_id": "host:default",
    "worker_name": "host",
    "pip_version": "<=26.0.1",
    "venvs_dir": "/data/builds",
    "cache_dir": "/data/cache",
    "venvs_cache_entries": 10,
    "venvs_cache_free_gb": 2,
}
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def render(conf: dict[str, Any]) -> str:
    texts = {environment.get_template("clearml.conf.j2").render(conf=conf) for environment in ENVIRONMENTS}
    assert len(texts) == 1, "Ansible and Python render different files"
    return texts.pop()


def parse(conf: dict[str, Any]) -> ConfigTree:
    return ConfigFactory.parse_string(render(conf))


@settings(deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys([*USER, "ca_file"], ANY_TEXT)))
@example(dict.fromkeys([*USER, "ca_file"], 'a"b\\"c\\nd\\'))
@example(dict.fromkeys([*USER, "ca_file"], "${HOME} # } , = [x] //y\ttab\r\n"))
@example(dict.fromkeys([*USER, "ca_file"], "true"))
@example(dict.fromkeys([*USER, "ca_file"], "10 days"))
@example(dict.fromkeys([*USER, "ca_file"], '"""'))
def test_a_user_reads_back_every_value_as_it_was(conf: dict[str, str]) -> None:
    api = parse(conf)["api"]
    assert {
        "api_url": api["api_server"],
        "web_url": api["web_server"],
        "files_url": api["files_server"],
        "access_key": api["credentials"]["access_key"],
        "secret_key": api["credentials"]["secret_key"],
        "ca_file": api["verify_certificate"],
    } == conf


@settings(deadline=None)
@given(st.fixed_dictionaries({key: ANY_TEXT for key, value in AGENT.items() if isinstance(value, str)}))
def test_an_agent_reads_back_every_value_as_it_was(texts: dict[str, str]) -> None:
    agent = parse({**USER, "agent": {**AGENT, **texts}})["agent"]
    assert {key: agent[key] for key in ("worker_id", "worker_name", "venvs_dir")} == {
        key: texts[key] for key in ("worker_id", "worker_name", "venvs_dir")
    }
    assert agent["package_manager"]["pip_version"] == texts["pip_version"]
    assert agent["venvs_cache"]["path"] == texts["cache_dir"] + "/venvs"
    assert agent["vcs_cache"]["path"] == texts["cache_dir"] + "/vcs"


def test_the_sdks_file_transfers_trust_the_same_ca() -> None:
    assert parse({**USER, "ca_file": "/ca.pem"})["sdk"]["api"]["verify_certificate"] == "/ca.pem"
    assert parse(USER)["sdk"]["api"]["verify_certificate"] is True


def test_a_ca_in_the_home_is_found_in_whichever_home_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    conf = parse({**USER, "ca_name": "clearml-lab-ca.pem"})
    assert conf["api"]["verify_certificate"] == "/home/ada/clearml-lab-ca.pem"
    assert conf["sdk"]["api"]["verify_certificate"] == "/home/ada/clearml-lab-ca.pem"


def test_without_a_ca_file_the_certificate_is_still_checked() -> None:
    assert parse(USER)["api"]["verify_certificate"] is True


def test_a_user_has_no_agent_section() -> None:
    assert "agent" not in parse(USER)


@pytest.mark.parametrize("conf", [USER, {**USER, "agent": AGENT}], ids=["user", "agent"])
def test_pickles_are_neither_made_nor_loaded(conf: dict[str, Any]) -> None:
    sdk = parse(conf)["sdk"]
    assert sdk["storage.block_pickled_artifacts"] is True
    assert sdk["development.artifacts.auto_pickle"] is False


def test_data_under_another_url_of_the_file_server_are_looked_for_where_it_is_now() -> None:
    former = ["https://files.example.org:8081", "http://old.example.org:8081"]
    for conf in (USER, {**USER, "agent": AGENT}):
        rules = parse({**conf, "former_files_urls": former})["sdk"]["storage.path_substitution"]
        assert rules == [{"registered_prefix": url, "local_prefix": USER["files_url"]} for url in former]
        for none in (conf, {**conf, "former_files_urls": []}):
            assert parse(none)["sdk"]["storage.path_substitution"] == []


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        ("http://lab.example:8081/a%20b/c", "https://lab.example:8081/a%20b/c"),
        ("https://lab.example:8081/a", "https://lab.example:8081/a"),
        ("https://lab.example/a", "https://lab.example:8081/a"),
        ("https://elsewhere.example/a", "https://elsewhere.example/a"),
        ("http://lab.example:9000/a", "http://lab.example:9000/a"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("https://lab.example", "https://lab.example:8081"),
    ],
)
def test_the_sdk_finds_by_the_rules_what_is_the_file_servers_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, stored: str, found: str
) -> None:
    from clearml.storage.helper import _StorageHelper

    server = spec.Server.model_validate({"host": "lab.example", "tls": {}})
    now = server.url("files")
    former = inventory.former_files_urls(server, ["https://lab.example", "http://lab.example:8081"])
    rules = parse({**USER, "files_url": now, "former_files_urls": former})["sdk"]["storage.path_substitution"]
    known = [
        _StorageHelper._PathSubstitutionRule(rule["registered_prefix"], rule["local_prefix"], False, False)
        for rule in rules
    ]
    monkeypatch.setattr(_StorageHelper, "_path_substitutions", known)
    assert _StorageHelper._apply_url_substitutions(stored) == found


def test_the_cache_of_environments_is_on_and_bounded() -> None:
    cache = parse({**USER, "agent": AGENT})["agent"]["venvs_cache"]
    assert (cache["max_entries"], cache["free_space_threshold_gb"]) == (10, 2)


@pytest.mark.parametrize("missing", USER)
def test_a_missing_value_is_an_error(missing: str) -> None:
    with pytest.raises(jinja2.UndefinedError, match=missing):
        render({key: value for key, value in USER.items() if key != missing})


def test_the_first_line_tells_whose_file_it_is() -> None:
    header = "# Written by the ClearML testbed toolkit, which overwrites changes made here."
    assert render(USER).splitlines()[0] == header
    assert render(USER).endswith("}\n")


def test_ansible_renders_the_same_file_as_python(tmp_path: Path) -> None:
    odd = 'a"b\\c\\n $HOME # ${HOME} \t\n'
    conf = {**dict.fromkeys([*USER, "ca_file"], odd), "former_files_urls": [odd, odd], "agent": AGENT}
    variables, rendered = tmp_path / "variables.json", tmp_path / "clearml.conf"
    variables.write_text(json.dumps({"conf": conf}))
    command = [sys.executable, "-m", "ansible", "adhoc", "localhost", "--module-name", "ansible.builtin.template"]
    command += ["--args", f"src={TEMPLATES / 'clearml.conf.j2'} dest={rendered}", "--extra-vars", f"@{variables}"]
    subprocess.run(
        command, check=True, cwd=tmp_path, env={**os.environ, "ANSIBLE_HOME": str(tmp_path)}, capture_output=True
    )
    assert rendered.read_text() == render(conf)
