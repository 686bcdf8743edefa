"""Windows of an InfluxDB 2.x become files, whole or not at all. It answers as its documentation says (conftest.py)."""

import csv
import errno
import hashlib
import io
import json
import re
import threading
from dataclasses import replace

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from workload import parts
from workload.columns import Column
from workload.errors import DiskError, SourceError
from workload.influx import InfluxDB
from workload.ingest import Wanted, lineage, progress, read_new
from workload.parts import Part
from workload.settings import Source
from workload.windows import SECOND, Window

START = 1_700_000_000 * SECOND + 7
COLUMNS = [
    Column("a", "float"),
    Column("count", "integer"),
    Column("note", "string"),
    Column("total", "unsigned"),
    Column("ue", "tag"),
    Column("up", "boolean"),
]
HEADER = b"name,tags,time,a,count,note,total,ue,up\n"
END = b"\nname,tags,name\nmeasurements,,randata\n"
ROWS = [
    b"randata,,%d,0.1,9007199254740993,NA,18446744073709551615,ue-1,true\n" % START,
    b"randata,,%d,,,,,,\n" % (START + 1),
    b'randata,,%d,1e+21,-1,"said ""a,b""\nand went",0,"ue,2",false\n' % (START + 2),
]
WINDOW = Window(START, START + 3)


def read(database, folder, kind="parquet", window=WINDOW, columns=COLUMNS):
    return parts.read_part(database, columns, window, folder, kind, lambda rows: None)


def answers(*pieces):
    """All of them, and the end."""
    return (200, "application/csv", [*pieces, END if pieces else END[1:]])


def cut_short(*pieces):
    return (200, "application/csv", list(pieces))


def counted(*numbers):
    """An answer to how many values each field has."""
    return Source2.json(["time", *(f"n{at}" for at in range(len(numbers)))], [[0, *numbers]])


@pytest.mark.parametrize("size", [1, 7, 31, 10_000])
def test_types_are_kept_however_the_answer_is_cut(server, two, tmp_path, size):
    body = HEADER + b"".join(ROWS) + END
    server.answer = cut_short(*(body[at : at + size] for at in range(0, len(body), size)))
    part = read(two, tmp_path)
    table = pa.parquet.read_table(tmp_path / part.file)
    assert table.schema.field("time").type == pa.timestamp("ns", "UTC")
    assert table["time"].cast(pa.int64()).to_pylist() == [START, START + 1, START + 2]
    assert table["a"].to_pylist() == [0.1, None, 1e21]
    assert table["count"].to_pylist() == [2**53 + 1, None, -1]
    assert table["note"].to_pylist() == ["NA", None, 'said "a,b"\nand went']
    assert table["total"].to_pylist() == [2**64 - 1, None, 0]
    assert table["ue"].to_pylist() == ["ue-1", None, "ue,2"]
    assert table["up"].to_pylist() == [True, None, False]
    assert (part.rows, part.first, part.newest) == (3, START, START + 2)
    assert part.sha256 == hashlib.sha256((tmp_path / part.file).read_bytes()).hexdigest()
    assert {name: found["count"] for name, found in part.columns.items()} == dict.fromkeys(part.columns, 2)


def test_a_csv_part_holds_the_same(server, two, tmp_path):
    server.answer = answers(HEADER, *ROWS)
    part = read(two, tmp_path, "csv")
    with (tmp_path / part.file).open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["time", "a", "count", "note", "total", "ue", "up"],
            [str(START), "0.1", str(2**53 + 1), "NA", str(2**64 - 1), "ue-1", "true"],
            [str(START + 1), "", "", "", "", "", ""],
            [str(START + 2), "1e+21", "-1", 'said "a,b"\nand went', "0", "ue,2", "false"],
        ]
    assert part.sha256 == hashlib.sha256((tmp_path / part.file).read_bytes()).hexdigest()


def test_the_first_rows_are_those_of_the_file(server, two, tmp_path):
    server.answer = answers(HEADER, *ROWS)
    for kind in parts.FORMATS:
        part = read(two, tmp_path, kind)
        first = parts.head(tmp_path / part.file, 2)
        assert first["count"].to_pylist() == [2**53 + 1, None]
        assert parts.texts(first["note"]) == ["NA", ""]
        time = "2023-11-14 22:13:20.000000007" if kind == "parquet" else str(START)
        assert parts.texts(first["time"])[0] == time


