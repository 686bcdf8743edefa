"""What the API promises beyond the recordings: where parameters come from, status rules, identities, events."""

import dataclasses
import json
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest

from clearml_lite import bodies
from clearml_lite.config import Config

Call = Callable[..., Any]


def new_task(call: Call, **fields: Any) -> str:
    return str(call("tasks.create", **{"name": "a task", "type": "training"} | fields)["id"])


def status(call: Call, task: str) -> str:
    return str(call("tasks.get_by_id", task=task)["task"]["status"])


def test_parameters_come_from_anywhere(client: Any, call: Call) -> None:
    task = new_task(call)
    requests: list[dict[str, Any]] = [
        {"method": "GET", "url": f"/tasks.get_by_id?task={task}"},
        {"method": "POST", "url": "/v2.23/tasks.get_by_id", "data": {"task": task}},
        {"method": "POST", "url": "/v2/tasks.get_by_id", "files": {"task": (None, task)}},
        {"method": "GET", "url": "/v99.1/tasks.get_by_id", "content": json.dumps({"task": task, "unknown": None})},
    ]
    for request in requests:
        answer = client.request(**request)
        assert answer.json()["data"]["task"]["id"] == task, request


@pytest.mark.parametrize(
    ("request_", "code", "subcode"),
    [
        ({"method": "POST", "url": "/tasks.get_by_id", "content": "{"}, 400, 0),
        ({"method": "POST", "url": "/tasks.get_by_id", "content": "[]"}, 400, 12),
        ({"method": "POST", "url": "/tasks.get_by_id", "content": b"\xff\xfe"}, 400, 0),
        ({"method": "POST", "url": "/tasks.get_by_id", "content": '{"task": NaN}'}, 400, 0),
        ({"method": "POST", "url": "/tasks.get_by_id", "content": "[" * 100_000}, 400, 0),
        ({"method": "POST", "url": "/tasks"}, 400, 0),
        ({"method": "GET", "url": "/workers.get_runtime_properties"}, 404, 0),
    ],
)
def test_what_is_no_request(client: Any, request_: dict[str, Any], code: int, subcode: int) -> None:
    meta = client.request(**request_).json()["meta"]
    assert (meta["result_code"], meta["result_subcode"]) == (code, subcode)


def test_other_methods_are_none_of_the_apis(client: Any) -> None:
    answer = client.request("OPTIONS", "/debug.ping")
    assert answer.status_code == 405
    assert "POST" in answer.headers["Allow"]
    assert client.request("HEAD", "/debug.ping").status_code == 200


def test_who_is_not_known_learns_nothing_of_a_body_that_is_wrong(client: Any) -> None:
    for content in ("{", "[]", '{"task": 1}'):
        answer = client.post("/tasks.get_by_id", content=content, headers={"Authorization": "Bearer x"})
        assert answer.json()["meta"]["result_subcode"] == 30, content


@pytest.mark.parametrize("settings", ["", "; boundary=x", "; boundary=x; charset=none"])
def test_a_form_that_is_none_is_refused(client: Any, settings: str) -> None:
    content = (
        b'--x\r\nContent-Disposition: form-data; name="task"\r\n\r\n\xff\r\n--x--'
        if "=none" in settings
        else b"--x\r\nno"
    )
    answer = client.post(
        "/tasks.get_by_id", content=content, headers={"Content-Type": f"multipart/form-data{settings}"}
    )
    assert answer.status_code == 400
    assert answer.json()["meta"]["result_code"] == 400


def test_a_body_of_nobodys_is_not_kept(client: Any) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 20)

    tracemalloc.start()
    answer = client.post("/events.add_batch", headers={"Authorization": "Bearer x"}, content=body())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer.status_code == 401
    assert most < 8 << 20


