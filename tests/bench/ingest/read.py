"""Points out of a real InfluxDB into files, beside the floor and the documents' way, in one run: seconds, MiB, ratios.

    .venv/bin/python -P -m tests.bench.ingest.read [--rounds 3] [1000000 10000000]

It starts an influxd of its own, writes as many points of 10 fields and 2 tags (1 million by default), and takes turns:

- floor: curl of all of it as CSV, in one query, to /dev/null;
- ours: `workload.ingest.read_new`, which reads into Parquet, with one window and with two at the same time;
- documents: one query of the client `influxdb`, `get_points()`, a DataFrame, a CSV string (a venv of its own);
- dataset: `testbed-workload ingest` from the query to a finalized dataset, on a clearml_lite of its own.

MiB are the largest resident set of the process that works. What counts is the ratio to the floor: the seconds are those
of the machine, the median of the rounds and the least. The processor's seconds are those of who reads and those of
influxd meanwhile: they depend least on what else the machine does. The documents' way needs some GiB of memory for
each million points: above 2 million it is left out unless --all is given.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from tests.integration.conftest import LiteServer
from tests.integration.workload.conftest import DATABASE, PASSWORDS, Influx, environment

PEERS = ["influxdb==5.3.2", "pandas"]
BEGIN = 1_790_000_000  # s since the epoch
SPAN = 30 * 86_400  # s
UES = 40
MEASURE = Path(__file__).with_name("measure.py")

OURS = """
import sys, tempfile
from pathlib import Path
from workload.columns import choose
from workload.influx import InfluxDB
from workload.ingest import Wanted, give_back, read_new
from workload.settings import load_settings, source
give_back()
database = InfluxDB(source(load_settings()))
columns = choose(database.fields(), database.tags())
wanted = Wanted("bench", "bench", {start}, {end}, at_once={at_once})
with tempfile.TemporaryDirectory() as folder:
    assert sum(part.rows for part in read_new(database, columns, wanted, [], Path(folder))) == {points}
