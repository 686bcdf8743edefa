"""InfluxDB -> Dataset on a ClearML server: versions that add up, and nothing half-made."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.workload.conftest import environment, refusal, results
from workload.fill import fill
from workload.generator import DAY

MEASURE = Path(__file__).parents[2] / "bench" / "ingest" / "measure.py"
READ_BACK = """
import json
from pathlib import Path
from clearml import Dataset
dataset = Dataset.get(dataset_project="rapp_examples", dataset_name="{name}")
from pyarrow.parquet import read_metadata
files = Path(dataset.get_local_copy()).glob("*.parquet")
print("ROWS", json.dumps({{path.name: read_metadata(path).num_rows for path in files}}))
"""


def versions(server, name):
    """Tasks of a dataset, whatever their state: id -> status."""
    found = server.call("tasks.get_all", {"name": f"^{name}$", "system_tags": ["dataset"], "search_hidden": True})
    return {task["id"]: task["status"] for task in found["tasks"]}


def read_back(server, conf, name):
    """Rows by file, as a user gets them."""
    said = server.run_python(READ_BACK.format(name=name), conf)
    return json.loads(next(line for line in said.splitlines() if line.startswith("ROWS"))[5:])


@pytest.fixture
def hanging_files_server(conf, tmp_path):
    """A clearml.conf whose file server takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        path = tmp_path / "hanging.conf"
        path.write_text(f'{conf.read_text()}\napi.files_server: "http://127.0.0.1:{listening.getsockname()[1]}"\n')
        yield path


def test_a_second_version_carries_only_what_is_new_and_a_third_is_none(influx, server, conf, workload, tmp_path):
    database, now = influx.client("growing"), int(time.time())
    fill(database, 1500, 15, 1, 60, now - DAY, only_missing=False)
    influx.env_file(tmp_path, INFLUXDB_MEASUREMENT="growing")
    command = ("ingest", "--dataset=growing", "--json")
    (first,) = results(workload(*command, conf=conf))
    assert (first["rows"], first["new_rows"]) == (1500, 1500)
    fill(database, 50, 1, 2, 60, now, only_missing=False)
    (second,) = results(workload(*command, conf=conf))
    assert (second["rows"], second["new_rows"], second["version"]) == (1550, 50, "1.0.1")
    third = workload(*command, conf=conf)
    assert results(third) == [{**second, "new_rows": 0}]
    assert sum(read_back(server, conf, "growing").values()) == 1550
    assert versions(server, "growing") == {first["id"]: "completed", second["id"]: "completed"}


def test_an_empty_string_does_not_stop_an_ingest_nor_is_it_new_each_time(influx, server, conf, workload, tmp_path):
    now = int(time.time())
    influx.client("notes").write([f'notes a=1,note="" {now - 60}', f'notes a=2,note="x" {now - 30}'])
    influx.env_file(tmp_path, INFLUXDB_MEASUREMENT="notes")
    command = ("ingest", "--dataset=notes", "--json")
    (first,) = results(workload(*command, conf=conf))
    assert (first["rows"], first["new_rows"]) == (2, 2)
    assert results(workload(*command, conf=conf)) == [{**first, "new_rows": 0}]


def test_what_came_late_where_there_was_nothing_is_read(influx, server, conf, workload, tmp_path):
    database, now = influx.client("late"), int(time.time())
    database.write([f"late a=1 {now - 60}"])
    influx.env_file(tmp_path, INFLUXDB_MEASUREMENT="late")
    command = ("ingest", "--dataset=late", "--json")
    assert [found["rows"] for found in results(workload(*command, conf=conf))] == [1]
    database.write([f"late a=2 {now - 20 * DAY}", f"late a=3 {now - 5 * DAY}"])
    (second,) = results(workload(*command, conf=conf))
    assert (second["rows"], second["new_rows"]) == (3, 2)
    database.write([f"late a=4 {now - 10 * DAY}"])
    (third,) = results(workload(*command, conf=conf))
    assert (third["rows"], third["new_rows"]) == (4, 1)
    assert sum(read_back(server, conf, "late").values()) == 4