@pytest.mark.parametrize("endpoint", ["debug.ping", "auth.fixed_users_mode", "login.supported_modes"])
def test_who_is_not_known_sends_little(client: Any, endpoint: str) -> None:
    fits = client.post(f"/{endpoint}", content=b" " * bodies.SMALL_BODY)
    assert fits.status_code == 200
    refused = client.post(f"/{endpoint}", content=b" " * (bodies.SMALL_BODY + 1))
    assert refused.json()["meta"]["result_msg"] == f"Request body is larger than {bodies.SMALL_BODY} bytes"
    assert refused.status_code == 413


def test_a_form_is_small_and_json_is_not(client: Any) -> None:
    long = "x" * bodies.SMALL_BODY
    assert client.post("/projects.create", data={"name": "a form", "description": long}).status_code == 413
    assert client.post("/projects.create", files={"name": (None, "a form"), "a": (None, long)}).status_code == 413
    assert client.post("/projects.create", json={"name": "no form", "description": long}).status_code == 200


@pytest.mark.parametrize(
    ("steps", "end"),
    [
        (["started", "completed", "publish"], "published"),
        (["started", "failed", "reset"], "created"),
        (["started", "stopped", "started", "completed"], "completed"),
        (["enqueue", "dequeue"], "created"),
        (["enqueue", "started", "stop"], "in_progress"),
        (["started", "stop", "stopped"], "stopped"),
    ],
)
def test_life_cycle(call: Call, steps: list[str], end: str) -> None:
    task = new_task(call)
    for step in steps:
        assert call(f"tasks.{step}", task=task)["updated"] == 1, step
    assert status(call, task) == end


@pytest.mark.parametrize(
    ("steps", "refused"),
    [
        ([], "publish"),
        (["started"], "publish"),
        (["started", "completed"], "stop"),
        (["started", "completed", "publish"], "reset"),
    ],
)
def test_status_rules_hold_unless_forced(call: Call, steps: list[str], refused: str) -> None:
    task = new_task(call)
    for step in steps:
        call(f"tasks.{step}", task=task)
    before = status(call, task)
    assert call(f"tasks.{refused}", task=task)[:2] == (400, 110)
    assert status(call, task) == before
    assert call(f"tasks.{refused}", task=task, force=True)["updated"] == 1


def test_a_running_task_is_edited_and_deleted_by_force_only(call: Call) -> None:
    task = new_task(call)
    call("tasks.started", task=task)
    assert call("tasks.edit", task=task, name="renamed")[:2] == (400, 110)
    assert call("tasks.edit", task=task, name="renamed", force=True)["updated"] == 1
    assert call("tasks.delete", task=task)[:2] == (400, 123)
    assert call("tasks.delete", task=task, force=True)["deleted"] is True
    assert call("tasks.get_by_id", task=task)[:2] == (400, 101)


def test_names_have_three_characters(call: Call) -> None:
    assert call("tasks.create", name="ab", type="training")[:2] == (400, 800)
    assert call("projects.create", name="abc/de")[:2] == (400, 800)
    assert call("queues.create", name="default")[:2] == (400, 801)


def test_a_queued_task_is_not_queued_twice_and_leaves_with_its_task(call: Call) -> None:
    task = new_task(call)
    assert call("tasks.enqueue", task=task, queue_name="default")["queued"] == 1
    assert call("tasks.enqueue", task=task)[:2] == (400, 706)
    queue = call("queues.get_default")["id"]
    assert [entry["task"] for entry in call("queues.get_by_id", queue=queue)["queue"]["entries"]] == [task]
    assert call("queues.delete", queue=queue)[0] == 400
    call("tasks.delete", task=task, force=True)
    assert call("queues.get_num_entries", queue=queue) == {"num": 0}


def test_a_deleted_queue_gives_its_tasks_back(call: Call) -> None:
    task = new_task(call)
    queue = call("queues.create", name="short-lived")["id"]
    call("tasks.enqueue", task=task, queue=queue)
    assert call("queues.delete", queue=queue, force=True) == {"deleted": 1}
    assert status(call, task) == "created"


