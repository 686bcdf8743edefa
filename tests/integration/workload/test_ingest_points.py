"""What can go wrong on the way, with a real InfluxDB and a real server: one line each, and nothing half-made."""

import re
import subprocess
import time

import pytest

from tests.integration.workload.conftest import refusal, results
from tests.integration.workload.test_ingest import read_back, versions
from workload.generator import DAY


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