def test_an_ingest_to_its_dataset_takes_less_than_200_mb(influx, conf, filled, tmp_path):
    """The SDK, pyarrow and two windows at a time: how many windows there are makes no difference."""
    influx.env_file(tmp_path, INFLUXDB_MEASUREMENT=filled)
    command = [sys.executable, MEASURE, sys.executable, "-m", "workload.ingest", "--dataset=memory"]
    done = subprocess.run(command, env=environment(tmp_path, conf), cwd=tmp_path, stdout=subprocess.PIPE, timeout=300)
    assert done.returncode == 0
    assert int(done.stdout.split()[-1]) * 1024 < 200_000_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"INFLUXDB_PASSWORD": "wrong-pass-1"}, "refuses the credentials"),
        ({"INFLUXDB_MEASUREMENT": "nothing"}, "no measurement 'nothing'"),
        ({"INFLUXDB_MEASUREMENT": "old"}, "no points of 'old' from 2"),
    ],
)
def test_what_cannot_be_read_makes_no_dataset(influx, server, conf, workload, tmp_path, change, message):
    influx.client("old").write(["old,ue=ue-0001 ue_slice=1i 1500000000"])
    influx.env_file(tmp_path, **change)
    assert message in refusal(workload("ingest", "--dataset=refused", conf=conf))
    assert versions(server, "refused") == {}


def test_a_server_that_does_not_answer_is_one_line(influx, filled, conf, workload, tmp_path):
    influx.env_file(tmp_path, INFLUXDB_MEASUREMENT=filled)
    (tmp_path / "down.conf").write_text(f'{conf.read_text()}\napi.api_server: "http://127.0.0.1:1"\n')
    said = refusal(workload("ingest", conf=tmp_path / "down.conf"))
    assert "cannot log in to the ClearML server at http://127.0.0.1:1 (Connection refused)" in said


def test_a_dataset_of_another_measurement_is_left_alone(influx, server, conf, filled, workload, tmp_path):
    influx.client("other").write([f"other,ue=ue-0001 ue_slice=1i {int(time.time())}"])
    influx.env_file(tmp_path, INFLUXDB_MEASUREMENT="other")
    (made,) = results(workload("ingest", "--dataset=others", "--json", conf=conf))
    influx.env_file(tmp_path, INFLUXDB_MEASUREMENT=filled)
    said = refusal(workload("ingest", "--dataset=others", conf=conf))
    assert "holds measurement 'other', not 'month': choose another --dataset" in said
    assert versions(server, "others") == {made["id"]: "completed"}


def wait_for_unfinished(server, name):
    limit = time.monotonic() + 120
    while "in_progress" not in versions(server, name).values():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_a_run_that_is_ended_leaves_nothing_and_one_that_is_killed_is_cleaned_up_by_the_next(
    influx, server, conf, filled, workload, tmp_path, hanging_files_server
):
    influx.env_file(tmp_path, INFLUXDB_MEASUREMENT=filled)
    command = ("ingest", "--dataset=killed", "--json")

    ended = workload(*command, conf=hanging_files_server)
    wait_for_unfinished(server, "killed")
    ended.send_signal(signal.SIGTERM)
    ended.communicate(timeout=30)
    assert ended.returncode == 128 + signal.SIGTERM
    assert versions(server, "killed") == {}

    killed = workload(*command, conf=hanging_files_server)
    wait_for_unfinished(server, "killed")
    killed.kill()
    killed.communicate(timeout=30)
    (unfinished,) = versions(server, "killed")

    (made,) = results(workload(*command, conf=conf))
    assert versions(server, "killed") == {made["id"]: "completed"}
    assert made["id"] != unfinished
    assert sum(read_back(server, conf, "killed").values()) == made["rows"] > 23_000


@pytest.mark.long
def test_an_ingest_of_the_radio_map_that_is_ended_or_killed_leaves_nothing_for_ever(
    server, conf, tmp_path, hanging_files_server
):
    def begin(conf):
        return subprocess.Popen(
            [sys.executable, "-m", "workload.radio.ingest", "--dataset=killed_radio", "--points=50"],
            env=environment(tmp_path, conf),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    ended = begin(hanging_files_server)
    wait_for_unfinished(server, "killed_radio")
    ended.send_signal(signal.SIGTERM)
    ended.communicate(timeout=30)
    assert ended.returncode == 128 + signal.SIGTERM
    assert versions(server, "killed_radio") == {}
    killed = begin(hanging_files_server)
    wait_for_unfinished(server, "killed_radio")
    killed.kill()
    killed.communicate(timeout=30)
    assert len(versions(server, "killed_radio")) == 1
    (made,) = results(begin(conf))
    assert versions(server, "killed_radio") == {made["id"]: "completed"}