def test_a_window_without_points_has_no_file(server, two, tmp_path):
    server.answer = answers()
    part = read(two, tmp_path, window=Window(START, START + 3))
    assert (part.rows, part.file) == (0, "")
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_a_window_that_is_whole_is_not_read_again_unless_it_has_more(server, two, tmp_path):
    server.answer = answers(HEADER, *ROWS)
    part = read(two, tmp_path)
    server.requests.clear()
    server.answer = counted(2, 2, 2, 2, 2)
    assert read(two, tmp_path) == part
    assert len(server.requests) == 1
    server.answer = lambda query: counted(2, 2, 2, 2, 3) if "count(" in query else cut_short()
    with pytest.raises(SourceError, match="gave up"):
        read(two, tmp_path)


def test_empty_strings_are_no_sign_that_values_are_missing(server, two, tmp_path):
    server.answer = answers(HEADER, *ROWS)
    part = read(two, tmp_path)
    assert part.columns["note"]["count"] == 2
    server.answer = counted(2, 2, 3, 2, 2)  # one of the three notes is empty
    assert read(two, tmp_path) == part


@pytest.mark.parametrize("left", [b"", b"PAR1"])
def test_a_window_of_which_a_power_cut_left_less_is_read_again(server, two, tmp_path, left):
    server.answer = answers(HEADER, *ROWS)
    part = read(two, tmp_path)
    (tmp_path / part.file).write_bytes(left)
    assert read(two, tmp_path) == part
    assert len(pa.parquet.read_table(tmp_path / part.file)) == 3


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([HEADER, ROWS[0], None], "broke off: see its log"),
        ([HEADER, ROWS[0], ROWS[1][:-4]], "broke off: see its log"),
        ([HEADER, ROWS[0], b"\nerror\nshard is gone\n"], "gave up: shard is gone"),
        ([HEADER, *ROWS], "gave up: its answer stops before its end: see its log and its limits of a query"),
        ([HEADER, ROWS[2][:-1], END[:-1]], "broke off: see its log"),
        ([HEADER, *ROWS, END[:-9] + b"\n"], "gave up: its answer stops"),
        ([], "gave up: its answer stops"),
        ([HEADER, b"randata,,1,+Inf,1,x,1,x,true\n", END], "field 'a' holds NaN or an infinite value"),
        (
            [HEADER, b"randata,,1,NaN,1,x,1,x,true\n", END],
            "field 'a' holds NaN or an infinite value .*leave it out of --fields",
        ),
        ([HEADER, b"randata,,1,0.5,1.5,x,1,x,true\n", END], r"cannot be read \(column 'count'.*1.5"),
    ],
)
@pytest.mark.parametrize("kind", parts.FORMATS)
def test_an_answer_that_is_not_whole_is_one_line_and_leaves_nothing(server, two, tmp_path, pieces, message, kind):
    server.answer = cut_short(*pieces)
    with pytest.raises(SourceError, match=message) as error:
        read(two, tmp_path, kind)
    assert "\n" not in str(error.value)
    assert "token-1" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(server, two, tmp_path):
    server.answer = answers(HEADER, *ROWS)
    with pytest.raises(DiskError, match="cannot write in .*/none .No such file"):
        read(two, tmp_path / "none")


def test_a_full_disk_is_named():
    assert parts._disk(OSError(errno.ENOSPC, "x"), "/work") == "no space is left in /work: free some"


class Source2:
    """An InfluxDB 2.x with a point a second, that answers every query that ingest has; some windows may fail.

    late: the times of other points.
    """

    def __init__(self, server, start, end):
        self.start, self.end = start, end
        self.late = []
        self.read = []
        self.fails = set()
        server.answer = self.answer

    def times(self, query):
        low, high = (int(found) for found in re.search(r"time >= (\d+) AND time < (\d+)", query).groups())
        return [at for at in sorted([*range(self.start, self.end, SECOND), *self.late]) if low <= at < high]

    def answer(self, query):
        times = self.times(query)
        if "count(" in query and "GROUP BY" in query:
            width = int(re.search(r"time\((\d+)ns\)", query)[1])
            cells = {}
            for at in times:
                cells[at - at % width] = cells.get(at - at % width, 0) + 1
            return self.json(["time", "n0"], [[at, count] for at, count in cells.items()])
        if "count(" in query:
            return self.json(["time", "n0"], [[0, len(times)]] if times else [])
        if "LIMIT 1" in query:
            times = times[-1:] if "DESC" in query else times[:1]
            return self.json(["time", "a"], [[at, 0.5] for at in times])
        self.read.append(len(times))
        if len(self.read) in self.fails:
            return cut_short(b"name,tags,time,a\n", None)
        return answers(*([b"name,tags,time,a\n"] if times else []), *(b"randata,,%d,0.5\n" % at for at in times))

    @staticmethod
    def json(columns, values):
        series = [{"name": "randata", "columns": columns, "values": values}] if values else []
        return (200, "application/json", [json.dumps({"results": [{"statement_id": 0, "series": series}]}).encode()])


