"""The telemetry source, against a real InfluxDB 1.x."""

import time

import pytest

from tests.integration.workload.conftest import PASSWORDS, refusal, results
from workload import columns, parts, windows
from workload.errors import SourceError
from workload.fill import fill
from workload.generator import DAY

NOW = 1_790_000_000


def ensure(database, points, now=NOW):
    return fill(database, points, 30, 1, 60, now, only_missing=True)


def test_the_command_fills_once_and_then_finds_nothing_missing(influx, workload, tmp_path):
    settings = influx.env_file(
        tmp_path, INFLUXDB_USER="writer", INFLUXDB_PASSWORD=PASSWORDS["writer"], INFLUXDB_MEASUREMENT="once"
    )
    command = ("telemetry", "generate", "--env-file", settings, "--points=3000", "--days=3", "--ensure", "--json")
    (first,), (second,) = results(workload(*command)), results(workload(*command))
    assert (first["written"], first["points"]) == (3000, 3000)
    assert second == {**first, "written": 0}
    influx.env_file(tmp_path, INFLUXDB_MEASUREMENT="once")
    (found,) = results(workload("telemetry", "check", "--json"))
    assert (found["measurement"], found["points"], found["newest"]) == ("once", 3000, first["newest"])
    assert 0 <= found["age_seconds"] < 3600


def test_a_fill_that_was_cut_short_is_completed_from_where_it_ended(influx):
    database = influx.client("cut")
    fill(database, 1000, 15, 1, 60, NOW - 15 * DAY, only_missing=False)
    done = ensure(database, 3000)
    assert (done["written"], done["points"]) == (2000, 3000)
    assert ensure(database, 3000)["written"] == 0


def test_a_source_that_was_left_alone_gets_the_days_since_then(influx):
    database = influx.client("stale")
    ensure(database, 3000, NOW - 10 * DAY)
    assert ensure(database, 3000, NOW - 10 * DAY + 3600)["written"] == 0
    done = ensure(database, 3000)
    assert 1000 <= done["written"] < 1100
    assert done["points"] >= 3000
    assert done["newest"] > NOW - DAY


def test_a_source_with_too_few_points_gets_more_ues(influx):
    database = influx.client("more")
    ensure(database, 1000)
    before = set(database.tag_values("ue"))
    done = ensure(database, 2500)
    assert (done["written"], done["points"]) == (1500, 2500)
    assert set(database.tag_values("ue")) > before


def test_an_external_source_is_only_ever_read(influx):
    database = influx.client("external", external=True)
    with pytest.raises(SourceError, match="external source: it is only ever read"):
        ensure(database, 10)
    assert database.newest() == 0


def test_a_reader_cannot_write(influx):
    with pytest.raises(SourceError, match="not authorized to write"):
        influx.client("read only", "reader").write(["a b=1 1"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"INFLUXDB_URL": "http://127.0.0.1:1"}, "http://127.0.0.1:1 cannot be reached"),
        ({"INFLUXDB_PASSWORD": "wrong-pass-1"}, "refuses the credentials: check INFLUXDB_USER and INFLUXDB_PASSWORD"),
        ({"INFLUXDB_USER": "nobody"}, "refuses the credentials"),
        ({"INFLUXDB_DATABASE": "nowhere"}, "no database 'nowhere' that user 'reader' may read (it may read: ran)"),
        ({"INFLUXDB_MEASUREMENT": 'no"thing'}, "no measurement 'no\"thing' in database 'ran'"),
    ],
)
def test_a_wrong_setting_is_one_line(influx, filled, workload, tmp_path, change, message):
    influx.env_file(tmp_path, INFLUXDB_MEASUREMENT=filled)
    assert results(workload("telemetry", "check", "--json"))
    influx.env_file(tmp_path, **{"INFLUXDB_MEASUREMENT": filled, **change})
    said = refusal(workload("telemetry", "check"))
    assert message in said
    assert "pass-1" not in said


def test_a_window_that_is_read_has_every_point_once_in_order(influx, filled, tmp_path):
    database = influx.client(filled, "reader")
    window = windows.Window(0, int(time.time()) * 10**9)
    part = parts.read_part(
        database, columns.choose(database.fields(), database.tags()), window, tmp_path, "csv", lambda rows: None
    )
    header, *rows = (tmp_path / part.file).read_text().splitlines()
    assert header.startswith('"time","bler_dl","cell","connected_ues",')
    assert header.endswith(',"ue","ue_slice"')
    times = [int(row.partition(",")[0]) for row in rows]
    assert len(rows) == part.rows == database.count_all() == 24_000
    assert times == sorted(times)
    assert (part.first, part.newest) == (times[0], times[-1]) == (times[0], database.newest())


def test_every_field_is_counted_as_it_is_sent_and_an_empty_string_is_a_value(influx, tmp_path):
    database, begin = influx.client("sparse"), NOW * 10**9
    database.write([f'sparse a=1,note="" {NOW}', f'sparse a=2,note="x" {NOW + 1}', f"sparse b=true {NOW + 7200}"])
    chosen = columns.choose(database.fields(), database.tags())
    end = begin + 86_400 * 10**9
    hours = database.counts(chosen, begin, end, 3600 * 10**9)
    assert list(hours.values()) == [{"a": 2, "b": 0, "note": 2}, {"a": 0, "b": 1, "note": 0}]
    totals = database.totals(chosen, begin, end)
    assert totals == {"a": 2, "b": 1, "note": 2}
    part = parts.read_part(database, chosen, windows.Window(begin, end), tmp_path, "csv", lambda rows: None)
    assert (part.rows, part.columns["note"]["count"]) == (3, 1)
    assert parts.lacking(part, chosen, totals) == ""
