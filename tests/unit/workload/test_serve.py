"""The service that predicts, over HTTP: models are plain functions here, and the ClearML server a list of them."""

import json
import threading
import time
from datetime import datetime, timezone
from http.client import HTTPConnection
from types import SimpleNamespace

import pytest
from workload import serve
from workload.errors import DiskError, ModelError, ServerError
from workload.serve import MOST_TRIALS, Follower, Journal, Published, Served, Service, Trials


class Registry:
    """Published models; each predicts its own ID."""

    def __init__(self):
        self.newest_id = None
        self.raises = None
        self.refused = {}
        self.loads = []
        self.wait = threading.Event()
        self.wait.set()

    def newest(self):
        if self.raises:
            raise self.raises
        return self.newest_id and (self.newest_id, "rapp_model", "2026-11-01")

    def load(self, found):
        self.loads.append(found[0])
        if found[0] in self.refused:
            raise self.refused[found[0]]

        def predict(rows):
            if "fail" in rows[0]:
                raise RuntimeError("boom")
            if "c" in rows[0]:
                raise ModelError("row 0: the model has no input 'c'")
            if "nan" in rows[0]:
                return [{"loss": float("nan")}]
            self.wait.wait(10)
            return [{"label": found[0]} for _ in rows]

        return Served(*found, predict)


