"""TLS on the built-in testbed: switched on, used, broken in every way that `status` names, mended, switched off."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import signal
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from provision import certificates, forward, spec
from provision.clearml_api import ClearmlApi
from provision.inventory import CA_BUNDLE
from provision.secrets import Vault
from tests.integration.deployed.stored import is_there, store

pytestmark = [pytest.mark.deployed, pytest.mark.long]

PEM = Path("/etc/testbed/tls-proxy.pem")
PID = Path("/run/testbed-tls-proxy.pid")
LEFT = [
    PEM,
    PID,
    Path("/etc/testbed/nginx.conf"),
    Path("/opt/testbed/run-tls-proxy"),
    Path("/var/lib/testbed/tls-proxy"),
]
REDIRECT = 8000
MEGABYTE = 1 << 20
BIG = 128  # megabytes
GUESSES = 200


def _conf(testbed: spec.Testbed) -> str:
    return Path(f"~{testbed.users[0].name}/clearml.conf").expanduser().read_text()


def _text() -> str:
    lines = spec.EXAMPLE.read_text().splitlines()
    here = next(number for number, line in enumerate(lines) if line.startswith("  # bind:"))
    return "\n".join([*lines[:here], f"  tls: {{redirect_from: {REDIRECT}}}", *lines[here:], ""])


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """The built-in testbed, with TLS."""
    path = tmp_path_factory.mktemp("tls") / "testbed.yaml"
    path.write_text(_text())
    return path


@pytest.fixture(scope="module")
def secured(command, testbed, file) -> Iterator[spec.Testbed]:
    """The testbed with TLS; afterwards without. What a user stores before is there with it, and the other way round."""
    before = store(testbed, "http://127.0.0.1:8081")
    done = command("up", "--yes", "--spec", str(file))
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        for word in (
            "canonical url answers on every host: files",
            "certificate is good for two weeks: api",
            "workload completes",
        ):
            assert word in done.stdout  # the whole chain went over TLS
        found = Vault(testbed.name).load()
        forward.trust(testbed.name, found.tls.authority)
        assert is_there(testbed, before)
        meanwhile = store(testbed, "https://127.0.0.1:8081")
        yield spec.load(file)
    finally:
        forward.trust(testbed.name, "")
        off = command("up", "--yes")
    assert off.returncode == 0, off.stdout + off.stderr
    assert [path for path in LEFT if path.exists()] == []
    assert not Path(CA_BUNDLE).exists()
    assert 'api_server: "http://127.0.0.1:8008"' in _conf(testbed)
    assert httpx.get(f"{testbed.server.url('api')}/debug.ping").status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get("http://127.0.0.1:18008/debug.ping")
    assert is_there(testbed, before)
    assert is_there(testbed, meanwhile)


@pytest.fixture
def key(testbed):
    return Vault(testbed.name).load().toolkit


@pytest.fixture
def token(secured, key) -> dict[str, str]:
    with ClearmlApi(secured.server.url("api"), key) as api:
        return {"Authorization": f"Bearer {api.login()}"}


@pytest.fixture
def http(secured) -> Iterator[httpx.Client]:
    with forward.client(timeout=60) as client:
        yield client


def test_a_second_run_changes_nothing_and_a_check_says_so(secured, command, file):
    done = command("up", "--yes", "--json", "--spec", str(file))
    assert json.loads(done.stdout)["changed"] == 0, done.stderr
    done = command("up", "--check", "--json", "--spec", str(file))
    assert json.loads(done.stdout)["changes"] == []


def test_confs_have_the_new_urls_and_the_ca(secured, testbed):
    for conf in (_conf(testbed), Path("/etc/testbed/agent-default.conf").read_text()):
        assert 'api_server: "https://127.0.0.1:8008"' in conf
        assert conf.count(f'verify_certificate: "{CA_BUNDLE}"') == 2
        [plain] = [line.strip() for line in conf.splitlines() if "http://" in line]
        assert plain == '{ registered_prefix: "http://127.0.0.1:8081", local_prefix: "https://127.0.0.1:8081" }'


def test_nobody_but_root_can_read_the_key_and_the_cas_is_on_no_host(secured, testbed):
    found = PEM.stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (0, 0o600)
    authority = Vault(testbed.name).load().tls.authority_key.splitlines()[1].encode()
    folders = (Path("/etc/testbed"), Path("/var/log/testbed"), Path("/opt/testbed/stamps"))
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert PEM in files
    assert [path for path in files if authority in path.read_bytes()] == []


def test_the_distributions_nginx_stays_off(secured):
    assert not Path("/run/nginx.pid").exists()
    assert not list(Path("/etc").glob("rc[2-5].d/S*nginx"))


def test_a_file_of_many_megabytes_comes_back_whole(http, secured, token):
    url, path, block, digest = secured.server.url("files"), "tls/big.bin", os.urandom(MEGABYTE), hashlib.sha256()

    def body() -> Iterator[bytes]:
        yield f'--edge\r\nContent-Disposition: form-data; name="{path}"; filename="x"\r\n\r\n'.encode()
        for number in range(BIG):
            part = number.to_bytes(4, "big") + block[4:]
            digest.update(part)
            yield part
        yield b"\r\n--edge--\r\n"

    sent = http.post(url, content=body(), headers={**token, "Content-Type": "multipart/form-data; boundary=edge"})
    assert sent.status_code == 200, sent.text
    found = hashlib.sha256()
    with http.stream("GET", f"{url}/{path}", headers=token) as answer:
        for chunk in answer.iter_bytes():
            found.update(chunk)
    assert found.hexdigest() == digest.hexdigest()
    assert http.delete(f"{url}/{path}", headers=token).status_code == 200


def test_who_may_not_upload_is_told_so_however_large_it_is(http, secured):
    parts = {"tls/refused.bin": ("x", bytes(BIG * MEGABYTE))}
    refused = http.post(secured.server.url("files"), files=parts, headers={"Authorization": "Bearer nobody"})
    assert refused.status_code == 401, refused.text


def test_plain_http_is_led_to_https(secured):
    for service in spec.URL_SERVICES:
        url = secured.server.url(service)
        answer = httpx.get(f"{url.replace('https', 'http')}/x?y=z")
        assert (answer.status_code, answer.headers["Location"]) == (308, f"{url}/x?y=z")
    answer = httpx.get(f"http://127.0.0.1:{REDIRECT}/projects")
    assert answer.headers["Location"] == f"{secured.server.url('web')}/projects"


def test_answers_carry_security_headers_and_cookies_go_over_tls_only(http, secured, key):
    for service in spec.URL_SERVICES:
        headers = http.get(f"{secured.server.url(service)}/").headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors" in headers["Content-Security-Policy"]
        assert headers["Server"] == "nginx"
    login = http.get(f"{secured.server.url('api')}/auth.login", auth=(key.access_key, key.secret_key))
    assert "secure" in login.headers["Set-Cookie"].lower()


def _reload(testbed: spec.Testbed, pair: certificates.Pair, eventually) -> None:
    PEM.write_text(pair.key + pair.certificate)
    os.kill(int(PID.read_text()), signal.SIGHUP)
    import ssl

    def served() -> bool:
        return ssl.get_server_certificate(("127.0.0.1", 8008)).split() == pair.certificate.split()

    eventually("nginx serves the other certificate", served, 20)


def test_a_bad_certificate_is_named_with_what_to_do_and_the_next_up_mends_it(
    secured, testbed, command, file, eventually
):
    held = Vault(testbed.name).load().tls
    ours, now = certificates.Pair(held.authority, held.authority_key), datetime.datetime.now(datetime.UTC)
    theirs = certificates.make_authority("theirs", now)
    day = datetime.timedelta(days=1)
    pid = PID.read_text()
    for pair, told in (
        (certificates.issue(ours, ["127.0.0.1"], now, -day / 2), "has expired"),
        (certificates.issue(ours, ["127.0.0.1"], now, 3 * day), "in 2 days"),
        (certificates.issue(ours, ["192.0.2.1"], now), "is not for 127.0.0.1"),
        (certificates.issue(theirs, ["127.0.0.1"], now), "is not from the CA of these secrets"),
    ):
        _reload(testbed, pair, eventually)
        done = command("status", "--json", "--spec", str(file))
        assert done.returncode == 1
        found = [problem for problem in json.loads(done.stdout)["problems"] if told in problem["message"]]
        assert found, done.stdout
        assert "testbed up" in found[0]["remedy"]
    _reload(testbed, certificates.issue(ours, ["127.0.0.1"], now, -day / 2), eventually)
    done = command("smoke", "--level", "quick", "--spec", str(file))
    assert done.returncode == 1
    assert "certificate is good for two weeks" in done.stdout
    assert "has expired" in " ".join(done.stdout.split())
    done = command("up", "--yes", "--json", "--spec", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["changed"] == 2  # the file, and that nginx takes it
    assert PID.read_text() == pid  # without a restart
    assert command("status", "--spec", str(file)).returncode == 0


def test_who_is_killed_comes_back(secured, eventually):
    before = PID.read_text()
    os.kill(int(before), signal.SIGKILL)

    def back() -> bool:
        try:
            return PID.read_text() != before and http_ok(secured)
        except OSError:
            return False

    eventually("nginx is back", back, 30)


def http_ok(testbed: spec.Testbed) -> bool:
    """Return whether the API answers."""
    try:
        with forward.client(timeout=5) as client:
            return client.get(f"{testbed.server.url('api')}/debug.ping").status_code == 200
    except httpx.HTTPError:
        return False


def test_who_guesses_is_refused_and_logins_work_again_soon(http, secured, key, token, eventually):
    url = secured.server.url("api")

    def guess(number: int) -> int:
        return http.get(f"{url}/v2.{number % 40}/auth.login", auth=(f"KEY{number}", "guess")).status_code

    with ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(guess, range(GUESSES)))
    assert set(codes) == {401, 429}
    assert http.get(f"{url}/users.get_current_user", headers=token).status_code == 200

    def login() -> bool:
        time.sleep(1)
        return http.get(f"{url}/auth.login", auth=(key.access_key, key.secret_key)).status_code == 200

    eventually("a login works", login, 15)
