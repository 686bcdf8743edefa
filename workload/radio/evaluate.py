"""A trained network -> its errors on the test part, the radio map, and the model in the server.

python -m workload.radio.evaluate --prepare-task-id ID --train-task-id ID
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np

from workload.learning import CANDIDATE
from workload.radio.maps import gridded
from workload.registered import Output, hand_over
from workload.scaler import Scaler
from workload.step import artifact, run, start

MAP = "map"


def errors(measured: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """MSE, RMSE and MAE."""
    difference = predicted - measured
    mse = float(np.mean(difference**2))
    return {"MSE": mse, "RMSE": mse**0.5, "MAE": float(np.abs(difference).mean())}


def main() -> None:
    task, parameters = start(
        "radio evaluate",
        "testing",
        {"prepare_task_id": "", "train_task_id": "", "model_name": "path_loss_model", "sample_rows": 256, "cell": 2.0},
    )
    from tensorflow import keras

    with np.load(artifact(parameters["prepare_task_id"], "prepared")) as prepared:
        data = dict(prepared)
    scales = json.loads(Path(artifact(parameters["prepare_task_id"], "scaler")).read_text())
    scaler, output = Scaler(**scales["inputs"]), Output(**scales["output"])
    candidate = artifact(parameters["train_task_id"], CANDIDATE)
    inputs, measured = data["test_inputs"], data["test_losses"]
    model = keras.models.load_model(candidate)
    predictions = model.predict(inputs, batch_size=4096, verbose=0)
    predicted = predictions[:, 0]

    logger = task.get_logger()
    found = errors(measured, predicted)
    for name, value in found.items():
        logger.report_single_value(f"Test {name}", value)  # of 0 .. 1
    logger.report_single_value("Test RMSE (dB)", found["RMSE"] * output.scale)
    logger.report_single_value("Test MAE (dB)", found["MAE"] * output.scale)
    mean = np.full_like(measured, data["train_losses"].mean())
    logger.report_single_value("Mean Predictor RMSE", errors(measured, mean)["RMSE"])

    places = inputs * np.array(scaler.scale) + np.array(scaler.center)
    in_db = {
        "measured": measured * output.scale + output.center,
        "predicted": predicted * output.scale + output.center,
        "error": (predicted - measured) * output.scale,
    }
    for name, values in in_db.items():
        x, y, cells = gridded(places, values, parameters["cell"])
        logger.report_plotly(
            "Path loss map",
            name,
            {
                "data": [{"type": "heatmap", "x": x, "y": y, "z": cells, "colorbar": {"title": {"text": "dB"}}}],
                "layout": {"xaxis": {"title": {"text": "X (m)"}}, "yaxis": {"title": {"text": "Y (m)"}}},
            },
            0,
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "map.npz")
        np.savez(path, places=places, **in_db)
        task.upload_artifact(MAP, path, wait_on_upload=True)
    rows = slice(parameters["sample_rows"])
    hand_over(task, Path(candidate), parameters["model_name"], scaler, (inputs[rows], predictions[rows]), output=output)


if __name__ == "__main__":
    run(main)
