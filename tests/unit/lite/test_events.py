"""events.*: what was reported is read back in every shape that the SDK's schemas name."""

import json
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import pytest

from clearml_lite.services.events import PARSED_AT_ONCE
from clearml_lite.storage import Transaction

Call = Callable[..., Any]


@pytest.fixture
def task(call: Call) -> str:
    return str(call("tasks.create", name="the task", type="training")["id"])


@pytest.fixture
def send(client: Any) -> Callable[..., None]:
    """Sends events that have these fields in common."""

    def send(events: list[dict[str, Any]], **common: Any) -> None:
        lines = "\n".join(json.dumps(common | event) for event in events)
        answer = client.post("/events.add_batch", content=lines).json()
        assert answer["data"].get("added") == len(events), answer["meta"]

    return send


Send = Callable[..., None]
SCALAR = "training_stats_scalar"


def points(task: str, metric: str, variant: str, values: list[float]) -> list[dict[str, Any]]:
    event = {"type": SCALAR, "task": task, "metric": metric, "variant": variant}
    return [event | {"iter": n, "value": value, "timestamp": 1000 * (n + 1)} for n, value in enumerate(values)]


def test_one_event_is_taken(call: Call, task: str) -> None:
    assert call("events.add", type="log", task=task, msg="hello") == {"added": 1, "errors": 0, "errors_info": {}}
    assert [event["msg"] for event in call("events.get_task_log", task=task)["events"]] == ["hello"]
    assert call("events.add", type="log", task="nobody")[:2] == (400, 131)
    assert call("events.add", type="unknown", task=task)[:2] == (400, 12)


def test_curves_of_the_metrics_that_are_asked_for(call: Call, send: Send, task: str) -> None:
    send(
        [*points(task, "loss", "train", [3, 2]), *points(task, "loss", "test", [4]), *points(task, "acc", "train", [1])]
    )
    curves = call("events.scalar_metrics_iter_histogram", task=task, metrics=[{"metric": "loss", "variants": ["test"]}])
    assert curves == {"loss": {"test": {"name": "test", "x": [0], "y": [4.0]}}}
    curves = call("events.scalar_metrics_iter_histogram", task=task, metrics=[{"metric": "loss"}, {"metric": "acc"}])
    assert {metric: sorted(variants) for metric, variants in curves.items()} == {
        "acc": ["train"],
        "loss": ["test", "train"],
    }
    assert call("events.get_scalar_metrics_and_variants", task=task)["metrics"] == {
        "acc": ["train"],
        "loss": ["test", "train"],
    }


def test_a_curve_is_thinned_out_unless_every_point_is_asked_for(call: Call, send: Send, task: str) -> None:
    send(points(task, "m", "v", [float(n) for n in range(50)]))

    def length(**parameters: Any) -> int:
        return len(call("events.scalar_metrics_iter_histogram", task=task, **parameters)["m"]["v"]["x"])

    assert (length(), length(samples=10), length(samples=0)) == (50, 10, 50)
    by_time = call("events.scalar_metrics_iter_histogram", task=task, key="timestamp", samples=0)["m"]["v"]
    assert by_time["x"][:3] == [1000, 2000, 3000]


@pytest.mark.parametrize("count", [1, 99, 100, 101, 250])
def test_points_come_in_batches_of_any_size_and_in_any_order(call: Call, send: Send, task: str, count: int) -> None:
    values = [number / 7 for number in range(count)]
    send(points(task, "loss", "train", values)[::-1])
    curve = call("events.scalar_metrics_iter_histogram", task=task, samples=0)["loss"]["train"]
    assert curve == {"name": "train", "x": list(range(count)), "y": values}


def test_blanks_around_an_event_are_no_part_of_it(client: Any, call: Call, task: str) -> None:
    lines = (
        f' {{"type": "log", "task": "{task}", "msg": "one"}} \r\n{{"type": "log", "task": "{task}", "msg": "two"}}\t'
    )
    assert client.post("/events.add_batch", content=lines).json()["data"]["added"] == 2