class Running:
    """A service, what it follows, and where it keeps what was asked."""

    def __init__(self, folder):
        self.registry = Registry()
        self.follower = Follower(self.registry)
        self.folder = folder
        self.on_trial = {}
        trials = Trials("smoke", self._published)
        self.service = Service(("127.0.0.1", 0), self.follower, Journal(folder, 30), trials)
        threading.Thread(target=self.service.serve_forever, args=(0.01,), daemon=True).start()

    def _published(self, project):
        found = self.on_trial[project] = Registry()
        found.newest_id = f"model of {project}"
        return found

    def publish(self, model_id):
        self.registry.newest_id = model_id
        self.follower.look()

    def connection(self):
        return HTTPConnection("127.0.0.1", self.service.server_port, timeout=10)

    def ask(self, body, method="POST", path="/predict", connection=None, **headers):
        connection = connection or self.connection()
        connection.request(method, path, body if isinstance(body, (bytes, type(None))) else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def kept(self):
        return [json.loads(line) for file in sorted(self.folder.iterdir()) for line in file.read_text().splitlines()]


@pytest.fixture
def running(tmp_path):
    found = Running(tmp_path / "answers")
    yield found
    found.registry.wait.set()
    found.service.trials.stop()
    found.service.end()


ROWS = {"rows": [{"a": 1}, {"a": None}]}


def test_an_answer_has_predictions_the_model_and_its_time(running):
    running.publish("m1")
    status, found = running.ask(ROWS)
    assert status == 200
    assert found["model"] == {"id": "m1", "name": "rapp_model", "created": "2026-11-01"}
    assert found["predictions"] == [{"label": "m1"}] * 2
    assert 0 <= found["milliseconds"] < 10_000
    assert running.ask(None, "GET", "/health") == (200, {"model": found["model"], "problem": None})


def test_what_was_asked_and_answered_is_kept_and_nobody_else_may_read_it(running):
    running.publish("m1")
    answered = running.ask(ROWS)[1]
    (line,) = running.kept()
    assert {**line, "time": "", "client": ""} == {"time": "", "client": "", **ROWS, **answered}
    assert line["client"] == "127.0.0.1"
    assert datetime.fromisoformat(line["time"]).tzinfo
    (file,) = running.folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert running.folder.stat().st_mode & 0o777 == 0o700


def test_an_answer_that_cannot_be_kept_is_not_given(running):
    running.publish("m1")
    (file,) = running.folder.iterdir()
    file.unlink()
    file.mkdir()
    assert running.ask(ROWS) == (507, {"error": "the answer cannot be kept (Is a directory): check the service's disk"})


def test_files_are_of_a_day_and_old_ones_go(tmp_path, monkeypatch):
    now = datetime(2026, 11, 23, 23, 59, tzinfo=timezone.utc)
    monkeypatch.setattr(serve, "_now", lambda: now)
    for day in ("2026-10-01", "2026-11-21", "2026-11-22"):
        (tmp_path / f"answers-{day}.jsonl").write_text("")
    (tmp_path / "mine.txt").write_text("")
    journal = Journal(tmp_path, 2)
    journal.keep({"a": 1})
    now = datetime(2026, 11, 24, 0, 1, tzinfo=timezone.utc)
    journal.keep({"a": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "answers-2026-11-23.jsonl",
        "answers-2026-11-24.jsonl",
        "mine.txt",
    ]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match="cannot write in .*: check its owner and its disk"):
        Journal(tmp_path / "file" / "answers", 1)


def test_a_newer_model_takes_over_and_no_request_is_dropped(running):
    running.publish("m1")
    answers, stop = [], threading.Event()

    def client():
        connection = running.connection()
        while not stop.is_set():
            answers.append(running.ask(ROWS, connection=connection))
        connection.close()

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    for number in range(1, 12):
        running.publish(f"m{number}")
        seen = len(answers)
        while len(answers) < seen + 8:
            pass
    stop.set()
    for thread in clients:
        thread.join(10)
    assert {status for status, _ in answers} == {200}
    assert {found["model"]["id"] for _, found in answers} == {f"m{number}" for number in range(1, 12)}
    # one model for all of an answer
    assert all({row["label"] for row in found["predictions"]} == {found["model"]["id"]} for _, found in answers)


def test_what_was_asked_before_is_answered_by_the_model_before(running):
    running.publish("m1")
    running.registry.wait.clear()
    found = []
    asking = threading.Thread(target=lambda: found.append(running.ask(ROWS)))
    asking.start()
    while not running.service.connections:
        pass
    limit = threading.Event()
    limit.wait(0.2)  # the question is read
    running.publish("m2")
    running.registry.wait.set()
    asking.join(10)
    assert found[0][1]["model"]["id"] == "m1"
    assert running.ask(ROWS)[1]["model"]["id"] == "m2"


def test_an_end_waits_for_answers_and_not_for_clients_that_ask_nothing(tmp_path):
    running = Running(tmp_path / "answers")
    running.publish("m1")
    idle = running.connection()
    running.ask(ROWS, connection=idle)
    running.registry.wait.clear()
    found = []
    asking = threading.Thread(target=lambda: found.append(running.ask(ROWS)))
    asking.start()
    while len(running.service.connections) < 2:
        pass
    threading.Event().wait(0.2)
    ending = threading.Thread(target=running.service.end)
    ending.start()
    running.registry.wait.set()
    ending.join(10)
    asking.join(10)
    assert not ending.is_alive()
    assert found[0][0] == 200


@pytest.mark.parametrize(
    "why", ["the file of model m2 is not what was registered (SHA-256 …)", "Keras cannot load model m2"]
)
def test_a_model_that_cannot_be_used_is_told_and_the_one_before_goes_on(running, why):
    running.registry.refused = {"m2": ModelError(why)}
    running.publish("m1")
    running.publish("m2")
    running.follower.look()
    status, health = running.ask(None, "GET", "/health")
    assert (status, health["model"]["id"]) == (200, "m1")
    assert health["problem"] == why
    assert running.ask(ROWS)[1]["model"]["id"] == "m1"
    assert running.registry.loads == ["m1", "m2"]  # it is not fetched again and again
    running.registry.raises = ServerError("away")
    running.follower.look()
    running.registry.raises = None
    running.follower.look()
    assert running.follower.problem == why  # and not that the server was away
    running.publish("m3")
    assert running.ask(None, "GET", "/health")[1] == {
        "model": {"id": "m3", "name": "rapp_model", "created": "2026-11-01"},
        "problem": None,
    }


def test_a_model_that_could_not_be_fetched_is_tried_again(running):
    running.registry.refused = {"m1": ServerError("cannot get model m1 (Connection refused)")}
    running.publish("m1")
    running.registry.refused = {}
    running.follower.look()
    assert running.ask(ROWS)[0] == 200


def wait_for_model(running, path):
    """The answer, once a model gives it."""
    limit = time.monotonic() + 30
    while (found := running.ask(ROWS, path=path))[0] == 503:
        assert time.monotonic() < limit, found
    return found


def test_a_project_on_trial_is_answered_by_its_own_model_beside_the_one_of_all_others(running):
    running.publish("m1")
    status, found = wait_for_model(running, "/predict?project=smoke%2Fa%20b")
    assert (status, found["model"]["id"]) == (200, "model of smoke/a b")
    assert running.ask(None, "GET", "/health?project=smoke%2Fa%20b")[1]["model"]["id"] == "model of smoke/a b"
    assert running.ask(ROWS)[1]["model"]["id"] == "m1"
    assert running.ask(None, "GET", "/health")[1]["model"]["id"] == "m1"
    assert [line["model"]["id"] for line in running.kept()] == ["model of smoke/a b", "m1"]


@pytest.mark.parametrize("project", ["rapp_examples", "smoke", "smokes/a", ""])
def test_a_project_that_is_not_on_trial_is_not_followed(running, project):
    running.publish("m1")
    status, found = running.ask(ROWS, path=f"/predict?project={project}")
    assert status == 404
    assert "is not on trial here" in found["error"]
    assert running.on_trial == {}


def test_without_a_prefix_no_project_is_on_trial(tmp_path):
    assert Trials("", lambda project: Registry()).of("/x") is None


def test_of_many_projects_on_trial_the_one_that_was_asked_for_longest_ago_is_left(running):
    trials = running.service.trials
    first, *others = [trials.of(f"smoke/{number}") for number in range(MOST_TRIALS)]
    assert trials.of("smoke/0") is first
    trials.of("smoke/new")
    assert [follower.is_over for follower in (first, *others)] == [False, True, *[False] * (MOST_TRIALS - 2)]
    assert trials.of("smoke/1") is not others[0]


def test_a_project_on_trial_that_nobody_asks_for_is_left(monkeypatch):
    monkeypatch.setattr(serve, "TRIAL_IDLE", 0.0)
    trials = Trials("smoke", lambda project: Registry())
    found = trials.of("smoke/a")
    found._thread.join(10)
    assert not found._thread.is_alive()
    assert trials.of("smoke/a") is not found


def test_before_there_is_a_model_and_while_the_server_is_away(running):
    assert running.ask(ROWS) == (503, {"error": "no model yet: no look at the ClearML server yet"})
    running.follower.look()
    assert running.ask(None, "GET", "/health") == (503, {"model": None, "problem": "no published model yet"})
    running.registry.raises = ServerError("cannot log in to the ClearML server at http://s")
    running.follower.look()
    assert running.ask(ROWS) == (503, {"error": "no model yet: cannot log in to the ClearML server at http://s"})
    running.registry.raises = None
    running.publish("m1")
    running.registry.raises = ServerError("away")
    running.follower.look()
    assert running.ask(ROWS)[0] == 200
    assert running.ask(None, "GET", "/health")[1]["problem"] == "away"


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, 'expected {"rows": ['),
        ({"rows": []}, 400, "expected"),
        ({"rows": [1]}, 400, "expected"),
        ({"rows": [{"a": 1}] * 10_001}, 400, "10001 rows: ask for 10000 at most"),
        ({"rows": [{"c": 1}]}, 400, "no input 'c'"),
        (b'{"rows": [{"a": NaN}]}', 400, "NaN is no number of JSON"),
        (b'{"rows": ' + b"[" * 100_000, 400, "expected"),
        ({"rows": [{"nan": 1}]}, 500, "the model gave what is no number"),
        ({"rows": [{"fail": 1}]}, 500, "see the service's log"),
    ],
)
def test_what_cannot_be_answered_is_said_and_not_kept(running, body, status, message):
    running.publish("m1")
    found = running.ask(body)
    assert found[0] == status
    assert message in found[1]["error"]
    assert running.kept() == []


