"""`clearml-init` and `clearml-agent init`, typed into on a terminal, take what `testbed credentials issue` wrote."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from provision import leftovers, locks, wheels
from provision.cli import main
from provision.credentials import verify
from provision.inventory import Wheels
from provision.paths import ROOT
from provision.secrets import Vault
from provision.spec import parse
from tests.integration.tls_front import TlsFront, make_certificates

PROGRAMS = Path(sys.executable).parent
LONGEST_S = 300


@pytest.fixture
def issue(lite, tmp_path, monkeypatch):
    """A function that issues a clearml.conf for alice, for a server with these URLs and what else is said of it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(locks, "MACHINE_LOCK", tmp_path / "machine.lock")
    monkeypatch.setattr(leftovers, "end", lambda *_, **__: None)
    monkeypatch.setattr(wheels, "build", lambda _: Wheels(lite=ROOT, workload=ROOT))
    monkeypatch.chdir(tmp_path)
    system = lite.config["credentials"]["apiserver"]
    key = f'access_key: "{system["user_key"]}"\nsecret_key: "{system["user_secret"]}"\n'
    (tmp_path / "clearml.key").write_text(key)

    def call(urls, **more):
        where = json.dumps({"backend": "external", "urls": urls, "credentials_file": "clearml.key", **more})
        text = f"name: lab\nprovider: local\nserver: {where}\nusers: [{{name: alice}}]\n"
        (tmp_path / "testbed.yaml").write_text(text)
        Vault("lab").ensure(parse(text, "testbed.yaml"))
        for words in (["revoke", "alice", "--yes"], ["issue", "alice", "--out", "issued.conf"]):
            done = CliRunner().invoke(main, ["credentials", *words], catch_exceptions=False)
            assert done.exit_code == 0, done.output
        return tmp_path / "issued.conf"

    return call


@pytest.fixture
def issued(lite, issue):
    """A clearml.conf that was issued for alice."""
    return issue(lite.urls)


def type_into(command, home, paste, answers, **variables):
    """Run a command on a terminal: paste a text, then give each question its answer; return what it showed.

    `answers`: by what a question ends in; a question that is none of them is a failure.
    """
    ours, theirs = pty.openpty()
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONWARNINGS": "ignore", "TERM": "dumb"}
    environment |= variables
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=home, start_new_session=True
    )
    os.close(theirs)
    shown, answered, end = "", 0, time.monotonic() + LONGEST_S
    questions = [(r"Paste copied configuration here:\s*$", paste), *answers.items()]
    try:
        while time.monotonic() < end:
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    shown += os.read(ours, 1 << 16).decode(errors="replace")
                except OSError:  # it has ended
                    break
                continue
            for question, answer in questions:
                if re.search(question, shown[answered:]):
                    answered = len(shown)
                    os.write(ours, f"{answer}\n".encode())
                    break
        assert process.wait(LONGEST_S) == 0, shown
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return shown


def _works(lite, conf):
    script = (
        "from clearml.backend_api import Session; print(Session().send_request('users', 'get_current_user').json())"
    )
    return "Alice A" in lite.run_python(script, conf)


def test_clearml_init_takes_what_was_issued(lite, issued, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    text = issued.read_text()
    shown = type_into([str(PROGRAMS / "clearml-init")], home, text[: text.index("\n}") + 2], {})
    assert "Credentials verified!" in shown
    assert "ClearML setup completed successfully." in shown
    written, meant = verify.read((home / "clearml.conf").read_text()), verify.read(text)
    assert (written.urls, written.access_key, written.secret_key) == (meant.urls, meant.access_key, meant.secret_key)
    assert _works(lite, home / "clearml.conf")


def test_clearml_init_leaves_an_issued_file_as_it_is_where_it_lies(lite, issued, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    issued.rename(home / "clearml.conf")
    before = (home / "clearml.conf").read_bytes()
    shown = type_into([str(PROGRAMS / "clearml-init")], home, "", {})
    assert "Configuration file already exists" in shown
    assert (home / "clearml.conf").read_bytes() == before
    assert _works(lite, home / "clearml.conf")


def test_over_tls_with_a_ca_of_the_testbeds_own(lite, issue, tmp_path):
    make_certificates(tmp_path)
    fronts = {name: TlsFront(tmp_path / "server.pem", lite.config[f"{name}_port"]) for name in ("api", "web", "files")}
    try:
        issued = issue({name: front.url for name, front in fronts.items()}, ca_file="ca.pem")
        text, [authority] = issued.read_text(), [*tmp_path.glob("clearml-lab*.pem")]
        assert authority.read_bytes() == (tmp_path / "ca.pem").read_bytes()
        pasted, key = text[: text.index("\n}") + 2], verify.read(text)
        init = [str(PROGRAMS / "clearml-init")]
        (tmp_path / "known").mkdir()
        shown = type_into(init, tmp_path / "known", pasted, {}, REQUESTS_CA_BUNDLE=str(authority))
        assert "Credentials verified!" in shown
        assert verify.read((tmp_path / "known/clearml.conf").read_text()).access_key == key.access_key
        home = tmp_path / "home"  # as START.md has it: file and CA lie in the home, and nothing else is needed
        home.mkdir()
        issued.rename(home / "clearml.conf")
        authority.rename(home / authority.name)
        assert "already exists" in type_into(init, home, "", {})
        script = "from clearml.backend_api import Session; Session().send_request('users', 'get_current_user')"
        environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
        subprocess.run([sys.executable, "-c", script], env=environment, cwd=home, check=True)
        listed = [str(PROGRAMS / "clearml-agent"), "list"]
        assert b"workers:" in subprocess.run(listed, env=environment, capture_output=True, check=True).stdout
    finally:
        for front in fronts.values():
            front.close()


def test_clearml_agent_init_takes_what_was_issued_and_the_agent_works_with_either(lite, issued, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    text = issued.read_text()
    answers = {
        r"WEB Host configured to:.*$": "",
        r"API Host configured to:.*$": lite.urls["api"],
        r"File Store Host configured to:.*$": lite.urls["files"],
        r"Default Output URI \(.*$": "",
        r"git username.*$": "",
        r"artifact repository.*$": "",
    }
    shown = type_into([str(PROGRAMS / "clearml-agent"), "init"], home, text[: text.index("\n}") + 2], answers)
    assert "Credentials verified!" in shown
    assert "CLEARML-AGENT setup completed successfully." in shown
    written, meant = verify.read((home / "clearml.conf").read_text()), verify.read(text)
    assert (written.access_key, written.secret_key) == (meant.access_key, meant.secret_key)
    # the web server it leaves empty where its port is not 8080; the agent does not need it
    assert [written.urls[name] for name in ("api", "files")] == [meant.urls[name] for name in ("api", "files")]
    for conf in (home / "clearml.conf", issued):
        done = subprocess.run(
            [str(PROGRAMS / "clearml-agent"), "--config-file", str(conf), "list"],
            env={**os.environ, "HOME": str(home)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "workers:" in done.stdout