"""
DOCUMENTS = """
import os
import pandas
from influxdb import InfluxDBClient
client = InfluxDBClient("127.0.0.1", {port}, "reader", os.environ["INFLUXDB_PASSWORD"], "{database}", timeout=3600)
found = client.query('SELECT * FROM "points{points}" WHERE time >= {start} AND time < {end}')
frame = pandas.DataFrame(list(found.get_points()))
text = frame.to_csv(index=False)
assert len(frame) == {points}
"""


@dataclass(frozen=True)
class Run:
    """What one run of a way took."""

    seconds: float
    mib: float
    own: float  # s of the processor
    database: float  # s of the processor that influxd took meanwhile


def measured(command: list[str], env: dict[str, str], cwd: Path, influxd: int) -> Run:
    """Run a command and wait for it; what it took. influxd: its process ID. Raises CalledProcessError."""
    before = _processor(influxd)
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(MEASURE), *command], env=env, cwd=cwd, stdout=subprocess.PIPE, check=True
    )
    seconds, own, kib = done.stdout.split()
    return Run(float(seconds), int(kib) / 1024, float(own), _processor(influxd) - before)


def _processor(pid: int) -> float:
    """s of the processor that a process took so far."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def lines(points: int) -> Iterator[str]:
    """Line protocol of points of 10 fields and 2 tags, in order of time."""
    chance = np.random.default_rng(1)
    step = SPAN * UES / points
    for at in range(0, points, 10_000):
        n = min(10_000, points - at)
        floats = np.round(chance.normal(50, 20, (n, 6)), 2).tolist()
        integers = chance.integers(0, 10**6, (n, 4)).tolist()
        for number, (some, others) in enumerate(zip(floats, integers, strict=True), at):
            fields = [f"f{i}={value}" for i, value in enumerate(some)]
            fields += [f"i{i}={value}i" for i, value in enumerate(others)]
            ue = number % UES
            when = BEGIN + int(number // UES * step)
            yield f"points{points},cell=cell-{ue // 10:02d},ue=ue-{ue:04d} {','.join(fields)} {when}"


def ways(
    influx: Influx, points: int, folder: Path, peers: Path, server: LiteServer
) -> dict[str, tuple[list[str], dict]]:
    """Each way: its command and environment."""
    start, end = BEGIN * 10**9, (BEGIN + SPAN + 1) * 10**9
    measurement = f"points{points}"
    home = folder / measurement
    home.mkdir(parents=True)
    influx.env_file(home, INFLUXDB_MEASUREMENT=measurement)
    conf = server.client_conf(f"bench{points}")
    env = environment(home, conf)
    filled = {"start": start, "end": end, "points": points}
    netrc = home / "netrc"
    netrc.touch(0o600)
    netrc.write_text(f"machine 127.0.0.1 login reader password {PASSWORDS['reader']}\n")
    query = f'q=SELECT * FROM "{measurement}" WHERE time >= {start} AND time < {end}'
    parameters = [f"db={DATABASE}", "epoch=ns", "chunked=true", "chunk_size=10000", query]
    floor = ["curl", "-sfG", "--netrc-file", str(netrc), "-H", "Accept: application/csv", "-o", "/dev/null"]
    floor += [word for parameter in parameters for word in ("--data-urlencode", parameter)]
    python = sys.executable
    port = influx.url.rpartition(":")[2]
    documents = DOCUMENTS.format(port=port, database=DATABASE, **filled)
    return {
        "floor": ([*floor, f"{influx.url}/query"], env),
        "ours, one window": ([python, "-c", OURS.format(at_once=1, **filled)], env),
        "ours, two windows": ([python, "-c", OURS.format(at_once=2, **filled)], env),
        "documents": (
            [str(peers / "bin" / "python"), "-c", documents],
            env | {"INFLUXDB_PASSWORD": PASSWORDS["reader"]},
        ),
        "dataset": (
            [python, "-m", "workload.ingest", "--dataset", measurement, "--start", "2026-09-21", "--end", "2026-11-21"],
            env,
        ),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, help="the documents' way's venv, of an earlier run or to be made there")
    parser.add_argument("--all", action="store_true", help="the documents' way whatever it needs")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-ingest-"))
    (folder / "lite").mkdir()
    server = LiteServer(folder / "lite")
    influx = Influx(folder)
    try:
        peers = given.peers or folder / "peers"
        if not peers.exists():
            venv.create(peers, with_pip=True)
            subprocess.run([peers / "bin/pip", "install", "--quiet", *PEERS], check=True)
        server.start()
        for points in given.points:
            began = time.monotonic()
            influx.client(f"points{points}").write(lines(points))
            print(f"{points} points written in {time.monotonic() - began:.0f} s", flush=True)
            found: dict[str, list[Run]] = {}
            for number in range(given.rounds):
                for name, (command, env) in ways(influx, points, folder / str(number), peers, server).items():
                    if name == "documents" and points > 2_000_000 and not given.all:
                        continue
                    if number and name in ("dataset", "documents"):
                        continue  # a second dataset has nothing new; the documents' way takes minutes
                    found.setdefault(name, []).append(measured(command, env, folder, influx.process.pid))
                    print(f"round {number + 1}: {name} {found[name][-1].seconds:.1f} s", flush=True)
            floor = statistics.median(run.seconds for run in found["floor"])
            least_floor = min(run.seconds for run in found["floor"])
            for name, runs in found.items():
                seconds = statistics.median(run.seconds for run in runs)
                least = min(run.seconds for run in runs)
                mib = max(run.mib for run in runs)
                own, database = (statistics.median(getattr(run, of) for run in runs) for of in ("own", "database"))
                print(
                    f"{name:<18} {seconds:8.1f} s {mib:7.0f} MiB {seconds / floor:6.2f} of the floor;"
                    f" least {least:.1f} s, {least / least_floor:.2f};"
                    f" processor {own:.1f} s, influxd's {database:.1f} s"
                )
    finally:
        server.stop()
        influx.process.terminate()
        influx.process.wait(60)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
