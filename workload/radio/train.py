"""Prepared positions -> a Keras network that predicts path loss there, with its learning curves.

python -m workload.radio.train --prepare-task-id ID
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from workload.step import artifact, reproducible, run, start
from workload.train import CANDIDATE


def build(units: list[int], seed: int) -> Any:
    """The network, compiled by the caller: the last of the units is its output."""
    from tensorflow import keras

    layers = [
        keras.layers.Dense(
            count,
            activation="relu" if number < len(units) - 1 else None,  # an output that is cut at 0 may never learn
            kernel_initializer=keras.initializers.RandomNormal(seed=seed + number),
        )
        for number, count in enumerate(units)
    ]
    return keras.Sequential([keras.Input((2,)), *layers])


def main() -> None:
    task, parameters = start(
        "radio train",
        "training",
        {
            "prepare_task_id": "",
            "units": [64, 32, 16, 1],
            "learning_rate": 0.001,
            "batch_size": 16,
            "epochs": 120,
            "early_stopping_patience": 5,
            "seed": 0,
        },
    )
    from tensorflow import keras

    reproducible(parameters["seed"])
    with np.load(artifact(parameters["prepare_task_id"], "prepared")) as prepared:
        data = dict(prepared)
    model = build(parameters["units"], parameters["seed"])
    model.compile(
        optimizer=keras.optimizers.Adam(parameters["learning_rate"]),
        loss="mse",
        metrics=["mae"],
        steps_per_execution=64,  # many small batches in one call: the same result in a fraction of the time
        jit_compile=False,
    )
    logger = task.get_logger()

    def report(epoch: int, logs: dict[str, float]) -> None:
        for metric in ("loss", "mae"):
            logger.report_scalar(metric, "train", logs[metric], epoch)
            logger.report_scalar(metric, "validation", logs[f"val_{metric}"], epoch)

    began = time.monotonic()
    history = model.fit(
        data["train_inputs"],
        data["train_losses"],
        validation_data=(data["validation_inputs"], data["validation_losses"]),
        batch_size=parameters["batch_size"],
        validation_batch_size=1024,
        epochs=parameters["epochs"],
        verbose=2,
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=report),
            keras.callbacks.EarlyStopping(
                "val_loss", patience=parameters["early_stopping_patience"], restore_best_weights=True
            ),
        ],
    ).history
    logger.report_single_value("Training Time", round(time.monotonic() - began, 2))  # s
    logger.report_single_value("Epochs", len(history["loss"]))
    for part, values in (("train", history["loss"]), ("validation", history["val_loss"])):
        curve = np.column_stack([np.arange(len(values)), values])
        logger.report_scatter2d("loss curve", part, curve, 0, xaxis="epoch", yaxis="MSE", mode="lines+markers")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "candidate.keras")
        model.save(path)
        task.upload_artifact(CANDIDATE, path, wait_on_upload=True)


if __name__ == "__main__":
    run(main)
