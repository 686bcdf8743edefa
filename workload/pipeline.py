"""The classifier's steps as a ClearML pipeline: prepare, train, evaluate and consume, each a task.

python -m workload.pipeline --dataset-id ID --queue prepared

The controller runs here. Its steps run on agents of the queue or, with --here, in processes of this machine. In the web
app the pipeline is drawn, and it and each of its steps can be cloned.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any, Sequence

from workload.chain import STEPS, create
from workload.errors import StepError, WorkloadError
from workload.server import login, need_queue
from workload.step import PROJECT

NAME = "slice classifier"
DATASET = "dataset_id"
POLL = 0.05  # minutes between two looks at the steps


def build(project: str, dataset_id: str, queue: str) -> Any:
    """The controller with its steps; a step takes the results of those before it by their tasks' IDs."""
    from clearml import PipelineController

    pipeline = PipelineController(name=NAME, project=project, version="1.0.0", pool_frequency=POLL)
    pipeline.set_default_execution_queue(queue)
    pipeline.add_parameter(DATASET, default=dataset_id, description="the Dataset that is prepared")
    for step, (_, inputs) in STEPS.items():
        pipeline.add_step(
            name=step,
            parents=[source for source in inputs.values() if source in STEPS],
            base_task_factory=lambda node: create("", project, node.name),
            parameter_override={f"General/{name}": _result_of(source) for name, source in inputs.items()},
        )
    return pipeline


def _result_of(source: str) -> str:
    return f"${{{source}.id}}" if source in STEPS else f"${{pipeline.{DATASET}}}"


def run(project: str, dataset_id: str, queue: str, here: bool) -> dict[str, str]:
    """Run it; the ID of each step's task. Raises StepError for a step that failed, ServerError."""
    if here:
        login()
    else:
        need_queue(queue)
    pipeline = build(project, dataset_id, queue)
    pipeline.start_locally(run_pipeline_steps_locally=here)
    pipeline.wait()
    nodes = pipeline.get_processed_nodes()
    done = {name: str(node.executed) for name, node in nodes.items() if node.status in ("completed", "cached")}
    url = pipeline.task.get_output_log_web_page()
    pipeline.stop(mark_failed=len(done) < len(STEPS))
    lacking = [step for step in STEPS if step not in done]
    if lacking:
        raise StepError(f"step {lacking[0]} of the pipeline did not complete: see {url}")
    return done


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default=PROJECT, help="ClearML project (default: %(default)s)")
    parser.add_argument("--dataset-id", required=True, help="as `testbed-workload ingest` prints it")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--queue", default="prepared", help="queue of the steps (default: %(default)s)")
    where.add_argument("--here", action="store_true", help="run the steps on this machine, which needs TensorFlow")
    options = parser.parse_args(arguments)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the SDK prints its progress
            done = run(options.project, options.dataset_id, options.queue, options.here)
    except WorkloadError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1
    for step, task in done.items():
        print(f"{step:10} {task}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
