"""A proxy before a server that does to its traffic what proxies, disks and people do to it."""

from __future__ import annotations

import datetime
import email.utils
import http.client
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Manner:
    """What the proxy does: wait before each answer, refuse or cut off bodies over a size, log everybody in, alter what
    is fetched, show another time."""

    delay_s: float = 0
    largest: int | None = None
    cuts: bool = False
    authorization: str = ""
    alters: bool = False
    ahead_s: float = 0


class Front:
    """Listens on a free port of loopback, and hands on to port `behind` there."""

    def __init__(self, behind: int, manner: Manner) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                _hand_on(self, behind, manner)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()


def _hand_on(handler: BaseHTTPRequestHandler, behind: int, manner: Manner) -> None:
    size = int(handler.headers.get("Content-Length") or 0)
    if manner.largest is not None and size > manner.largest:
        handler.close_connection = True
        if not manner.cuts:
            handler.send_response(413, "Request Entity Too Large")
            handler.send_header("Content-Length", "0")
            handler.send_header("Connection", "close")
            handler.end_headers()
            while size > 0 and (piece := handler.rfile.read(min(size, 1 << 20))):  # else the client sees a reset only
                size -= len(piece)
        return
    body = handler.rfile.read(size)
    time.sleep(manner.delay_s)
    headers = {name: value for name, value in handler.headers.items() if name.lower() != "connection"}
    if manner.authorization and "Authorization" not in headers:
        headers["Authorization"] = manner.authorization
    connection = http.client.HTTPConnection("127.0.0.1", behind, timeout=60)
    try:
        connection.request(handler.command, handler.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if manner.alters and handler.command == "GET" and len(content) > 1000:
        content = bytes([content[0] ^ 1]) + content[1:]
    handler.send_response_only(answer.status)
    for name, value in answer.getheaders():
        if name.lower() not in ("content-length", "transfer-encoding", "connection", "date"):
            handler.send_header(name, value)
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=manner.ahead_s)
    handler.send_header("Date", email.utils.format_datetime(moment, usegmt=True))
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(content)
