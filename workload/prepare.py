"""Dataset -> scaled, split arrays for training, and the scaler that inference needs.

python -m workload.prepare --dataset-id ID
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Sequence

import numpy as np

from workload.errors import StepError
from workload.generator import LABEL
from workload.scaler import Scaler
from workload.step import dataset, run, start

if TYPE_CHECKING:
    import pandas as pd  # where a step is only enqueued, it need not be there

FILL_STRATEGIES = ("mean", "median", "zero", "ffill", "bfill")
SCALINGS = ("standard", "minmax")
PARTS = ("train", "validation", "test")


def read_folder(folder: Path) -> pd.DataFrame:
    """Every CSV and Parquet file below the folder as one table, in order of `time` where there is one."""
    import pandas as pd

    files = sorted(path for path in folder.rglob("*") if path.suffix in (".csv", ".parquet"))
    if not files:
        raise StepError(f"no CSV or Parquet file in the dataset ({folder})")
    frames = [pd.read_csv(path, low_memory=False) if path.suffix == ".csv" else pd.read_parquet(path) for path in files]
    for frame in frames:
        if "time" in frame and pd.api.types.is_datetime64_any_dtype(frame["time"]):
            frame["time"] = frame["time"].dt.as_unit("ns").astype("int64")  # ns since the epoch, as in CSV
    frame = pd.concat(frames, ignore_index=True)
    return frame.sort_values("time", kind="stable", ignore_index=True) if "time" in frame else frame


def clean(frame: pd.DataFrame, label: str, drop: Sequence[str]) -> pd.DataFrame:
    """Numbers only, whatever they came as; the label last, as an integer. Rows without a label are left out.

    Raises StepError when there is no label, or a column without a single number.
    """
    import pandas as pd

    if label not in frame:
        raise StepError(
            f"no column {label!r} in the dataset: set `label` to one of {', '.join(map(str, frame.columns))}"
        )
    frame = frame.drop(columns=[column for column in drop if column in frame])
    frame = frame.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    frame = frame[frame[label].notna()]
    empty = [str(column) for column in frame if frame[column].isna().all()]
    if empty or frame.empty:
        raise StepError(f"no number in column {', '.join(empty) or label}: add it to `drop_columns`")
    return frame[[column for column in frame if column != label]].assign(**{label: frame[label].astype("int64")})


def fill_missing(frame: pd.DataFrame, strategy: str, train_rows: int) -> tuple[pd.DataFrame, list[float]]:
    """Fill what is missing; also the value for each column that inference fills with.

    Means and medians are those of the first `train_rows` rows. What ffill and bfill leave open gets the mean.
    """
    if strategy not in FILL_STRATEGIES:
        raise StepError(f"unknown fill strategy {strategy!r}: one of {', '.join(FILL_STRATEGIES)}")
    train = frame.iloc[:train_rows]
    values = train.median() if strategy == "median" else train.mean()
    values = values.fillna(0) * (strategy != "zero")
    if strategy in ("ffill", "bfill"):
        frame = getattr(frame, strategy)()
    return frame.fillna(values), values.tolist()


def fit_scaler(train: pd.DataFrame, scaling: str, fill: list[float]) -> Scaler:
    """Fit on the training part: `standard` to mean 0 and deviation 1, `minmax` to 0 .. 1. Constants become 0."""
    if scaling == "standard":
        center, scale = train.mean(), train.std(ddof=0)
    elif scaling == "minmax":
        center, scale = train.min(), train.max() - train.min()
    else:
        raise StepError(f"unknown normalisation {scaling!r}: one of {', '.join(SCALINGS)}")
    return Scaler([str(name) for name in train], fill, center.tolist(), scale.replace(0, 1).tolist())


def split_rows(rows: int, train: float, validation: float) -> tuple[int, int]:
    """Where the validation part and the test part begin, in order. Raises StepError when a part would be empty."""
    first, second = int(train * rows), int((train + validation) * rows)
    if not 0 < first < second < rows:
        raise StepError(f"{rows} rows cannot be split into {train}, {validation} and the rest")
    return first, second


def main() -> None:
    task, parameters = start(
        "prepare",
        "data_processing",
        {
            "dataset_id": "",
            "label": LABEL,
            "drop_columns": ["time", "cell", "ue"],
            "fill_strategy": "mean",
            "normalisation": "standard",
            "train_share": 0.7,
            "validation_share": 0.15,
        },
    )
    frame = read_folder(dataset(parameters["dataset_id"], "rapp_data"))
    task.get_logger().report_table("Dataset", "describe", table_plot=frame.describe().reset_index())
    frame = clean(frame, parameters["label"], parameters["drop_columns"])
    labels = frame.pop(parameters["label"]).to_numpy()
    bounds = split_rows(len(frame), parameters["train_share"], parameters["validation_share"])
    frame, fill = fill_missing(frame, parameters["fill_strategy"], bounds[0])
    scaler = fit_scaler(frame.iloc[: bounds[0]], parameters["normalisation"], fill)
    _upload(task, scaler, scaler.apply(frame), labels, bounds)


def _upload(task: Any, scaler: Scaler, inputs: np.ndarray, labels: np.ndarray, bounds: tuple[int, int]) -> None:
    arrays = {}
    for part, x, y in zip(PARTS, np.split(inputs, bounds), np.split(labels, bounds)):
        arrays[f"{part}_inputs"], arrays[f"{part}_labels"] = x, y
        task.get_logger().report_single_value(f"Rows {part}", len(x))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "prepared.npz")
        np.savez(path, **arrays)
        task.upload_artifact("prepared", path, wait_on_upload=True)
        path = Path(folder, "scaler.json")
        path.write_text(json.dumps(asdict(scaler), indent=1))
        task.upload_artifact("scaler", path, wait_on_upload=True)


if __name__ == "__main__":
    run(main)
