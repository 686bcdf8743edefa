"""How the stack checks are run, and what is told of them."""

from __future__ import annotations

import datetime
import io
import re
import types
import uuid
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from rich.console import Console

from provision import console, forward
from provision.errors import InputError, TestbedError
from provision.reports import Check
from provision.secrets import KeyPair
from provision.smoke import junit, page, project, target
from provision.smoke import run as smoke
from provision.smoke.plugin import Options
from provision.smoke.problem import told
from provision.smoke.target import Target

SECRET = "the-secret-of-the-key-" + "x" * 20
URLS = {"api": "http://api:1", "web": "http://web:1", "files": "http://files:1"}
CONF = f"""
# api_server: "http://commented:1"
api {{
    api_server: "http://127.0.0.1:8008/", web_server = "http://127.0.0.1:8080"
    "files_server": http://127.0.0.1:8081
    credentials {{ "access_key" = "ACCESS", "secret_key" = "{SECRET}" }}
}}
"""


def _stage(title):
    return console.stage(Console(file=io.StringIO()), title)


@pytest.fixture
def session(tmp_path):
    server = types.SimpleNamespace(tls=None, is_external=False, url=lambda of: URLS[of])
    agents = types.SimpleNamespace(prepared_queue="prepared", task_queues=["default", "prepared"])
    testbed = types.SimpleNamespace(name="local", server=server, agents=agents)
    secrets = types.SimpleNamespace(
        toolkit=KeyPair(access_key="ACCESS", secret_key=SECRET),
        model_dump=lambda exclude: {"a": {"b": "another-secret"}},
    )
    vault = types.SimpleNamespace(load=lambda: secrets)
    return types.SimpleNamespace(testbed=testbed, vault=vault, stage=_stage, log=tmp_path / "log")


@pytest.fixture
def run_checks(tmp_path, monkeypatch):
    """Run checks that are written here, on a server that need not be there."""

    def run(text, options=None, level="quick", repeat=1):
        folder = tmp_path / "tests/stack"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pytest.ini").write_text("[pytest]\nmarkers = full\n  tls\n  hosts\n  conf\n  of\n")
        for old in folder.glob("test_*.py"):
            old.unlink()
        # a name of its own: Python keeps modules by their names
        (folder / f"test_{uuid.uuid4().hex}.py").write_text(
            f"from provision.smoke.problem import need\nimport pytest\n{text}"
        )
        monkeypatch.setattr(smoke, "ROOT", tmp_path)
        server = Target("some.conf", URLS, KeyPair(access_key="ACCESS", secret_key=SECRET), theirs=True)
        return smoke.run_conf(server, level, options or Options(), repeat, tmp_path / "log", _stage)

    return run


def test_checks_that_cannot_be_read_are_no_ctrl_c(session, tmp_path, monkeypatch):
    (tmp_path / "tests/stack").mkdir(parents=True)
    (tmp_path / "tests/stack/pytest.ini").write_text("[pytest]\nmarkers = full\n  tls\n  conf\n")
    (tmp_path / "tests/stack/test_broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.setattr(smoke, "ROOT", tmp_path)
    with pytest.raises(TestbedError, match="the checks could not be run"):
        smoke.run(session, "quick")
    assert "a_module_that_is_not_there" in session.log.read_text()


def test_a_failed_check_says_what_was_expected_what_was_seen_and_what_to_try(run_checks):
    found = run_checks(
        'def test_it_works():\n    """It works."""\n    need(False, "it does not", remedy="Mend it.")\n'
        'def test_with_more():\n    """It works."""\n    need(1 > 2, "1", expected="2")\n'
        'def test_that_stumbles():\n    """It works."""\n    {}["key"]\n'
    )
    assert not found.healthy
    by_name = {check.name: check for check in found.checks}
    check = by_name["it works"]
    assert (check.expected, check.seen, check.remedy) == ("It works.", "it does not", "Mend it.")
    assert check.message == "Expected: It works.\nSeen: it does not\nTry: Mend it."
    assert (by_name["with more"].expected, by_name["with more"].remedy) == ("2", "Tell who runs the server.")
    assert by_name["that stumbles"].seen == "KeyError: 'key'"


def test_no_secret_is_told(run_checks):
    found = run_checks(f'def test_it():\n    need(False, "seen {SECRET}", expected="{SECRET}", remedy="{SECRET}")\n')
    assert SECRET not in found.checks[0].model_dump_json()
    assert "seen ********" in found.checks[0].seen


def test_the_last_lines_of_a_log_come_last():
    text = told("a", "b", "c", [(("agent-1", "testbed-agent-default"), ["one", "two"]), (("h", "s"), [])])
    assert text.splitlines()[3:] == [
        "Last lines of testbed-agent-default on agent-1:",
        "  one",
        "  two",
        "Last lines of s on h:",
        "  (none)",
    ]


def test_only_chooses_by_name_and_says_what_there_is(run_checks):
    text = "def test_one_thing(): pass\ndef test_another(): pass\n"
    assert [check.name for check in run_checks(text, Options(only="One THING")).checks] == ["one thing"]
    with pytest.raises(InputError, match="--only three: no check has that in its name") as refused:
        run_checks(text, Options(only="three"))
    assert refused.value.remedy == "There are: one thing; another."


def test_repeat_runs_all_of_them_again_also_after_a_failure(run_checks):
    found = run_checks("def test_one(): assert False\n", repeat=3)
    assert [(check.name, check.run, check.result) for check in found.checks] == [
        ("one", 1, "failed"),
        ("one", 2, "failed"),
        ("one", 3, "failed"),
    ]


def test_a_server_alone_is_not_asked_for_hosts_and_quick_leaves_out_what_takes_long(run_checks):
    text = "@pytest.mark.{}\ndef test_{}(): pass\n"
    text = "".join(text.format(name, name) for name in ("hosts", "full", "conf", "tls"))
    assert [check.name for check in run_checks(text).checks] == ["conf"]
    assert [check.name for check in run_checks(text, level="full").checks] == ["full", "conf"]


def test_junit_has_a_suite_a_run_and_only_what_xml_can_hold():
    checks = [
        Check(name="good", result="passed", seconds=1.25, reference="", message=""),
        Check(name="bad", result="failed", seconds=1, reference="", message="all <of> it\x1b[1m", seen="seen\x00"),
        Check(name="left", result="skipped", seconds=0, reference="", message="why", run=2),
    ]
    root = ElementTree.fromstring(junit.document("local", checks))  # noqa: S314 (made here)
    first, second = root
    assert (first.get("name"), first.get("tests"), first.get("failures")) == ("local, run 1", "2", "1")
    assert second.get("skipped") == "1"
    assert first[0].get("time") == "1.250"
    assert first[1][0].text == "all <of> it?[1m"
    assert first[1][0].get("message") == "seen?"


def test_a_conf_is_read_as_the_web_app_and_the_toolkit_write_it(tmp_path):
    path = tmp_path / "clearml.conf"
    path.write_text(CONF)
    found = target.of_conf(path, "train")
    assert found.urls == {
        "api": "http://127.0.0.1:8008",
        "web": "http://127.0.0.1:8080",
        "files": "http://127.0.0.1:8081",
    }
    assert (found.key.access_key, found.key.secret_key, found.queues) == ("ACCESS", SECRET, ("train",))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('api_server: "http://127.0.0.1:8008/"', "", "api_server is not there"),
        ("http://127.0.0.1:8081", '"s3://bucket"', "files_server is s3://bucket, not a URL"),
        (f'"secret_key" = "{SECRET}"', "", "has no access_key and secret_key"),
    ],
)
def test_a_conf_that_leads_nowhere_is_refused(tmp_path, before, after, message):
    path = tmp_path / "clearml.conf"
    path.write_text(CONF.replace(before, after))
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        target.of_conf(path, None)
    assert refused.value.remedy
    assert SECRET not in str(refused.value)


