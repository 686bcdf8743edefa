"""What others wrote into labels and names reaches a terminal as text; paths are printed as they are."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from provision import reports, spec
from provision.cli import credentials
from provision.cli.output import printable, show_findings, show_keys
from provision.cli.paper import Paper
from provision.credentials.keys import Issued
from provision.credentials.labels import Label
from provision.secrets import KeyPair, Vault

HOSTILE = "a\x1b[2Jb\nc\rd\x9b1me\u202ef[red]g"
SHOWN = "a?[2Jb?c?d?1me?f[red]g"


def _console(width):
    return Console(file=io.StringIO(), width=width, force_terminal=False)


def test_what_is_not_printable_is_a_question_mark():
    assert printable(HOSTILE) == SHOWN
    assert printable("Grüße, Ada – 2") == "Grüße, Ada – 2"


@pytest.mark.parametrize("width", [40, 300])  # a paragraph for each key, a table
@pytest.mark.parametrize("field", ["user", "label", "last_used_from"])
def test_a_key_is_shown_without_what_a_terminal_obeys(width, field):
    fields = {"user": "ada", "label": "", "last_used_from": None} | {field: HOSTILE}
    key = reports.KeyState(
        purpose="", access_key="KEY", issued=None, expires=None, last_used=None, state="own", **fields
    )
    console = _console(width)
    show_keys(console, [key])
    shown = console.file.getvalue()
    assert SHOWN in shown
    assert not set(shown) & set("\x1b\r\x9b\u202e")


def test_findings_are_shown_without_what_a_terminal_obeys():
    finding = reports.Finding(kind="edited", user="ada", access_key="KEY", message=HOSTILE, remedy=HOSTILE)
    console = _console(300)
    show_findings(console, reports.AuditReport(testbed="lab", healthy=False, keys=1, findings=[finding]))
    assert console.file.getvalue() == f"✗ edited: {SHOWN}\n    {SHOWN}\n"


def test_the_path_of_a_conf_is_told_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    testbed = spec.parse("name: lab\nprovider: local\nserver: {backend: lite}\nusers: [{name: ada}]\n", "testbed.yaml")
    issued = Issued(KeyPair(access_key="KEY", secret_key="SECRET"), Label("lab", "ada", "laptop"), ())
    paper = Paper(testbed, Vault("lab").ensure(testbed), tmp_path / "[red]class" / "a.conf")
    console = _console(300)
    credentials.tell(console, testbed, paper, issued, as_json=False)
    assert f"It is in {paper.path}, which" in console.file.getvalue()
