"""The command `testbed-workload`. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import time
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, Sequence

from workload.errors import WorkloadError
from workload.radio.ingest import add_arguments as radio_arguments
from workload.settings import DEFAULT_ENV_FILE, load_settings, source

NS = 1_000_000_000
EPOCH = datetime.fromtimestamp(0, timezone.utc)
MICROSECOND = timedelta(microseconds=1)
Print = Callable[..., None]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    stdout = sys.stdout

    def say(text: str) -> None:
        print(text, file=stdout, flush=True)

    try:
        # The SDK prints its progress
        with contextlib.redirect_stdout(sys.stderr):
            return int(options.run(options, say))
    except WorkloadError as error:
        print(f"testbed-workload: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="testbed-workload", description="The reference workload of a ClearML testbed."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    reads = argparse.ArgumentParser(add_help=False)
    reads.add_argument(
        "--env-file", type=Path, help=f"settings of the source (default: the environment, {DEFAULT_ENV_FILE})"
    )
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print one JSON object")
    names = argparse.ArgumentParser(add_help=False)
    names.add_argument("--project", default="rapp_examples", help="ClearML project (default: %(default)s)")
    window = argparse.ArgumentParser(add_help=False)
    window.add_argument("--days", type=_positive, default=30, help="how far back (default: %(default)s)")
    dataset = argparse.ArgumentParser(add_help=False)
    dataset.add_argument("--dataset", default="rapp_data", help="name of the Dataset (default: %(default)s)")
    dataset.add_argument("--measurement", help="what is read (default: INFLUXDB_MEASUREMENT, else randata)")
    dataset.add_argument("--fields", type=_names, help="NAME,NAME... (default: all)")
    dataset.add_argument("--tags", type=_names, help="NAME,NAME..., or '' for none (default: all)")
    dataset.add_argument("--start", type=_time, help="begin of the window, as 2026-11-01 or 2026-11-01T12:00:00Z")
    dataset.add_argument("--end", type=_time, help="its end, which is not of the window (default: now)")
    dataset.add_argument("--format", choices=("parquet", "csv"), default="parquet", help="default: %(default)s")
    dataset.add_argument(
        "--at-once", type=_positive, default=2, help="windows that are read at the same time (default: %(default)s)"
    )
    runs = argparse.ArgumentParser(add_help=False)
    runs.add_argument("--timeout", type=_positive, default=900, help="s until it is given up (default: %(default)s)")

    telemetry = verbs.add_parser("telemetry", help="the source in InfluxDB").add_subparsers(
        required=True, metavar="VERB"
    )
    verb = telemetry.add_parser("generate", parents=[reads, window, as_json], help="write synthetic telemetry")
    verb.add_argument("--points", type=_positive, default=200_000, help="how many (default: %(default)s)")
    verb.add_argument("--seed", type=int, default=1, help="the same seed and times give the same points")
    verb.add_argument("--period", type=_positive, default=60, help="reporting period, 1 to 60 s (default: %(default)s)")
    verb.add_argument("--ensure", action="store_true", help="write only what is missing up to now")
    verb.add_argument("--dry-run", action="store_true", help="only count what would be written")
    verb.set_defaults(run=_generate)
    verb = telemetry.add_parser("check", parents=[reads, as_json], help="is it there, and how old is its newest point")
    verb.set_defaults(run=_check)

    verb = verbs.add_parser(
        "ingest", parents=[reads, window, names, dataset, as_json], help="telemetry -> ClearML Dataset"
    )
    verb.set_defaults(run=_ingest)

    verb = verbs.add_parser(
        "chain", parents=[reads, window, names, dataset, runs], help="ingest, prepare, train, evaluate, consume"
    )
    verb.add_argument("--queue", default="prepared", help="queue of the tasks (default: %(default)s)")
    verb.add_argument("--json-lines", dest="json", action="store_true", help="print one JSON object a step")
    verb.set_defaults(run=_chain)

    verb = verbs.add_parser("radio", parents=[runs], help="the radio map: path loss, from measurements to a model")
    radio_arguments(verb)
    verb.add_argument("--queue", default="prepared", help="queue of the tasks (default: %(default)s)")
    verb.add_argument("--json-lines", dest="json", action="store_true", help="print one JSON object a step")
    verb.set_defaults(run=_radio)

    verb = verbs.add_parser("probe", parents=[names, runs, as_json], help="run a task that needs a package of its own")
    verb.add_argument("--queue", default="default", help="queue of the task (default: %(default)s)")
    verb.add_argument("--package", required=True, help="NAME==VERSION")
    verb.set_defaults(run=_probe)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more")
    return number


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _time(text: str) -> int:
    """ns since the epoch; UTC where nothing else is said."""
    try:
        found = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: expected a time as 2026-11-01 or 2026-11-01T12:00:00Z") from error
    found = found if found.tzinfo else found.replace(tzinfo=timezone.utc)
    return (found - EPOCH) // MICROSECOND * 1000


def _database(options: argparse.Namespace) -> Any:
    from workload.influx import InfluxDB

    found = source(load_settings(options.env_file))
    return InfluxDB(replace(found, measurement=getattr(options, "measurement", None) or found.measurement))


def _generate(options: argparse.Namespace, say: Print) -> int:
    from workload.fill import fill

    if options.period > 60:
        raise WorkloadError(f"--period {options.period}: must be 1 to 60 s")
    database = _database(options)
    now = int(time.time())
    done = fill(
        database, options.points, options.days, options.seed, options.period, now, options.ensure, options.dry_run
    )
    done["newest"] = _iso(done["newest"])
    say(
        json.dumps(done) if options.json else "{written} points written; {points} there, newest {newest}".format(**done)
    )
    return 0


def _check(options: argparse.Namespace, say: Print) -> int:
    database = _database(options)
    database.check()
    newest = database.newest() // NS
    found = {
        "url": database.source.url,
        "dialect": database.source.dialect,
        "measurement": database.source.measurement,
        "points": database.count_all(),
        "newest": _iso(newest),
        "age_seconds": int(time.time()) - newest,
    }
    say(
        json.dumps(found)
        if options.json
        else "{measurement} at {url}: {points} points, newest {newest}".format(**found)
    )
    return 0


def _wanted(options: argparse.Namespace) -> Any:
    from workload.ingest import Wanted, last_days

    start, end = last_days(options.days, int(time.time()))
    start = options.start if options.start is not None else start
    end = options.end if options.end is not None else end
    if start >= end:
        raise WorkloadError(
            f"the window from {_iso(start // NS)} to {_iso(end // NS)} has no length: check --start and --end"
        )
    return Wanted(
        options.project, options.dataset, start, end, options.fields, options.tags, options.format, options.at_once
    )


def _ingest(options: argparse.Namespace, say: Print) -> int:
    from workload.ingest import ingest

    sys.modules.setdefault("pandas", None)  # type: ignore[arg-type]  # the SDK would import it: 30 MiB for nothing
    version = ingest(_database(options), _wanted(options))
    say(json.dumps(asdict(version)) if options.json else version.id)
    return 0


def _chain(options: argparse.Namespace, say: Print) -> int:
    from workload.chain import run_chain

    ok = False
    for result in run_chain(_database(options), _wanted(options), options.queue, options.timeout):
        ok = _say_result(result, options.json, say)
    return 0 if ok else 1


def _radio(options: argparse.Namespace, say: Print) -> int:
    from workload.chain import run_radio

    ok = False
    for result in run_radio(
        options.project, options.dataset, options.csv, options.points, options.seed, options.queue, options.timeout
    ):
        ok = _say_result(result, options.json, say)
    return 0 if ok else 1


def _probe(options: argparse.Namespace, say: Print) -> int:
    from workload.chain import run_probe

    result = run_probe(options.project, options.queue, options.package, options.timeout)
    return 0 if _say_result(result, options.json, say) else 1


def _say_result(result: Any, as_json: bool, say: Print) -> bool:
    if as_json:
        say(json.dumps({**asdict(result), "seconds": round(result.seconds, 1)}))
    else:
        say(f"{result.step:10} {result.status:10} {result.seconds:6.1f} s  {result.url}")
    if not result.ok:
        print("\n".join([result.details["reason"], *result.details.get("log", [])]), file=sys.stderr)
    return bool(result.ok)


def _iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
