"""Every `./testbed` command that README, docs and `--help` show exists; tests/integration/docs runs them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from provision.cli import main
from provision.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)


def _verbs(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _verbs(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


VERBS = dict(_verbs(main))


def _commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.splitlines():
                words = re.sub(r"^\w+=(\$\(.*?\)|\S+) ", "", line).strip()
                if words.startswith("./testbed "):
                    yield page.name, words


@pytest.fixture
def understand(tmp_path, monkeypatch):
    """Have a command's words parsed, in a folder that has the files they name, and return its verb and parameters."""
    monkeypatch.chdir(tmp_path)

    def parse(command: str) -> tuple[str, dict[str, object]]:
        words = [word for word in shlex.split(command, comments=True)[1:] if ">" not in word]
        words = [Path(word).name if word.startswith("~/") else word for word in words]
        verb, names = main, []
        while isinstance(verb, click.Group):
            name, *words = words
            names.append(name)
            verb = verb.commands[name]
        for word in words:
            if not word.startswith("-") and "/" not in word:
                Path(word).touch()
        with verb.make_context(" ".join(names), words) as context:
            return context.info_name, context.params

    return parse


@pytest.mark.parametrize(("page", "command"), list(_commands()))
def test_a_documented_command_is_understood(page, command, understand):
    understand(command)


def test_a_command_below_a_group_is_understood_or_refused(understand):
    verb, parameters = understand("testbed secrets export lab.vault --force")
    assert (verb, parameters["file"], parameters["force"]) == ("secrets export", Path("lab.vault"), True)
    with pytest.raises(click.UsageError):
        understand("testbed secrets export lab.vault --fierce")


def test_the_readme_begins_with_the_two_commands_of_a_newcomer():
    first = BLOCK.search((ROOT / "README.md").read_text()).group(1).splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["./testbed up --yes", "./testbed test"]


def _examples() -> Iterator[tuple[str, str]]:
    """The examples of every verb's help; what follows two blanks explains, and what follows a bar is the shell's."""
    for name, verb in VERBS.items():
        for line in (verb.help or "").splitlines():
            if line.strip().startswith("testbed "):
                yield name, re.split(r"  +|\||>", line.strip())[0]


@pytest.mark.parametrize(("verb", "command"), list(_examples()))
def test_an_example_of_the_help_is_understood(verb, command, understand):
    assert understand(command)[0] == verb


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_is_documented_and_has_help(verb):
    text = "".join(page.read_text() for page in PAGES if "reference" not in page.parts)
    assert re.search(rf"testbed {verb}\b", text)
    assert VERBS[verb].help
