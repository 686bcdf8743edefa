"""The program of role clearml_expiry against a live server."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.tls_front import TlsFront, make_certificates

PROGRAM = Path(__file__).parents[3] / "roles/clearml_expiry/files/expire.py"
PYTHONS = [sys.executable, *sorted(str(path) for path in Path.home().glob(".pyenv/versions/3.8*/bin/python3.8"))[:1]]


def _day(days):
    return datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=days)


@pytest.mark.parametrize("python", PYTHONS, ids=lambda path: Path(path).name)
def test_it_revokes_what_is_past_its_day_with_a_key_of_the_servers_own(make_server, tmp_path, python):
    server = make_server()
    server.start()
    gone = [
        f"testbed:lab user:bob purpose:old issued:{_day(-9)} expires:{_day(-2)}",
        f"testbed:lab user:bob purpose:lost issued:{_day(-3)} expires:{_day(9)} unwritten",
    ]
    stay = [
        "my laptop",
        "testbed:lab user:bob purpose:client",
        f"testbed:lab user:bob purpose:new issued:{_day(0)} expires:{_day(2)}",
        f"testbed:lab user:alice purpose:old issued:{_day(-9)} expires:{_day(-2)}",  # which bob wrote
        f"testbed:lab-2 user:bob purpose:old issued:{_day(-9)} expires:{_day(-2)}",
    ]
    for label in [*gone, *stay]:
        server.call("auth.create_credentials", {"label": label}, "bob")
    key = server.config["credentials"]["services_agent"]
    settings = {"api_server": server.urls["api"], "access_key": key["user_key"], "secret_key": key["user_secret"]}
    (tmp_path / "expiry.json").write_text(json.dumps({**settings, "testbed": "lab"}))
    command = [python, "-I", str(shutil.copy(PROGRAM, tmp_path)), "--config", str(tmp_path / "expiry.json"), "--once"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    labels = [key.get("label") for key in server.call("auth.get_credentials", user="bob")["credentials"]]
    assert sorted(labels) == sorted(stay)
    assert all(label in done.stdout for label in gone)
    assert "2 keys revoked" in done.stdout
    assert key["user_secret"] not in done.stdout + done.stderr
    assert "0 keys revoked" in subprocess.run(command, capture_output=True, text=True, check=False).stdout

    server.stop()
    down = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (down.returncode, "failed, and is tried again" in down.stdout, down.stderr) == (1, True, "")


def test_over_tls_it_tells_its_key_to_the_server_of_its_ca_alone(make_server, tmp_path):
    server = make_server()
    server.start()
    make_certificates(tmp_path)
    front = TlsFront(tmp_path / "server.pem", server.config["api_port"])
    key = server.config["credentials"]["services_agent"]
    settings = {"api_server": front.url, "access_key": key["user_key"], "secret_key": key["user_secret"]}
    (tmp_path / "expiry.json").write_text(json.dumps({**settings, "testbed": "lab"}))
    command = [sys.executable, "-I", str(PROGRAM), "--config", str(tmp_path / "expiry.json"), "--once"]
    try:
        for more, code, said in (
            ({"SSL_CERT_FILE": str(tmp_path / "ca.pem")}, 0, "0 keys revoked"),  # as common_environment has it
            ({}, 1, "CERTIFICATE_VERIFY_FAILED"),
        ):
            kept = {name: value for name, value in os.environ.items() if name != "SSL_CERT_FILE"}
            done = subprocess.run(command, env=kept | more, capture_output=True, text=True, check=False)
            assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr
    finally:
        front.close()
