"""`testbed smoke --conf` as a person calls it, with all that it writes, on a live server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from provision.cli import main
from provision.errors import InputError
from provision.smoke import training
from tests.integration.conftest import REPOSITORY


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """`testbed ARGUMENTS…` of somebody with an empty home."""

    def start(*arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "provision", *map(str, arguments)],
            env=os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY), "XDG_STATE_HOME": str(tmp_path)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def _projects(ground) -> list[str]:
    found = ground.server.call("projects.get_all", {"search_hidden": True})["projects"]
    return [project["name"] for project in found if project["name"].startswith("smoke")]


def test_a_good_server_passes_and_all_reports_say_so(ground, command, tmp_path):
    junit, html = tmp_path / "junit.xml", tmp_path / "report.html"
    process = command(
        *("smoke", "--conf", ground.good, "--level", "quick", "--json", "--repeat", "2"),
        *("--junit", junit, "--html", html),
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    found = json.loads(out)
    assert found["healthy"]
    assert found["testbed"] == str(ground.good)
    assert [reason.partition(":")[0] for reason in found["left_out"]] == ["hosts"]
    names = {check["name"] for check in found["checks"]}
    assert {"api answers", "key logs in", "strangers stay out", "file round trip", "clock agrees"} <= names
    assert {check["run"] for check in found["checks"]} == {1, 2}
    assert not any(name.startswith(("service runs", "worker reports", "queue is served")) for name in names)
    assert [suite.get("failures") for suite in ElementTree.parse(junit).getroot()] == ["0", "0"]  # noqa: S314
    text = html.read_text()
    assert "The server works" in text
    assert ground.server.urls["files"] in text
    assert ground.secret not in out + err + text + junit.read_text() + Path(found["log"]).read_text()
    assert {oct(path.stat().st_mode & 0o777) for path in (junit, html)} == {"0o600"}
    assert _projects(ground) == []


def test_a_broken_one_ends_with_another_code_and_words(ground, command):
    process = command("smoke", "--conf", ground.conf(files=ground.server.urls["api"]), "--level", "quick")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out + err
    assert "✗ files answer" in out
    assert "Expected: HTTP 200 from files_server in the clearml.conf" in out
    assert "Left out: hosts" in out


def test_full_says_that_it_does_not_train(ground, checked, monkeypatch):
    monkeypatch.setattr(training, "python", lambda: None)
    console = CliRunner().invoke(main, ["smoke", "--conf", str(ground.good), "--only", "round trip", "--json"])
    assert console.exit_code == 0, console.output
    found = json.loads(console.stdout)
    assert {check["name"] for check in found["checks"]} == {"file round trip", "large file round trip"}
    assert [reason.partition(":")[0] for reason in found["left_out"]] == ["hosts", "training"]
    with pytest.raises(InputError, match="no check has that in its name"):
        checked(ground.good, "full", only="training completes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--queue", "train"), "--queue goes with --conf"),
        (("--conf", "none.conf"), "--conf none.conf: cannot be read"),
        (("--conf", "none.conf", "--spec", "testbed.yaml"), "--conf and --spec"),
    ],
)
def test_what_cannot_be_is_refused(command, arguments, message):
    out, err = (process := command("smoke", *arguments)).communicate(timeout=300)
    assert process.returncode == 2, out + err
    assert message in err
