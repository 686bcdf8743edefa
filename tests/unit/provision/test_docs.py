"""Every `./testbed` command that README, docs and `--help` show exists; tests/integration/docs runs them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from provision.cli import main
from provision.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.splitlines():
                words = re.sub(r"^\w+=(\$\(.*?\)|\S+) ", "", line).strip()
                if words.startswith("./testbed "):
                    yield page.name, words


@pytest.mark.parametrize(("page", "command"), list(_commands()))
def test_a_documented_command_is_understood(page, command):
    words = shlex.split(command, comments=True)[1:]
    words = [str(ROOT / "README.md") if word.startswith("~/") else word for word in words]
    words = [word for word in words if ">" not in word]
    verb = main.commands[words[0]]
    with verb.make_context(words[0], words[1:]) as context:
        assert isinstance(context, click.Context)


def test_the_readme_begins_with_the_two_commands_of_a_newcomer():
    first = BLOCK.search((ROOT / "README.md").read_text()).group(1).splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["./testbed up --yes", "./testbed test"]


def _examples() -> Iterator[tuple[str, str]]:
    """The examples of every verb's help; what follows two blanks explains, and what follows a bar is the shell's."""
    for verb in main.commands.values():
        for line in (verb.help or "").splitlines():
            if line.strip().startswith("testbed "):
                yield verb.name, re.split(r"  +|\||>", line.strip())[0]


@pytest.mark.parametrize(("verb", "command"), list(_examples()))
def test_an_example_of_the_help_is_understood(verb, command):
    words = shlex.split(command)[1:]
    with main.commands[words[0]].make_context(words[0], words[1:]) as context:
        assert context.info_name == verb


@pytest.mark.parametrize("verb", sorted(main.commands))
def test_every_verb_is_documented_and_has_help(verb):
    assert any(re.search(rf"testbed {verb}\b", page.read_text()) for page in PAGES) or verb == "version"
    assert main.commands[verb].help
