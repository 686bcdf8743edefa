"""Dataset -> positions and path loss, scaled and split for training; the scaler knows the training part only.

python -m workload.radio.prepare --dataset-id ID
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workload.errors import StepError
from workload.prepare import PARTS, read_folder
from workload.radio import floor
from workload.registered import Output
from workload.scaler import Scaler
from workload.step import dataset, run, start

if TYPE_CHECKING:
    import pandas as pd  # where a step is only enqueued, it need not be there


@dataclass(frozen=True)
class Prepared:
    """Arrays by name (PART_inputs: rows x 2, PART_losses: rows; both 0 .. 1 in training), and what scaled them."""

    arrays: dict[str, np.ndarray]
    scaler: Scaler
    output: Output


def prepare(frame: pd.DataFrame, train_share: float, validation_share: float, no_signal: float, seed: int) -> Prepared:
    """Shuffle, split, and scale by the least and the largest value of the training part.

    The rest after train_share is the test part. validation_share is taken out of the training part, so that early
    stopping does not see the test part. Rows at or above no_signal dB are left out. Raises StepError.
    """
    import pandas as pd

    names = [*floor.INPUTS, floor.LOSS]
    frame = frame.rename(columns=lambda name: str(name).strip())
    lacking = [name for name in names if name not in frame]
    if lacking:
        raise StepError(f"the dataset has no column {', '.join(lacking)} (it has: {', '.join(frame.columns)})")
    values = frame[names].apply(pd.to_numeric, errors="coerce").to_numpy(dtype="float64")
    values = values[np.isfinite(values).all(axis=1) & (values[:, -1] < no_signal)]
    values = np.random.default_rng(seed).permutation(values)
    rest = round(train_share * len(values))
    train = round(rest * (1 - validation_share))
    if not 0 < train < rest < len(values):
        raise StepError(
            f"{len(values)} rows with a signal cannot be split with train_share {train_share} and validation_share"
            f" {validation_share}"
        )
    low, high = values[:train].min(axis=0), values[:train].max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    scaler = Scaler(
        list(floor.INPUTS), values[:train, :-1].mean(axis=0).tolist(), low[:-1].tolist(), spread[:-1].tolist()
    )
    output = Output(floor.LOSS, "dB", float(low[-1]), float(spread[-1]))
    arrays = {}
    for part, rows in zip(PARTS, np.split(values, [train, rest])):
        arrays[f"{part}_inputs"] = scaler.scaled(rows[:, :-1])
        arrays[f"{part}_losses"] = ((rows[:, -1] - output.center) / output.scale).astype("float32")
    return Prepared(arrays, scaler, output)


def main() -> None:
    task, parameters = start(
        "radio prepare",
        "data_processing",
        {
            "dataset_id": "",
            "train_share": 0.7,
            "validation_share": 0.15,
            "no_signal": floor.NO_SIGNAL,
            "seed": 0,
        },
    )
    frame = read_folder(dataset(parameters["dataset_id"], "path_loss"))
    logger = task.get_logger()
    logger.report_table("Dataset", "describe", table_plot=frame.describe().reset_index())
    shares = (parameters["train_share"], parameters["validation_share"])
    prepared = prepare(frame, *shares, parameters["no_signal"], parameters["seed"])
    rows = 0
    for part in PARTS:
        logger.report_single_value(f"Rows {part}", len(prepared.arrays[f"{part}_inputs"]))
        rows += len(prepared.arrays[f"{part}_inputs"])
    logger.report_single_value("Rows without signal", len(frame) - rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "prepared.npz")
        np.savez(path, **prepared.arrays)
        task.upload_artifact("prepared", path, wait_on_upload=True)
        path = Path(folder, "scaler.json")
        path.write_text(json.dumps({"inputs": asdict(prepared.scaler), "output": asdict(prepared.output)}, indent=1))
        task.upload_artifact("scaler", path, wait_on_upload=True)


if __name__ == "__main__":
    run(main)
