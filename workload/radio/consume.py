"""The model as a consumer meets it: from the server, it predicts as recorded and clearly beats the mean.

python -m workload.radio.consume --prepare-task-id ID --evaluate-task-id ID
"""

from __future__ import annotations

import numpy as np

from workload.errors import StepError
from workload.evaluate import SAMPLE
from workload.radio.evaluate import errors
from workload.registered import Predictor, fetch
from workload.step import artifact, registered_model, run, start


def main() -> None:
    task, parameters = start(
        "radio consume",
        "inference",
        {"prepare_task_id": "", "evaluate_task_id": "", "largest_ratio": 0.6},
    )
    model_id = registered_model(parameters["evaluate_task_id"])
    model = Predictor(*fetch(model_id))
    with np.load(artifact(parameters["evaluate_task_id"], SAMPLE)) as sample:
        difference = float(np.abs(model.raw(sample["inputs"]) - sample["predictions"]).max())
    with np.load(artifact(parameters["prepare_task_id"], "prepared")) as prepared:
        data = dict(prepared)
    measured = data["test_losses"]
    network = errors(measured, model.raw(data["test_inputs"])[:, 0])["RMSE"]
    mean = errors(measured, np.full_like(measured, data["train_losses"].mean()))["RMSE"]

    logger = task.get_logger()
    logger.report_single_value("Largest Difference", difference)
    logger.report_single_value("Network RMSE", network)
    logger.report_single_value("Mean Predictor RMSE", mean)
    if difference > 1e-5:
        raise StepError(f"model {model_id} from the server predicts otherwise than recorded: by {difference:.2g}")
    if network > mean * parameters["largest_ratio"]:
        raise StepError(
            f"the network (RMSE {network:.3f}) is not clearly better than the mean ({mean:.3f}): expected at most"
            f" {parameters['largest_ratio']} of it"
        )


if __name__ == "__main__":
    run(main)
