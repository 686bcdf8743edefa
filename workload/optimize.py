"""Search for better hyper-parameters: clones of a finished training, with other values, on agents.

python -m workload.optimize --train-task-id ID --queue prepared --trials 4

The optimizer runs here, as a task of its own that shows the trials beside one another in the web app.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any, Sequence

from workload.errors import StepError, WorkloadError
from workload.server import need_queue
from workload.step import PROJECT

POLL = 0.1  # minutes between two looks at the trials
METRIC, SERIES = "loss", "validation"
# what is tried: any hyper-parameters of workload.train
TRIED: dict[str, tuple[Any, ...]] = {"learning_rate": (0.0003, 0.001, 0.003), "batch_size": (32, 64, 128)}


def build(project: str, train_task_id: str, queue: str, trials: int, epochs: int) -> Any:
    """The optimizer: random choices, two at a time, by the least validation loss."""
    from clearml.automation import DiscreteParameterRange, HyperParameterOptimizer, RandomSearch

    ranges = [DiscreteParameterRange(f"General/{name}", values=list(values)) for name, values in TRIED.items()]
    return HyperParameterOptimizer(
        base_task_id=train_task_id,
        hyper_parameters=[*ranges, DiscreteParameterRange("General/epochs", values=[epochs])],
        objective_metric_title=METRIC,
        objective_metric_series=SERIES,
        objective_metric_sign="min",
        optimizer_class=RandomSearch,
        max_number_of_concurrent_tasks=2,
        total_max_jobs=trials,
        execution_queue=queue,
        pool_period_min=POLL,
        spawn_project=project,
    )


def run(project: str, train_task_id: str, queue: str, trials: int, epochs: int) -> list[dict[str, Any]]:
    """Run the search; the trials, best first: task ID, its objective, and what was tried.

    Raises StepError where the task is none to clone or no trial has reported its objective, ServerError.
    """
    from clearml import Task

    need_queue(queue)
    _need_training(train_task_id)
    task = Task.init(
        project_name=project,
        task_name="optimize",
        task_type="optimizer",
        reuse_last_task_id=False,
        auto_connect_frameworks=False,
        auto_connect_arg_parser=False,
        auto_resource_monitoring=False,
    )
    optimizer = build(project, train_task_id, queue, trials, epochs)
    optimizer.set_report_period(POLL)
    optimizer.start()
    optimizer.wait()
    optimizer.stop()
    best = []
    for trial in optimizer.get_top_experiments(top_k=trials):
        found = trial.get_last_scalar_metrics().get(METRIC, {}).get(SERIES, {})
        tried = {name: trial.get_parameter(f"General/{name}") for name in TRIED}
        best.append({"id": trial.id, METRIC: found.get("last"), **tried})
    url = task.get_output_log_web_page()
    task.close()
    if not best:
        raise StepError(f"no trial has reported its validation loss: see {url}")
    return best


def _need_training(task_id: str) -> None:
    from clearml import Task

    try:
        found = Task.get_task(task_id=task_id)
    except Exception:  # the SDK raises ValueError, and what the connection raises
        found = None
    if found is None or found.get_parameter("General/learning_rate") is None:
        raise StepError(f"{task_id!r} is no training that this user may read: give the ID of a completed `train` task")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default=PROJECT, help="ClearML project (default: %(default)s)")
    parser.add_argument("--train-task-id", required=True, help="a finished training, as `testbed-workload chain` makes")
    parser.add_argument("--queue", default="prepared", help="queue of the trials (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=5, help="of a trial (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the SDK prints its progress
            best = run(options.project, options.train_task_id, options.queue, options.trials, options.epochs)
    except WorkloadError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1
    for trial in best:
        print("  ".join([trial.pop("id"), *(f"{name} {value}" for name, value in trial.items())]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
