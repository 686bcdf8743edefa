"""tasks.*: many at a time, archive, move, delete with files, configuration, models, updates, who sees what."""

import json
from collections.abc import Callable
from typing import Any

import pytest

Call = Callable[..., Any]


def new_task(call: Call, **fields: Any) -> str:
    return str(call("tasks.create", **{"name": "a task", "type": "training"} | fields)["id"])


def get(call: Call, task: str) -> dict[str, Any]:
    return call("tasks.get_by_id", task=task)["task"]  # type: ignore[no-any-return]


def found(call: Call, **filters: Any) -> list[str]:
    return [task["name"] for task in call("tasks.get_all", **filters)["tasks"]]


@pytest.mark.parametrize(
    ("before", "action", "status", "shown"),
    [
        ([], "enqueue_many", "queued", {"queued": True, "updated": 1}),
        (["enqueue"], "dequeue_many", "created", {"dequeued": True, "updated": 1}),
        (["enqueue"], "stop_many", "stopped", {"updated": 1}),
        (["started", "completed"], "publish_many", "published", {"updated": 1}),
        (["started", "failed"], "reset_many", "created", {"dequeued": False, "deleted_models": 0}),
        ([], "archive_many", "created", {"archived": True}),
        ([], "unarchive_many", "created", {"unarchived": True}),
    ],
)
def test_many_tasks_each_with_its_result(
    call: Call, before: list[str], action: str, status: str, shown: dict[str, Any]
) -> None:
    tasks = [new_task(call), new_task(call)]
    for step in before:
        for task in tasks:
            call(f"tasks.{step}", task=task)
    answer = call(f"tasks.{action}", ids=[*tasks, "nobody"])
    assert [item["id"] for item in answer["succeeded"]] == tasks
    assert all(shown.items() <= item.items() for item in answer["succeeded"])
    (failed,) = answer["failed"]
    assert failed == {
        "id": "nobody",
        "error": {"codes": [400, 101], "msg": "Invalid task id", "data": {"ids": "(nobody)"}},
    }
    assert [get(call, task)["status"] for task in tasks] == [status, status]


def test_many_are_refused_one_by_one(call: Call) -> None:
    draft, running = new_task(call), new_task(call)
    call("tasks.started", task=running)
    answer = call("tasks.delete_many", ids=[draft, running])
    assert [item["id"] for item in answer["succeeded"]] == [draft]
    assert [item["error"]["codes"] for item in answer["failed"]] == [[400, 123]]
    assert call("tasks.delete_many", ids=[running], force=True)["failed"] == []


def test_what_a_refused_one_of_many_had_changed_is_undone(call: Call) -> None:
    queue = call("queues.create", name="queue")["id"]
    good, published = new_task(call), new_task(call)
    call("tasks.completed", task=published, force=True, publish=True)
    call("tasks.add_or_update_model", task=published, name="m", type="output", model=new_model(call, published))
    assert [item["error"]["codes"] for item in call("tasks.reset_many", ids=[published])["failed"]] == [[400, 110]]
    assert len(get(call, published)["models"]["output"]) == 1
    assert len(call("models.get_all", task=[published])["models"]) == 1
    call("tasks.enqueue_many", ids=[good, published], queue=queue)
    assert call("queues.get_num_entries", queue=queue) == {"num": 1}


def new_model(call: Call, task: str | None = None, uri: str = "http://files/m.bin") -> str:
    of_task = {"task": task} if task else {}
    return str(call("models.create", name="a model", uri=uri, **of_task)["id"])


