"""Prepared arrays -> a Keras classifier, with its learning curves.

python -m workload.train --prepare-task-id ID
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workload.learning import fit
from workload.step import artifact, reproducible, run, start


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

    def report(epoch: int, logs: dict[str, float]) -> None:
        rate = float(model.optimizer.learning_rate.numpy())
        task.get_logger().report_scalar("learning rate", "learning rate", rate, epoch)

    fit(
        task,
        model,
        data,
        "labels",
        parameters,
        [
            keras.callbacks.LambdaCallback(on_epoch_end=report),
            keras.callbacks.EarlyStopping("val_loss", patience=parameters["early_stopping_patience"]),
            keras.callbacks.ReduceLROnPlateau(
                "val_loss", factor=parameters["reduce_lr_factor"], patience=parameters["reduce_lr_patience"]
            ),
        ],
    )


if __name__ == "__main__":
    run(main)
