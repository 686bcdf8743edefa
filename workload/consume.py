"""The model as a consumer meets it: from the server, it predicts as recorded and clearly beats a linear model.

python -m workload.consume --prepare-task-id ID --evaluate-task-id ID
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workload.errors import StepError
from workload.registered import SAMPLE, Predictor, fetch
from workload.step import artifact, registered_model, run, start


def take(task: Any, prepare_task_id: str, evaluate_task_id: str) -> tuple[Predictor, dict[str, np.ndarray]]:
    """The model from the server, and the prepared data. Raises StepError where it predicts otherwise than recorded."""
    model_id = registered_model(evaluate_task_id)
    model = Predictor(*fetch(model_id))
    with np.load(artifact(evaluate_task_id, SAMPLE)) as sample:
        difference = float(np.abs(model.raw(sample["inputs"]) - sample["predictions"]).max())
    task.get_logger().report_single_value("Largest Difference", difference)
    if difference > 1e-5:
        raise StepError(f"model {model_id} from the server predicts otherwise than recorded: by {difference:.2g}")
    with np.load(artifact(prepare_task_id, "prepared")) as prepared:
        return model, dict(prepared)


def main() -> None:
    task, parameters = start(
        "consume",
        "inference",
        {"prepare_task_id": "", "evaluate_task_id": "", "smallest_margin": 0.1},
    )
    from sklearn.linear_model import LogisticRegression

    model, data = take(task, parameters["prepare_task_id"], parameters["evaluate_task_id"])
    predicted = model.raw(data["test_inputs"]).argmax(axis=1)
    network = float((predicted == data["test_labels"]).mean())
    baseline = LogisticRegression(max_iter=300).fit(data["train_inputs"], data["train_labels"])
    linear = float(baseline.score(data["test_inputs"], data["test_labels"]))

    logger = task.get_logger()
    logger.report_single_value("Network Accuracy", network)
    logger.report_single_value("Linear Accuracy", linear)
    if network < linear + parameters["smallest_margin"]:
        raise StepError(
            f"the network ({network:.3f}) is not clearly better than a linear model ({linear:.3f}):"
            f" expected {parameters['smallest_margin']} more"
        )


if __name__ == "__main__":
    run(main)
