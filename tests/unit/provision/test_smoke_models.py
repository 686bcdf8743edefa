"""What the smoke test publishes for the inference service, and how it compares what the service answers."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import httpx
import pytest

from provision.smoke import models
from provision.smoke.problem import Broken

ANSWERS = {"rows": [{"a": 1.0}], "predictions": [{"loss": 80.0}]}
TASK = {
    "id": "t2",
    "execution": {"artifacts": [{"key": "answers", "uri": "http://files/answers.json"}]},
    "models": {"output": [{"model": "m0"}, {"model": "m1"}]},
}
MODEL = {"id": "m1", "name": "rapp_model", "project": {"id": "p1"}, "task": {"id": "t2"}, "uri": "http://files/x.keras"}


class Api:
    """Answers as the API does, and keeps what it was asked."""

    def __init__(self, tasks=()):
        self.answers = {
            "projects.get_all": {"projects": [{"id": "p1"}]},
            "tasks.get_all": {"tasks": list(tasks)},
            "models.get_by_id": {"model": MODEL | {"labels": {"x": 0}, "design": {"design": "{}"}, "comment": "mine"}},
            "models.create": {"id": "m2"},
        }
        self.asked = {}

    def login(self):
        return "token"

    def call(self, endpoint, **parameters):
        self.asked[endpoint] = parameters
        return self.answers[endpoint]


def _files(request):
    assert request.headers["Authorization"] == "Bearer token"
    return httpx.Response(200, json=ANSWERS)


def test_the_model_of_the_run_comes_with_what_its_training_host_answered():
    api, http = Api([TASK]), httpx.Client(transport=httpx.MockTransport(_files))
    assert models.trained(api, http, "smoke/a.b") == models.Trained("m1", **ANSWERS)
    assert api.asked["projects.get_all"]["name"] == r"^smoke/a\.b$"
    asked = api.asked["tasks.get_all"]
    assert (asked["project"], asked["name"], asked["status"]) == (["p1"], "^evaluate$", ["completed"])


def test_without_a_completed_step_there_is_no_model():
    assert models.trained(Api(), httpx.Client(), "smoke/a") is None


def test_a_copy_is_published_with_the_same_file_in_the_same_project():
    api = Api()
    assert models.published_copy(api, "m1") == "m2"
    assert api.asked["models.create"] == {
        "name": "rapp_model",
        "project": "p1",
        "task": "t2",
        "uri": "http://files/x.keras",
        "labels": {"x": 0},
        "design": {"design": "{}"},
        "ready": True,
    }


@pytest.fixture(scope="module")
def check(pytestconfig):
    """The module of the checks; it has markers of its own."""
    for name in ("hosts", "of(*services)", "full"):
        pytestconfig.addinivalue_line("markers", name)
    return importlib.import_module("tests.stack.test_workload_in_use")


@pytest.mark.parametrize(
    ("these", "those", "expected"),
    [
        ([{"label": "x", "probabilities": {"x": 0.5}}], [{"label": "y", "probabilities": {"x": 0.25}}], 0.25),
        ([{"loss": 80.0}, {"loss": 1.0}], [{"loss": 80.0}, {"loss": 1.5}], 0.5),
        ([{"loss": 80.0}], [{"loss": 80.0}], 0.0),
        ([{"loss": 80.0}], [], math.inf),
        ([{"loss": 80.0}], [{"gain": 80.0}], math.inf),
    ],
)
def test_answers_are_compared_number_by_number(check, these, those, expected):
    assert check._difference(these, those) == expected


def test_the_service_is_asked_on_its_host_until_another_model_answers(check):
    said = iter(
        [(503, {"error": "no model yet"}), *[(200, {"model": {"id": "m1"}})] * 2, (200, {"model": {"id": "m2"}})]
    )
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            self._say(*next(said))

        def do_GET(self):
            self._say(200, {"problem": None})

        def _say(self, status, found):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

        def run(command, *arguments):
            done = subprocess.run(
                [sys.executable, "-I", "-c", *arguments], capture_output=True, text=True, check=False, timeout=60
            )
            return SimpleNamespace(rc=done.returncode, stdout=done.stdout, stderr=done.stderr)

        wanted = SimpleNamespace(bind="0.0.0.0", port=server.server_port)  # noqa: S104
        stack = SimpleNamespace(testbed=SimpleNamespace(inference=wanted))
        ask = check.ask.__wrapped__(lambda host: SimpleNamespace(run=run), stack)
        found = ask("h1", project="smoke/a", rows=[{"a": 1.0}], seconds=60, unlike="m1")
        health = ask("h1")
        server.shutdown()
    assert found == [{"503 None": 1, "200 m1": 2, "200 m2": 1}, {"model": {"id": "m2"}}, None]
    assert asked[0] == ("/predict?project=smoke%2Fa", {"rows": [{"a": 1.0}]})
    assert health == [200, {"problem": None}]


def _record(key, value):
    pass


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        ([200, {"model": {"id": "m1"}, "problem": None}], None),
        ([503, {"model": None, "problem": "no published model yet"}], None),
        ([200, {"model": {"id": "m1"}, "problem": "the file of model m2 is not what was registered"}], "the file of m"),
        ([503, {"model": None, "problem": "cannot log in to the ClearML server"}], "cannot log in"),
        ([0, {"error": "Connection refused"}], "Connection refused"),
    ],
)
def test_a_service_that_cannot_follow_is_found(check, answer, wrong):
    if wrong is None:
        check.test_inference_follows_the_server(lambda host: answer, "h1", _record)
        return
    with pytest.raises(Broken, match=wrong):
        check.test_inference_follows_the_server(lambda host: answer, "h1", _record)


FOUND = models.Trained("m1", **ANSWERS)


def _published(first=None, second=None):
    said = {"model": {"id": "m1"}, "predictions": ANSWERS["predictions"], "milliseconds": 1.0}
    first = first or [{"200 m1": 1}, said, None]
    second = second or [{"200 m1": 3, "200 m2": 1}, {**said, "model": {"id": "m2"}}, None]
    return FOUND, "m2", {"h1": first}, {"h1": second}


def test_a_service_that_answers_and_swaps_as_it_should_passes(check):
    check.test_inference_answers_as_the_training_host(_published(), "h1", _record)
    check.test_inference_swaps_without_dropping_a_request(_published(), "h1", _record)


@pytest.mark.parametrize(
    ("first", "wrong"),
    [
        (
            [{"503 None": 9}, {"error": "no model yet"}, "Keras cannot load x"],
            "after model m1 was published: Keras cann",
        ),
        (
            [{}, {"model": {"id": "m1"}, "predictions": [{"loss": 80.1}], "milliseconds": 1.0}, None],
            "differ from the training host's by 1.0e-01",
        ),
    ],
)
def test_other_answers_than_the_training_hosts_are_found(check, first, wrong):
    with pytest.raises(Broken, match=wrong):
        check.test_inference_answers_as_the_training_host(_published(first), "h1", _record)


@pytest.mark.parametrize(
    ("second", "wrong"),
    [
        ([{"200 m1": 9}, {"model": {"id": "m1"}}, "cannot get model m2"], "after model m2 was published: cannot get"),
        ([{"200 m1": 3, "0 None": 2, "200 m2": 1}, {"model": {"id": "m2"}}, None], "'0 None': 2"),
    ],
)
def test_a_request_that_was_dropped_and_a_swap_that_did_not_come_are_found(check, second, wrong):
    with pytest.raises(Broken, match=wrong):
        check.test_inference_swaps_without_dropping_a_request(_published(second=second), "h1", _record)
