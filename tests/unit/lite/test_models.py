"""models.*: many at a time, for a task, published, moved, deleted, described."""

from collections.abc import Callable
from typing import Any

import pytest

Call = Callable[..., Any]


def new_model(call: Call, **fields: Any) -> str:
    return str(call("models.create", **{"name": "a model", "uri": "http://files/m"} | fields)["id"])


def new_task(call: Call, **fields: Any) -> str:
    return str(call("tasks.create", **{"name": "a task", "type": "training"} | fields)["id"])


def get(call: Call, model: str) -> dict[str, Any]:
    return call("models.get_by_id", model=model)["model"]  # type: ignore[no-any-return]


def test_an_output_model_by_its_uri(call: Call) -> None:
    project = call("projects.create", name="the project")["id"]
    task = new_task(call, project=project)
    assert call("models.get_by_task_id", task=task) == {"model": None}
    made = call("models.update_for_task", task=task, uri="http://files/w", name="weights", tags=["a"], iteration=7)
    assert (made["created"], made["updated"]) == (True, 0)
    model = call("models.get_by_task_id", task=task)["model"]
    assert (model["id"], model["uri"], model["project"], model["name"]) == (
        made["id"],
        "http://files/w",
        project,
        "weights",
    )
    document = call("tasks.get_by_id", task=task)["task"]
    assert [entry["model"] for entry in document["models"]["output"]] == [made["id"]]
    assert document["last_iteration"] == 7
    again = call("models.update_for_task", task=task, uri="http://files/w", comment="better")
    assert (again["id"], again["created"], again["updated"]) == (made["id"], False, 1)
    assert get(call, made["id"])["comment"] == "better"


def test_an_output_model_by_its_id(call: Call) -> None:
    task, model = new_task(call), new_model(call)
    assert call("models.update_for_task", task=task, override_model_id=model)["id"] == model
    assert call("models.get_by_task_id", task=task)["model"]["id"] == model
    for both in ({}, {"uri": "u", "override_model_id": model}):
        assert call("models.update_for_task", task=task, **both)[:2] == (400, 12)
    assert call("models.get_by_task_id")[:2] == (400, 12)


def test_models_are_published_with_the_tasks_that_have_ended(call: Call) -> None:
    ended, running = new_task(call), new_task(call)
    call("tasks.completed", task=ended, force=True)
    call("tasks.started", task=running)
    models = [new_model(call, task=ended), new_model(call, task=running)]
    answer = call("models.publish_many", ids=[*models, "nobody"])
    assert [item["id"] for item in answer["succeeded"]] == models
    assert answer["succeeded"][0]["published_task"]["id"] == ended
    assert "published_task" not in answer["succeeded"][1]
    assert [item["error"]["codes"] for item in answer["failed"]] == [[400, 201]]
    assert call("models.publish_many", ids=models)["succeeded"] == []
    third = new_model(call, task=running)
    assert call("models.set_ready", model=third, publish_task=False) == {"updated": 1, "fields": {}}
    fourth = new_model(call, task=running)
    assert call("models.set_ready", model=fourth, force_publish_task=True)["published_task"]["id"] == running


def test_a_model_in_use_is_deleted_by_force_only(call: Call) -> None:
    used, ready, free = new_model(call), new_model(call, ready=True), new_model(call, uri="http://files/free")
    call("tasks.add_or_update_model", task=new_task(call), name="in", model=used, type="input")
    answer = call("models.delete_many", ids=[used, ready, free])
    assert answer["succeeded"] == [{"id": free, "deleted": True, "url": "http://files/free"}]
    assert [item["error"]["codes"] for item in answer["failed"]] == [[400, 12], [400, 12]]
    assert call("models.delete_many", ids=[used, ready], force=True)["failed"] == []
    assert call("models.get_all")["models"] == []


def test_a_model_is_described_anew(call: Call) -> None:
    task = new_task(call)
    model = new_model(call, task=task)
    cache = {"open": True}
    answer = call("models.update", model=model, name="renamed", ui_cache=cache, ready=True, iteration=3, uri="ignored")
    assert answer["updated"] == 1
    document = get(call, model)
    assert (document["name"], document["ui_cache"], document["ready"]) == ("renamed", cache, True)
    assert document["uri"] == "http://files/m"
    assert call("tasks.get_by_id", task=task)["task"]["last_iteration"] == 3
    assert call("models.update", model=model, name="x")[:2] == (400, 800)


def test_metadata_is_found_by_value_and_removed_by_key(call: Call) -> None:
    one = new_model(call, metadata=[{"key": "owner", "value": "ann"}, {"key": "layers", "value": "3"}])
    other = new_model(call, metadata=[{"key": "owner", "value": "bob"}, {"key": "layers", "value": "20"}])

    def found(**filters: Any) -> list[str]:
        return [model["id"] for model in call("models.get_all", **filters)["models"]]

    assert found(**{"metadata.owner.value": "bob"}) == [other]
    assert found(order_by=["-metadata.layers.value"]) == [other, one]
    assert call("models.delete_metadata", model=one, keys=["owner", "unknown"]) == {"updated": 1}
    assert list(get(call, one)["metadata"]) == ["layers"]


def test_models_are_moved_and_made_public(call: Call) -> None:
    model = new_model(call)
    assert call("models.move", ids=[model], project_name="new/place")["project_id"] == get(call, model)["project"]
    call("models.move", ids=[model], project=None)
    assert "project" not in get(call, model)
    assert call("models.make_public", ids=[model]) == {"updated": 1}
    assert call("models.get_all", allow_public=False)["models"] == []
    assert call("models.make_private", ids=[model]) == {"updated": 1}
    public = new_model(call, public=True)
    assert [found["id"] for found in call("models.get_all", allow_public=False)["models"]] == [model]
    assert get(call, public)["company"] == ""


@pytest.mark.parametrize(("filters", "count"), [({"framework": ["keras"]}, 2), ({"ready": True}, 1), ({}, 3)])
def test_models_by_framework_and_state(call: Call, filters: dict[str, Any], count: int) -> None:
    project = call("projects.create", name="top/below")["id"]
    new_model(call, framework="Keras", ready=True)
    new_model(call, framework="keras", project=project)
    new_model(call, framework="PyTorch")
    assert len(call("models.get_all", **filters)["models"]) == count
    top = call("projects.get_all", name="^top$")["projects"][0]["id"]
    assert call("models.get_frameworks", projects=[top]) == {"frameworks": ["keras"]}
    assert call("models.get_frameworks") == {"frameworks": ["Keras", "PyTorch", "keras"]}


def test_get_all_ex_writes_out_what_a_model_names(call: Call) -> None:
    task = new_task(call, name="its task")
    parent = new_model(call, name="its parent")
    model = new_model(call, task=task, parent=parent)
    (document,) = call("models.get_all_ex", id=[model])["models"]
    assert document["task"] == {"id": task, "name": "its task"}
    assert document["parent"] == {"id": parent, "name": "its parent"}
