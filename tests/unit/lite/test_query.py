"""get_all: filters, order, paging, projection."""

from typing import Any

import pytest

from clearml_lite.errors import ApiError
from clearml_lite.query import Query, compile_filters, find, projection
from clearml_lite.storage import Storage

FIRST, SECOND = "2026-01-01T00:00:00.000000+00:00", "2026-01-02T00:00:00.000000+00:00"
TASKS: list[dict[str, Any]] = [
    {"id": "1", "name": "train", "tags": ["a", "b"], "status": "completed", "n": 10, "status_changed": FIRST},
    {"id": "2", "name": "Train 2", "tags": ["b"], "status": "failed", "n": 9, "status_changed": SECOND},
    {"id": "3", "name": "eval.x", "tags": [], "status": "created", "n": 100, "parent": "1", "comment": "on Training"},
]
TASKS[0]["last"], TASKS[1]["last"] = {"n": 1}, {"n": 5}
for _task, _value in zip(TASKS, ("10", "9", "none"), strict=True):
    _task |= {"type": "training", "hyperparams": {"Args": {"lr": {"value": _value}}}}


@pytest.fixture
def filled(storage: Storage) -> Storage:
    with storage.write() as transaction:
        for task in TASKS:
            transaction.put("tasks", task)
    return storage


def found(storage: Storage, **parameters: Any) -> list[str]:
    known = [name for name in [*parameters, "tags", "status"] if "." not in name]
    with storage.read() as transaction:
        documents, _ = find(transaction, "tasks", parameters, compile_filters(parameters, known))
    return [document["id"] for document in documents]


@pytest.mark.parametrize(
    ("parameters", "ids"),
    [
        ({}, ["1", "2", "3"]),
        ({"name": "rain"}, ["1", "2"]),
        ({"name": "^train$"}, ["1"]),
        ({"name": "^eval\\.x$"}, ["3"]),
        ({"name": "^eval.x$"}, ["3"]),
        ({"name": "^(train|eval)"}, ["1", "3"]),
        ({"id": ["3", "1"]}, ["1", "3"]),
        ({"id": []}, ["1", "2", "3"]),
        ({"status": ["-failed"]}, ["1", "3"]),
        ({"status": ["completed", "created"]}, ["1", "3"]),
        ({"parent": "1"}, ["3"]),
        ({"parent": [None]}, ["1", "2"]),
        ({"tags": ["a", "b"]}, ["1", "2"]),
        ({"tags": ["-a"]}, ["2", "3"]),
        ({"tags": ["b", "-a"]}, ["2"]),
        ({"tags": ["__$all", "a", "b"]}, ["1"]),
        ({"tags": ["__$all", "b", "__$not", "a"]}, ["2"]),
        ({"tags": ["__$any", "a", "__$not", "b"]}, ["1", "3"]),
        ({"tags": ["__$all", "b", "__$or", "a", "x"]}, ["1"]),
        ({"tags": [None]}, ["3"]),
        ({"status_changed": [">=2026-01-01T12:00:00"]}, ["2"]),
        ({"status_changed": [">2025-12-31", "<2026-01-01T13:00:00+01:00"]}, ["1"]),
        ({"n": [">9", "<=100"]}, ["1", "3"]),
        ({"status_changed": [">=1767268800"]}, ["2"]),
        ({"status_changed": "<=2026-01-01"}, ["1"]),
        ({"status_changed": ["2026-01-02T01:00:00+01:00"]}, ["2"]),
        ({"type": ["Training"]}, ["1", "2", "3"]),
        ({"type": ["-training"]}, []),
        ({"description": "x"}, []),
        ({"_any_": {"fields": ["tags"], "pattern": "^b$"}}, ["1", "2"]),
        ({"search_text": "training"}, ["3"]),
        ({"_any_": {"fields": ["name", "comment"], "pattern": "rain"}}, ["1", "2", "3"]),
        ({"_all_": {"fields": ["name", "id"], "pattern": "2"}}, ["2"]),
        ({"_or_": {"fields": ["status_changed", "parent"], "datetime": [">2026-01-01T12:00:00"]}}, ["2"]),
        ({"_and_": {"fields": ["status_changed"], "datetime": ["<2026-01-01T12:00:00"], "pattern": "^2026"}}, ["1"]),
        ({"_or_": {"fields": ["name"]}}, ["1", "2", "3"]),
        ({"hyperparams.Args.lr.value": "9"}, ["2"]),
        ({"hyperparams.Args.lr.value": ["9", "10"]}, ["1", "2"]),
        ({"last.n": [5, None]}, ["2"]),
        ({"last.n": [None, 4]}, ["1"]),
        ({"last.n": [1, 5]}, ["1", "2"]),
        ({"order_by": ["n"]}, ["2", "1", "3"]),
        ({"order_by": ["-n"]}, ["3", "1", "2"]),
        ({"order_by": ["hyperparams.Args.lr.value"]}, ["2", "1", "3"]),
        ({"order_by": ["parent", "-name"]}, ["1", "2", "3"]),
        ({"order_by": ["@text_score"]}, ["1", "2", "3"]),
        ({"page": 1, "page_size": 2}, ["3"]),
        ({"page": 2, "page_size": 2}, []),
    ],
)
def test_finds(filled: Storage, parameters: dict[str, Any], ids: list[str]) -> None:
    assert found(filled, **parameters) == ids


