"""The model as a consumer meets it: from the server, it predicts as recorded and clearly beats the mean.

python -m workload.radio.consume --prepare-task-id ID --evaluate-task-id ID
"""

from __future__ import annotations

import numpy as np

from workload.consume import take
from workload.errors import StepError
from workload.radio.evaluate import errors
from workload.step import run, start


def main() -> None:
    task, parameters = start(
        "radio consume",
        "inference",
        {"prepare_task_id": "", "evaluate_task_id": "", "largest_ratio": 0.6},
    )
    model, data = take(task, parameters["prepare_task_id"], parameters["evaluate_task_id"])
    measured = data["test_losses"]
    network = errors(measured, model.raw(data["test_inputs"])[:, 0])["RMSE"]
    mean = errors(measured, np.full_like(measured, data["train_losses"].mean()))["RMSE"]

    logger = task.get_logger()
    logger.report_single_value("Network RMSE", network)
    logger.report_single_value("Mean Predictor RMSE", mean)
    if network > mean * parameters["largest_ratio"]:
        raise StepError(
            f"the network (RMSE {network:.3f}) is not clearly better than the mean ({mean:.3f}): expected at most"
            f" {parameters['largest_ratio']} of it"
        )


if __name__ == "__main__":
    run(main)
