"""nginx as role tls_proxy sets it up, in front of a live clearml-lite: uploads, logins, redirects, renewal."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import httpx
import jinja2
import pytest

from provision import certificates, forward
from provision.clearml_api import ClearmlApi
from provision.errors import ApiError
from provision.secrets import KeyPair
from tests.integration.conftest import free_ports
from tests.integration.given import Given
from tests.integration.tls.nginx import NAME, Proxy, services_at

ROOT = Path(__file__).parents[3]
ROLE = ROOT / "roles" / "tls_proxy"
MEGABYTE = 1 << 20
BIG = 128  # megabytes
GUESSES = 120

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="nginx gives up root, which it has to have first")


@pytest.fixture(scope="module")
def lite(make_server):
    """A server whose URLs are those of the proxy in front of it."""
    server = make_server()
    server.ports = {name: server.config[f"{name}_port"] for name in ("api", "web", "files")}
    server.plain = dict(server.urls)
    public = free_ports(4)
    server.public, server.redirect = public[:3], public[3]
    server.start()
    server.stop()
    server.config["urls"] = {
        name: f"https://{NAME}:{port}" for name, port in zip(("api", "web", "files"), public, strict=False)
    }
    server.process = subprocess.Popen(server.command(), cwd=ROOT, stdout=server.log.open("ab"), stderr=-2)
    end = time.monotonic() + 90  # on a machine that is busy
    while True:
        try:
            assert httpx.get(f"{server.plain['api']}/debug.ping").status_code == 200
            return server
        except httpx.TransportError:
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.fixture(scope="module")
def proxy(lite, nginx, render_role, tmp_path_factory) -> Iterator[Proxy]:
    services = services_at(lite.public, lite.ports)
    folder = tmp_path_factory.mktemp("proxy")
    for above in folder.parents[:2]:
        above.chmod(0o755)  # nginx' workers look for their folder below it
    found = Proxy(folder, nginx, render_role, services, tls_proxy_redirect_port=lite.redirect, tls_proxy_login_burst=20)
    found.start()
    yield found
    found.stop()


@pytest.fixture
def http(proxy: Proxy) -> Iterator[httpx.Client]:
    with httpx.Client(verify=proxy.context, timeout=60) as client:
        yield client


def _login(http: httpx.Client, proxy: Proxy, path: str = "/auth.login", guess: str = "alice-pass-1") -> httpx.Response:
    return http.get(f"{proxy.urls['api']}{path}", auth=("alice", guess))


@pytest.fixture
def token(http, proxy) -> dict[str, str]:
    end = time.monotonic() + 30
    while (answer := _login(http, proxy)).status_code == 429:  # after the guesses of another test
        assert time.monotonic() < end
        time.sleep(float(answer.headers["Retry-After"]))
    return {"Authorization": f"Bearer {answer.json()['data']['token']}"}


def test_the_cookie_of_a_login_goes_over_tls_only(http, proxy, token):
    cookie = _login(http, proxy).headers["Set-Cookie"]
    assert "secure" in cookie.lower()


def test_a_file_of_many_megabytes_goes_up_and_comes_down_whole(http, proxy, token):
    block = os.urandom(MEGABYTE)
    digest = hashlib.sha256()
    boundary, path = "testbed-boundary", "tls/big.bin"

    def body() -> Iterator[bytes]:
        yield f'--{boundary}\r\nContent-Disposition: form-data; name="{path}"; filename="x"\r\n\r\n'.encode()
        for number in range(BIG):
            part = number.to_bytes(4, "big") + block[4:]
            digest.update(part)
            yield part
        yield f"\r\n--{boundary}--\r\n".encode()

    headers = {**token, "Content-Type": f"multipart/form-data; boundary={boundary}"}
    sent = http.post(proxy.urls["files"], content=body(), headers=headers)
    assert sent.status_code == 200, sent.text
    assert not [file for file in (proxy.folder / "temporary").rglob("*") if file.is_file()]  # nothing was put aside
    found, size = hashlib.sha256(), 0
    with http.stream("GET", f"{proxy.urls['files']}/{path}", headers=token) as answer:
        for chunk in answer.iter_bytes():
            found.update(chunk)
            size += len(chunk)
    assert (size, found.hexdigest()) == (BIG * MEGABYTE, digest.hexdigest())
    assert http.delete(f"{proxy.urls['files']}/{path}", headers=token).status_code == 200


def test_who_may_not_upload_is_told_so_however_large_it_is(http, proxy):
    parts = {"tls/refused.bin": ("x", bytes(40 * MEGABYTE))}

    def upload(_: int) -> int:
        return http.post(proxy.urls["files"], files=parts, headers={"Authorization": "Bearer nobody"}).status_code

    with ThreadPoolExecutor(4) as pool:  # one alone may be lucky
        assert {*pool.map(upload, range(24))} == {401}


def test_a_connection_on_which_an_upload_was_refused_can_be_used_again(proxy):
    address = httpx.URL(proxy.urls["files"])
    connection = HTTPSConnection(address.host, address.port, context=proxy.context, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/")
        connection.putheader("Authorization", "Bearer nobody")
        connection.putheader("Content-Length", str(40 * MEGABYTE))
        connection.endheaders()
        connection.send(bytes(39 * MEGABYTE))
        time.sleep(0.5)  # an answer that did not wait for the rest would be there now
        connection.send(bytes(MEGABYTE))
        with connection.getresponse() as answer:
            assert (answer.status, answer.headers["Connection"]) == (401, "keep-alive")
            answer.read()
        connection.auto_open = False
        connection.request("GET", "/")
        with connection.getresponse() as answer:
            assert answer.status == 200


@pytest.mark.parametrize("path", ["/auth.login", "/v2.23/auth.login", "/v999.0/auth.login", "/tasks.get_all"])
def test_who_guesses_passwords_is_refused_and_who_has_a_token_goes_on(http, proxy, token, path):
    def guess(number: int) -> httpx.Response:
        return _login(http, proxy, path, f"guess-{number}")

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(guess, range(GUESSES)))
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {401, 429}
    assert codes.count(401) <= 20 + GUESSES // 3  # the burst, and what comes in while they run
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["meta"]["result_code"] == 429
    assert refused.headers["Retry-After"] == "1"
    assert http.get(f"{proxy.urls['api']}/users.get_current_user", headers=token).status_code == 200
    forward.trust("lab", proxy.authority.certificate)
    said = {}
    with ClearmlApi(proxy.urls["api"], KeyPair(access_key="alice", secret_key="guess")) as api:
        for _ in range(GUESSES):
            try:
                api.login()
            except ApiError as error:
                said[error.code] = error.message
    assert "wait some seconds" in said[429]
    assert "429" in (proxy.folder / "log").read_text()


def test_plain_http_is_led_to_the_canonical_url(proxy, lite):
    for service, url in proxy.urls.items():
        answer = httpx.get(f"{url.replace('https', 'http')}/a/b?c=d")
        assert (answer.status_code, answer.headers["Location"]) == (308, f"{url}/a/b?c=d"), service
    answer = httpx.get(f"http://{NAME}:{lite.redirect}/projects/x")
    assert (answer.status_code, answer.headers["Location"]) == (308, f"{proxy.urls['web']}/projects/x")


def test_a_browser_that_follows_a_link_of_before_tls_is_still_logged_in(http, proxy, token):
    sent = http.post(proxy.urls["files"], files={"tls/link.txt": ("x", b"text")}, headers=token)
    assert sent.status_code == 200
    link = f"{proxy.urls['files'].replace('https', 'http')}/tls/link.txt"
    http.cookies.clear()
    assert http.get(link, follow_redirects=True).status_code == 401
    assert _login(http, proxy).status_code == 200  # the client keeps its cookie
    found = http.get(link, follow_redirects=True)
    assert (found.status_code, found.content) == (200, b"text")
    assert "Cookie" not in found.history[0].request.headers


def test_answers_carry_security_headers_once_and_no_version(http, proxy):
    for url in (f"{proxy.urls['api']}/debug.ping", f"{proxy.urls['web']}/", f"{proxy.urls['files']}/"):
        answer = http.get(url)
        assert answer.status_code == 200
        assert answer.headers.get_list("X-Content-Type-Options") == ["nosniff"]
        assert "frame-ancestors" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Referrer-Policy"]
        assert answer.headers.get_list("Server")[0] == "nginx"


@pytest.mark.parametrize("path", ["/files/a/page.html", "/files", "/x/../files/page.html", "/%66iles/page.html"])
def test_a_file_that_the_webserver_passes_on_is_sandboxed(http, proxy, path):
    web = httpx.URL(proxy.urls["web"]).copy_with(raw_path=path.encode())
    assert "sandbox" in http.get(web).headers["Content-Security-Policy"]
    assert "sandbox" not in http.get(f"{proxy.urls['web']}/login").headers["Content-Security-Policy"]


def test_old_tls_is_refused(proxy):
    arguments = ["openssl", "s_client", "-connect", proxy.urls["api"].removeprefix("https://"), "-tls1_1"]
    done = subprocess.run(
        [*arguments, "-cipher", "ALL:@SECLEVEL=0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "alert protocol version" in done.stdout + done.stderr


def test_the_sdk_uploads_and_reads_through_it_with_the_ca_in_its_conf(http, proxy, lite, tmp_path, token):
    ca, conf = tmp_path / "ca.pem", tmp_path / "clearml.conf"
    ca.write_text(proxy.authority.certificate)
    made = http.post(f"{proxy.urls['api']}/auth.create_credentials", json={"label": "sdk"}, headers=token).json()
    urls = {f"{name}_url": url for name, url in proxy.urls.items()}
    told = {**made["data"]["credentials"], **urls, "ca_file": str(ca)}
    template = jinja2.Template((ROOT / "templates/clearml.conf.j2").read_text(), trim_blocks=True)
    conf.write_text(template.render(conf=told))
    script = """
