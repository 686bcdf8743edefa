"""The process: start, configuration, stop, and what it gives away."""

import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from clearml_lite.api import LARGEST_BODY


def run(server: Any) -> subprocess.CompletedProcess[str]:
    folder = Path(__file__).parents[3]
    return subprocess.run(server.command(), capture_output=True, text=True, timeout=20, check=False, cwd=folder)


def test_starts_and_stops_cleanly_with_a_client_connected(make_server: Callable[[], Any]) -> None:
    server = make_server()
    server.start()
    with httpx.Client() as idle:
        idle.get(f"{server.urls['api']}/debug.ping")
        assert server.stop() == 0


def test_a_taken_port_is_one_clear_line(lite: Any, make_server: Callable[[], Any]) -> None:
    server = make_server()
    server.config["files_port"] = lite.config["api_port"]
    done = run(server)
    assert done.returncode == 2
    assert done.stderr == (
        f"clearml-lite: port {lite.config['api_port']} on 127.0.0.1 is in use by another program: "
        "stop it, or set another port\n"
    )


def test_a_data_folder_has_one_server(lite: Any, make_server: Callable[[], Any]) -> None:
    server = make_server()
    server.config["data_dir"] = lite.config["data_dir"]
    done = run(server)
    assert done.returncode == 2
    assert done.stderr == f"clearml-lite: data_dir {lite.config['data_dir']}: is in use by another clearml-lite\n"


