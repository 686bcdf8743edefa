"""A pipeline whose controller and steps run here: function steps with a parameter, an artifact and a kept metric."""

import json

from clearml import PipelineController, Task


def load(size):
    return list(range(int(size)))


def total(values, factor):
    from clearml import Task

    result = sum(values) * int(factor)
    Task.current_task().get_logger().report_scalar("sum", "result", value=result, iteration=0)
    return result


pipeline = PipelineController(name="added up", project="pipes", version="1.0", pool_frequency=0.02)
pipeline.add_parameter("size", 4)
pipeline.add_function_step(
    "load", load, function_kwargs={"size": "${pipeline.size}"}, function_return=["values"], packages=[]
)
pipeline.add_function_step(
    "total",
    total,
    function_kwargs={"values": "${load.values}", "factor": 2},
    function_return=["result"],
    packages=[],
    monitor_metrics=[("sum", "result")],
)
pipeline.start_locally(run_pipeline_steps_locally=True)
identifier = pipeline.id
nodes = pipeline.get_processed_nodes()
pipeline.stop()

controller = Task.get_task(task_id=identifier)
steps = {name: Task.get_task(task_id=node.executed) for name, node in nodes.items()}
found = PipelineController.get(pipeline_name="added up", pipeline_project="pipes")
print(
    json.dumps(
        {
            "status": controller.get_status(),
            "type": str(controller.task_type),
            "tagged": "pipeline" in controller.get_system_tags(),
            "project": controller.get_project_name(),
            "parameters": controller.get_parameters_as_dict()["Args"],
            "steps": {name: step.get_status() for name, step in steps.items()},
            "children": all(step.parent == identifier for step in steps.values()),
            "result": steps["total"].get_parameter("return/result"),
            "metric": controller.get_reported_scalars()["sum"]["result"]["y"],
            "found": found.id == identifier,
        }
    )
)
