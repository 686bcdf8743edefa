"""Points of every kind, and what can go wrong on the way, with a real InfluxDB and a real server."""

import json
import re
import signal
import subprocess
import time

import pytest
import requests

from tests.integration.workload.conftest import DATABASE, PASSWORDS, Influx, refusal, results
from tests.integration.workload.test_ingest import read_back, versions
from workload.generator import DAY

TYPES = """
import json
from pathlib import Path
import pyarrow as pa
from clearml import Dataset
from pyarrow.parquet import read_table
dataset = Dataset.get(dataset_project="rapp_examples", dataset_name="{name}")
table = pa.concat_tables(read_table(path) for path in sorted(Path(dataset.get_local_copy()).glob("*.parquet")))
columns = [table["time"].cast(pa.int64()), *table.columns[1:]]
print("ROWS", json.dumps([table.column_names, *zip(*(column.to_pylist() for column in columns))]))
print("RECORD", json.dumps(dataset.get_metadata("ingest")))
"""


def content(server, conf, name):
    """The header and the rows of a dataset as a user reads them, and what it says that it was made of."""
    said = server.run_python(TYPES.format(name=name), conf).splitlines()
    found = {line.split(" ", 1)[0]: line.split(" ", 1)[1] for line in said if line.startswith(("ROWS", "RECORD"))}
    return json.loads(found["ROWS"]), json.loads(found["RECORD"])


def write_ns(influx, lines):
    """Line protocol with times in ns."""
    answer = requests.post(
        f"{influx.url}/write",
        params={"db": DATABASE, "precision": "ns"},
        data="\n".join(lines),
        auth=("writer", PASSWORDS["writer"]),
        timeout=30,
    )
    assert answer.status_code == 204, answer.text


@pytest.mark.long
def test_types_late_and_repeated_points_and_the_record_of_both_versions(influx, server, conf, workload, tmp_path):
    at = (int(time.time()) - 3600) * 1_000_000_000 + 123_456_789
    lines = [
        f'kinds,ue=b f=0.1,i=9007199254740993i,s="NA, \\"x\\"",t=true {at}',
        f"kinds,ue=a f=1e300 {at + 1}",
    ]
    write_ns(influx, lines)
    influx.env_file(tmp_path)
    command = ("ingest", "--dataset=kinds", "--measurement=kinds", "--json")
    (first,) = results(workload(*command, conf=conf))
    header = ["time", "f", "i", "s", "t", "ue"]
    rows = [[at, 0.1, 9007199254740993, 'NA, "x"', True, "b"], [at + 1, 1e300, None, None, None, "a"]]
    (found, record) = content(server, conf, "kinds")
    assert found == [header, *rows]
    assert record["columns"] == {"f": "float", "i": "integer", "s": "string", "t": "boolean", "ue": "tag"}
    assert record["query"].startswith('SELECT "f"::field, "i"::field, "s"::field, "t"::field, "ue"::tag FROM "kinds"')
    assert (record["rows"], record["first"], record["newest"]) == (2, at, at + 1)
    files = server.call("tasks.get_by_id", {"task": first["id"]})["task"]
    assert "2 rows, 2 of them new" in files["comment"]
    plots = server.call("events.get_task_plots", {"task": first["id"]})["plots"]
    shown = {plot["metric"]: plot["plot_str"] for plot in plots}
    assert "9007199254740993" in shown["Preview"]
    assert [column[0] for column in table(shown["Statistics"])[:3]] == ["f", "float", "2"]

    # the same points again, one that came late and one that is new
    write_ns(influx, [*reversed(lines), f"kinds,ue=c f=2 {at - 5}", f"kinds,ue=a f=3 {at + 9}"])
    (second,) = results(workload(*command, conf=conf))
    assert (second["rows"], second["new_rows"]) == (4, 2)
    (found, again) = content(server, conf, "kinds")
    assert found == [header, [at - 5, 2.0, None, None, None, "c"], *rows, [at + 9, 3.0, None, None, None, "a"]]
    assert again["sha256"] != record["sha256"]
    assert len([window for window in again["windows"] if window["rows"]]) == 2
    assert results(workload(*command, conf=conf)) == [{**second, "new_rows": 0}]