def test_each_task_is_handed_out_once(call: Call) -> None:
    queue = call("queues.get_default")["id"]
    tasks = [new_task(call) for _ in range(20)]
    for task in tasks:
        call("tasks.enqueue", task=task, queue=queue)
    with ThreadPoolExecutor(4) as takers:
        taken = list(takers.map(lambda _: call("queues.get_next_task", queue=queue), range(24)))
    handed_out = [answer["entry"]["task"] for answer in taken if answer]
    assert sorted(handed_out) == sorted(tasks)


def test_a_clone_takes_what_runs_and_nothing_that_came_out(call: Call) -> None:
    project = call("projects.create", name="proj/clone")["id"]
    task = new_task(
        call, project=project, hyperparams={"General": {"lr": {"section": "General", "name": "lr", "value": "1"}}}
    )
    call("tasks.started", task=task)
    call("tasks.add_or_update_artifacts", task=task, force=True, artifacts=[{"key": "k", "type": "dict", "uri": "u"}])
    call(
        "tasks.add_or_update_artifacts",
        task=task,
        force=True,
        artifacts=[{"key": "i", "type": "dict", "uri": "u", "mode": "input"}],
    )
    clone = call("tasks.clone", task=task, new_task_name="the clone")["id"]
    document = call("tasks.get_by_id", task=clone)["task"]
    assert [artifact["key"] for artifact in document["execution"]["artifacts"]] == ["i"]
    assert document["hyperparams"]["General"]["lr"]["value"] == "1"
    assert (document["status"], document["parent"], document["project"]) == ("created", task, project)
    assert "started" not in document


def test_hyper_parameters_are_added_or_replaced(call: Call) -> None:
    task = new_task(call)

    def edit(replace: str, section: str, name: str) -> list[str]:
        item = {"section": section, "name": name, "value": "1"}
        assert call("tasks.edit_hyper_params", task=task, hyperparams=[item], replace_hyperparams=replace) == {
            "updated": 1
        }
        answer = call("tasks.get_hyper_params", tasks=[task])
        return [f"{item['section']}/{item['name']}" for item in answer["params"][0]["hyperparams"]]

    assert edit("none", "A", "x") == ["A/x"]
    assert edit("none", "A", "y") == ["A/x", "A/y"]
    assert edit("section", "A", "z") == ["A/z"]
    assert edit("none", "B", "x") == ["A/z", "B/x"]
    assert edit("all", "C", "x") == ["C/x"]


def test_hyper_parameters_are_removed_by_name_or_section(call: Call) -> None:
    task = new_task(call)
    items = [{"section": section, "name": name, "value": "1"} for section in "AB" for name in "xy"]
    call("tasks.edit_hyper_params", task=task, hyperparams=items)
    call("tasks.delete_hyper_params", task=task, hyperparams=[{"section": "A", "name": "x"}, {"section": "B"}])
    left = call("tasks.get_hyper_params", tasks=[task])["params"][0]["hyperparams"]
    assert [(item["section"], item["name"]) for item in left] == [("A", "y")]


def test_models_are_archived_and_deleted(call: Call) -> None:
    model = call("models.create", name="a model", uri="u")["id"]
    done = call("models.archive_many", ids=[model, "nobody"])
    assert ([item["id"] for item in done["succeeded"]], [item["id"] for item in done["failed"]]) == (
        [model],
        ["nobody"],
    )
    assert call("models.get_all", system_tags=["-archived"])["models"] == []
    call("models.unarchive_many", ids=[model])
    assert len(call("models.get_all", system_tags=["-archived"])["models"]) == 1
    call("models.set_ready", model=model)
    assert call("models.delete", model=model)[0] == 400
    assert call("models.delete", model=model, force=True) == {"deleted": True, "url": "u"}


