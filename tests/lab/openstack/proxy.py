"""A proxy in front of the test cloud: it records every API call, and makes what a cloud does on its bad days.

The services' addresses are replaced in all that passes, the catalogue first, so that a client which knows nothing but
the proxy's `auth_url` comes through it with every call.
"""

from __future__ import annotations

import http.client
import re
import ssl
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.lab.openstack.cloud import Cloud

ANSWER_S = 180
PER_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"}


@dataclass(frozen=True)
class Call:
    """An API call: the how manyeth, to which service (`nova`), and what was asked."""

    number: int
    service: str
    method: str
    path: str
    body: bytes
    token: str

    @property
    def changes(self) -> bool:
        """Whether it may change something in the project; a new token does not."""
        return self.method in ("POST", "PUT", "PATCH", "DELETE") and self.service != "keystone"

    def __str__(self) -> str:
        """Say it with words in place of IDs."""
        path = re.sub(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", "ID", self.path.split("?")[0])
        return f"{self.service} {self.method} {path}"


@dataclass(frozen=True)
class Reply:
    """An answer to a call."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


class Cut(Exception):
    """Raised by a fault: the connection ends without an answer."""


@dataclass
class Fault:
    """What happens to the first `times` calls that are meant.

    `before`: instead of the real call (where it returns a reply), or in front of it. `after`: when the real call has
    been made, and its answer has not been sent. Both may raise `Cut`.
    """

    where: Callable[[Call], bool]
    before: Callable[[Call], Reply | None] = lambda call: None
    after: Callable[[Call, Reply], Reply] = lambda call, reply: reply
    times: float = 1
    met: list[Call] = field(default_factory=list)


def at(service: str, method: str, path: str) -> Callable[[Call], bool]:
    """Return what finds calls; `path` is the end of a path, and it and `method` are regular expressions."""
    return lambda call: (
        call.service == service
        and re.fullmatch(method, call.method) is not None
        and re.search(f"(?:{path})$", call.path.split("?")[0]) is not None
    )


def answer(status: int, words: str = "", **headers: str) -> Callable[[Call], Reply]:
    """Return a `before` that answers with a status, as load balancers do; `Retry_After="1"` is a header."""
    sent = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    kind = (("Content-Type", "text/html"),)
    page = f"<html><body><h1>{words or f'{status} by the test'}</h1></body></html>"
    return lambda call: Reply(status, kind + sent, page.encode())


def cut(*_: Any) -> Any:
    """Cut the connection: a `before`, or an `after`."""
    raise Cut


def wait(seconds: float) -> Callable[[Call], None]:
    """Return a `before` that lets the call wait."""
    return lambda call: time.sleep(seconds)


@dataclass
class Proxy:
    """The running proxy."""

    auth_url: str = ""
    calls: list[Call] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    addresses: dict[str, str] = field(default_factory=dict)  # real → the proxy's
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> Fault:
        """Have a fault happen from now on."""
        self.faults.append(fault)
        return fault

    def forget(self) -> None:
        """Forget all calls and faults."""
        self.calls.clear()
        self.faults.clear()

    def met(self, service: str, method: str, path: str) -> list[Call]:
        """Return the calls so far that `at` finds."""
        return list(filter(at(service, method, path), self.calls))

    def record(self, service: str, method: str, path: str, body: bytes, token: str) -> tuple[Call, Fault | None]:
        """Count a call, and return the fault that meets it."""
        with self.lock:
            call = Call(len(self.calls) + 1, service, method, path, body, token)
            self.calls.append(call)
            for fault in self.faults:
                if len(fault.met) < fault.times and fault.where(call):
                    fault.met.append(call)
                    return call, fault
            return call, None

    def translate(self, text: bytes) -> bytes:
        """Put the proxy's addresses in place of the real ones."""
        for real, ours in self.addresses.items():
            text = text.replace(real.encode(), ours.encode())
        return text


@contextmanager
def running(cloud: Cloud, certificate: Path | None = None) -> Iterator[Proxy]:
    """Yield a proxy for all services; with a certificate (and its key, in one file) it speaks TLS."""
    proxy, servers = Proxy(), []
    for service, real in _services(cloud).items():
        server = _Server(proxy, service, real, certificate)
        servers.append(server)
        proxy.addresses[real] = server.url
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    real = cloud.entry["auth"]["auth_url"]
    proxy.auth_url = proxy.translate(real.encode()).decode()
    try:
        yield proxy
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _services(cloud: Cloud) -> dict[str, str]:
    """Return the services of the catalogue and where each listens: scheme, host and port."""
    admin = cloud.admin
    catalogue = admin.session.auth.get_access(admin.session).service_catalog.catalog
    urls = {each["name"]: each["endpoints"][0]["url"] for each in catalogue}
    return {name: "{0.scheme}://{0.netloc}".format(urllib.parse.urlsplit(url)) for name, url in urls.items()}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: Proxy, service: str, real: str, certificate: Path | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.proxy, self.service, self.real = proxy, service, real
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.server_port}"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # the handshake is for the connection's own thread, at its first read
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that are killed, or refuse the certificate, are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing; the calls are recorded."""

    def _pass(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = self.headers.get("X-Auth-Token", "")
        call, fault = proxy.record(self.server.service, self.command, self.path, body, token)
        try:
            reply = fault.before(call) if fault else None
            if reply is None:
                reply = self._real(body)
                if fault:
                    reply = fault.after(call, reply)
            self._send(reply)
        except (Cut, OSError, http.client.HTTPException):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _pass

    def _real(self, body: bytes) -> Reply:
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(self.server.real).netloc, timeout=ANSWER_S)
        headers = {key: value for key, value in self.headers.items() if key.lower() not in PER_CONNECTION | {"host"}}
        headers["Accept-Encoding"] = "identity"
        try:
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            return Reply(answer.status, tuple(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def _send(self, reply: Reply) -> None:
        translate = self.server.proxy.translate
        body = translate(reply.body)
        self.send_response_only(reply.status)
        for key, value in reply.headers:
            if key.lower() not in PER_CONNECTION:
                self.send_header(key, translate(value.encode()).decode())
        if reply.status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def certificates(folder: Path) -> tuple[Path, Path]:
    """Make a private CA and, signed by it, the proxy's certificate; return the CA's, and the proxy's with its key."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    folder.mkdir(parents=True, exist_ok=True)
    new = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl("req", "-x509", *new, "-subj", "/CN=a cloud's own CA", "-keyout", "ca.key", "-out", "ca.crt")
    openssl("req", *new[:3], "-subj", "/CN=a cloud", "-keyout", "cloud.key", "-out", "cloud.csr")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    sign = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "cloud.csr", *sign, "-out", "cloud.crt")
    both = folder / "cloud.pem"
    both.write_text((folder / "cloud.crt").read_text() + (folder / "cloud.key").read_text())
    return folder / "ca.crt", both
