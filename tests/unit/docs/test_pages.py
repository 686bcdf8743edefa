"""The docs say what is: messages as they are printed, a reference as the code has it, a site that needs nobody."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import yaml

from provision.paths import ROOT

DOCS = ROOT / "docs"
TROUBLE = DOCS / "troubleshooting.md"
LEAST = 7  # shorter pieces of a message are everywhere


def _plain(text: str) -> str:
    return " ".join(text.replace("`", "").split())


def _sources() -> str:
    """All code that prints messages; strings that go on in the next line are joined."""
    files = [ROOT / "testbed", *ROOT.glob("provision/**/*.py"), *ROOT.glob("workload/**/*.py")]
    files += [*ROOT.glob("roles/**/*.py"), *ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("roles/*/vars/*.yml")]
    files += [*ROOT.glob("playbooks/*.yml")]
    files += ROOT.glob("roles/*/templates/*.j2")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(files))
    return _plain(re.sub(r'"\s*\n\s*f?"', "", text))


def _quoted() -> list[str]:
    """The messages in the first column."""
    rows = re.findall(r"^\| `(.+?)` \|", TROUBLE.read_text(encoding="utf-8"), re.MULTILINE)
    return [row for row in rows if row != "message"]


@pytest.fixture(scope="module")
def sources():
    return _sources()


@pytest.mark.parametrize("message", _quoted())
def test_a_quoted_message_is_in_the_code(message, sources):
    pieces = [piece.strip(" .,:;") for piece in _plain(message).split("…")]
    missing = [piece for piece in pieces if piece not in sources]
    assert missing == []
    assert max(map(len, pieces)) >= LEAST or message in ("stopped",)


def _text(node: ast.AST) -> list[str]:
    """The constant pieces of a string expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [piece for value in node.values if isinstance(value, ast.Constant) for piece in _text(value)]
    if isinstance(node, ast.BinOp):
        return [*_text(node.left), *_text(node.right)]
    return []


def _raised() -> list[object]:
    found = []
    for path in sorted((ROOT / "provision").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                name = getattr(node.exc.func, "id", "")
                of_the_spec = name == "ValueError" and path.name == "spec.py"
                pieces = [piece for piece in map(_plain, _text(node.exc.args[0])) if len(piece) >= LEAST]
                if pieces and (of_the_spec or (name.endswith("Error") and name not in ("ValueError", "UsageError"))):
                    longest = max(pieces, key=len).strip(" .,:;`")
                    found.append(pytest.param(longest, id=f"{path.relative_to(ROOT)}:{node.lineno}"))
    return found


@pytest.mark.parametrize("piece", _raised())
def test_a_message_that_a_person_can_meet_is_explained(piece):
    said = [_plain(message) for message in _quoted()]
    pieces = [part.strip(" .,:;") for message in said for part in message.split("…") if len(part) >= LEAST]
    explained = any(piece in message for message in said) or any(part in piece for part in pieces)
    assert explained, f"docs/troubleshooting.md has no row for {piece!r}"


def _generator():
    described = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["testbed-yaml.md", "command.md", "json.md", "roles.md"])
def test_the_reference_is_as_the_code(name):
    wanted = _generator().PAGES[name]()
    assert (DOCS / "reference" / name).read_text(encoding="utf-8") == wanted, "run .venv/bin/python -P docs/generate.py"


def test_every_key_of_testbed_yaml_is_explained():
    generate = _generator()
    schema = generate.Schema(generate.spec.Testbed)
    entries = [entry for _, _, found in schema.sections(schema.root) for entry in found]
    assert len(entries) > 30
    assert [path for path, _, node in entries if not node.get("description")] == [], "say what it is below the field"


def test_every_campaigns_table_is_linked():
    index = (DOCS / "evidence" / "index.md").read_text(encoding="utf-8")
    there = {path.name for path in (DOCS / "evidence").glob("*.md")} - {"index.md"}
    assert [name for name in sorted(there) if f"]({name})" not in index] == []


class Loads(HTMLParser):
    """What a browser loads with a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        names = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
        self.found += [value for name, value in attrs if name == names.get(tag) and value]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert built.stderr == "", "no warnings"
    return folder


def test_the_site_has_every_page_and_loads_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    wanted = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert wanted <= {path.relative_to(site) for path in pages}
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert loads.found
        assert [url for url in loads.found if re.match(r"(https?:)?//", url)] == [], page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def _leaves(navigation):
    """The pages in mkdocs' `nav`."""
    if isinstance(navigation, str):
        return {navigation}
    below = navigation.values() if isinstance(navigation, dict) else navigation
    return {page for found in below for page in _leaves(found)}


def test_every_page_is_in_the_navigation():
    pages = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.parent.name != "evidence"}
    assert pages - _leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]) == set()
