"""A pipeline for agents: the controller in one queue, a task and a function as steps in another."""

import os
from pathlib import Path

from clearml import PipelineController, Task


def doubled(number):
    return int(number) * 2


if Task.running_locally():
    step = Task.create(
        project_name="pipes",
        task_name="a step",
        script=str(Path(os.environ["TESTS_FOLDER"], "step.py")),
        packages=["clearml"],
        force_single_script_file=True,
    )
    step.set_parameters({"General/number": 1})

pipeline = PipelineController(name="far away", project="pipes", version="1.0", pool_frequency=0.02)
pipeline.add_parameter("number", 5)
pipeline.set_default_execution_queue("steps")
pipeline.add_step(
    "first",
    base_task_project="pipes",
    base_task_name="a step",
    parameter_override={"General/number": "${pipeline.number}"},
)
pipeline.add_function_step(
    "second",
    doubled,
    function_kwargs={"number": "${first.parameters.General/number}"},
    function_return=["result"],
    packages=["clearml"],
)
print(pipeline.id, flush=True)
pipeline.start(queue="controllers")