def table(plot):
    """Columns of a table as the SDK sends it."""
    return json.loads(plot)["data"][0]["cells"]["values"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fields=none",), "there is no field 'none' (there is: ue_slice): check --fields"),
        (("--tags=none",), "there is no tag 'none' (there is: ue): check --tags"),
        (("--measurement=mixed",), "field 'a' is float in some points and string in others"),
        (("--start=2001-01-01", "--end=2001-01-02"), "no points of 'settings' from 20010101T000000Z"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(influx, server, conf, workload, tmp_path, arguments, message):
    now = int(time.time())
    influx.client("settings").write([f"settings,ue=ue-0001 ue_slice=1i {now}"])
    # of different types only in different shards, which are a week each
    influx.client("mixed").write([f"mixed a=1 {now}"])
    influx.client("mixed").write([f'mixed a="x" {now - 20 * DAY}'])
    influx.env_file(tmp_path, INFLUXDB_MEASUREMENT="settings")
    assert message in refusal(workload("ingest", "--dataset=settings", *arguments, conf=conf))
    assert versions(server, "settings") == {}


def test_ten_thousand_tag_values_are_rows_like_others(influx, server, conf, workload, tmp_path):
    now = int(time.time())
    influx.client("many").write(f"many,ue=ue-{number:05d} a={number} {now - number}" for number in range(10_000))
    influx.env_file(tmp_path)
    command = ("ingest", "--dataset=many", "--measurement=many", "--format=csv", "--json")
    (made,) = results(workload(*command, conf=conf), timeout=300)
    assert made["rows"] == 10_000


@pytest.mark.long
def test_a_full_disk_is_one_line_and_a_next_run_goes_on(influx, server, conf, filled, workload, tmp_path):
    influx.env_file(tmp_path, INFLUXDB_MEASUREMENT=filled)
    disk = tmp_path / ".cache"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], check=True)
    try:
        said = refusal(workload("ingest", "--dataset=full", conf=conf), timeout=300)
        assert f"no space is left in {disk}" in said
        kept = int(re.search(r"goes on from the (\d+) of", said)[1])
        assert versions(server, "full") == {}
        assert list(disk.rglob("*.half")) == []
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        began = {path: path.stat().st_mtime_ns for path in disk.rglob("*.parquet")}
        assert len(began) >= kept > 0
        (made,) = results(workload("ingest", "--dataset=full", "--json", conf=conf), timeout=300)
        assert sum(read_back(server, conf, "full").values()) == made["rows"]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def running_queries(influx):
    """The IDs of those that read points."""
    answer = requests.get(
        f"{influx.url}/query", params={"q": "SHOW QUERIES"}, auth=("admin", PASSWORDS["admin"]), timeout=60
    )
    queries = answer.json()["results"][0]["series"][0]["values"]
    return [query[0] for query in queries if query[1].startswith("SELECT f0::field") and "LIMIT" not in query[1]]


def stop_within_a_query(influx, running):
    """The ID of the query that a run reads points by. The run is stopped, so the query does not come to its end."""
    limit = time.monotonic() + 120
    while running.poll() is None and time.monotonic() < limit:
        for query in running_queries(influx):
            running.send_signal(signal.SIGSTOP)
            time.sleep(1)  # a query that was at its end is over by now; others wait for their reader
            if query in running_queries(influx):
                return query
            running.send_signal(signal.SIGCONT)
    raise AssertionError("no query was seen")


def write_much(influx):
    """More than the sockets of a run and of InfluxDB hold."""
    now = int(time.time())
    influx.client("slow").write(
        f"slow,ue=ue-{number % 7} " + ",".join(f"f{field}={number}.25" for field in range(40)) + f" {now - number}"
        for number in range(80_000)
    )


@pytest.mark.long
def test_a_query_that_is_killed_is_noticed_and_a_next_run_reads_all(influx, server, conf, workload, tmp_path):
    """In CSV, InfluxDB says nothing when it stops within an answer."""
    write_much(influx)
    influx.env_file(tmp_path)
    command = ("ingest", "--dataset=slow", "--measurement=slow", "--at-once=1", "--json")
    running = workload(*command, conf=conf)
    influx.admin(f"KILL QUERY {stop_within_a_query(influx, running)}")
    running.send_signal(signal.SIGCONT)
    assert "gave up: its answer stops before its end" in refusal(running)
    assert versions(server, "slow") == {}
    assert list(tmp_path.rglob("*.half")) == []
    (made,) = results(workload(*command, conf=conf), timeout=300)
    assert sum(read_back(server, conf, "slow").values()) == made["rows"] == 80_000


@pytest.mark.long
def test_an_influxdb_that_dies_within_an_answer_is_one_line_and_leaves_nothing(server, conf, workload, tmp_path):
    (tmp_path / "influx").mkdir()
    influx = Influx(tmp_path / "influx")
    try:
        write_much(influx)
        influx.env_file(tmp_path)
        running = workload("ingest", "--dataset=died", "--measurement=slow", "--at-once=1", conf=conf)
        stop_within_a_query(influx, running)
    finally:
        influx.process.kill()
        influx.process.wait(20)
    running.send_signal(signal.SIGCONT)
    said = refusal(running)
    assert "broke off: see its log" in said
    assert re.search(r"run this again, and it goes on from the \d of \d windows that are whole", said)
    assert versions(server, "died") == {}
    assert list(tmp_path.rglob("*.half")) == []