def test_projects_nest_and_keep_their_hidden_ones_back(call: Call) -> None:
    leaf = call("projects.create", name="proj/.datasets/telemetry", system_tags=["hidden"])["id"]
    assert [project["name"] for project in call("projects.get_all")["projects"]] == ["proj", "proj/.datasets"]
    assert len(call("projects.get_all", search_hidden=True)["projects"]) == 3
    assert [project["name"] for project in call("projects.get_all", shallow_search=True)["projects"]] == ["proj"]
    parent = call("projects.get_all", name="^proj$")["projects"][0]["id"]
    call("projects.update", project=parent, name="renamed")
    assert call("projects.get_by_id", project=leaf)["project"]["name"] == "renamed/.datasets/telemetry"


def test_a_published_task_takes_its_models_along_and_no_more_events(client: Any, call: Call) -> None:
    task = new_task(call)
    model = call("models.create", name="a model", uri="u", task=task)["id"]
    call("tasks.add_or_update_model", task=task, name="out", model=model, type="output")
    call("tasks.completed", task=task, force=True, publish=True)
    assert call("models.get_by_id", model=model)["model"]["ready"] is True
    event = {"type": "log", "task": task, "msg": "late"}
    assert client.post("/events.add_batch", content=json.dumps(event)).json()["meta"]["result_subcode"] == 131
    late = json.dumps(event | {"allow_locked": True})
    assert client.post("/events.add_batch", content=late).json()["data"]["added"] == 1


def test_good_events_of_a_mixed_batch_are_kept(client: Any, call: Call) -> None:
    task = new_task(call)
    scalar = {"type": "training_stats_scalar", "task": task, "metric": "m", "variant": "v"}
    bad: list[dict[str, Any]] = [
        {"type": "unknown", "task": task},
        {"type": ["log"], "task": task},
        {"type": "log"},
        {"type": "log", "task": "nobody"},
        scalar | {"value": "many"},
        scalar | {"value": 10**400},
        scalar | {"value": 1, "iter": 2**70},
        scalar | {"value": 1, "metric": ["m"]},
    ]
    lines = "\n".join(json.dumps(event) for event in [*bad, scalar | {"value": 1.5}]) + "\n"
    answer = client.post("/events.add_batch", content=lines).json()["data"]
    assert (answer["added"], answer["errors"]) == (1, len(bad))
    assert sum(answer["errors_info"].values()) == len(bad)
    nothing = client.post("/events.add_batch", content='{"type": "training_stats_scalar", "value": NaN}').json()
    assert (nothing["meta"]["result_code"], nothing["meta"]["result_subcode"]) == (400, 131)


@pytest.mark.parametrize("lines", ["", "\n", '{"type": "log"}\n\n{"type": "log"}', "[]", "5", "nonsense"])
def test_what_are_no_events(client: Any, lines: str) -> None:
    assert client.post("/events.add_batch", content=lines).status_code == 400


def test_scalars_are_sampled_by_iteration_or_time(client: Any, call: Call) -> None:
    task = new_task(call)
    event = {"type": "training_stats_scalar", "task": task, "metric": "m", "variant": "v"}
    lines = "\n".join(json.dumps(event | {"iter": n, "value": n, "timestamp": 1000 * n}) for n in range(100))
    assert client.post("/events.add_batch", content=lines).json()["data"]["added"] == 100
    curve = call("events.scalar_metrics_iter_histogram", task=task, samples=10)["m"]["v"]
    assert curve == {"name": "v", "x": list(range(0, 100, 10)), "y": [n + 4.5 for n in range(0, 100, 10)]}
    by_time = call("events.scalar_metrics_iter_histogram", task=task, key="iso_time")["m"]["v"]
    assert by_time["x"][1] == "1970-01-01T00:00:01+00:00"
    metric = next(iter(next(iter(call("tasks.get_by_id", task=task)["task"]["last_metrics"].values())).values()))
    values = {"value": 99, "min_value": 0, "max_value": 99, "first_value": 0, "mean_value": 49.5, "count": 100}
    assert metric == {"metric": "m", "variant": "v"} | values
    scalars = call("events.get_task_events", task=task, event_type="training_stats_scalar", order="asc", batch_size=3)
    assert [event["iter"] for event in scalars["events"]] == [0, 1, 2]


