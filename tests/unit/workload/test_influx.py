"""Reading InfluxDB. Its 2.x dialect is held against a small server of ours that answers as its documentation says:

no InfluxDB 2.x is to be had where these tests run. The 1.x dialect meets a real InfluxDB in tests/integration/workload.
"""

from __future__ import annotations

import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from workload import influx
from workload.errors import SourceError
from workload.settings import Source

HEADER = b"name,tags,time,a,ue_slice\n"
ROWS = [b"randata,,%d,%d.5,1\n" % (1_700_000_000_000_000_000 + number, number) for number in range(5)]
MEASUREMENTS = {"results": [{"series": [{"name": "measurements", "columns": ["name"], "values": [["randata"]]}]}]}


class Server(ThreadingHTTPServer):
    """Answers every request with `answer`: status, content type, pieces of the body (None: break off)."""

    answer = (200, "application/csv", [])

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
        status, kind, pieces = self.server.answer
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


def export(database: influx.InfluxDB) -> tuple[influx.Export, bytes]:
    out = io.BytesIO()
    return database.export(1, 2, out), out.getvalue()


def test_2x_is_asked_with_token_org_and_the_bucket_as_database(server, two):
    server.answer = (200, "application/json", [json.dumps(MEASUREMENTS).encode()])
    two.check()
    ((method, path, query, headers),) = server.requests
    assert (method, path, headers["Authorization"]) == ("GET", "/query", "Token token-1")
    assert (query["db"], query["rp"], query["org"]) == (["ran"], ["autogen"], ["lab"])


def test_2x_is_written_to_by_its_own_endpoint(server, two):
    server.answer = (204, "", [])
    assert two.write(["randata a=1 1"]) == 1
    ((method, path, query, headers),) = server.requests
    assert (method, path, headers["Authorization"]) == ("POST", "/api/v2/write", "Token token-1")
    assert query == {"org": ["lab"], "bucket": ["ran/autogen"], "precision": ["s"]}


@pytest.mark.parametrize("size", [1, 7, 31, 10_000])
def test_rows_are_streamed_without_influxdbs_own_columns_however_they_are_cut(server, two, size, monkeypatch):
    monkeypatch.setattr(influx, "BLOCK", size)
    body = HEADER + b"".join(ROWS)
    server.answer = (200, "application/csv", [body[at : at + size] for at in range(0, len(body), size)])
    done, written = export(two)
    assert done == influx.Export(5, 1_700_000_000_000_000_000, 1_700_000_000_000_000_004)
    assert written == b"time,a,ue_slice\n" + b"".join(row[len(b"randata,,") :] for row in ROWS)
    ((_, _, query, headers),) = server.requests
    assert query["q"] == ['SELECT * FROM "randata" WHERE time >= 1 AND time <= 2']
    assert (query["chunked"], query["epoch"], headers["Accept"]) == (["true"], ["ns"], "application/csv")


def test_an_empty_range_is_no_row(server, two):
    server.answer = (200, "application/csv", [])
    assert export(two) == (influx.Export(), b"")


def test_line_breaks_within_a_value_are_not_rows(server, two):
    server.answer = (200, "application/csv", [HEADER, b'randata,,5,"x\ny",1\n'])
    assert export(two)[0] == influx.Export(1, 5, 5)


UNAUTHORIZED = b'{"code":"unauthorized","message":"unauthorized access"}'


@pytest.mark.parametrize(
    ("status", "kind", "body", "message"),
    [
        (401, "application/json", [UNAUTHORIZED], "refuses the credentials: check INFLUXDB_TOKEN"),
        (
            403,
            "application/json",
            [b'{"code":"forbidden","message":"insufficient permissions"}'],
            "insufficient permissions",
        ),
        (404, "application/json", [b'{"code":"not found","message":"bucket not found"}'], "INFLUXDB_BUCKET.*DBRP"),
        (404, "text/plain", [b"404 page not found"], "does not answer as InfluxDB.*INFLUXDB_URL"),
        (302, "text/html", [], "does not answer as InfluxDB"),
        (500, "application/json", [b'{"error":"disk full"}'], "HTTP 500.*disk full"),
        (200, "application/csv", [HEADER, ROWS[0], None], "broke off after 1 rows"),
        (200, "application/csv", [HEADER, ROWS[0], ROWS[1][:-4]], "broke off after 1 rows"),
        (200, "application/csv", [HEADER, ROWS[0], b"\nerror\nshard is gone\n"], "gave up after 1 rows: shard is gone"),
    ],
)
def test_every_way_of_failing_is_one_line_without_the_token(server, two, monkeypatch, status, kind, body, message):
    monkeypatch.setattr(influx, "BLOCK", 30)
    server.answer = (status, kind, body)
    with pytest.raises(SourceError, match=message) as error:
        export(two)
    assert "token-1" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"results": []}'])
def test_a_web_server_that_is_no_influxdb_is_named(server, two, body):
    server.answer = (200, "text/html", [body])
    with pytest.raises(SourceError, match="does not answer as InfluxDB"):
        two.check()


def test_a_measurement_that_is_not_there_is_named(server, two):
    server.answer = (200, "application/json", [b'{"results": [{"statement_id": 0}]}'])
    with pytest.raises(SourceError, match="no measurement 'randata' in bucket 'ran/autogen' of organisation 'lab'"):
        two.check()


def test_a_server_that_is_not_there_is_named(server, two):
    server.shutdown()
    server.server_close()
    with pytest.raises(SourceError, match=r"cannot be reached \(Connection refused\): check INFLUXDB_URL"):
        two.check()
