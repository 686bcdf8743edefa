"""Every `./testbed` command and every setting that README and docs show exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from pydantic import BaseModel

from provision import spec
from provision.cli import main
from provision.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.splitlines():
                words = re.sub(r"^\w+=\S+ ", "", line).strip()
                if words.startswith("./testbed "):
                    yield page.name, words


@pytest.mark.parametrize(("page", "command"), list(_commands()))
def test_a_documented_command_is_understood(page, command, monkeypatch):
    words = shlex.split(command, comments=True)[1:]
    words = [word for word in words if word != "~/vault-password"]
    if "--vault-password-file" in words:
        words.insert(words.index("--vault-password-file") + 1, str(ROOT / "README.md"))
    verb = main.commands[words[0]]
    with verb.make_context(words[0], words[1:]) as context:
        assert isinstance(context, click.Context)


def test_the_readme_begins_with_the_two_commands_of_a_newcomer():
    first = BLOCK.search((ROOT / "README.md").read_text()).group(1).splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["./testbed up --yes", "./testbed test"]


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        found = spec._models(field.annotation)
        yield name
        for below in found:
            yield from _keys(below, f"{prefix}{name}.")


def test_every_setting_is_documented():
    text = (ROOT / "docs" / "administrator.md").read_text()
    said = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]*)`", text))))
    assert set(_keys(spec.Testbed)) - said == set()


@pytest.mark.parametrize("verb", sorted(main.commands))
def test_every_verb_is_documented_and_has_help(verb):
    assert any(re.search(rf"testbed {verb}\b", page.read_text()) for page in PAGES) or verb == "version"
    assert main.commands[verb].help
