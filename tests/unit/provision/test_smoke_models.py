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