@pytest.mark.parametrize(
    "parameters",
    [
        {"name": "("},
        {"order_by": ["name'--"]},
        {"order_by": ['na"me']},
        {"status_changed": [">=yesterday"]},
        {"status_changed": [">=1e300"]},
        {"last.n": {"gt": 5}},
        {'last."n': 5},
        {"last.n": [{}]},
        {"_or_": {"fields": ["name"], "pattern": 5}},
        {"_or_": {"fields": 5}},
        {"scroll_id": "not ours"},
    ],
)
def test_refuses_what_makes_no_sense(filled: Storage, parameters: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        found(filled, **parameters)
    assert (caught.value.code, caught.value.subcode) == (400, 12)


def test_scrolls_to_the_end(filled: Storage) -> None:
    ids: list[list[str]] = []
    scroll_id = None
    while not ids or ids[-1]:
        with filled.read() as transaction:
            documents, scroll_id = find(transaction, "tasks", {"size": 2, "scroll_id": scroll_id}, Query())
        ids.append([document["id"] for document in documents])
    assert ids == [["1", "2"], ["3"], []]


def test_a_name_that_is_spelled_out_is_found_by_its_index(filled: Storage) -> None:
    query = Query()
    query.matches("name", "^proj/one\\ two\\-3$")
    assert query.params == ["proj/one two-3"]
    with filled.read() as transaction:
        plan = transaction.execute(
            f"EXPLAIN QUERY PLAN SELECT doc FROM tasks WHERE {query.conditions[0]}", query.params
        )
        assert "tasks_name" in plan.fetchone()[3]


@pytest.mark.parametrize(
    ("fields", "projected"),
    [
        (["id"], {"id": "1"}),
        (["runtime"], {"runtime": {}}),
        (["runtime.version"], {"runtime": {}}),
        (["script.requirements", "id"], {"script": {"requirements": {"pip": "x"}}, "id": "1"}),
        (["models.output.model"], {"models": {"output": [{"model": "m"}]}}),
        (["models.output.model", "models.output.name"], {"models": {"output": [{"model": "m", "name": "n"}]}}),
        (["missing", "missing.below"], {}),
    ],
)
def test_projects(fields: list[str], projected: dict[str, Any]) -> None:
    document = {
        "id": "1",
        "runtime": {},
        "script": {"requirements": {"pip": "x"}, "diff": "long"},
        "models": {"output": [{"model": "m", "name": "n"}]},
    }
    assert projection(document, fields) == projected
