"""What the package says it needs is what it is tested with, and the changelog has a place for what comes."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from provision import version
from provision.paths import ROOT


def _pins(name):
    text = (ROOT / "requirements" / name).read_text()
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


def test_the_locks_are_within_the_ranges_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for wanted in map(Requirement, project["dependencies"]):
        for lock in ("cli.txt", "dev.txt"):
            version = _pins(lock)[canonicalize_name(wanted.name)]
            assert version in wanted.specifier, f"{lock}: {wanted} does not allow {version}"
            assert len(wanted.specifier) > 0


def test_development_and_command_have_the_same_versions():
    development = _pins("dev.txt")
    assert {name: development.get(name) for name in _pins("cli.txt")} == _pins("cli.txt")


def test_the_changelog_has_an_entry_for_what_comes_and_for_the_release_that_this_is():
    text = (ROOT / "CHANGELOG.md").read_text()
    entries = dict(re.findall(r"^## \[([^]]+)\].*\n((?:(?!## ).*\n)*)", text, re.MULTILINE))
    assert next(iter(entries)) == "Unreleased"
    found = version.find()
    current = found if re.fullmatch(r"[0-9.]+", found) else "Unreleased"
    assert re.search(r"^- ", entries[current], re.MULTILINE), f"CHANGELOG.md says nothing about {current}"
