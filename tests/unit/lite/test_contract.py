"""What the SDK's schemas say in words: when a call fails without `force`, what is taken from where."""

import json
from collections.abc import Callable
from typing import Any

import pytest

Call = Callable[..., Any]


def new_task(call: Call, **fields: Any) -> str:
    return str(call("tasks.create", **{"name": "a task", "type": "training"} | fields)["id"])


def get(call: Call, task: str) -> dict[str, Any]:
    return call("tasks.get_by_id", task=task)["task"]  # type: ignore[no-any-return]


def test_a_clone_has_the_name_of_its_original_when_it_gets_none(call: Call) -> None:
    original = new_task(call, name="the original")
    assert get(call, call("tasks.clone", task=original)["id"])["name"] == "the original"
    assert get(call, call("tasks.clone", task=original, new_task_name="another")["id"])["name"] == "another"


@pytest.mark.parametrize("steps", [[], ["started"], ["started", "completed"], ["started", "failed"]])
def test_only_a_task_that_waits_is_dequeued(call: Call, steps: list[str]) -> None:
    task = new_task(call)
    for step in steps:
        call(f"tasks.{step}", task=task)
    before = get(call, task)
    assert call("tasks.dequeue", task=task)[:2] == (400, 110)
    assert call("tasks.dequeue", task=task, new_status="queued")[:2] == (400, 110)
    assert [item["error"]["codes"] for item in call("tasks.dequeue_many", ids=[task])["failed"]] == [[400, 110]]
    assert get(call, task) == before


def test_an_agent_dequeues_a_task_that_it_has_set_running_and_none_that_was_aborted(call: Call) -> None:
    task, queue = new_task(call), call("queues.get_default")["id"]
    call("tasks.enqueue", task=task, queue=queue)
    assert call("queues.get_next_task", queue=queue)["entry"]["task"] == task
    call("tasks.started", task=task)
    assert call("tasks.dequeue", task=task, new_status="in_progress")["dequeued"] == 1
    call("tasks.stopped", task=task)
    assert call("tasks.dequeue", task=task, new_status="in_progress")[:2] == (400, 110)
    assert get(call, task)["status"] == "stopped"


def test_a_parameter_with_an_empty_name_stands_for_its_section(call: Call) -> None:
    items = [{"section": section, "name": name, "value": "1"} for section in ("one", "two") for name in ("a", "b")]
    task = new_task(call)
    call("tasks.edit_hyper_params", task=task, hyperparams=items)
    call("tasks.delete_hyper_params", task=task, hyperparams=[{"section": "one", "name": ""}])
    call("tasks.delete_hyper_params", task=task, hyperparams=[{"section": "two", "name": "a"}])
    assert {section: list(names) for section, names in get(call, task)["hyperparams"].items()} == {"two": ["b"]}


@pytest.mark.parametrize("action", ["add_or_update_artifacts", "delete_artifacts"])
def test_artifacts_of_a_running_task_change_by_force_only(call: Call, action: str) -> None:
    task = new_task(call)
    artifacts = [{"key": "kept", "type": "dict"}]
    assert call("tasks.add_or_update_artifacts", task=task, artifacts=artifacts) == {"updated": 1}
    call("tasks.started", task=task)
    assert call(f"tasks.{action}", task=task, artifacts=artifacts)[:2] == (400, 110)
    assert [artifact["key"] for artifact in get(call, task)["execution"]["artifacts"]] == ["kept"]
    assert 1 in call(f"tasks.{action}", task=task, artifacts=artifacts, force=True).values()


def test_a_model_of_a_published_task_is_deleted_by_force_only(call: Call) -> None:
    task = new_task(call)
    model = call("models.create", name="model", uri="file:///m", task=task)["id"]
    call("tasks.started", task=task)
    call("tasks.completed", task=task, publish=True)
    assert call("models.get_by_id", model=model)["model"]["ready"] is False
    assert call("models.delete", model=model)[:2] == (400, 12)
    assert [item["error"]["codes"] for item in call("models.delete_many", ids=[model])["failed"]] == [[400, 12]]
    assert call("models.delete", model=model, force=True)["deleted"] is True


@pytest.mark.parametrize("service", ["tasks", "models", "projects"])
def test_dates_filter_whether_or_not_the_schema_names_them(call: Call, service: str) -> None:
    project = call("projects.create", name="project")["id"]
    if service == "tasks":
        new_task(call, project=project)
    if service == "models":
        call("models.create", name="model", uri="file:///m", project=project)
    for field in ("last_update", "created"):
        assert len(call(f"{service}.get_all", **{field: [">2020-01-01", "<2200-01-01T00:00:00Z"]})[service]) == 1
        # as a trigger of an older SDK sends it
        assert call(f"{service}.get_all", **{field: ">2200-01-01T00:00:00"})[service] == []
        assert call(f"{service}.get_all", **{field: [">nonsense"]})[:2] == (400, 12)


def test_multi_task_views_tell_tasks_apart(client: Any, call: Call) -> None:
    tasks = {new_task(call, name=name): name for name in ("first", "second")}
    for number, task in enumerate(tasks):
        events = [
            {
                "task": task,
                "type": "training_stats_scalar",
                "metric": "m",
                "variant": "v",
                "iter": step,
                "value": number,
            }
            for step in range(3)
        ] + [
            {"task": task, "type": "plot", "metric": "p", "variant": "v", "iter": step, "plot_str": "{}"}
            for step in range(3)
        ]
        client.post("/events.add_batch", content="\n".join(map(json.dumps, events)))
    curves = call("events.multi_task_scalar_metrics_iter_histogram", tasks=list(tasks))["m"]["v"]
    assert {task: (curve["name"], set(curve["y"])) for task, curve in curves.items()} == {
        task: (name, {float(number)}) for number, (task, name) in enumerate(tasks.items())
    }
    plots = call("events.get_multi_task_plots", tasks=list(tasks), iters=2)["plots"]["p"]["v"]
    assert {task: sorted(iterations) for task, iterations in plots.items()} == dict.fromkeys(tasks, ["1", "2"])
