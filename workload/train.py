"""Prepared arrays -> a Keras classifier, with its learning curves.

python -m workload.train --prepare-task-id ID
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from workload.step import artifact, reproducible, run, start

CANDIDATE = "Candidate Model"


def build(inputs: int, classes: int, units: list[int]) -> Any:
    """The classifier, compiled by the caller."""
    from tensorflow import keras

    layers = [keras.layers.Dense(count, activation="relu") for count in units]
    return keras.Sequential([keras.Input((inputs,)), *layers, keras.layers.Dense(classes, activation="softmax")])


def main() -> None:
    task, parameters = start(
        "train",
        "training",
        {
            "prepare_task_id": "",
            "units": [32, 16, 8],
            "learning_rate": 0.001,
            "batch_size": 64,
            "epochs": 15,
            "early_stopping_patience": 5,
            "reduce_lr_factor": 0.1,
            "reduce_lr_patience": 3,
            "seed": 1,
        },
    )
    from tensorflow import keras

    reproducible(parameters["seed"])
    with np.load(artifact(parameters["prepare_task_id"], "prepared")) as prepared:
        data = dict(prepared)
    classes = int(max(data["train_labels"].max(), data["validation_labels"].max(), data["test_labels"].max())) + 1
    model = build(data["train_inputs"].shape[1], classes, parameters["units"])
    model.compile(
        optimizer=keras.optimizers.Adam(parameters["learning_rate"]),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        steps_per_execution=64,  # many small batches in one call: the same result in a quarter of the time
        jit_compile=False,
    )
    logger = task.get_logger()

    def report(epoch: int, logs: dict[str, float]) -> None:
        for metric in ("loss", "accuracy"):
            logger.report_scalar(metric, "train", logs[metric], epoch)
            logger.report_scalar(metric, "validation", logs[f"val_{metric}"], epoch)
        logger.report_scalar("learning rate", "learning rate", float(model.optimizer.learning_rate.numpy()), epoch)

    history = model.fit(
        data["train_inputs"],
        data["train_labels"],
        validation_data=(data["validation_inputs"], data["validation_labels"]),
        batch_size=parameters["batch_size"],
        validation_batch_size=1024,
        epochs=parameters["epochs"],
        verbose=2,
        callbacks=[
            keras.callbacks.LambdaCallback(on_epoch_end=report),
            keras.callbacks.EarlyStopping("val_loss", patience=parameters["early_stopping_patience"]),
            keras.callbacks.ReduceLROnPlateau(
                "val_loss", factor=parameters["reduce_lr_factor"], patience=parameters["reduce_lr_patience"]
            ),
        ],
    ).history
    for metric in ("loss", "accuracy"):
        for part, values in (("train", history[metric]), ("validation", history[f"val_{metric}"])):
            curve = np.column_stack([np.arange(len(values)), values])
            logger.report_scatter2d(
                f"{metric} curve", part, curve, 0, xaxis="epoch", yaxis=metric, mode="lines+markers"
            )
    logger.report_single_value("Epochs", len(history["loss"]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "candidate.keras")
        model.save(path)
        task.upload_artifact(CANDIDATE, path, wait_on_upload=True)


if __name__ == "__main__":
    run(main)