def test_a_conf_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        target.of_conf(tmp_path / "none.conf", None)


def test_the_ca_that_a_conf_names_is_trusted(tmp_path, monkeypatch):
    from provision import certificates

    monkeypatch.setattr(forward, "_TRUSTED", {})
    authority = certificates.make_authority("lab", datetime.datetime.now(datetime.UTC)).certificate
    (tmp_path / "ca.pem").write_text(authority)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "clearml.conf"
    path.write_text(CONF.replace("api {", 'api {\n    verify_certificate: ${HOME}"/ca.pem"'))
    target.of_conf(path, None)
    assert list(forward._TRUSTED.values()) == [authority]


NOW = datetime.datetime(2026, 11, 23, 12, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("name", "tags", "left"),
    [
        ("smoke/20261123T050000-abcdef", [], True),
        ("smoke/20261123T110000-abcdef", [], False),
        ("smoke/20261123T050000-abcdef", ["kept"], False),
        ("smoke/my own", [], False),
        ("other/20261123T050000-abcdef", [], False),
    ],
)
def test_what_a_killed_run_left_is_known_by_name_and_age(name, tags, left):
    assert project.is_left(name, tags, NOW) is left


NASTY = "<img src=x onerror=alert(1)>"


def _page(checks, **figures):
    hosts = [page.HostCard(f"host {NASTY}", [page.Row("testbed-clearml-lite", "runs", well=True, version="1.2.3")])]
    return page.render(
        name="local", level="full", at="now", version="1", checks=checks, hosts=hosts, figures=figures, left_out=[]
    )


class _Asks(HTMLParser):
    """What a page would fetch or run."""

    def __init__(self):
        super().__init__()
        self.found, self.words = [], []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.found += [tag] if tag in ("script", "link", "img", "iframe", "object", "a") else []
        self.found += [name for name in named if name in ("src", "href") or name.startswith("on")]

    def handle_data(self, data):
        self.words.append(data.strip())


def test_the_page_says_the_verdict_first_and_asks_nobody_for_anything():
    failed = Check(
        name=f"api answers {NASTY}", result="failed", seconds=1, reference=NASTY, message="m", expected="e" + NASTY,
        seen="s" + NASTY, remedy="r", log=["a log line " + NASTY],
    )  # fmt: skip
    good = Check(name="web answers", result="passed", seconds=0.25, reference="http://web", message="")
    text = _page(
        [good, failed],
        loss={"train": {"x": [0, 1], "y": [2, 1]}, "validation": {"x": [0, 1], "y": [2.5, 1.5]}},
        confusion={"rows": [[9, 1], [0, 10]], "x": ["eMBB", "URLLC"], "y": ["eMBB", NASTY]},
        maps=[{"title": "Path loss, measured", "rows": [[70, 80]], "x": [], "y": []}],
        latency={"prepare": 4.2},
    )
    asks = _Asks()
    asks.feed(text)
    assert asks.found == []
    assert "url(" not in text
    words = [word for word in asks.words if word]
    assert words.index(f"The testbed is broken: api answers {NASTY}") < words.index("host " + NASTY)
    for shown in ("e" + NASTY, "r", "a log line " + NASTY, "1.2.3", "4.2 s", "Path loss, measured", "0.2 s"):
        assert shown in words
    assert text.count("<polyline") == 2


def test_the_page_of_a_good_testbed_says_so():
    text = _page([Check(name="web answers", result="passed", seconds=1, reference="", message="")])
    assert "<h1>The testbed works</h1>" in text
    assert "What is wrong" not in text
