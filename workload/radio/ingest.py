"""Measurements of path loss -> ClearML Dataset: a CSV file of yours, or a floor that is generated (synthetic).

python -m workload.radio.ingest --help
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import logging
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Sequence

from workload.errors import ServerError, StepError, WorkloadError, reason
from workload.radio import floor
from workload.server import login
from workload.step import PROJECT
from workload.unfinished import alone, clean_up, delete_unfinished, mark, orderly_end, versions

LOG = logging.getLogger(__name__)

DATASET = "path_loss"


@dataclass(frozen=True)
class Version:
    """A finished version of the dataset."""

    id: str
    version: str
    rows: int
    url: str


def check(file: Path) -> int:
    """The number of rows of a CSV file in the experiment's form. Raises StepError."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines)
            header = [name.strip() for name in next(reader, [])]
            rows = sum(1 for row in reader if row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StepError(f"cannot read {file} ({reason(error)}): give a CSV file") from error
    lacking = [name for name in (*floor.INPUTS, floor.LOSS) if name not in header]
    if lacking:
        raise StepError(f"{file} has no column {', '.join(lacking)}: expected {', '.join(floor.COLUMNS[1:])}")
    if not rows:
        raise StepError(f"{file} has no rows below its header: check the file")
    return rows


def ingest(project: str, dataset: str, file: Path | None, points: int, seed: int) -> Version:
    """A version of the dataset that holds the file, or generated points; where the newest one does, that one.

    A version that fails is deleted, and one that a killed run of the same user on the same machine left behind is
    deleted by the next. Raises StepError, ServerError, DiskError.
    """
    from clearml import Dataset

    with alone(), orderly_end(), tempfile.TemporaryDirectory() as folder:
        if file is None:
            file = Path(folder, "path_loss.csv")
            floor.write(floor.measure(points, seed), file)
            about = f"Synthetic: workload.radio.floor, {points} points, seed {seed}"
        else:
            about = f"Measured: {file.name}"
        rows, digest = check(file), hashlib.sha256(file.read_bytes()).hexdigest()
        login()
        delete_unfinished(project, dataset)
        try:
            if versions(project, dataset, ["completed", "published"]):
                there = Dataset.get(dataset_project=project, dataset_name=dataset, only_completed=True)
                if (there.get_metadata("source") or {}).get("sha256") == digest:
                    return _version(there, rows)
            made = Dataset.create(
                dataset_name=dataset, dataset_project=project, dataset_tags=[mark()], description=about
            )
            made.add_files(file)
            made.set_metadata({"about": about, "rows": rows, "sha256": digest}, "source", ui_visible=False)
            made.get_logger().report_single_value("rows", rows)
            made.upload(show_progress=False, preview=False)
            made.finalize()
        except Exception as error:
            raise ServerError(
                f"could not make a version of dataset {project}/{dataset} ({reason(error)}):"
                f" {clean_up(project, dataset)}; check the ClearML file server, then run this again"
            ) from error
        except BaseException:
            LOG.info("Stopped: %s", clean_up(project, dataset))
            raise
        return _version(made, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the SDK prints its progress
            version = ingest(options.project, options.dataset, options.csv, options.points, options.seed)
    except WorkloadError as error:
        print(f"workload.radio.ingest: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(asdict(version)))
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which measurements, and where they go."""
    parser.add_argument("--project", default=PROJECT, help="ClearML project (default: %(default)s)")
    parser.add_argument("--dataset", default=DATASET, help="name of the Dataset (default: %(default)s)")
    parser.add_argument("--csv", type=Path, help=f"measurements of yours: {', '.join(floor.COLUMNS[1:])}")
    parser.add_argument("--points", type=_whole(1), default=floor.POINTS, help="to generate (default: %(default)s)")
    parser.add_argument("--seed", type=_whole(0), default=0, help="the same seed gives the same points")


def _whole(least: int) -> Callable[[str], int]:
    def value(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, {least} or more")
        return int(text)

    return value


def _version(dataset: object, rows: int) -> Version:
    from clearml import Task

    found = str(dataset.id)  # type: ignore[attr-defined]
    url = str(Task.get_task(found).get_output_log_web_page())
    return Version(found, str(dataset.version or ""), rows, url)  # type: ignore[attr-defined]


if __name__ == "__main__":
    raise SystemExit(main())