def test_too_much_or_no_length_is_refused_unread(running):
    running.publish("m1")
    assert running.ask(b"x", **{"Content-Length": str(5 << 20)})[0] == 413
    connection = running.connection()
    connection.putrequest("POST", "/predict")
    connection.endheaders()
    assert connection.getresponse().status == 411
    assert running.ask(None, "GET", "/else")[0] == 404
    assert running.ask(b"{}", path="/else")[0] == 404


class Client:
    """As the SDK's API client: projects by regular expression, models in the order that was asked for."""

    def __init__(self):
        self.asked = {}
        self.projects = SimpleNamespace(get_all=lambda name: [SimpleNamespace(id="p1")] if name == "^a\\.b$" else [])
        self.models = SimpleNamespace(get_all=self.get_all)

    def get_all(self, **asked):
        self.asked = asked
        return [SimpleNamespace(id="m2", name="x", created="2"), SimpleNamespace(id="m1", name="x", created="1")]


def test_the_newest_published_model_of_the_project_is_asked_for(monkeypatch):
    client = Client()
    monkeypatch.setattr("workload.server.login", lambda: client)
    assert Published("other", None).newest() is None
    assert Published("a.b", "x").newest() == ("m2", "x", "2")
    asked = {key: client.asked[key] for key in ("project", "ready", "order_by", "name")}
    assert asked == {"project": ["p1"], "ready": True, "order_by": ["-created"], "name": "^x$"}


def test_a_model_that_loads_and_does_not_predict_cannot_be_used(monkeypatch, tmp_path):
    def predict(rows):
        raise ValueError("expected shape (None, 3),\nfound (1, 2)")

    monkeypatch.setattr(serve, "fetch", lambda model_id: (None, tmp_path / "model.keras"))
    monkeypatch.setattr(serve, "Predictor", lambda card, file: SimpleNamespace(predict=predict))
    with pytest.raises(ModelError, match=r"model m1 loads, and does not predict \(expected shape \(None, 3\), found"):
        Published.load(("m1", "rapp_model", "2026-11-01"))


@pytest.mark.parametrize(
    "option", ["--port=65536", "--port=-1", "--days=0", "--days=9999999999", "--poll=0", "--poll=-1", "--poll=nan"]
)
def test_a_number_that_cannot_be_is_a_usage_error(tmp_path, capsys, option):
    with pytest.raises(SystemExit) as ended:
        serve.main([option, f"--folder={tmp_path}"])
    assert ended.value.code == 2
    assert f"argument {option.partition('=')[0]}: " in capsys.readouterr().err


def test_a_wrong_port_or_folder_is_one_line(tmp_path, capsys):
    with Service(("127.0.0.1", 0), Follower(Registry()), Journal(tmp_path, 1)) as busy:
        code = serve.main([f"--port={busy.server_port}", f"--folder={tmp_path}"])
    assert code == 1
    assert "cannot listen on 127.0.0.1:" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert serve.main(["--port=0", f"--folder={tmp_path / 'file' / 'x'}"]) == 1
    assert "cannot write in" in capsys.readouterr().err
