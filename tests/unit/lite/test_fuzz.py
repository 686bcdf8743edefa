"""Whatever fits or nearly fits a schema is answered, and never with a failure of the server."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clearml_lite import services as _services  # noqa: F401  registers the endpoints
from clearml_lite.dispatch import ENDPOINTS

EXAMPLES = 400
WORDS = (
    "",
    "-",
    "a name",
    "__$all",
    "__$not",
    "-archived",
    "name",
    "-created",
    "tags",
    "x.y",
    ">=2026-01-01",
    '"',
    "état",
)
INTEGERS = st.sampled_from([0, 1, -1, 2, 1000, 2**31, 2**63, -(2**63), 2**70])
ANYTHING = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(WORDS),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from(WORDS), below, max_size=3),
    max_leaves=4,
)


def fitting(schema: dict[str, Any], root: dict[str, Any], texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """What fits a schema."""
    if "$ref" in schema:
        return fitting(root.get("definitions", {})[schema["$ref"].rpartition("/")[2]], root, texts)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return st.one_of([fitting(each, root, texts) for each in schema[several]])
    kinds = schema.get("type", "object")
    return st.one_of([_of_kind(kind, schema, root, texts) for kind in ([kinds] if isinstance(kinds, str) else kinds)])


def _of_kind(
    kind: str, schema: dict[str, Any], root: dict[str, Any], texts: st.SearchStrategy[str]
) -> st.SearchStrategy[Any]:
    if kind == "array":
        return st.lists(fitting(schema.get("items") or {"type": "string"}, root, texts), max_size=3)
    if kind == "object":
        required = schema.get("required", [])
        fields = {name: fitting(each, root, texts) for name, each in schema.get("properties", {}).items()}
        known = {name: fields.get(name, texts) for name in required}
        others = {name: strategy for name, strategy in fields.items() if name not in required}
        if isinstance(schema.get("additionalProperties"), dict):
            return st.dictionaries(texts, fitting(schema["additionalProperties"], root, texts), max_size=2)
        return st.fixed_dictionaries(known, optional=others)
    simple = {
        "string": texts,
        "integer": INTEGERS,
        "number": INTEGERS | st.floats(allow_nan=False, allow_infinity=False),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    return simple[kind]


def test_no_request_fails_the_server(client: Any, call: Callable[..., Any]) -> None:
    project = call("projects.create", name="the project/below")["id"]
    task = call("tasks.create", name="a task", type="training", project=project)["id"]
    model = call("models.create", name="a model", uri="u", task=task, project=project)["id"]
    queue = call("queues.get_default")["id"]
    user = call("users.get_current_user")["user"]["id"]
    call("tasks.enqueue", task=task)
    for kind in ("log", "plot", "training_debug_image", "training_stats_scalar"):
        event = {"type": kind, "task": task, "metric": "m", "variant": "v", "iter": 1, "value": 1, "plot_str": "{}"}
        client.post("/events.add_batch", content=json.dumps(event))
    texts = st.sampled_from([task, model, queue, project, user, "m", "v", *WORDS])
    requests = {
        name: fitting(endpoint.validator.schema, endpoint.validator.schema, texts)
        for name, endpoint in ENDPOINTS.items()
        if name != "auth.logout"
    }

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def answers(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(requests)))
        request = data.draw(requests[name])
        if isinstance(request, dict) and data.draw(st.integers(0, 3)) == 0:
            request[data.draw(st.sampled_from([*request, "order_by", "scroll_id", "_or_", "last.n"]))] = data.draw(
                ANYTHING
            )
        answer = client.post(f"/{name}", content=json.dumps(request))
        assert answer.status_code < 500, (name, request, answer.text)

    answers()