import os, time
for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
    os.environ.pop(name, None)
from clearml import Task, StorageManager
task = Task.init("tls tests", "upload", auto_connect_frameworks=False, auto_resource_monitoring=False, output_uri=True)
task.upload_artifact("numbers", {"a": [1, 2, 3]}, wait_on_upload=True)
task.close()
found = Task.get_task(task_id=task.id).artifacts["numbers"]
print("URL", found.url)
print("GOT", found.get())
"""
    said = lite.run_python(script, conf)
    assert f"URL {proxy.urls['files']}" in said
    assert "GOT {'a': [1, 2, 3]}" in said


def _serve(proxy: Proxy, *more: str) -> dict[str, Any]:
    """Run the role's module as Ansible does; what it returns."""
    port = proxy.urls["api"].rpartition(":")[2]
    arguments = {"certificate": proxy.pair.certificate, "address": "127.0.0.1", "port": int(port)}
    command = [str(Path(sys.executable).with_name("ansible")), "localhost", "-m", "testbed_served"]
    done = subprocess.run(
        [*command, "-a", json.dumps({**arguments, "pid_file": str(proxy.pid)}), *more],
        env={
            **os.environ,
            "ANSIBLE_LIBRARY": str(ROLE / "library"),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_NOCOLOR": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.partition(" => ")[2])


def test_a_new_certificate_is_taken_without_a_restart_and_without_a_word_when_there_is_none(http, proxy, token):
    before = proxy.pid.read_text()
    assert not _serve(proxy)["changed"]
    http.post(proxy.urls["files"], files={"tls/slow.bin": ("x", b"x" * 8 * MEGABYTE)}, headers=token)
    with http.stream("GET", f"{proxy.urls['files']}/tls/slow.bin", headers=token) as answer:
        chunks = answer.iter_bytes(65536)
        size = len(next(chunks))
        proxy.certify([NAME, "127.0.0.1"])
        told = _serve(proxy, "--check")
        assert told["changed"]
        assert told["testbed_changes"][0]["detail"] == "takes another certificate"
        assert _serve(proxy)["changed"]
        size += sum(len(chunk) for chunk in chunks)  # the download goes on
    assert size == 8 * MEGABYTE
    assert not _serve(proxy)["changed"]
    assert proxy.pid.read_text() == before


def test_a_chain_that_comes_later_is_shown_without_a_restart(proxy, tmp_path):
    given = Given(tmp_path)
    given.make()
    leaf, whole = given.put([NAME, "127.0.0.1"]), (tmp_path / "server.pem").read_text()
    trusted = ssl.create_default_context(cafile=str(tmp_path / "root.crt"))
    before = proxy.pair
    try:
        for certificate, changes in ((leaf.certificate, True), (whole, True), (whole, False)):
            proxy.pair = certificates.Pair(certificate, leaf.key)
            proxy.pem.write_text(leaf.key + certificate)
            assert _serve(proxy, "--check")["changed"] is changes
            assert _serve(proxy)["changed"] is changes
        assert httpx.get(f"{proxy.urls['web']}/", verify=trusted).status_code == 200
    finally:
        proxy.pair = before
        proxy.pem.write_text(before.key + before.certificate)
        _serve(proxy)


def test_while_the_server_is_away_clients_are_told_to_wait(http, proxy, lite):
    lite.stop()
    try:
        answer = http.get(f"{proxy.urls['api']}/debug.ping")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json()["meta"]["result_code"] == 503
    finally:
        lite.process = subprocess.Popen(lite.command(), cwd=ROOT, stdout=lite.log.open("ab"), stderr=-2)
        end = time.monotonic() + 20
        while http.get(f"{proxy.urls['api']}/debug.ping").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.1)


@pytest.mark.parametrize("victim", ["what runs it", "nginx"])
def test_what_is_killed_leaves_nobody_on_its_ports(proxy, victim):
    process = proxy.process
    pid = process.pid if victim == "what runs it" else int(proxy.pid.read_text())
    os.kill(pid, signal.SIGKILL)
    process.wait(20)
    end = time.monotonic() + 10
    while proxy.children():
        assert time.monotonic() < end, proxy.children()
        time.sleep(0.05)
    proxy.start()


def test_it_stops_at_once_and_leaves_no_pid_file(proxy):
    assert proxy.stop() == 0
    assert not proxy.pid.exists()
    assert not proxy.children()
    proxy.start()


def test_its_environment_still_tells_which_service_it_is(proxy):
    shown = Path(f"/proc/{proxy.process.pid}/environ").read_bytes()
    assert b"PATH=" in shown


def test_three_names_on_one_port_lead_to_three_services(lite, nginx, render_role, tmp_path):
    [port] = free_ports(1)
    services = [
        {**each, "host": f"{each['name']}.example", "port": port, "url": f"https://{each['name']}.example:{port}"}
        for each in services_at(lite.public, lite.ports)
    ]
    for above in tmp_path.parents[:2]:
        above.chmod(0o755)
    found = Proxy(tmp_path, nginx, render_role, services, tls_proxy_hsts_seconds=60)
    found.certify([each["host"] for each in services])
    found.urls["api"] = f"https://{NAME}:{port}"  # to wait for
    found.start()
    try:
        with httpx.Client(verify=found.context) as http:

            def get(name: str, path: str) -> httpx.Response:
                return http.get(
                    f"https://127.0.0.1:{port}{path}",
                    headers={"Host": f"{name}.example:{port}"},
                    extensions={"sni_hostname": f"{name}.example"},
                )

            assert get("api", "/debug.ping").json()["meta"]["result_code"] == 200
            assert "clearml-lite" in get("web", "/").text
            assert get("files", "/missing").status_code in (401, 404)
            assert get("web", "/").headers["Strict-Transport-Security"] == "max-age=60"
            stranger = http.get(
                f"https://127.0.0.1:{port}/",
                headers={"Host": "other.example"},
                extensions={"sni_hostname": "web.example"},
            )
            assert stranger.status_code == 421
    finally:
        found.stop()
