"""`testbed credentials verify FILE` against live servers: what is wrong is named, with what to do."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import httpx
import jinja2
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from provision.cli import main
from provision.credentials import conf as confs
from provision.credentials import verify
from provision.paths import TEMPLATES
from tests.integration.tls_front import TlsFront, make_certificates

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
LOADER = jinja2.FileSystemLoader(TEMPLATES)
TEMPLATE = jinja2.Environment(loader=LOADER, trim_blocks=True).get_template("clearml.conf.j2")  # noqa: S701 (no HTML)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command, with a python3 on PATH that has the SDK; what it found, by check."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CLEARML_CONFIG_FILE", raising=False)
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)

    def call(*words, code=0):
        done = CliRunner().invoke(main, ["credentials", "verify", *words, "--json"], catch_exceptions=False)
        assert done.exit_code == code, done.output
        report = json.loads(done.stdout)
        assert report["healthy"] == (code == 0)
        return {check["name"]: check for check in report["confs"][0]["checks"]}

    return call


@pytest.fixture
def write(lite, tmp_path):
    """Write a clearml.conf for the server, 0600, with other values where these are said; its path."""
    made = lite.call("auth.create_credentials", {"label": "verify"})["credentials"]

    def call(**other):
        urls = {f"{name}_url": url for name, url in lite.urls.items()}
        values = {**urls, "access_key": made["access_key"], "secret_key": made["secret_key"], **other}
        path = tmp_path / "clearml.conf"
        path.write_text(TEMPLATE.render(conf=values))
        path.chmod(0o600)
        return path

    return call


def _failed(found):
    return {name: check for name, check in found.items() if check["result"] == "failed"}


def test_what_was_issued_works_and_leaves_nothing_on_the_file_server(lite, run, write):
    path = write()
    found = run(str(path))
    assert [name for name, check in found.items() if check["result"] == "passed"] == [
        "file", "settings", "API server", "web server", "file server", "login", "clock", "files", "SDK",
    ]  # fmt: skip
    assert found["certificate of the API server"]["result"] == "skipped"
    assert found["login"]["message"] == "as Alice A"
    assert not [
        file for file in Path(lite.config["data_dir"]).rglob("*") if "testbed-verify" in file.parts and file.is_file()
    ]


def test_without_a_name_it_is_the_file_that_the_sdk_takes(run, write, tmp_path, monkeypatch):
    path = write()
    assert run()["file"]["result"] == "passed"
    other = tmp_path / "other.conf"
    path.rename(other)
    monkeypatch.setenv("CLEARML_CONFIG_FILE", str(other))
    assert run()["login"]["result"] == "passed"


def test_the_secret_is_not_told(run, write, monkeypatch):
    path = write()
    secret = confs.parse_key(path.read_text()).secret_key
    path.chmod(0o644)
    done = CliRunner().invoke(main, ["credentials", "verify", str(path)])
    assert "✗ file:" in done.output
    assert "1 checks failed." in done.output
    assert secret not in done.output
    assert secret not in repr(verify.read(path.read_text()))


def test_a_file_that_others_can_read_is_told(run, write):
    path = write()
    path.chmod(0o640)
    assert _failed(run(str(path), code=1))["file"]["remedy"] == f"chmod 600 {path}"


@pytest.mark.parametrize(
    ("other", "what", "told"),
    [
        ({"secret_key": "no such"}, "login", "does not take key"),
        ({"api_url": "{web}"}, "API server", "is no API server of ClearML's"),
        ({"web_url": "{api}"}, "web server", "is the API server"),
        ({"files_url": "{api}"}, "file server", "is the API server"),
        ({"files_url": "http://127.0.0.1:1"}, "file server", "http://127.0.0.1:1"),
        ({"files_url": "http://no.such.invalid"}, "file server", "http://no.such.invalid"),
        ({"api_url": "127.0.0.1"}, "settings", "no usable value: api_server"),
        ({"access_key": ""}, "settings", "no usable value: credentials"),
        ({"api_url": "https://127.0.0.1:80080"}, "settings", "no usable value: api_server"),
        ({"web_url": "http://127.0.0.1:abc"}, "settings", "no usable value: web_server"),
        ({"files_url": "https://a..b"}, "settings", "no usable value: files_server"),
        ({"files_url": "http://127.0.0.1/\x7f"}, "settings", "no usable value: files_server"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(lite, run, write, other, what, told):
    found = _failed(run(str(write(**{key: value.format(**lite.urls) for key, value in other.items()})), code=1))
    assert told in found[what]["message"]
    assert found[what]["remedy"]


def test_a_file_that_is_none_or_is_not_there_is_told(run, tmp_path):
    (tmp_path / "empty.conf").touch(0o600)
    found = _failed(run("empty.conf", code=1))
    assert found["settings"]["message"] == "no usable value: api_server, web_server, files_server, credentials"
    done = CliRunner().invoke(main, ["credentials", "verify", "none.conf"])
    assert done.exit_code == 2
    assert "none.conf: cannot be read" in done.stderr
    done = CliRunner().invoke(main, ["credentials", "verify", "~nouser/x.conf"])
    assert done.exit_code == 2
    assert "~nouser/x.conf: there is no such home" in done.stderr


@pytest.mark.parametrize("other", ["null", "80"])
def test_a_setting_that_is_no_text_is_told(run, write, other):
    path = write(web_url="WEB")
    path.write_text(path.read_text().replace('"WEB"', other))
    found = _failed(run(str(path), code=1))
    assert found["settings"]["message"] == "no usable value: web_server"


def test_a_certificate_is_checked_against_the_ca_of_the_file(lite, run, write, tmp_path):
    make_certificates(tmp_path)
    fronts = {name: TlsFront(tmp_path / "server.pem", lite.config[f"{name}_port"]) for name in ("api", "web", "files")}
    urls = {f"{name}_url": front.url for name, front in fronts.items()}
    try:
        path = write(**urls, ca_name="ca.pem")  # in the home
        assert "good until" in run(str(path))["certificate of the file server"]["message"]
        path = write(**urls)
        found = _failed(run(str(path), code=1))
        assert "verify_certificate" in found["certificate of the API server"]["remedy"]
        assert "login" not in found, "no key goes to whom nobody knows"
        path.write_text(path.read_text().replace("verify_certificate: true", "verify_certificate: false"))
        assert "whoever is between" in _failed(run(str(path), code=1))["certificate check"]["message"]
        path = write(**urls, ca_file=str(tmp_path / "none.pem"))
        assert "holds no certificates" in _failed(run(str(path), code=1))["certificate check"]["message"]
    finally:
        for front in fronts.values():
            front.close()


def test_the_cas_that_count_are_those_of_the_sdk(lite, run, write, tmp_path, monkeypatch):
    front_of, other = tmp_path / "front", tmp_path / "other"
    for folder in (front_of, other):
        folder.mkdir()
        make_certificates(folder)
    fronts = {name: TlsFront(front_of / "server.pem", lite.config[f"{name}_port"]) for name in ("api", "web", "files")}
    urls = {f"{name}_url": front.url for name, front in fronts.items()}
    certificate = "certificate of the API server"
    try:
        monkeypatch.setenv("SSL_CERT_FILE", str(front_of / "ca.pem"))  # as if the system trusted it
        assert certificate in _failed(run(str(write(**urls, ca_file=str(other / "ca.pem"))), code=1))
        assert certificate in _failed(run(str(write(**urls)), code=1))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(front_of / "ca.pem"))
        assert run(str(write(**urls)))[certificate]["result"] == "passed"
        assert certificate in _failed(run(str(write(**urls, ca_file=str(other / "ca.pem"))), code=1))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
        assert "none.pem: holds no" in _failed(run(str(write(**urls)), code=1))["certificate check"]["message"]
    finally:
        for front in fronts.values():
            front.close()


def test_a_clock_that_is_wrong_is_told(run, write, monkeypatch):
    path = write()
    now = verify.time.time
    monkeypatch.setattr(verify, "time", type("Clock", (), {"time": staticmethod(lambda: now() + 120)}))
    found = _failed(run(str(path), code=1))
    assert "s ahead of the server's" in found["clock"]["message"]
    assert list(found) == ["clock"]


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"POST": 413}, "an upload is refused: HTTP 413"),
        ({"GET": 404}, "does not give back what was uploaded"),
        ({"GET": 200}, "does not give back what was uploaded"),
        ({"DELETE": 405, "GET": "echo"}, "does not delete what was uploaded"),
    ],
)
def test_a_file_that_does_not_come_back_is_told(answers, told, monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda count: b"x" * count)
    code = {"POST": 200, "GET": 200, "DELETE": 200} | answers

    def answer(request):
        if code[request.method] == "echo":
            return httpx.Response(200, content=b"x" * 1024)
        return httpx.Response(code[request.method], content=b"something else")

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        found = verify._round_trip(client, "http://files", "token")
    assert (found.result, told in found.message) == ("failed", True), found


def test_without_an_sdk_that_is_said_and_no_failure(run, write, monkeypatch):
    monkeypatch.delenv("VIRTUAL_ENV")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    found = run(str(write()))["SDK"]
    assert (found["result"], "pip install" in found["message"]) == ("skipped", True)


def test_the_sdks_own_parser_must_read_the_file_as_it_is_meant(lite, run, write):
    path = write()
    path.write_text(path.read_text() + 'api { web_server: "http://other" }\n')
    assert "reads another web_server" in _failed(run(str(path), code=1))["SDK"]["message"]
    path.write_text(path.read_text() + "{{{\n")
    assert "cannot read" in _failed(run(str(path), code=1))["SDK"]["message"]


@pytest.mark.parametrize(
    ("version", "result"),
    [("1.18.0", "failed"), ("2.0.1", "failed"), ("2.0.2", "passed"), ("2.1.12", "passed"), ("2.2.0rc1", "passed")],
)
def test_an_sdk_that_runs_code_out_of_artifacts_is_refused(version, result):
    conf = verify.Conf({"api": "", "web": "", "files": ""}, "key", "secret")
    assert verify.judge_sdk(conf, {"version": version}).result == result


@settings(deadline=None)
@given(ANY_TEXT, ANY_TEXT)
@example('a"b\\"c\\nd\\', "${HOME} # } , = [x] //y\ttab\r\n")
@example('secret_key: "x"', '\u2028\x85\'"""')
def test_every_secret_is_read_back_as_it_was(access_key, secret_key):
    values = {"access_key": access_key, "secret_key": secret_key}
    values |= {f"{name}_url": f"http://{name}.example:1" for name in verify.SERVICES}
    found = verify.read(TEMPLATE.render(conf=values))
    assert (found.access_key, found.secret_key) == (access_key, secret_key)
    assert found.urls == {name: f"http://{name}.example:1" for name in verify.SERVICES}


def test_what_clearml_init_and_the_web_app_write_is_read():
    text = """
# ClearML SDK configuration file
api {
    # api_server: http://old
    web_server: http://app:8080/
    api_server: http://api:8008
    files_server = http://files:8081  # here
    credentials {"access_key": "A", "secret_key"="B=="}
    verify_certificate: True
}
"""
    found = verify.read(text)
    assert found.urls == {"api": "http://api:8008", "web": "http://app:8080", "files": "http://files:8081"}
    assert (found.access_key, found.secret_key, found.certificate) == ("A", "B==", True)
    # as clearml-agent init leaves it where the web server's port is not 8080
    assert verify.read("web_server: \nfiles_server: http://files").urls == {
        "api": "",
        "web": "",
        "files": "http://files",
    }