def test_what_is_no_database_is_one_clear_line(make_server: Callable[[], Any]) -> None:
    server = make_server()
    (server.folder / "data").mkdir()
    (server.folder / "data" / "clearml.sqlite").write_bytes(b"no database" * 1000)
    done = run(server)
    assert done.returncode == 2
    assert done.stderr == f"clearml-lite: data_dir {server.folder}/data: cannot be used: file is not a database\n"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"token_secret": None}, "token_secret: is missing"),
        ({"token_secret": "short"}, "token_secret: must have at least 32 characters"),
        ({"api_port": "8008"}, "api_port: must be a port number"),
        ({"data_dir": ""}, "data_dir: must be a text"),
        (
            {"users": [{"username": "a", "name": "A", "password_hash": "plain"}]},
            "users[0].password_hash: must be base64",
        ),
        ({"credentials": {}}, "credentials.apiserver: is missing"),
        ({"tokensecret": "x"}, "tokensecret: is not a known key"),
        ({"urls": {"api": "localhost", "web": "http://w", "files": "http://f"}}, "urls.api: must be a URL"),
        ({"bind": "no such host"}, "cannot listen on no such host"),
        ({"data_dir": "/dev/null/data"}, "data_dir /dev/null/data: cannot be used"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(
    make_server: Callable[[], Any], change: dict[str, Any], told: str
) -> None:
    server = make_server()
    server.config |= change
    done = run(server)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert server.config["credentials"] == {} or "secret-of-a-system" not in done.stderr


@pytest.mark.parametrize("content", [b"", b"- a list", b"bind: [", b"\xff\xfe\x00", None])
def test_a_file_that_is_no_configuration_is_one_clear_line(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "lite.yaml"
    if content is not None:
        file.write_bytes(content)
    command = [sys.executable, "-m", "clearml_lite", "serve", "--config", str(file)]
    folder = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, cwd=folder)
    assert done.returncode == 2
    assert done.stderr.startswith(f"clearml-lite: {file}: ")
    assert done.stderr.count("\n") == 1


def test_users_taken_out_of_the_file_are_gone_with_their_keys(make_server: Callable[[], Any]) -> None:
    server = make_server()
    server.start()
    keys = server.call("auth.create_credentials", user="bob")["credentials"]
    token = server.token("bob")
    server.stop()
    server.config["users"] = [user for user in server.config["users"] if user["username"] != "bob"]
    server.start()
    login = f"{server.urls['api']}/auth.login"
    assert httpx.get(login, auth=("bob", "bob-pass-1")).status_code == 401
    assert httpx.get(login, auth=(keys["access_key"], keys["secret_key"])).status_code == 401
    assert httpx.get(login, headers={"Authorization": f"Bearer {token}"}).status_code == 401
    assert [user["name"] for user in server.call("users.get_all")["users"]] == ["Alice A"]


def test_keys_and_tokens_survive_a_restart(make_server: Callable[[], Any]) -> None:
    server = make_server()
    server.start()
    token = server.token()
    server.stop(signal.SIGKILL)
    server.start()
    answer = httpx.get(f"{server.urls['api']}/users.get_current_user", headers={"Authorization": f"Bearer {token}"})
    assert answer.json()["data"]["user"]["name"] == "Alice A"


def test_public_keys_of_the_official_server_are_worth_nothing(lite: Any) -> None:
    for key, secret in (
        ("62T8CP7HGBC6647XF9314C2VY67RJO", "gaOfhDX2-bpkeI7-cwEcaMuGijxaG2UG3jbIvg4DxmVGF0LNI7rgvCb1-ne38IlBo1w"),
        ("GSQWPEKSKNKF354LC9V6BHXKTYFD5I", "tuBXcGQBECsEhcNiK2kiWi750z9r8Z85XrQ9V0c24huTuCb2xf2X1nKG"),
    ):
        assert httpx.get(f"{lite.urls['api']}/auth.login", auth=(key, secret)).status_code == 401


@pytest.mark.parametrize(("scheme", "address"), [("http", "127.0.0.1"), ("https", "192.0.2.7")])
def test_who_asks_is_told_by_a_proxy_only_where_one_is(
    make_server: Callable[[], Any], scheme: str, address: str
) -> None:
    server = make_server()
    server.config["urls"]["api"] = f"{scheme}://127.0.0.1:{server.config['api_port']}"
    server.start()
    keys = server.call("auth.create_credentials")["credentials"]
    pair = (keys["access_key"], keys["secret_key"])
    httpx.get(f"{server.urls['api']}/auth.login", auth=pair, headers={"X-Forwarded-For": "192.0.2.7"})
    assert server.call("auth.get_credentials")["credentials"][0]["last_used_from"] == address


def test_other_origins_get_no_leave(lite: Any) -> None:
    for name in ("api", "files", "web"):
        answer = httpx.options(
            lite.urls[name], headers={"Origin": "http://evil", "Access-Control-Request-Method": "GET"}
        )
        assert not [header for header in answer.headers if header.startswith("access-control")]


def test_the_cookie_is_for_this_site_only(lite: Any) -> None:
    answer = httpx.get(f"{lite.urls['api']}/auth.login", auth=("alice", "alice-pass-1"))
    attributes = answer.headers["set-cookie"].lower()
    assert attributes.startswith("clearml_token_basic=")
    assert "httponly" in attributes
    assert "samesite=strict" in attributes
    answer = httpx.post(f"{lite.urls['api']}/auth.logout", cookies=dict(answer.cookies))
    assert "max-age=0" in answer.headers["set-cookie"].lower()


def test_the_page_says_what_this_is_and_lets_nobody_in_without_a_login(lite: Any) -> None:
    page = httpx.get(lite.urls["web"])
    assert page.status_code == 200
    assert lite.urls["api"] in page.text
    assert "does not replace the official ClearML server" in page.text
    assert httpx.get(f"{lite.urls['web']}/projects").headers["location"] == "/login?next=/projects"


def test_a_browser_logs_in_sees_a_task_and_its_file_and_logs_out(lite: Any) -> None:
    task = lite.call("tasks.create", {"name": "seen in a browser", "type": "testing"})["id"]
    httpx.post(lite.urls["files"], files={"/seen/it": b"content"}, headers={"Authorization": f"Bearer {lite.token()}"})

    def form_token(text: str) -> str:
        found = re.search(r'name="form_token" value="(\w+)"', text)
        assert found
        return found[1]

    with httpx.Client(base_url=lite.urls["web"]) as browser:
        link = f"/projects/*/experiments/{task}/output/log"  # as the SDK prints it
        asked = browser.get(link, follow_redirects=True)
        fields = {"form_token": form_token(asked.text), "next": f"/tasks/{task}", "username": "alice"}
        page = browser.post("/login", data=fields | {"password": "alice-pass-1"}, follow_redirects=True)
        assert page.url.path == f"/tasks/{task}"
        assert "seen in a browser" in page.text
        assert browser.get("/files/seen/it").content == b"content"
        browser.post("/logout", data={"form_token": form_token(page.text)})
        assert browser.get(f"/tasks/{task}").status_code == 303
    assert "Traceback" not in lite.log.read_text()


def test_a_client_that_goes_away_does_no_harm(lite: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", lite.config["api_port"])
    connection.putrequest("POST", "/events.add_batch")
    connection.putheader("Content-Length", "1000")
    connection.endheaders(b"{")
    connection.close()
    assert httpx.get(f"{lite.urls['api']}/debug.ping").status_code == 200
    assert "Traceback" not in lite.log.read_text()


@pytest.mark.long
def test_the_largest_batch_takes_little_more_memory_than_itself(make_server: Callable[[], Any]) -> None:
    server = make_server()
    server.start()
    task = server.call("tasks.create", {"name": "scalars", "type": "training"})["id"]
    event = {"type": "training_stats_scalar", "task": task, "metric": "loss", "variant": "train", "value": 0.123456789}
    lines, size = [], 0
    while size < LARGEST_BODY - 1000:
        lines.append(json.dumps(event | {"iter": len(lines), "timestamp": 1767225600000}))
        size += len(lines[-1]) + 1
    with httpx.Client(base_url=server.urls["api"], timeout=300) as client:
        client.headers["Authorization"] = f"Bearer {server.token()}"
        answer = client.post("/events.add_batch", content="\n".join(lines))
        assert answer.json()["data"] == {"added": len(lines), "errors": 0, "errors_info": {}}
        assert client.post("/events.add_batch", content=b" " * (LARGEST_BODY + 1)).status_code == 413
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    assert int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) < 150 * 1024


def test_what_it_writes_is_its_own(lite: Any) -> None:
    httpx.post(lite.urls["files"], files={"/own/file": b"x"}, headers={"Authorization": f"Bearer {lite.token()}"})
    written = list((lite.folder / "data").rglob("*"))
    assert lite.folder / "data" / "files" / "own" / "file" in written
    assert [path for path in written if path.stat().st_mode & 0o077] == []


def test_no_secret_is_in_the_log(lite: Any) -> None:
    keys = lite.call("auth.create_credentials")["credentials"]
    httpx.get(f"{lite.urls['api']}/auth.login", auth=(keys["access_key"], keys["secret_key"]))
    log = lite.log.read_text()
    for secret in (keys["secret_key"], "alice-pass-1", lite.config["token_secret"]):
        assert secret not in log
