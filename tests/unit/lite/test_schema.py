"""Requests are validated by what the SDK itself says."""

import importlib.util
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clearml_lite.errors import ApiError
from clearml_lite.schema import Validator, request_schema


def extraction() -> ModuleType:
    spec = importlib.util.spec_from_file_location("extract_schemas", Path(__file__).with_name("extract_schemas.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_schemas_are_those_of_the_pinned_sdk() -> None:
    extract_schemas = extraction()
    committed = resources.files("clearml_lite").joinpath("schemas.json").read_text()
    assert extract_schemas.render(extract_schemas.extract()) == committed


@pytest.mark.parametrize(
    ("endpoint", "parameters"),
    [
        ("tasks.get_by_id", {"task": "x", "method": "get", "unknown": [1]}),
        ("auth.create_credentials", {"label": "x", "unknown": 1}),
        ("auth.revoke_credentials", {"access_key": "x"}),
        ("workers.status_report", {"worker": "w", "timestamp": 1, "machine_stats": {"disk_free_home": 67.8}}),
        ("tasks.get_all", {"project": None, "status": ["created"], "page": 0, "page_size": 5}),
    ],
)
def test_good_requests_pass(endpoint: str, parameters: dict[str, Any]) -> None:
    Validator(request_schema(endpoint)).check(parameters)


@pytest.mark.parametrize(
    ("endpoint", "parameters", "message"),
    [
        ("tasks.get_by_id", {}, "Validation error (error for field 'task'. field is required!)"),
        ("tasks.get_by_id", {"task": 5}, "Validation error (error for field 'task'. must be string!)"),
        ("auth.revoke_credentials", {}, "Validation error (error for field 'access_key'. field is required!)"),
        ("tasks.get_all", {"page": 0}, "page_size"),
        ("tasks.get_all", {"status": ["flying"]}, "error for field 'status.0'. must be one of"),
        ("tasks.add_or_update_artifacts", {"task": "t", "artifacts": [{"key": "k"}]}, "field 'artifacts.0.type'"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(endpoint: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError) as caught:
        Validator(request_schema(endpoint)).check(parameters)
    assert (caught.value.code, caught.value.subcode) == (400, 12)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values", "parsed"),
    [
        ("page", ["3"], 3),
        ("search_hidden", ["true"], True),
        ("search_hidden", ["0"], False),
        ("id", ["a", "b"], ["a", "b"]),
        ("name", ["7"], "7"),
        ("page", ["three"], "three"),
        ("unknown", ["x"], "x"),
    ],
)
def test_text_becomes_what_the_schema_wants(name: str, values: list[str], parsed: Any) -> None:
    assert Validator(request_schema("tasks.get_all")).from_text(name, values) == parsed
