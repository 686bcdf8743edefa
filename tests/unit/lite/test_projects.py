"""projects.*, organization.*, pipelines.*: the tree, what is in it, tags, statistics."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from clearml_lite.services.event_batch import hashed

Call = Callable[..., Any]


def new_task(call: Call, **fields: Any) -> str:
    return str(call("tasks.create", **{"name": "a task", "type": "training"} | fields)["id"])


def named(call: Call, name: str) -> str:
    (project,) = call("projects.get_all", name=f"^{name}$", search_hidden=True)["projects"]
    return str(project["id"])


def names(call: Call, **filters: Any) -> list[str]:
    return [project["name"] for project in call("projects.get_all", **filters)["projects"]]


@pytest.fixture
def tree(call: Call) -> dict[str, str]:
    """Projects by name: top, top/a, top/a/deep, other."""
    call("projects.create", name="top/aaa/deep")
    call("projects.create", name="other")
    return {name: named(call, name) for name in ("top", "top/aaa", "top/aaa/deep", "other")}


def test_a_project_moves_with_all_below_it(call: Call, tree: dict[str, str]) -> None:
    assert call("projects.move", project=tree["top/aaa"], new_location="other/new") == {"moved": 2}
    assert sorted(names(call)) == ["other", "other/new", "other/new/aaa", "other/new/aaa/deep", "top"]
    moved = call("projects.get_by_id", project=tree["top/aaa/deep"])["project"]
    assert moved["path"] == [tree["other"], named(call, "other/new"), tree["top/aaa"]]
    assert call("projects.move", project=tree["top/aaa"]) == {"moved": 2}
    assert "parent" not in call("projects.get_by_id", project=tree["top/aaa"])["project"]
    assert call("projects.move", project=tree["top/aaa"], new_location="") == {"moved": 0}
    assert call("projects.move", project=tree["top/aaa"], new_location="aaa/deep")[:2] == (400, 12)
    call("projects.create", name="other/aaa")
    assert call("projects.move", project=tree["top/aaa"], new_location="other")[:2] == (400, 801)
    assert call("projects.move", project="nowhere", new_location="x")[:2] == (400, 401)


def test_a_project_is_merged_into_another(call: Call, tree: dict[str, str]) -> None:
    task = new_task(call, project=tree["top/aaa"])
    call("models.create", name="a model", uri="u", project=tree["top/aaa"])
    answer = call("projects.merge", project=tree["top/aaa"], destination_project=tree["other"])
    assert answer == {"moved_entities": 2, "moved_projects": 1}
    assert call("tasks.get_by_id", task=task)["task"]["project"] == tree["other"]
    assert sorted(names(call)) == ["other", "other/deep", "top"]
    assert call("projects.merge", project=tree["top"], destination_project=tree["top"])[:2] == (400, 12)
    assert call("projects.merge", project=tree["other"]) == {"moved_entities": 2, "moved_projects": 1}
    assert sorted(names(call)) == ["deep", "top"]


def test_a_project_that_is_not_empty_is_deleted_by_force_only(call: Call, tree: dict[str, str]) -> None:
    task = new_task(call, project=tree["top/aaa/deep"])
    archived = new_task(call, project=tree["top"])
    call("tasks.archive_many", ids=[archived])
    counts = {"tasks": 2, "non_archived_tasks": 1, "models": 0, "non_archived_models": 0}
    assert call("projects.validate_delete", project=tree["top"]) == counts
    assert call("projects.delete", project=tree["top"])[:2] == (400, 12)
    answer = call("projects.delete", project=tree["top"], force=True)
    assert (answer["deleted"], answer["disassociated_tasks"], answer["deleted_tasks"]) == (3, 2, 0)
    assert "project" not in call("tasks.get_by_id", task=task)["task"]
    assert names(call) == ["other"]
    assert call("projects.delete", project=tree["other"])["deleted"] == 1


def test_a_project_is_deleted_with_its_contents(call: Call, tree: dict[str, str]) -> None:
    task = new_task(call, project=tree["top/aaa"])
    artifact = {"key": "k", "type": "dict", "uri": "http://files/a"}
    call("tasks.add_or_update_artifacts", task=task, artifacts=[artifact])
    call("tasks.completed", task=task, force=True, publish=True)
    call("models.create", name="a model", uri="http://files/m", project=tree["top"], ready=True)
    answer = call("projects.delete", project=tree["top"], force=True, delete_contents=True)
    assert (answer["deleted"], answer["deleted_tasks"], answer["deleted_models"]) == (3, 1, 1)
    assert answer["urls"] == {
        "artifact_urls": ["http://files/a"],
        "event_urls": [],
        "model_urls": ["http://files/m"],
    }
    assert call("tasks.get_by_id", task=task)[:2] == (400, 101)
    assert call("models.get_all")["models"] == []


def test_tags_of_what_is_in_projects(call: Call, tree: dict[str, str]) -> None:
    new_task(call, project=tree["top/aaa"], tags=["a", "b"], system_tags=["sys"])
    new_task(call, project=tree["other"], tags=["c"])
    call("models.create", name="a model", uri="u", project=tree["top"], tags=["m"])
    call("projects.update", project=tree["top/aaa"], tags=["p"])
    assert call("projects.get_task_tags", projects=[tree["top"]]) == {"tags": ["a", "b"]}
    everything = call("projects.get_task_tags", include_system=True)
    assert everything == {"tags": ["a", "b", "c"], "system_tags": ["sys"]}
    assert call("projects.get_task_tags", filter={"tags": ["a"]}) == {"tags": ["a", "b"]}
    assert call("projects.get_task_tags", filter={"system_tags": ["-sys"]}) == {"tags": ["c"]}
    assert call("projects.get_model_tags", projects=[tree["top"]]) == {"tags": ["m"]}
    assert call("projects.get_project_tags", projects=[tree["top"]]) == {"tags": ["p"]}
    assert call("organization.get_tags", include_system=True) == {
        "tags": ["a", "b", "c", "m"],
        "system_tags": ["sys"],
    }


def test_hyper_parameters_of_a_projects_tasks(call: Call, tree: dict[str, str]) -> None:
    for project, rate in (("top/aaa", "0.1"), ("top", "0.2"), ("other", "0.3")):
        item = {"section": "Args", "name": "learning.rate", "value": rate}
        call("tasks.edit_hyper_params", task=new_task(call, project=tree[project]), hyperparams=[item])
    extra = {"section": "General", "name": "seed", "value": "1"}
    call("tasks.edit_hyper_params", task=new_task(call, project=tree["top"]), hyperparams=[extra])
    answer = call("projects.get_hyper_parameters", project=tree["top"])
    parameters = [("Args", "learning.rate"), ("General", "seed")]
    assert [(item["section"], item["name"]) for item in answer["parameters"]] == parameters
    assert (answer["total"], answer["remaining"]) == (2, 0)
    paged = call("projects.get_hyper_parameters", project=tree["top"], page=0, page_size=1)
    assert (len(paged["parameters"]), paged["remaining"]) == (1, 1)

    def values(**parameters: Any) -> list[str]:
        return call("projects.get_hyperparam_values", section="Args", name="learning.rate", **parameters)["values"]  # type: ignore[no-any-return]

    assert values() == ["0.1", "0.2", "0.3"]
    assert values(projects=[tree["top"]]) == ["0.1", "0.2"]
    assert values(projects=[tree["top"]], include_subprojects=False) == ["0.2"]
    assert call("projects.get_hyperparam_values", section='A"', name="x")[:2] == (400, 12)


def test_metadata_of_a_projects_models(call: Call, tree: dict[str, str]) -> None:
    for project, value in (("top", "x"), ("other", "y")):
        metadata = [{"key": "owner", "value": value}]
        call("models.create", name="a model", uri="u", project=tree[project], metadata=metadata)
    assert call("projects.get_model_metadata_keys", project=tree["top"]) == {
        "keys": ["owner"],
        "total": 1,
        "remaining": 0,
    }
    assert call("projects.get_model_metadata_values", key="owner") == {"values": ["x", "y"], "total": 2}
    only = call("projects.get_model_metadata_values", key="owner", projects=[tree["other"]])
    assert only["values"] == ["y"]


def test_metrics_of_a_projects_tasks(client: Any, call: Call, tree: dict[str, str]) -> None:
    for project, metric in (("top/aaa", "loss"), ("other", "accuracy")):
        event = {"type": "training_stats_scalar", "metric": metric, "variant": "v", "value": 1}
        line = json.dumps(event | {"task": new_task(call, project=tree[project])})
        client.post("/events.add_batch", content=line)
    metrics = call("projects.get_unique_metric_variants", project=tree["top"])["metrics"]
    assert metrics == [{"metric": "loss", "metric_hash": hashed("loss"), "variant": "v", "variant_hash": hashed("v")}]
    assert len(call("projects.get_unique_metric_variants")["metrics"]) == 2
    top = call("projects.get_unique_metric_variants", project=tree["top"], include_subprojects=False)
    assert top["metrics"] == []


def test_parents_of_a_projects_tasks(call: Call, tree: dict[str, str]) -> None:
    first = new_task(call, name="b parent", project=tree["other"])
    second = new_task(call, name="a parent")
    new_task(call, project=tree["top/aaa"], parent=first)
    archived = new_task(call, project=tree["top"], parent=second)
    call("tasks.archive_many", ids=[archived])

    def parents(**parameters: Any) -> list[str]:
        return [parent["name"] for parent in call("projects.get_task_parents", **parameters)["parents"]]

    assert parents(projects=[tree["top"]]) == ["b parent"]
    assert parents(tasks_state="archived") == ["a parent"]
    assert parents(tasks_state=None) == ["a parent", "b parent"]
    assert parents(projects=[tree["top"]], include_subprojects=False) == []
    (shown,) = call("projects.get_task_parents", projects=[tree["top"]])["parents"]
    assert shown["project"] == {"id": tree["other"], "name": "other"}


def test_what_is_counted_when_it_is_asked_for(call: Call, tree: dict[str, str]) -> None:
    done, draft = new_task(call, project=tree["top/aaa"]), new_task(call, project=tree["top"])
    call("tasks.started", task=done)
    call("tasks.completed", task=done)
    call("tasks.archive_many", ids=[draft])
    (project,) = call("projects.get_all", id=[tree["top"]], include_stats=True, check_own_contents=True)["projects"]
    assert (project["own_tasks"], project["own_models"]) == (1, 0)
    assert sorted(child["name"] for child in project["sub_projects"]) == ["top/aaa", "top/aaa/deep"]
    active, archived = project["stats"]["active"], project["stats"]["archived"]
    assert (active["total_tasks"], active["completed_tasks_24h"], active["status_count"]["completed"]) == (1, 1, 1)
    assert active["last_task_run"] > 0
    assert (archived["total_tasks"], archived["status_count"]["created"], archived["last_task_run"]) == (1, 1, None)
    (only,) = call("projects.get_all_ex", id=[tree["top"]], include_stats=True, stats_for_state="active")["projects"]
    assert list(only["stats"]) == ["active"]
    assert "stats" not in call("projects.get_all", id=[tree["top"]])["projects"][0]


def test_the_tree_is_searched_level_by_level(call: Call, tree: dict[str, str]) -> None:
    assert names(call, shallow_search=True) == ["other", "top"] or names(call, shallow_search=True) == ["top", "other"]
    assert names(call, parent=[tree["top"]], shallow_search=True) == ["top/aaa"]
    assert sorted(names(call, parent=[tree["top"]])) == ["top/aaa", "top/aaa/deep"]
    assert names(call, basename="deep") == ["top/aaa/deep"]
    (shown,) = call("projects.get_all_ex", name="^top/aaa$")["projects"]
    assert shown["parent"] == {"id": tree["top"], "name": "top"}


def test_a_pipeline_is_started_anew_with_other_arguments(call: Call) -> None:
    queue = call("queues.create", name="services")["id"]
    item = {"section": "Args", "name": "epochs", "value": "1", "type": "int"}
    source = new_task(call, type="controller", system_tags=["pipeline"], hyperparams={"Args": {"epochs": item}})
    args = [{"name": "epochs", "value": "5"}, {"name": "new", "value": None}]
    answer = call("pipelines.start_pipeline", task=source, queue=queue, args=args)
    assert answer["enqueued"] is True
    task = call("tasks.get_by_id", task=answer["pipeline"])["task"]
    assert task["hyperparams"]["Args"]["epochs"] == item | {"value": "5"}
    assert task["hyperparams"]["Args"]["new"]["value"] == ""
    assert (task["status"], task["parent"], task["system_tags"]) == ("queued", source, ["pipeline"])
    assert call("queues.peek_task", queue=queue) == {"task": task["id"]}
    assert call("pipelines.start_pipeline", task=new_task(call))[:2] == (400, 12)
