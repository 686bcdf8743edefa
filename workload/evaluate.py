"""A trained model -> its figures on the test part, and the model in the server.

python -m workload.evaluate --prepare-task-id ID --train-task-id ID
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from workload.generator import SLICES
from workload.learning import CANDIDATE
from workload.registered import hand_over
from workload.scaler import Scaler
from workload.step import artifact, run, start


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """classes x classes: how many of label (row) were taken for what (column)."""
    matrix = np.zeros((classes, classes), dtype=int)
    np.add.at(matrix, (labels, predicted), 1)
    return matrix


def main() -> None:
    task, parameters = start(
        "evaluate",
        "testing",
        {"prepare_task_id": "", "train_task_id": "", "model_name": "rapp_model", "sample_rows": 256},
    )
    from tensorflow import keras

    with np.load(artifact(parameters["prepare_task_id"], "prepared")) as prepared:
        inputs, labels = prepared["test_inputs"], prepared["test_labels"]
    candidate = artifact(parameters["train_task_id"], CANDIDATE)
    model = keras.models.load_model(candidate)
    loss, accuracy = model.evaluate(inputs, labels, batch_size=4096, verbose=0)
    predictions = model.predict(inputs, batch_size=4096, verbose=0)
    classes = predictions.shape[1]
    names = list(SLICES) if classes == len(SLICES) else [str(number) for number in range(classes)]

    logger = task.get_logger()
    logger.report_single_value("Test Loss", float(loss))
    logger.report_single_value("Test Accuracy", float(accuracy))
    logger.report_confusion_matrix(
        "Confusion matrix",
        "test",
        confusion(labels, predictions.argmax(axis=1), classes),
        0,
        xaxis="predicted",
        yaxis="label",
        xlabels=names,
        ylabels=names,
    )
    scaler = Scaler(**json.loads(Path(artifact(parameters["prepare_task_id"], "scaler")).read_text()))
    rows = slice(parameters["sample_rows"])
    hand_over(task, Path(candidate), parameters["model_name"], scaler, (inputs[rows], predictions[rows]), names)


if __name__ == "__main__":
    run(main)