def test_the_console_is_read_in_both_directions(client: Any, call: Call) -> None:
    task = new_task(call)
    lines = [json.dumps({"type": "log", "task": task, "msg": str(n), "timestamp": n + 1}) for n in range(10)]
    client.post("/events.add_batch", content="\n".join(lines))

    def read(**parameters: Any) -> str:
        events = call("events.get_task_log", task=task, batch_size=3, **parameters)["events"]
        return "".join(event["msg"] for event in events)

    assert read() == "987"
    assert read(order="asc") == "789"
    assert read(navigate_earlier=False) == "210"
    assert read(navigate_earlier=False, order="asc") == "012"
    assert read(from_timestamp=5, order="asc") == "123"
    assert read(from_timestamp=5, navigate_earlier=False, order="asc") == "567"


def test_a_plot_of_the_same_iteration_replaces_the_one_before(client: Any, call: Call) -> None:
    task = new_task(call)
    for text in ("old", "new"):
        plot = {"type": "plot", "task": task, "metric": "m", "variant": "v", "iter": 1, "plot_str": text}
        client.post("/events.add_batch", content=json.dumps(plot))
    assert [plot["plot_str"] for plot in call("events.get_task_plots", task=task)["plots"]] == ["new"]


def test_reset_and_delete_remove_events(client: Any, call: Call) -> None:
    task = new_task(call)
    line = json.dumps({"type": "training_stats_scalar", "task": task, "metric": "m", "variant": "v", "value": 1})
    client.post("/events.add_batch", content=line)
    call("tasks.reset", task=task)
    assert call("events.scalar_metrics_iter_histogram", task=task) == {}
    document = call("tasks.get_by_id", task=task)["task"]
    assert (document["last_metrics"], document["last_iteration"]) == ({}, 0)


def test_workers_are_forgotten_when_they_are_silent(call: Call) -> None:
    call("workers.register", worker="short", timeout=-1)
    call("workers.register", worker="long")
    assert [worker["id"] for worker in call("workers.get_all", last_seen=0)["workers"]] == ["long"]
    call("workers.unregister", worker="long")
    assert call("workers.get_all")["workers"] == []


def test_machine_statistics_are_summed_up_by_interval(call: Call) -> None:
    start = int(time.time()) - 100
    for second, usage in ((0, 10), (30, 30), (60, 50)):
        stats = {"cpu_usage": [usage, usage + 10], "memory_free": 1.5}
        call("workers.status_report", worker="w", timestamp=(start + second) * 1000, machine_stats=stats)
    items = [{"key": "cpu_usage", "category": "max"}, {"key": "memory_free"}]
    answer = call("workers.get_stats", from_date=start, to_date=start + 90, interval=60, items=items)
    assert answer["workers"] == [
        {
            "worker": "w",
            "metrics": [
                {
                    "metric": "cpu_usage",
                    "dates": [start, start + 60],
                    "stats": [{"aggregation": "max", "values": [40.0, 60.0]}],
                },
                {
                    "metric": "memory_free",
                    "dates": [start, start + 60],
                    "stats": [{"aggregation": "avg", "values": [1.5, 1.5]}],
                },
            ],
        }
    ]


def test_a_token_outlives_twelve_hours_and_carries_the_claims_that_clients_read(client: Any) -> None:
    token = client.get("/auth.login", auth=("alice", "alice-pass-1")).json()["data"]["token"]
    claims = jwt.decode(token, "t" * 32, algorithms=["HS256"])
    assert claims["exp"] - claims["iat"] > 12 * 3600
    assert {
        "session_id",
        "auth_type",
        "env",
        "api_version",
        "server_version",
        "server_build",
        "feature_set",
    } < claims.keys()
    assert claims["identity"].keys() == {"user", "company", "role", "user_name", "company_name"}


