"""The command on terminals and streams as they come: narrow, dumb, without colours or UTF-8, read by nobody."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from pathlib import Path

import pexpect
import pytest

from provision import spec
from provision.errors import Exit
from provision.paths import ROOT
from provision.secrets import KeyPair, Vault

TESTBED = str(ROOT / "testbed")
COLOUR = r"\x1b\[[0-9;]*3[0-9]m"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@pytest.fixture
def environment(tmp_path):
    """The environment of a person who has not used the toolkit yet."""
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    homes = {f"XDG_{name}_HOME": str(tmp_path / name.lower()) for name in ("CONFIG", "STATE")}
    return {**kept, **homes, "TERM": "xterm"}


@pytest.fixture
def lab(tmp_path):
    """A testbed.yaml of a testbed that is not up."""
    file = tmp_path / "lab.yaml"
    file.write_text(spec.EXAMPLE.read_text().replace("name: local ", "name: lab "))
    return file


def run(*arguments, environment, **options):
    return subprocess.run(
        [TESTBED, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output="stdout" not in options,
        check=False,
        **options,
    )


def screen(*arguments, environment, columns=80):
    """The command on a terminal."""
    return pexpect.spawn(
        TESTBED, list(arguments), env=environment, dimensions=(24, columns), encoding="utf-8", timeout=120
    )


class TestExitCodes:
    def test_0_done(self, environment):
        assert run("version", environment=environment).returncode == Exit.OK

    def test_1_failed(self, environment, lab):
        done = run("smoke", "--spec", str(lab), environment=environment)
        assert done.returncode == Exit.FAILED
        assert b"testbed: " in done.stderr

    @pytest.mark.parametrize("arguments", [["up", "--spec", "/none.yaml"], ["up", "--nonsense"], ["nonsense"]])
    def test_2_bad_input(self, environment, arguments):
        assert run(*arguments, environment=environment).returncode == Exit.BAD_INPUT

    def test_3_nobody_to_ask(self, environment, lab):
        assert run("up", "--spec", str(lab), environment=environment).returncode == Exit.DECLINED

    @pytest.mark.parametrize("answer", ["n\r", "\r", "\x03", "\x04"], ids=["n", "enter", "Ctrl-C", "Ctrl-D"])
    @pytest.mark.parametrize("verb", ["up", "down"])
    def test_3_answered_no(self, environment, lab, answer, verb, tmp_path):
        terminal = screen(verb, "--spec", str(lab), environment=environment)
        terminal.expect(r"\[y/N\]")
        terminal.send(answer)
        terminal.expect("nothing was changed")
        terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == Exit.DECLINED
        assert not (tmp_path / "state").exists()

    def test_130_stopped(self, environment, lab, monkeypatch):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with socket.create_server(("127.0.0.1", 0)) as silent:  # a server that takes calls and never answers
            port = silent.getsockname()[1]
            lab.write_text(lab.read_text().replace("  # ports: {api: 8008", f"  ports: {{api: {port}"))
            vault = Vault("lab")
            secrets = vault.ensure(spec.load(lab))
            vault.save(secrets.model_copy(update={"toolkit": KeyPair(access_key="a", secret_key="s")}))
            terminal = screen("status", "--spec", str(lab), environment=environment)
            silent.settimeout(120)
            with silent.accept()[0]:
                terminal.sendintr()
                terminal.expect("stopped")
                terminal.expect(pexpect.EOF)
        terminal.close()
        assert terminal.exitstatus == Exit.STOPPED
        assert "Traceback" not in terminal.before


def test_status_in_a_pipe_has_no_control_characters(environment, lab):
    done = run("status", "--spec", str(lab), environment={**environment, "COLUMNS": "20"})
    assert done.returncode == Exit.FAILED
    lines = done.stdout.decode().splitlines()
    assert not any(CONTROL.search(line) for line in lines)
    assert any(re.match(r"testbed-agent-prepared +(does not run|runs) +local", line) for line in lines), (
        "whole lines for scripts"
    )


@pytest.mark.parametrize(
    ("settings", "pattern", "shown"),
    [({}, COLOUR, True), ({"NO_COLOR": "1"}, COLOUR, False), ({"TERM": "dumb"}, r"\x1b", False)],
    ids=["xterm", "NO_COLOR", "dumb"],
)
def test_colours_are_for_terminals_that_have_and_want_them(environment, lab, settings, pattern, shown):
    terminal = screen("status", "--spec", str(lab), environment={**environment, **settings}, columns=40)
    terminal.expect(pexpect.EOF)
    assert "testbed-clearml-lite" in terminal.before
    assert re.search(r"no\s+keys", terminal.before)
    assert bool(re.search(pattern, terminal.before)) == shown


@pytest.mark.parametrize(
    "settings",
    [{"LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}],
    ids=["LC_ALL=C", "ascii", "POSIX"],
)
@pytest.mark.parametrize("verb", ["status", "up"])
def test_without_utf8_the_words_are_there(environment, lab, settings, verb):
    done = run(verb, "--spec", str(lab), environment={**environment, **settings})
    assert done.returncode in (Exit.FAILED, Exit.DECLINED)
    assert b"UnicodeEncodeError" not in done.stderr
    assert b"mistake in testbed" not in done.stderr
    assert (b"testbed-clearml-lite" if verb == "status" else b"ClearML server") in done.stdout


def test_a_reader_that_has_gone_is_no_error(environment, lab):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nobody:
        done = run("status", "--spec", str(lab), environment=environment, stdout=nobody, stderr=subprocess.PIPE)
    assert done.returncode == Exit.FAILED, "that of the testbed, which is not up"
    assert done.stderr == b""


def test_a_full_disk_is_said(environment):
    with Path("/dev/full").open("wb") as full:
        done = run("version", environment=environment, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == Exit.FAILED
    assert b"No space left on device" in done.stderr
    assert b"Exception" not in done.stderr


def test_a_closed_stdout_is_no_error(environment, lab):
    command = f'exec "{TESTBED}" status --json --spec "{lab}" >&-'
    done = subprocess.run(["bash", "-c", command], env=environment, stderr=subprocess.PIPE, check=False)
    assert done.returncode == Exit.FAILED
    assert b"Traceback" not in done.stderr
    assert b"Bad file descriptor" not in done.stderr
