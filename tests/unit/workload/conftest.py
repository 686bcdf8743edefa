"""A small server that answers as InfluxDB's documentation says: no InfluxDB 2.x is to be had where these tests run."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Callable, Iterator, Tuple
from urllib.parse import parse_qs, urlsplit

import pytest
from workload import influx
from workload.settings import Source

Answer = Tuple[int, str, list]


class Server(ThreadingHTTPServer):
    """Answers every request with `answer`, or what it returns for the query: status, content type, pieces of the body

    (None: break off).
    """

    answer: Answer | Callable[[str], Answer] = (200, "application/csv", [])

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, list[str]], dict[str, str]]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.server.requests.append((self.command, parts.path, parse_qs(parts.query), dict(self.headers)))
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.server.answer
        status, kind, pieces = answer if isinstance(answer, tuple) else answer(parse_qs(parts.query)["q"][0])
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            if piece is None:
                self.close_connection = True
                return
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def two(server) -> influx.InfluxDB:
    return influx.InfluxDB(Source(server.url, 2, "ran/autogen", org="lab", secret="token-1"))
