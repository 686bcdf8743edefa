"""Synthetic telemetry -> ClearML Dataset, without an InfluxDB: for a server that no testbed belongs to.

python -m workload.generate --help
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workload.errors import StepError
from workload.generator import DAY, LABEL, Reports, generate
from workload.step import run, start

if TYPE_CHECKING:
    import pandas as pd  # where a step is only enqueued, it need not be there

NS = 1_000_000_000


def table(reports: Reports) -> pd.DataFrame:
    """A chunk of reports with the columns that `ingest` writes: time in ns, tags as text, the label last."""
    import pandas as pd

    columns: dict[str, Any] = {"time": reports.time.astype("int64") * NS}
    columns["cell"] = np.char.add("cell-", reports.cell.astype(str))
    columns["ue"] = np.char.add("ue-", reports.ue.astype(str))
    return pd.DataFrame({**columns, **reports.fields, LABEL: reports.label.astype("int64")})


def main() -> None:
    task, parameters = start(
        "generate",
        "data_processing",
        {"points": 24_000, "days": 30, "seed": 1, "period": 60, "dataset": "rapp_data"},
    )
    import pandas as pd
    from clearml import Dataset

    end = int(time.time())
    wanted = (parameters["points"], parameters["seed"], parameters["period"])
    try:
        frame = pd.concat(map(table, generate(end - parameters["days"] * DAY, end, *wanted)), ignore_index=True)
    except ValueError as error:
        raise StepError(f"{error}: check points, days and period") from error
    with tempfile.TemporaryDirectory() as folder:
        frame.to_parquet(Path(folder, "telemetry.parquet"), index=False)
        dataset = Dataset.create(
            dataset_name=parameters["dataset"],
            dataset_project=task.get_project_name(),
            description=f"Synthetic: workload.generator, {len(frame)} points, seed {parameters['seed']}",
        )
        dataset.add_files(folder)
        dataset.upload(show_progress=False, preview=False)
        dataset.finalize()
    task.set_parameter("General/dataset_id", dataset.id)
    task.get_logger().report_single_value("Rows", len(frame))


if __name__ == "__main__":
    run(main)
