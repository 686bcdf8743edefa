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

PROGRAMS = Path(sys.executable).parent
LONGEST_S = 300


@pytest.fixture
def issued(lite, tmp_path, monkeypatch):
    """A clearml.conf that was issued for alice."""
    system = lite.config["credentials"]["apiserver"]
    key = f'access_key: "{system["user_key"]}"\nsecret_key: "{system["user_secret"]}"\n'
    (tmp_path / "clearml.key").write_text(key)
    where = json.dumps({"backend": "external", "urls": lite.urls, "credentials_file": "clearml.key"})
    text = f"name: lab\nprovider: local\nserver: {where}\nusers: [{{name: alice}}]\n"
    (tmp_path / "testbed.yaml").write_text(text)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(locks, "MACHINE_LOCK", tmp_path / "machine.lock")
    monkeypatch.setattr(leftovers, "end", lambda *_, **__: None)
    monkeypatch.setattr(wheels, "build", lambda _: Wheels(lite=ROOT, workload=ROOT))
    monkeypatch.chdir(tmp_path)
    Vault("lab").ensure(parse(text, "testbed.yaml"))
    for words in (["revoke", "alice", "--yes"], ["issue", "alice", "--out", "issued.conf"]):
        done = CliRunner().invoke(main, ["credentials", *words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    return tmp_path / "issued.conf"


def type_into(command, home, paste, answers):
    """Run a command on a terminal: paste a text, then give each question its answer; return what it showed.

    `answers`: by what a question ends in; a question that is none of them is a failure.
    """
    ours, theirs = pty.openpty()
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONWARNINGS": "ignore", "TERM": "dumb"}
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
