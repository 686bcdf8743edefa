"""Asking InfluxDB: its 2.x dialect. The 1.x dialect meets a real InfluxDB in tests/integration/workload."""

from __future__ import annotations

import json

import pytest
from workload import influx
from workload.columns import Column
from workload.errors import SourceError

HEADER = b"name,tags,time,a,ue_slice\n"
END = b"\nname,tags,name\nmeasurements,,randata\n"
ROWS = [b"randata,,%d,%d.5,1\n" % (1_700_000_000_000_000_000 + number, number) for number in range(5)]
MEASUREMENTS = {"results": [{"series": [{"name": "measurements", "columns": ["name"], "values": [["randata"]]}]}]}


COLUMNS = [Column("a", "float"), Column("ue_slice", "integer")]


def export(database: influx.InfluxDB) -> bytes:
    with database.answer(COLUMNS, 1, 3) as answer:
        return b"".join(iter(lambda: answer.read(30), b""))


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


def test_points_are_asked_for_as_csv_in_chunks_with_times_in_ns(server, two):
    server.answer = (200, "application/csv", [HEADER, *ROWS, END])
    assert export(two) == HEADER + b"".join(ROWS)
    ((_, _, query, headers),) = server.requests
    assert query["q"] == [
        'SELECT "a"::field, "ue_slice"::field FROM "randata" WHERE time >= 1 AND time < 3;'
        ' SHOW MEASUREMENTS WITH MEASUREMENT = "randata"'
    ]
    assert (query["chunked"], query["epoch"], headers["Accept"]) == (["true"], ["ns"], "application/csv")


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
        (200, "application/csv", [HEADER, ROWS[0], None], "broke off: see its log"),
        (200, "application/csv", [HEADER, ROWS[0], ROWS[1][:-4]], "broke off: see its log"),
    ],
)
def test_every_way_of_failing_is_one_line_without_the_token(server, two, status, kind, body, message):
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
