"""How the stack checks are run, and what is told of them."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import json
import re
import types
import uuid
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from rich.console import Console

from provision import console, forward, status
from provision.cli import smoke as command
from provision.cli.group import main
from provision.errors import InputError, TestbedError
from provision.paths import ROOT
from provision.reports import Check, Service, StatusReport, Urls
from provision.secrets import KeyPair
from provision.smoke import junit, page, project, target, versions
from provision.smoke import run as smoke
from provision.smoke.agents import Ran
from provision.smoke.plugin import Options
from provision.smoke.problem import told
from provision.smoke.target import Target
from provision.version import current

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
    workers = [types.SimpleNamespace(name=name, queues=[name]) for name in ("default", "prepared")]
    agents = types.SimpleNamespace(workers=workers, task_queues=["default", "prepared"])
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
        maps=[{"title": "Path loss, measured", "rows": [[70, None], [80, -3]], "x": [], "y": []}],
        latency={"prepare": 4.2},
        ran=[Ran("1" * 32, "train", "gpu", f"agent-7:default {NASTY}", "completed", 1.5)],
    )
    asks = _Asks()
    asks.feed(text)
    assert asks.found == []
    assert "url(" not in text
    words = [word for word in asks.words if word]
    assert words.index(f"The testbed is broken: api answers {NASTY}") < words.index("host " + NASTY)
    for shown in (
        "e" + NASTY,
        "r",
        "a log line " + NASTY,
        "1.2.3",
        "4.2 s",
        "Path loss, measured",
        "-3.0 to 80.0 dB",
        "0.2 s",
        "agent-7:default " + NASTY,
        "gpu",
    ):
        assert shown in words
    assert text.count("<polyline") == 2
    assert text.count("<rect") == 3, "a cell without a value is empty"


def test_the_page_of_a_good_testbed_says_so():
    text = _page([Check(name="web answers", result="passed", seconds=1, reference="", message="")])
    assert "<h1>The testbed works</h1>" in text
    assert "What is wrong" not in text


def _check(name, result="passed"):
    return Check(name=name, result=result, seconds=1, reference="", message="")


def _status(**more):
    services = [Service(host="server-1", name="testbed-clearml-lite", state="runs", running=True)]
    return StatusReport.model_construct(urls=Urls.model_construct(**URLS), services=services, **more)


def test_the_page_says_of_each_url_what_the_checks_said():
    checks = [_check("web answers"), _check("files answer", "failed"), _check("files answer")]
    cards = page.of_testbed(_status(versions={}), {"server-1": ["server"]}, checks, {})
    assert cards[-1] == page.HostCard(
        "URLs",
        [
            page.Row("web: http://web:1", "answers", well=True),
            page.Row("api: http://api:1", "not asked", well=None),
            page.Row("files: http://files:1", "is not well", well=False),
        ],
    )
    (card,) = page.of_server("my.conf", URLS, "2.0", checks)
    assert [(row.state, row.version) for row in card.rows] == [
        ("not asked", "2.0"),
        ("answers", ""),
        ("is not well", ""),
    ]


def test_the_page_shows_the_version_of_a_program_once():
    found = _status(versions={"clearml_lite": "1.2", "clearml-agent": "3.0", "tensorflow": None})
    groups = {"server-1": ["server"], "agent-1": ["agents"], "agent-2": ["agents"]}
    cards = page.of_testbed(found, groups, [], {})
    assert [card.name for card in cards] == ["server-1", "agent-1", "agent-2", "Programs", "URLs"]
    assert not any(row.version for card in cards[:3] for row in card.rows)
    assert cards[3].rows == [
        page.Row("clearml_lite", "installed", well=True, version="1.2"),
        page.Row("clearml-agent", "installed", well=True, version="3.0"),
        page.Row("tensorflow", "not found", well=None),
    ]


def test_what_is_not_known_is_neither_good_nor_bad():
    hosts = [page.HostCard("h", [page.Row("a thing", "not asked", well=None)])]
    text = page.render(name="n", level="quick", at="now", version="", checks=[], hosts=hosts, figures={})
    assert '<td class="soft">not asked</td>' in text


@pytest.mark.parametrize("option", ["--junit", "--html"])
def test_a_report_whose_folder_is_not_there_is_refused_before_anything_is_checked(tmp_path, option):
    file = tmp_path / "not there" / "report"
    done = CliRunner().invoke(main, ["smoke", "--conf", str(tmp_path / "no.conf"), option, str(file)])
    assert done.exit_code == 2
    assert f"{option} {file}: there is no folder {file.parent}" in done.output


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """What `testbed smoke --html` prints and raises when a check has failed."""

    def run(html, session):
        found = smoke.Outcome([_check("web answers", "failed")])
        monkeypatch.setattr(smoke, "run", lambda *arguments: found)
        monkeypatch.setattr(versions, "of_services", lambda session, services: {})
        monkeypatch.setattr("provision.session.need_root", lambda testbed: None)
        monkeypatch.setattr(
            "provision.session.open_session", lambda *arguments, **more: contextlib.nullcontext(session)
        )
        session.testbed.server.url = lambda of: URLS[of]
        session.inventory, session.hosts = {"all": {"children": {}, "hosts": {}}}, []
        wanted = command.Wanted("quick", "", 1, keep=False, junit=None, html=html, as_json=True)
        command.check_testbed(session.testbed, None, wanted)

    return run


def test_the_results_are_told_when_the_page_cannot_be_written(checked, session, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(status, "collect", lambda session: _status(versions={}))
    with pytest.raises(OSError, match="No such file"):
        checked(tmp_path / "not there" / "page.html", session)
    assert json.loads(capsys.readouterr().out)["checks"][0]["name"] == "web answers"


def test_the_page_is_written_when_the_hosts_cannot_be_asked(checked, session, tmp_path, monkeypatch, capsys):
    def collect(session):
        raise TestbedError("agent-1 does not answer")

    monkeypatch.setattr(status, "collect", collect)
    with pytest.raises(SystemExit) as ended:
        checked(tmp_path / "page.html", session)
    assert ended.value.code == 1
    assert "could not be asked: agent-1 does not answer" in (tmp_path / "page.html").read_text()
    assert json.loads(capsys.readouterr().out)["healthy"] is False


@pytest.mark.parametrize(
    ("results", "only", "verdict"),
    [
        (["passed"], "key", "The testbed passed the checks with “key” in their names"),
        (["passed", "failed"], "key", "The testbed is broken: check 1"),
        (["skipped"], "", "The testbed was not checked"),
        (["passed", "skipped"], "", "The testbed works"),
    ],
)
def test_the_verdict_says_no_more_than_was_checked(results, only, verdict):
    checks = [_check(f"check {number}", result) for number, result in enumerate(results)]
    text = page.render(name="n", level="quick", at="now", version="", checks=checks, hosts=[], figures={}, only=only)
    assert f"<h1>{verdict}</h1>" in text


def test_a_cell_of_a_map_that_was_not_measured_is_empty():
    found = page.matrix({"rows": [[70, None], [None, -35]], "x": [], "y": []}, "Path loss")
    empty = {"text": "", "share": 0.0}
    assert found["rows"] == [[{"text": "70", "share": 1.0}, empty], [empty, {"text": "-35", "share": 0.5}]]


def test_the_page_shows_the_version_of_each_service_on_its_host():
    known = {("server-1", "testbed-clearml-lite"): "1.2", ("agent-1", "testbed-clearml-lite"): "9.9"}
    cards = page.of_testbed(_status(versions={}), {"server-1": ["server"]}, [], known)
    assert cards[0].rows == [page.Row("testbed-clearml-lite", "runs", well=True, version="1.2")]


@pytest.mark.parametrize(
    ("service", "part", "said", "version"),
    [
        ("testbed-clearml-lite", "clearml-lite/bin/python", "0.1.0.dev12+g1234567\n", "0.1.0.dev12+g1234567"),
        ("testbed-agent-default", "clearml-agent/bin/python", "3.0.3\n", "3.0.3"),
        ("testbed-influxdb", "influxd version", "InfluxDB v1.6.7~rc0 (git: unknown unknown)\n", "1.6.7~rc0"),
        ("testbed-tls-proxy", "nginx -v", "nginx version: nginx/1.22.1\n", "1.22.1"),
        ("clearml-mongo", "docker inspect", "mongo:8.0.15\n", "mongo:8.0.15"),
        ("testbed-inference", "prepared/bin/python", "0.1.0\n", "0.1.0"),
        ("testbed-expiry", "sha256sum", "0" * 64 + "  /x\n", "another than this toolkit's (000000000000)"),
        ("testbed-watchdog", "sha256sum", "0" * 64 + "  /x\n", "another than this toolkit's (000000000000)"),
        ("testbed-influxdb", "influxd", "", ""),
    ],
)
def test_a_service_says_its_version_on_its_host(service, part, said, version):
    assert part in versions.command(service)
    assert versions.read(service, said) == version


@pytest.mark.parametrize(
    ("service", "file"),
    [("testbed-watchdog", "clearml_watchdog/files/watchdog.py"), ("testbed-expiry", "clearml_expiry/files/expire.py")],
)
def test_a_service_that_is_this_toolkits_file_has_its_version(service, file):
    content = (ROOT / "roles" / file).read_bytes()
    assert versions.read(service, f"{hashlib.sha256(content).hexdigest()}  /opt/x") == current()