DAY = 86_400 * SECOND
BEGIN = 20_000 * DAY
FLOATS = [Column("a", "float")]


def wanted(start, end, at_once=1):
    return Wanted("project", "dataset", start, end, at_once=at_once)


@pytest.fixture
def source(server, monkeypatch):
    """Three hours of points, windows of an hour."""
    monkeypatch.setattr("workload.windows.ROWS", 3600)
    return Source2(server, BEGIN + 1800 * SECOND, BEGIN + 3 * 3600 * SECOND)


def rows_of(folder):
    return sum(len(pa.parquet.read_table(path)) for path in folder.glob("*.parquet"))


@pytest.mark.parametrize(("at_once", "kept"), [(1, 2), (3, None)])
def test_a_run_goes_on_after_the_windows_that_are_whole(source, two, tmp_path, at_once, kept):
    source.fails = {3}
    with pytest.raises(SourceError, match=r"broke off.*goes on from the \d of 3 windows that are whole"):
        read_new(two, FLOATS, wanted(0, BEGIN + DAY, at_once), [], tmp_path)
    found = len(list(tmp_path.glob("*.parquet")))
    assert found == (found if kept is None else kept)  # the others are stopped
    assert list(tmp_path.glob("*.half")) == []
    source.read.clear()
    source.fails = set()
    # it is later by now, and what was asked for begins later, too
    read = read_new(two, FLOATS, wanted(5 * SECOND, BEGIN + DAY + SECOND, at_once), [], tmp_path)
    assert len(source.read) == 3 - found
    assert sum(part.rows for part in read) == rows_of(tmp_path) == 9000


def test_a_next_run_reads_what_is_new_and_windows_that_have_grown(source, two, tmp_path):
    first = read_new(two, FLOATS, wanted(0, BEGIN + DAY), [], tmp_path)
    assert [part.rows for part in first] == [1800, 3600, 3600]
    assert first[-1].end == source.end - SECOND + 1  # what comes late is behind the newest point
    assert read_new(two, FLOATS, wanted(0, BEGIN + DAY), first, tmp_path) == []
    assert list(tmp_path.iterdir()) == []

    source.end += 60 * SECOND
    assert [part.rows for part in read_new(two, FLOATS, wanted(0, BEGIN + DAY), first, tmp_path)] == [60]

    source.start -= 10 * SECOND  # ten points that came late
    grown, new = read_new(two, FLOATS, wanted(0, BEGIN + DAY), first, tmp_path)
    assert (grown.start, grown.end, grown.rows, new.rows) == (first[0].start, first[0].end, 1810, 60)
    # a window that begins later than what was read says nothing about it
    later = wanted(first[0].start + 1, BEGIN + DAY)
    assert [part.rows for part in read_new(two, FLOATS, later, first, tmp_path)] == [60]


def test_points_before_those_that_were_read_are_read_when_they_are_asked_for(source, two, tmp_path):
    late = read_new(two, FLOATS, wanted(BEGIN + 7200 * SECOND, BEGIN + DAY), [], tmp_path)
    assert sum(part.rows for part in late) == 3600
    early = read_new(two, FLOATS, wanted(0, BEGIN + DAY), late, tmp_path)
    assert sum(part.rows for part in early) == 1800 + 3600


