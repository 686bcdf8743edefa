"""What training is in both workloads: a fit that reports each epoch, draws its curves, and stores the file."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

CANDIDATE = "Candidate Model"


def fit(
    task: Any,
    model: Any,
    data: Mapping[str, np.ndarray],
    target: str,
    parameters: Mapping[str, Any],
    callbacks: Sequence[Any],
) -> None:
    """Train a compiled model on the prepared data, whose labels or values are `target`.

    parameters: `batch_size` and `epochs`. Each epoch's loss and metrics are scalars of the training and the validation
    part; then come a curve of each, the number of epochs, the time in s, and the model's file as an artifact.
    """
    from tensorflow import keras

    logger = task.get_logger()

    def report(epoch: int, logs: Mapping[str, float]) -> None:
        for name in logs:
            if f"val_{name}" in logs:
                logger.report_scalar(name, "train", logs[name], epoch)
                logger.report_scalar(name, "validation", logs[f"val_{name}"], epoch)

    began = time.monotonic()
    history = model.fit(
        data["train_inputs"],
        data[f"train_{target}"],
        validation_data=(data["validation_inputs"], data[f"validation_{target}"]),
        batch_size=parameters["batch_size"],
        validation_batch_size=1024,
        epochs=parameters["epochs"],
        verbose=2,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=report), *callbacks],
    ).history
    logger.report_single_value("Training Time", round(time.monotonic() - began, 2))
    logger.report_single_value("Epochs", len(history["loss"]))
    for name in [name for name in history if f"val_{name}" in history]:
        for part, values in (("train", history[name]), ("validation", history[f"val_{name}"])):
            curve = np.column_stack([np.arange(len(values)), values])
            logger.report_scatter2d(f"{name} curve", part, curve, 0, xaxis="epoch", yaxis=name, mode="lines+markers")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "candidate.keras")
        model.save(path)
        task.upload_artifact(CANDIDATE, path, wait_on_upload=True)