def test_a_queue_that_is_named_is_made(call: Call) -> None:
    task = new_task(call)
    answer = call("tasks.enqueue", task=task, queue_name="brand new", verify_watched_queue=True)
    assert answer["queue_watched"] is False
    (queue,) = call("queues.get_all", name="^brand new$")["queues"]
    assert [entry["task"] for entry in queue["entries"]] == [task]
    call("workers.register", worker="w", queues=[queue["id"]])
    other = new_task(call)
    assert call("tasks.enqueue_many", ids=[other], queue_name="brand new", verify_watched_queue=True)["queue_watched"]
    assert len(call("queues.get_all", name="brand new")["queues"]) == 1
    assert call("tasks.enqueue", task=task, queue=queue["id"], queue_name="x")[:2] == (400, 12)


def test_tasks_that_cannot_run_are_not_enqueued_when_that_is_asked_for(call: Call) -> None:
    good, lost = new_task(call), new_task(call)
    model = new_model(call)
    call("tasks.add_or_update_model", task=lost, name="in", model=model, type="input")
    call("models.delete", model=model, force=True)
    answer = call("tasks.enqueue_many", ids=[good, lost], validate_tasks=True)
    assert [item["id"] for item in answer["succeeded"]] == [good]
    assert [(item["id"], item["error"]["codes"]) for item in answer["failed"]] == [(lost, [400, 201])]
    assert "queue_watched" not in answer
    assert call("tasks.enqueue", task=lost)["queued"] == 1


def test_an_archived_task_leaves_its_queue(call: Call) -> None:
    task = new_task(call)
    call("tasks.enqueue", task=task)
    assert call("tasks.archive", tasks=[task], status_reason="old") == {"archived": 1}
    document = get(call, task)
    assert (document["status"], document["system_tags"], document["status_reason"]) == ("created", ["archived"], "old")
    queue = call("queues.get_default")["id"]
    assert call("queues.get_num_entries", queue=queue) == {"num": 0}
    assert found(call, system_tags=["-archived"]) == []
    assert call("tasks.archive", tasks=["nobody"])[:2] == (400, 101)


def test_a_closed_task_has_ended(call: Call) -> None:
    task = new_task(call)
    call("tasks.started", task=task)
    assert call("tasks.close", task=task)["fields"]["status"] == "closed"
    assert "completed" in get(call, task)
    assert call("tasks.publish", task=task)["updated"] == 1
    assert call("tasks.close", task=task)[:2] == (400, 110)


def test_the_time_that_a_task_ran_is_kept_when_it_ends(call: Call) -> None:
    task = new_task(call)
    call("tasks.started", task=task)
    assert "active_duration" not in get(call, task)
    call("tasks.completed", task=task)
    assert get(call, task)["active_duration"] == 0


def test_delete_tells_the_files_that_are_left(client: Any, call: Call) -> None:
    task = new_task(call)
    other = new_task(call)
    shared, own = new_model(call, task, "http://files/shared.bin"), new_model(call, task, "http://files/own.bin")
    for name, model in (("shared", shared), ("own", own)):
        call("tasks.add_or_update_model", task=task, name=name, model=model, type="output")
    call("tasks.add_or_update_model", task=other, name="in", model=shared, type="input")
    artifacts = [
        {"key": "a", "type": "dict", "uri": "http://files/a"},
        {"key": "i", "type": "dict", "uri": "u", "mode": "input"},
    ]
    call("tasks.add_or_update_artifacts", task=task, artifacts=artifacts)
    image = {"type": "training_debug_image", "task": task, "metric": "m", "variant": "v", "url": "http://files/i.png"}
    client.post("/events.add_batch", content=json.dumps(image))
    answer = call("tasks.delete_many", ids=[task], return_file_urls=True)["succeeded"][0]
    assert answer["urls"] == {
        "model_urls": ["http://files/own.bin"],
        "event_urls": ["http://files/i.png"],
        "artifact_urls": ["http://files/a"],
    }
    assert (answer["deleted_models"], answer["updated_models"]) == (1, 1)
    assert [model["id"] for model in call("models.get_all")["models"]] == [shared]