def test_a_token_of_another_secret_or_algorithm_is_refused(client: Any) -> None:
    claims = {"exp": 9999999999, "session_id": "s", "identity": {"user": "__apiserver__", "role": "system"}}
    for forged in (jwt.encode(claims, "x" * 32, algorithm="HS256"), jwt.encode(claims, None, algorithm="none")):
        answer = client.post("/users.get_current_user", headers={"Authorization": f"Bearer {forged}"})
        assert (answer.status_code, answer.json()["meta"]["result_subcode"]) == (401, 30)


def test_keys_are_issued_for_others_by_system_and_admin_only(client: Any, call: Call) -> None:
    bob = call("users.get_all", name="^Bob$")["users"][0]["id"]
    for name in ("apiserver", "services_agent"):
        answer = client.post(
            "/auth.create_credentials",
            json={"label": name},
            auth=(name, "s" * 32),
            headers={"X-Clearml-Impersonate-As": bob},
        )
        assert answer.json()["data"]["credentials"]["label"] == name
    answer = client.post("/auth.create_credentials", headers={"X-Clearml-Impersonate-As": bob})
    assert answer.json()["meta"]["result_subcode"] == 6
    assert call("auth.get_credentials")["credentials"] == []


def test_no_secret_is_stored(client: Any, call: Call, tmp_path: Any) -> None:
    secret = call("auth.create_credentials")["credentials"]["secret_key"].encode()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_a_revoked_key_ends_its_token_while_it_is_used(client: Any, call: Call) -> None:
    keys = call("auth.create_credentials")["credentials"]
    login = client.get("/auth.login", auth=(keys["access_key"], keys["secret_key"]))
    headers = {"Authorization": f"Bearer {login.json()['data']['token']}"}
    renewed = client.get("/auth.login", headers=headers).json()["data"]["token"]
    call("auth.revoke_credentials", access_key=keys["access_key"])
    for token in (headers["Authorization"], f"Bearer {renewed}"):
        assert client.get("/users.get_current_user", headers={"Authorization": token}).status_code == 401


def test_tokens_of_a_removed_user_do_not_work_for_one_of_the_same_name(
    config: Config, started: Any, client: Any, call: Call
) -> None:
    password = ("alice", "alice-pass-1")
    keys = call("auth.create_credentials")["credentials"]
    asked = {"user": call("users.get_current_user")["user"]["id"]}
    answers = [client.get("/auth.login", auth=auth) for auth in (password, (keys["access_key"], keys["secret_key"]))]
    answers.append(client.get("/auth.get_token_for_user", json=asked, auth=("apiserver", "s" * 32)))
    answers.append(client.get("/auth.login", headers=client.headers))  # a token for a token
    tokens = [answer.json()["data"]["token"] for answer in answers]

    def codes(server: Any) -> set[int]:
        asked = ({"Authorization": f"Bearer {token}"} for token in tokens)
        return {server.get("/users.get_current_user", headers=headers).status_code for headers in asked}

    with started(config) as restarted:
        assert codes(restarted) == {200}, "who stays is not logged out"
    with started(dataclasses.replace(config, users=config.users[1:])) as without:
        assert codes(without) == {401}
    with started(config) as again:
        assert again.get("/auth.login", auth=password).status_code == 200
        assert codes(again) == {401}


def test_parallel_batches_lose_nothing(client: Any, call: Call) -> None:
    task = new_task(call)

    def send(variant: str) -> None:
        for number in range(10):
            event = {"type": "training_stats_scalar", "task": task, "metric": "m", "variant": variant, "iter": number}
            answer = client.post("/events.add_batch", content=json.dumps(event | {"value": 1}))
            assert answer.status_code == 200

    threads = [threading.Thread(target=send, args=(f"v{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    metrics = next(iter(call("tasks.get_by_id", task=task)["task"]["last_metrics"].values()))
    assert [metric["count"] for metric in metrics.values()] == [10] * 4
