"""Which mirrors a spec names for a host, and how it is told that one does not answer."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from provision import inventory, machines, mirrors, mirrors_on_host, spec
from tests.integration.tls_front import TlsFront, make_certificates

SCRIPT = Path(mirrors_on_host.__file__)
WHEELS = inventory.Wheels(lite=Path("lite.whl"), workload=Path("workload.whl"))
SECONDS = 10.0


def _parse(text, server="backend: lite"):
    return spec.parse(f"name: lab\nprovider: local\nusers: [{{name: alice}}]\nserver: {{{server}}}\n{text}", "t.yaml")


def _named(text, server="backend: lite", *, with_server=True):
    return [(each.key, each.url, each.page) for each in mirrors.named(_parse(text, server), with_server=with_server)]


def test_without_mirrors_none_is_named():
    assert _named("") == _named("", "backend: docker") == []


def test_every_host_asks_the_archives_and_the_index_for_a_small_page():
    text = "mirrors: {apt: 'http://m/debian', apt_security: 'http://m/security/', pip: 'https://m/simple/'}\n"
    assert _named(text, with_server=False) == [
        ("mirrors.apt", "http://m/debian", "http://m/debian/dists/"),
        ("mirrors.apt_security", "http://m/security/", "http://m/security/dists/"),
        ("mirrors.pip", "https://m/simple/", "https://m/simple/pip/"),
    ]
    assert _named("mirrors: {pip: 'http://m/simple'}\n") == [("mirrors.pip", "http://m/simple", "http://m/simple/pip/")]


DOCKER = (
    "backend: docker, registry: 'r.example:5000/hub', engine: {registry_mirrors: ['http://h1', 'http://h2'], "
    "source: docker, key_file: k, repository: 'http://d/linux'}"
)


def test_the_servers_host_asks_for_images_and_docker_and_no_other_does():
    assert _named("", DOCKER) == [
        ("server.registry", "https://r.example:5000", "https://r.example:5000/v2/"),
        ("server.engine.registry_mirrors", "http://h1", "http://h1/v2/"),
        ("server.engine.registry_mirrors", "http://h2", "http://h2/v2/"),
        ("server.engine.repository", "http://d/linux", "http://d/linux/"),
    ]
    assert _named("", DOCKER, with_server=False) == []


def test_dockers_own_repository_is_no_mirror_of_the_specs():
    assert _named("", "backend: docker, engine: {source: docker, key_file: k}") == []


def test_a_registry_on_the_host_itself_is_asked_without_tls():
    [(_, url, _)] = _named("", "backend: docker, registry: 'localhost:5000/hub'")
    assert url == "http://localhost:5000"


class Answers(BaseHTTPRequestHandler):
    """`/404/…` answers 404, and so on; all else 200, `/slow/` after the test. Every line is kept by the server."""

    def do_GET(self) -> None:
        self.server.lines.append(self.requestline)
        first = self.path.strip("/").split("/")[0]
        if first == "slow":
            self.server.over.wait(30)
        self.send_response(int(first) if first.isdigit() else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def there():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.lines, server.over, server.url = [], threading.Event(), f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def _asked(*urls, seconds=SECONDS, **environment):
    argument = {"urls": urls, "environment": {"no_proxy": "*"} | environment, "seconds": seconds}
    done = subprocess.run(
        [sys.executable, "-I", str(SCRIPT), json.dumps(argument)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def _closed():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}/x"


def test_what_answers_is_well_and_what_does_not_is_told(there):
    well = [f"{there.url}/{path}" for path in ("dists/", "404/", "403/", "401/v2/")]
    broken, closed, nobody = f"{there.url}/502/", _closed(), "http://mirror.invalid/"
    found = _asked(*well, broken, closed, nobody)
    assert [found[url] for url in well] == [""] * len(well), "what it answers is for apt and pip to judge"
    assert found[broken] == "HTTP 502 Bad Gateway"
    assert "Connection refused" in found[closed]
    assert found[nobody]


def test_one_that_hangs_is_given_up(there):
    url = f"{there.url}/slow/"
    assert mirrors_on_host.wrong_with(url, 0.2) == "timed out"


def test_a_name_that_is_looked_up_for_ever_is_given_up_and_the_others_are_told(monkeypatch):
    forever = threading.Event()
    monkeypatch.setattr(mirrors_on_host, "wrong_with", lambda url, _: "" if url == "well" else forever.wait(60))
    assert mirrors_on_host.ask(["well", "forever"], 0.1) == {"well": "", "forever": "no answer within 0.1 s"}
    forever.set()


def test_the_proxy_is_taken_that_apt_and_pip_take(there):
    assert _asked("http://mirror.invalid/debian/dists/", http_proxy=there.url, no_proxy="") == {
        "http://mirror.invalid/debian/dists/": ""
    }
    assert there.lines == ["GET http://mirror.invalid/debian/dists/ HTTP/1.1"]


def test_a_certificate_must_be_of_a_ca_that_is_trusted(there, tmp_path):
    make_certificates(tmp_path)
    front = TlsFront(tmp_path / "server.pem", there.server_port)
    try:
        assert "certificate verify failed" in _asked(front.url)[front.url]
        assert _asked(front.url, SSL_CERT_FILE=str(tmp_path / "ca.pem")) == {front.url: ""}
        folder = tmp_path / "certs.d" / front.url.removeprefix("https://")
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes((tmp_path / "ca.pem").read_bytes())
        stored = mirrors_on_host.trusted(front.url, tmp_path / "certs.d").cert_store_stats()
        assert stored["x509"] == mirrors_on_host.trusted(front.url).cert_store_stats()["x509"] + 1
    finally:
        front.close()


@pytest.fixture
def session(tmp_path):
    """A function from a part of a spec to a session on this machine."""

    def open_one(text):
        testbed = _parse(text)
        found = inventory.build(testbed, machines.local("root"), WHEELS, {})
        file = tmp_path / "inventory.json"
        file.write_text(json.dumps(found))
        return types.SimpleNamespace(testbed=testbed, inventory=found, inventory_file=file, hosts=["local"])

    return open_one


def test_every_host_that_is_not_away_is_asked(session, there):
    closed = _closed()
    opened = session(f"mirrors: {{apt: {there.url}/debian, pip: '{closed}'}}\n")
    apt, pip = mirrors.look(opened, away=())
    assert (apt.host, apt.key, apt.url, apt.problem) == ("local", "mirrors.apt", f"{there.url}/debian", "")
    assert (pip.key, pip.url) == ("mirrors.pip", closed)
    assert "refused" in pip.problem
    assert mirrors.look(opened, away={"local"}) == []


def test_without_mirrors_no_host_is_asked(session, monkeypatch):
    monkeypatch.setattr(mirrors.hosts, "connect", None)
    assert mirrors.look(session(""), away=()) == []
