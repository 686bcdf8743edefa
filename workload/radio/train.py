"""Prepared positions -> a Keras network that predicts path loss there, with its learning curves.

python -m workload.radio.train --prepare-task-id ID
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workload.learning import fit
from workload.step import artifact, reproducible, run, start


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
    stop = keras.callbacks.EarlyStopping(
        "val_loss", patience=parameters["early_stopping_patience"], restore_best_weights=True
    )
    fit(task, model, data, "losses", parameters, [stop])


if __name__ == "__main__":
    run(main)