def test_points_that_come_late_are_read_where_there_was_none(source, two, tmp_path):
    first = read_new(two, FLOATS, wanted(BEGIN - 9 * DAY, BEGIN + DAY), [], tmp_path)
    source.late = [BEGIN - days * DAY for days in (8, 5)]
    # as days go by, what is asked for begins later than it did at first
    late = read_new(two, FLOATS, wanted(BEGIN - 9 * DAY + SECOND, BEGIN + DAY), first, tmp_path)
    # nor does an empty part of an earlier version stand for them, whether it is asked for whole or not
    recorded = [Part(BEGIN - 9 * DAY, first[0].start), *first]
    for later in (0, SECOND):
        assert read_new(two, FLOATS, wanted(BEGIN - 9 * DAY + later, BEGIN + DAY), recorded, tmp_path) == late
    assert sum(part.rows for part in late) == 2
    assert all(one.end <= other.start for one, other in zip([*late, *first], [*late, *first][1:]))
    between = [part for part in late if not part.rows]
    assert between
    source.late += [between[0].start + SECOND]
    later = read_new(two, FLOATS, wanted(BEGIN - 9 * DAY + SECOND, BEGIN + DAY), [*late, *first], tmp_path)
    assert sum(part.rows for part in later) == 1
    record = lineage(two, wanted(0, BEGIN + DAY), FLOATS, {"rows": 9002}, [*late, *first], later)
    assert (record["rows"], record["new_rows"]) == (9003, 1)
    assert all(part["rows"] for part in record["windows"])


def test_what_an_earlier_version_has_read_from_0_on_is_not_read_again(source, two, tmp_path):
    before = [Part(0, BEGIN + 7200 * SECOND)]
    assert [part.rows for part in read_new(two, FLOATS, wanted(1, BEGIN + DAY), before, tmp_path)] == [3600]


def test_an_empty_string_is_not_read_again_and_a_field_that_is_new_is(server, two, tmp_path):
    server.answer = lambda query: counted(1, 2) if "count(" in query else cut_short()
    columns = [Column("a", "float"), Column("note", "string")]
    figures = {"a": {"count": 1}, "note": {"count": 1}}
    old = Part(1, 9, 2, "a.parquet", "", 1, 2, figures)
    assert read_new(two, columns, wanted(1, 9), [old], tmp_path) == []
    without = replace(old, columns={"a": {"count": 1}})
    with pytest.raises(SourceError, match="gave up"):
        read_new(two, columns, wanted(1, 9), [without], tmp_path)


def test_windows_are_cut_by_one_field_and_none_is_counted_before_it_is_read(server, two, tmp_path):
    asked = []

    def answer(query):
        asked.append(query)
        if "GROUP BY" in query:
            return Source2.json(["time", "n0"], [[0, 2]])
        if "LIMIT 1" in query:
            return Source2.json(["time", "a", "b"], [[8 if "DESC" in query else 1, 0.5, 0.5]])
        return answers(b"name,tags,time,a,b\n", b"randata,,1,0.5,0.5\n", b"randata,,8,0.5,\n")

    server.answer = answer
    (part,) = read_new(two, [Column("a", "float"), Column("b", "float")], wanted(1, 9), [], tmp_path)
    assert part.rows == 2
    assert [query.count("count(") for query in asked] == [0, 0, 1, 0]


@pytest.mark.parametrize("name", ["randata", 'a "b", c', "a b"])
@pytest.mark.parametrize("always", [True, False])
def test_the_end_is_known_whatever_the_measurement_is_called(server, tmp_path, name, always):
    """InfluxDB puts a name into quotes where CSV needs it."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL if always else csv.QUOTE_MINIMAL, lineterminator="\n").writerow([name])
    end = b"\nname,tags,name\nmeasurements,," + text.getvalue().encode()
    server.answer = cut_short(b"name,tags,time,a\n", b"x,,%d,0.5\n" % START, end)
    database = InfluxDB(Source(server.url, 2, "ran", name, org="lab", secret="token-1"))
    assert read(database, tmp_path, columns=FLOATS).rows == 1


def test_two_windows_are_read_at_the_same_time(source, server, two, tmp_path):
    both = threading.Barrier(2, timeout=30)
    first = iter("12")

    def answer(query):
        if "LIMIT" not in query and "count(" not in query and next(first, None):
            both.wait()
        return source.answer(query)

    server.answer = answer
    assert len(read_new(two, FLOATS, wanted(0, BEGIN + DAY, at_once=2), [], tmp_path)) == 3


def test_progress_is_told_while_windows_are_read(source, two, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("workload.ingest.PROGRESS", 0)
    with caplog.at_level("INFO"):
        read_new(two, FLOATS, wanted(0, BEGIN + DAY), [], tmp_path)
    assert re.search(r"of about 9000 rows, \d+ rows/s", caplog.text)


def test_progress_has_the_speed_and_the_time_that_is_left():
    assert progress(2000, 10_000, 4.0) == "2000 of about 10000 rows, 500 rows/s, 16 s left"
    assert progress(10_001, 10_000, 4.0) == "10001 of about 10001 rows, 2500 rows/s"
    assert progress(0, 10, 0.0) == "0 of about 10 rows, 0 rows/s"