def test_reset_keeps_output_models_when_it_is_told_to(call: Call) -> None:
    task = new_task(call)
    call("tasks.add_or_update_model", task=task, name="m", model=new_model(call, task), type="output")
    answer = call("tasks.reset", task=task, delete_output_models=False, return_file_urls=True, clear_all=True)
    assert (answer["deleted_models"], answer["urls"]["model_urls"]) == (0, [])
    assert len(call("models.get_all")["models"]) == 1
    assert get(call, task)["models"] == {"input": [], "output": []}


def test_configuration_is_edited_by_name(call: Call) -> None:
    task = new_task(call)
    items = [{"name": "net", "value": "layers: 2", "type": "yaml"}, {"name": "empty"}]
    assert call("tasks.edit_configuration", task=task, configuration=items) == {"updated": 1}
    call("tasks.edit_configuration", task=task, configuration=[{"name": "net", "value": "layers: 3"}])
    (read,) = call("tasks.get_configurations", tasks=[task, "nobody"])["configurations"]
    assert read == {"task": task, "configuration": [{"name": "empty"}, {"name": "net", "value": "layers: 3"}]}
    assert call("tasks.get_configurations", tasks=[task], names=["empty"])["configurations"][0]["configuration"] == [
        {"name": "empty"}
    ]
    assert call("tasks.get_configuration_names", tasks=[task])["configurations"][task]["names"] == ["net"]
    names = call("tasks.get_configuration_names", tasks=[task], skip_empty=False)["configurations"][task]["names"]
    assert names == ["empty", "net"]
    call("tasks.edit_configuration", task=task, configuration=[{"name": "new"}], replace_configuration=True)
    assert list(get(call, task)["configuration"]) == ["new"]
    assert call("tasks.delete_configuration", task=task, configuration=["new", "unknown"]) == {"deleted": 1}
    assert get(call, task)["configuration"] == {}
    call("tasks.started", task=task)
    assert call("tasks.edit_configuration", task=task, configuration=[])[:2] == (400, 110)
    assert call("tasks.delete_configuration", task=task, configuration=[], force=True) == {"deleted": 1}


def test_models_are_taken_off_a_task(call: Call) -> None:
    task, model = new_task(call), new_model(call)
    for kind in ("input", "output"):
        call("tasks.add_or_update_model", task=task, name="m", model=model, type=kind)
    assert call("tasks.delete_models", task=task, models=[{"type": "input", "name": "m"}]) == {"updated": 1}
    models = get(call, task)["models"]
    assert (models["input"], [entry["name"] for entry in models["output"]]) == ([], ["m"])


def test_a_task_is_described_anew_whatever_its_status(client: Any, call: Call) -> None:
    one, other = new_task(call), new_task(call)
    call("tasks.completed", task=one, force=True, publish=True)
    answer = call("tasks.update", task=one, name="renamed", tags=["b", "a"], output__error="boom")
    assert answer == {
        "updated": 1,
        "fields": {"name": "renamed", "tags": ["a", "b"], "output": {"error": "boom"}},
    }
    assert call("tasks.update", task=one) == {"updated": 0, "fields": {}}
    assert call("tasks.update", task=one, project="nowhere")[:2] == (400, 401)
    lines = "\n".join(json.dumps({"task": task, "comment": "both"}) for task in (one, other))
    assert client.post("/tasks.update_batch", content=lines).json()["data"] == {"updated": 2}
    assert [get(call, task)["comment"] for task in (one, other)] == ["both", "both"]
    for bad in ("nonsense", '{"comment": "whose?"}', '{"task": 5}'):
        good = json.dumps({"task": one, "comment": "half"})
        assert client.post("/tasks.update_batch", content=f"{good}\n{bad}").json()["meta"]["result_subcode"] == 12
    assert get(call, one)["comment"] == "both"