def test_a_large_batch_is_taken_whole_or_not_at_all(client: Any, call: Call, task: str) -> None:
    event = {"type": SCALAR, "task": task, "metric": "loss", "variant": "train", "worker": "w" * 60}
    lines = [json.dumps(event | {"iter": number, "value": number / 7}) for number in range(PARSED_AT_ONCE // 150)]
    for wrong in ("", "{", "[]"):
        answer = client.post("/events.add_batch", content="\n".join([*lines, wrong, lines[0]])).json()["meta"]
        assert (answer["result_subcode"], f"line {len(lines) + 1} " in answer["result_msg"]) == (131, True)
    assert call("events.scalar_metrics_iter_histogram", task=task) == {}
    assert client.post("/events.add_batch", content="\n".join(lines) + "\n").json()["data"]["added"] == len(lines)
    curve = call("events.scalar_metrics_iter_histogram", task=task, samples=0)["loss"]["train"]
    assert curve["y"] == [number / 7 for number in range(len(lines))]
    assert call("tasks.get_by_id", task=task)["task"]["last_iteration"] == len(lines) - 1


def test_a_single_value_is_found_without_reading_the_curve(call: Call, send: Send, task: str, storage: Any) -> None:
    send(points(task, "loss", "train", [1, 2, 3]))
    send([{"iter": -(2**31), "value": 4.5, "timestamp": 9}], type=SCALAR, task=task, metric="loss", variant="train")
    plans: list[str] = []

    class Explained(Transaction):
        def __init__(self, connection: sqlite3.Connection) -> None:
            super().__init__(connection)

            def explained(sql: str, *given: Any) -> sqlite3.Cursor:
                if "FROM scalars" in sql:
                    plans.extend(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", *given))
                return connection.execute(sql, *given)

            self.execute = explained  # type: ignore[assignment]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clearml_lite.storage.Transaction", Explained)
        (found,) = call("events.get_task_single_value_metrics", tasks=[task])["tasks"]
    assert [value["value"] for value in found["values"]] == [4.5]
    assert any("scalars_single" in plan for plan in plans), plans


def test_curves_of_many_tasks_side_by_side(call: Call, send: Send, task: str) -> None:
    other = call("tasks.create", name="the other", type="training")["id"]
    send([*points(task, "loss", "train", [3]), *points(other, "loss", "train", [5, 4])])
    curves = call("events.multi_task_scalar_metrics_iter_histogram", tasks=[task, other])
    assert curves["loss"]["train"] == {
        task: {"name": "the task", "x": [0], "y": [3.0]},
        other: {"name": "the other", "x": [0, 1], "y": [5.0, 4.0]},
    }
    assert call("events.multi_task_scalar_metrics_iter_histogram", tasks=["nobody"])[:2] == (400, 101)
    assert call("events.multi_task_scalar_metrics_iter_histogram", tasks=[task] * 101)[:2] == (400, 12)


def test_values_at_the_ends_of_what_a_number_holds_are_taken(call: Call, send: Send, task: str) -> None:
    send([*points(task, "m", "v", [1.7e308, -1.7e308, 1.7e308, 1.7e308]), *points(task, "m", "w", [1, 2, 6])])
    ((first, second),) = (
        sorted(variants.values(), key=lambda last: last["variant"])
        for variants in call("tasks.get_by_id", task=task)["task"]["last_metrics"].values()
    )
    assert first["mean_value"] == pytest.approx(0.85e308)
    assert (first["min_value"], first["max_value"]) == (-1.7e308, 1.7e308)
    assert second["mean_value"] == pytest.approx(3)


def test_raw_points_come_batch_by_batch(call: Call, send: Send, task: str) -> None:
    send([*points(task, "m", "a", [1, 2, 3]), *points(task, "m", "b", [4]), *points(task, "n", "a", [9])])
    parameters = {"task": task, "metric": {"metric": "m"}, "batch_size": 3, "count_total": True}
    first = call("events.scalar_metrics_iter_raw", **parameters)
    assert (first["returned"], first["total"]) == (3, 4)
    assert first["variants"] == {"a": {"name": "a", "x": [0, 1, 2], "y": [1.0, 2.0, 3.0]}}
    second = call("events.scalar_metrics_iter_raw", **parameters, scroll_id=first["scroll_id"])
    assert second["variants"] == {"b": {"name": "b", "x": [0], "y": [4.0]}}
    third = call("events.scalar_metrics_iter_raw", **parameters, scroll_id=second["scroll_id"])
    assert (third["returned"], third["variants"]) == (0, {})
    only = call("events.scalar_metrics_iter_raw", task=task, metric={"metric": "m", "variants": ["b"]}, key="iso_time")
    assert only["variants"]["b"]["x"] == ["1970-01-01T00:00:01+00:00"]
    assert only["total"] is None


def test_scalar_events_of_a_metric(call: Call, send: Send, task: str) -> None:
    send([*points(task, "m", "a", [1, 2]), *points(task, "n", "a", [9])])
    answer = call("events.get_scalar_metric_data", task=task, metric="m")
    assert [(event["iter"], event["value"]) for event in answer["events"]] == [(0, 1.0), (1, 2.0)]
    assert (answer["returned"], answer["total"]) == (2, 2)
    assert call("events.get_scalar_metric_data", task=task, metric="m", scroll_id=answer["scroll_id"])["returned"] == 0
    assert call("events.get_scalar_metric_data", metric="m")[:2] == (400, 12)


def test_the_last_value_and_the_mean_of_the_last_hundred(call: Call, send: Send, task: str) -> None:
    send(points(task, "m", "v", [float(n) for n in range(200)]))
    (metric,) = call("events.get_task_latest_scalar_values", task=task)["metrics"]
    assert metric == {
        "name": "m",
        "variants": [{"name": "v", "last_value": 199.0, "last_100_value": 149.5, "last_timestamp": 200_000}],
    }


def test_vectors_by_iteration(call: Call, send: Send, task: str) -> None:
    event = {"type": "training_stats_vector", "task": task, "metric": "m", "variant": "v"}
    send([event | {"iter": 2, "values": [3, 4]}, event | {"iter": 1, "values": [1, 2]}])
    assert call("events.get_vector_metrics_and_variants", task=task)["metrics"] == [{"metric": "m", "variants": ["v"]}]
    answer = call("events.vector_metrics_iter_histogram", task=task, metric="m", variant="v")
    assert (answer["iterations"], answer["vectors"]) == ([1, 2], [[1, 2], [3, 4]])


def test_events_of_all_types_in_the_order_of_time(call: Call, send: Send, task: str) -> None:
    send([{"msg": str(n), "timestamp": 1000 * n + 500} for n in range(3)], type="log", task=task)
    send(points(task, "m", "v", [7, 8]))

    def read(**parameters: Any) -> tuple[list[int], str]:
        answer = call("events.get_task_events", task=task, batch_size=3, **parameters)
        return [event["timestamp"] for event in answer["events"]], answer["scroll_id"]

    first, scroll_id = read()
    assert first == [500, 1000, 1500]
    assert read(scroll_id=scroll_id)[0] == [2000, 2500]
    assert read(order="desc")[0] == [2500, 2000, 1500]
    assert read(event_type="log")[0] == [500, 1500, 2500]
    assert call("events.get_task_events", task=task)["total"] == 5


def test_metrics_of_which_tasks_have_events(call: Call, send: Send, task: str) -> None:
    plot = {"type": "plot", "metric": "p", "variant": "v", "plot_str": "{}", "task": task}
    send([*points(task, "m", "v", [1]), plot])
    assert call("events.get_task_metrics", tasks=[task])["metrics"] == [{"task": task, "metrics": ["m", "p"]}]
    by_type = call("events.get_task_metrics", tasks=[task], event_type="plot")["metrics"]
    assert by_type == [{"task": task, "metrics": ["p"]}]
    assert call("events.get_task_metrics", tasks=["nobody"])[:2] == (400, 101)


def test_the_console_is_downloaded_as_text_or_json(client: Any, send: Send, task: str) -> None:
    send([{"type": "log", "task": task, "msg": "hello", "level": "info", "worker": "w", "timestamp": 1500}])
    answer = client.get(f"/events.download_task_log?task={task}&line_type=text")
    assert answer.text == "1970-01-01T00:00:01.500 w info hello\n"
    assert answer.headers["content-disposition"] == f"attachment; filename=task_{task}.log"
    formatted = client.post("/events.download_task_log", json={"task": task, "line_format": "{msg} {unknown} {msg.x}"})
    assert formatted.text == "hello {unknown} {msg.x}\n"
    as_json = client.get(f"/events.download_task_log?task={task}&line_type=json").text
    assert json.loads(as_json) == {"asctime": "1970-01-01T00:00:01.500", "worker": "w", "level": "info", "msg": "hello"}
    assert client.get("/events.download_task_log?task=nobody").json()["meta"]["result_subcode"] == 101


def test_old_console_lines_are_removed(call: Call, send: Send, task: str) -> None:
    now = int(time.time() * 1000)
    send(
        [{"msg": name, "timestamp": moment} for name, moment in (("old", now - 60_000), ("new", now))],
        type="log",
        task=task,
    )
    assert call("events.clear_task_log", task=task, threshold_sec=30) == {"deleted": 1}
    assert [event["msg"] for event in call("events.get_task_log", task=task)["events"]] == ["new"]
    assert call("events.clear_task_log", task=task) == {"deleted": 1}


def test_events_of_a_published_task_are_removed_only_when_that_is_allowed(call: Call, send: Send, task: str) -> None:
    send(points(task, "m", "v", [1]))
    call("tasks.completed", task=task, force=True, publish=True)
    for endpoint in ("delete_for_task", "clear_task_log"):
        assert call(f"events.{endpoint}", task=task)[:2] == (400, 12)
    assert call("events.delete_for_task", task=task, allow_locked=True) == {"deleted": True}
    assert call("events.delete_for_task", task=task, allow_locked=True) == {"deleted": False}
    assert call("events.scalar_metrics_iter_histogram", task=task) == {}


def test_a_model_has_events_of_its_own(call: Call, send: Send) -> None:
    model = call("models.create", name="a model", uri="u")["id"]
    send(points(model, "m", "v", [1, 2]), model_event=True)
    curves = call("events.scalar_metrics_iter_histogram", task=model, model_events=True)
    assert curves["m"]["v"]["y"] == [1.0, 2.0]
    assert call("models.get_by_id", model=model)["model"]["last_iteration"] == 1
    assert call("events.scalar_metrics_iter_histogram", task=model)[:2] == (400, 101)
    assert call("events.delete_for_model", model=model) == {"deleted": True}
    assert call("events.delete_for_model", model="nobody")[:2] == (400, 201)


@pytest.fixture
def images(send: Send, task: str) -> str:
    """Debug images and plots of metrics m and n, variants a and b, iterations 0 to 3."""
    for kind in ("training_debug_image", "plot"):
        send(
            [
                {"metric": metric, "variant": variant, "iter": n, "url": f"{metric}{variant}{n}", "plot_str": "{}"}
                for n in range(4)
                for metric in "mn"
                for variant in "ab"
            ],
            type=kind,
            task=task,
        )
    return task


@pytest.mark.parametrize("endpoint", ["debug_images", "plots"])
def test_samples_are_paged_by_iteration(call: Call, images: str, endpoint: str) -> None:
    def read(**parameters: Any) -> tuple[list[int], str]:
        metrics = [{"task": images, "metric": "m", "variants": ["a"]}, {"task": images, "metric": "n"}]
        answer = call(f"events.{endpoint}", metrics=metrics, iters=2, **parameters)
        (of_task,) = answer["metrics"]
        assert {len(iteration["events"]) for iteration in of_task["iterations"]} <= {3}
        return [iteration["iter"] for iteration in of_task["iterations"]], answer["scroll_id"]

    last, scroll = read()
    assert last == [3, 2]
    before, scroll = read(scroll_id=scroll)
    assert before == [1, 0]
    assert read(scroll_id=scroll)[0] == []
    assert read(scroll_id=scroll, navigate_earlier=False)[0] == [2, 3]
    assert read(scroll_id=scroll, refresh=True)[0] == [3, 2]
    assert read(navigate_earlier=False)[0] == [0, 1]


def test_one_image_after_the_other(call: Call, images: str) -> None:
    def walk(answer: dict[str, Any], **parameters: Any) -> dict[str, Any]:
        return call("events.next_debug_image_sample", task=images, scroll_id=answer["scroll_id"], **parameters)  # type: ignore[no-any-return]

    last = call("events.get_debug_image_sample", task=images, metric="m", variant="b")
    assert (last["event"]["url"], last["min_iteration"], last["max_iteration"]) == ("mb3", 0, 3)
    before = walk(last)
    assert before["event"]["url"] == "ma3"
    assert walk(before)["event"]["url"] == "mb2"
    assert walk(before, next_iteration=True)["event"]["url"] == "mb2"
    assert walk(before, navigate_earlier=False)["event"]["url"] == "mb3"
    end = walk(last, navigate_earlier=False)
    assert end["event"] is None
    assert walk(end)["event"]["url"] == "ma3"
    first = call("events.get_debug_image_sample", task=images, metric="m", variant="a", iteration=1)
    assert first["event"]["url"] == "ma1"
    everywhere = call(
        "events.get_debug_image_sample", task=images, metric="m", variant="b", navigate_current_metric=False
    )
    assert walk(everywhere, navigate_earlier=False)["event"]["url"] == "na3"
    assert call("events.get_debug_image_sample", task=images, metric="x", variant="b")["event"] is None


def test_the_plots_of_one_metric_after_the_other(call: Call, images: str) -> None:
    def named(answer: dict[str, Any]) -> list[tuple[str, str, int]]:
        return [(event["metric"], event["variant"], event["iter"]) for event in answer["events"]]

    last = call("events.get_plot_sample", task=images, metric="n", navigate_current_metric=False)
    assert named(last) == [("n", "a", 3), ("n", "b", 3)]
    before = call("events.next_plot_sample", task=images, scroll_id=last["scroll_id"])
    assert named(before) == [("m", "a", 3), ("m", "b", 3)]
    further = call("events.next_plot_sample", task=images, scroll_id=before["scroll_id"])
    assert named(further) == [("n", "a", 2), ("n", "b", 2)]


def test_plots_of_many_tasks_by_metric_and_variant(call: Call, images: str) -> None:
    answer = call("events.get_multi_task_plots", tasks=[images], iters=2)
    assert (answer["returned"], answer["total"]) == (8, 8)
    of_task = answer["plots"]["m"]["a"][images]
    assert sorted(of_task) == ["2", "3"]
    assert (of_task["3"]["name"], of_task["3"]["plots"][0]["plot_str"]) == ("the task", "{}")
    assert call("events.get_multi_task_plots", tasks=[images], scroll_id=answer["scroll_id"])["plots"] == {}
    assert call("events.get_multi_task_plots", tasks=[images], no_scroll=True)["scroll_id"] is None


def test_plots_of_the_metrics_that_are_asked_for(call: Call, images: str) -> None:
    found = call("events.get_task_plots", task=images, metrics=[{"metric": "m", "variants": ["b"]}])["plots"]
    assert [(plot["metric"], plot["variant"], plot["iter"]) for plot in found] == [("m", "b", 3)]


@pytest.mark.parametrize("scroll_id", ["x", "state-", "state-eyJ", "state-W10=", "offset-1"])
def test_scroll_ids_of_others_are_refused(call: Call, images: str, scroll_id: str) -> None:
    for endpoint in ("next_debug_image_sample", "next_plot_sample"):
        assert call(f"events.{endpoint}", task=images, scroll_id=scroll_id)[:2] == (400, 12)
    if scroll_id != "state-":
        assert call("events.debug_images", metrics=[{"task": images}], scroll_id=scroll_id)[:2] == (400, 12)
    sample = call("events.get_plot_sample", task=images, metric="n")["scroll_id"]
    assert call("events.next_debug_image_sample", task=images, scroll_id=sample)[:2] == (400, 12)
    assert call("events.clear_scroll", scroll_id=scroll_id) == {}
