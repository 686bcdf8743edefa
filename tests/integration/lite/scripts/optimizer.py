"""A random search of hyper-parameters whose tasks an agent runs, or this process with LOCALLY."""

import json
import os
from pathlib import Path

from clearml import Task
from clearml.automation import DiscreteParameterRange, HyperParameterOptimizer, RandomSearch

template = Task.create(
    project_name="search",
    task_name="template",
    script=str(Path(os.environ["TESTS_FOLDER"], "objective.py")),
    packages=["clearml"],
    force_single_script_file=True,
)
template.set_parameters({"General/x": 0})
task = Task.init("search", "the search", task_type=Task.TaskTypes.optimizer, auto_resource_monitoring=False)
optimizer = HyperParameterOptimizer(
    base_task_id=template.id,
    hyper_parameters=[DiscreteParameterRange("General/x", values=[1, 2, 3])],
    objective_metric_title="distance",
    objective_metric_series="from two",
    objective_metric_sign="min_global",
    optimizer_class=RandomSearch,
    max_number_of_concurrent_tasks=3,
    execution_queue="search",
    total_max_jobs=3,
    pool_period_min=0.02,
    save_top_k_tasks_only=2,
)
optimizer.set_report_period(0.05)
optimizer.start_locally() if os.environ.get("LOCALLY") else optimizer.start()
optimizer.wait()
best = optimizer.get_top_experiments(top_k=1)[0]
details = optimizer.get_top_experiments_details(top_k=3)
optimizer.stop()
task.flush(wait_for_uploads=True)
print(
    json.dumps(
        {
            "best": [best.get_parameters()["General/x"], best.get_last_scalar_metrics()["distance"]["from two"]["min"]],
            "tried": sorted(detail["hyper_parameters"]["General/x"] for detail in details),
            "children": len(Task.query_tasks(task_filter={"parent": task.id})),
            "archived": len(Task.query_tasks(task_filter={"parent": task.id, "system_tags": ["archived"]})),
            "tags": task.get_tags(),
        }
    )
)