def test_tasks_are_moved_by_id_by_name_and_to_the_root(call: Call) -> None:
    project = call("projects.create", name="first")["id"]
    task = new_task(call)
    call("tasks.move", ids=[task], project=project)
    assert get(call, task)["project"] == project
    call("tasks.move", ids=[task], project_name="second/below")
    (below,) = call("projects.get_all", name="^second/below$")["projects"]
    assert get(call, task)["project"] == below["id"]
    call("tasks.move", ids=[task], project=None)
    assert "project" not in get(call, task)
    assert call("tasks.move", ids=[task])[:2] == (400, 12)
    assert call("tasks.move", ids=[task], project="nowhere")[:2] == (400, 401)
    assert call("tasks.move", ids=["nobody"], project=project)[:2] == (400, 101)


def test_a_clone_goes_where_it_is_told(call: Call) -> None:
    task, model = new_task(call), new_model(call)
    inputs = [{"name": "in", "model": model}]
    answer = call("tasks.clone", task=task, new_project_name="for clones", new_task_input_models=inputs)
    clone = get(call, answer["id"])
    assert answer["new_project"] == {"id": clone["project"], "name": "for clones"}
    assert clone["models"]["input"] == inputs
    assert call("tasks.clone", task=task, new_task_input_models=[{"name": "in", "model": "none"}])[:2] == (400, 201)


def test_public_tasks_can_be_left_out(call: Call) -> None:
    public, _ = new_task(call, name="public"), new_task(call, name="private")
    assert call("tasks.make_public", ids=[public]) == {"updated": 1}
    assert call("tasks.make_public", ids=[public]) == {"updated": 0}
    assert found(call) == ["public", "private"]
    assert found(call, allow_public=False) == ["private"]
    assert call("tasks.make_private", ids=[public]) == {"updated": 1}
    assert found(call, allow_public=False) == ["public", "private"]


def test_tasks_are_marked_as_shared(call: Call) -> None:
    task = new_task(call)
    assert call("tasks.share", tasks=[task]) == {"changed": 1}
    assert get(call, task)["system_tags"] == ["shared"]
    assert call("tasks.share", tasks=[task], share=False) == {"changed": 1}
    assert get(call, task)["system_tags"] == []


def test_tasks_of_sub_projects_are_found_when_that_is_asked_for(call: Call) -> None:
    below = call("projects.create", name="top/below/deep")["id"]
    top = call("projects.get_all", name="^top$")["projects"][0]["id"]
    new_task(call, name="deep one", type="testing", project=below)
    new_task(call, name="top one", project=top)
    new_task(call, name="elsewhere", type="qc")
    assert found(call, project=[top]) == ["top one"]
    assert found(call, project=[top], include_subprojects=True) == ["deep one", "top one"]
    assert call("tasks.get_types", projects=[top]) == {"types": ["testing", "training"]}
    assert call("tasks.get_types") == {"types": ["qc", "testing", "training"]}


def test_get_all_ex_writes_out_what_a_task_names(call: Call) -> None:
    project = call("projects.create", name="the project")["id"]
    parent = new_task(call, name="the parent")
    task = new_task(call, project=project, parent=parent)
    call("tasks.enqueue", task=task)
    (document,) = call("tasks.get_all_ex", id=[task])["tasks"]
    user = call("users.get_current_user")["user"]
    assert document["project"] == {"id": project, "name": "the project"}
    assert document["parent"] == {"id": parent, "name": "the parent"}
    assert document["user"] == {"id": user["id"], "name": "Alice A"}
    assert document["company"]["name"] == "clearml"
    assert document["execution"]["queue"]["name"] == "default"
    (projected,) = call("tasks.get_all_ex", id=[task], only_fields=["id", "project.name"])["tasks"]
    assert projected == {"id": task, "project": {"name": "the project"}}


def test_a_task_is_validated_before_it_is_made(call: Call) -> None:
    assert call("tasks.validate", name="good", type="training") == {}
    assert call("tasks.validate", name="x", type="training")[:2] == (400, 800)
    assert call("tasks.validate", name="good", type="training", parent="nobody")[:2] == (400, 101)
    assert found(call) == []
