"""A pipeline made of decorated functions, run in processes of this machine."""

import json

from clearml import PipelineDecorator, Task


@PipelineDecorator.component(return_values=["values"], packages=[], cache=False)
def load(size):
    return list(range(size))


@PipelineDecorator.component(return_values=["result"], packages=[], parents=["load"])
def total(values):
    return sum(values)


@PipelineDecorator.pipeline(name="decorated", project="pipes", version="2.0", pool_frequency=0.02, packages=[])
def run(size):
    result = total(load(size))
    print(f"the result is {result}")
    return int(result)


if __name__ == "__main__":
    PipelineDecorator.run_locally()
    result = run(5)
    controller = PipelineDecorator.get_current_pipeline()
    identifier = controller.id
    controller.stop()
    steps = Task.get_tasks(task_filter={"parent": identifier, "search_hidden": True})
    print(
        json.dumps(
            {
                "result": result,
                "status": Task.get_task(task_id=identifier).get_status(),
                "steps": sorted([step.name, step.get_status()] for step in steps),
            }
        )
    )
