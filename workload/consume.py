"""The model as a consumer meets it: from the server, it predicts as recorded and clearly beats a linear model.

python -m workload.consume --prepare-task-id ID --evaluate-task-id ID
"""

from __future__ import annotations

import numpy as np

from workload.errors import StepError
from workload.evaluate import SAMPLE
from workload.registered import Predictor, fetch
from workload.step import artifact, registered_model, run, start


def main() -> None:
    task, parameters = start(
        "consume",
        "inference",
        {"prepare_task_id": "", "evaluate_task_id": "", "smallest_margin": 0.1},
    )
    from sklearn.linear_model import LogisticRegression

    model_id = registered_model(parameters["evaluate_task_id"])
    model = Predictor(*fetch(model_id))
    with np.load(artifact(parameters["evaluate_task_id"], SAMPLE)) as sample:
        difference = float(np.abs(model.raw(sample["inputs"]) - sample["predictions"]).max())
    with np.load(artifact(parameters["prepare_task_id"], "prepared")) as prepared:
        data = dict(prepared)
    predicted = model.raw(data["test_inputs"]).argmax(axis=1)
    network = float((predicted == data["test_labels"]).mean())
    baseline = LogisticRegression(max_iter=300).fit(data["train_inputs"], data["train_labels"])
    linear = float(baseline.score(data["test_inputs"], data["test_labels"]))

    logger = task.get_logger()
    logger.report_single_value("Largest Difference", difference)
    logger.report_single_value("Network Accuracy", network)
    logger.report_single_value("Linear Accuracy", linear)
    if difference > 1e-5:
        raise StepError(f"model {model_id} from the server predicts otherwise than recorded: by {difference:.2g}")
    if network < linear + parameters["smallest_margin"]:
        raise StepError(
            f"the network ({network:.3f}) is not clearly better than a linear model ({linear:.3f}):"
            f" expected {parameters['smallest_margin']} more"
        )


if __name__ == "__main__":
    run(main)
