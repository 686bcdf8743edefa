"""What the watchdog restarts, queues again and fails, and what it leaves alone."""

from __future__ import annotations

import datetime
import importlib.util
import json
from pathlib import Path

import jinja2
import pytest

ROLE = Path(__file__).parents[3] / "roles/clearml_watchdog"
NOW, SILENT = 1_800_000_000.0, 180
ALIVE, SILENT_LONG = 30, 600
LONG_ENOUGH = (0, SILENT, SILENT + 60)  # moments of rounds after which the watchdog is sure
WORKER, SERVICE = "agent-1:gpu", "testbed-agent-gpu"


@pytest.fixture(scope="module")
def watchdog():
    spec = importlib.util.spec_from_file_location("watchdog", ROLE / "files/watchdog.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ago(seconds):
    return datetime.datetime.fromtimestamp(NOW - seconds, datetime.UTC).isoformat()


def a_worker(reported, task=None):
    found = {"id": WORKER, "last_report_time": ago(reported), "register_time": ago(9999)}
    return {WORKER: found | ({"task": {"id": task}} if task else {})}


def a_task(age, **fields):
    task = {"id": "t", "status": "in_progress", "last_update": ago(age), "started": ago(9999), "last_worker": WORKER}
    return task | {"execution": {"queue": "q"}, "status_changed": ago(9999)} | fields


class TestRestarts:
    @pytest.mark.parametrize(
        ("workers", "seen", "tasks", "restarted"),
        [
            (a_worker(SILENT_LONG), 900, [], True),
            ({}, 900, [], True),
            (a_worker(ALIVE), 900, [], False),
            (a_worker(SILENT_LONG), None, [], False),  # somebody has stopped it
            (a_worker(SILENT_LONG), 100, [], False),  # it has only just begun
            (a_worker(SILENT_LONG), 900, [a_task(ALIVE)], False),  # it runs a task that reports
            (a_worker(SILENT_LONG), 900, [a_task(SILENT_LONG)], True),
            (a_worker(SILENT_LONG), 900, [a_task(ALIVE, last_worker="agent-2:gpu")], True),
        ],
    )
    def test_an_agent_that_runs_and_is_silent(self, watchdog, workers, seen, tasks, restarted):
        found = watchdog.decide_restarts({WORKER: (SERVICE, seen)}, workers, tasks, NOW, SILENT)
        assert set(found) == ({SERVICE} if restarted else set())
        assert not restarted or WORKER in found[SERVICE]

    def test_a_service_that_does_not_get_well_is_restarted_ever_more_rarely(self, watchdog):
        patience = watchdog.Patience(180, 1000)
        now, pauses = 0, []
        for _ in range(5):
            assert patience.allows(SERVICE, now)
            pauses.append(patience.restarted(SERVICE, now))
            assert not patience.allows(SERVICE, now + pauses[-1] - 1)
            now += pauses[-1]
        assert pauses == [180, 360, 720, 1000, 1000]
        patience.well(SERVICE)
        assert patience.restarted(SERVICE, now) == 180


class TestLostTasks:
    @pytest.mark.parametrize(
        ("task", "workers", "queued", "why"),
        [
            (a_task(SILENT_LONG), {}, [], "its worker agent-1:gpu is gone"),
            (a_task(SILENT_LONG), a_worker(SILENT_LONG, "t"), [], "its worker agent-1:gpu is gone"),
            (a_task(SILENT_LONG), a_worker(ALIVE), [], "its worker agent-1:gpu lost it"),
            (a_task(SILENT_LONG), a_worker(ALIVE, "another"), [], "its worker agent-1:gpu lost it"),
            (a_task(SILENT_LONG), a_worker(ALIVE, "t"), [], None),
            (a_task(ALIVE), {}, [], None),  # it outlived its agent, and reports
            (a_task(SILENT_LONG, last_worker_report=ago(ALIVE)), {}, [], None),
            (a_task(SILENT_LONG, last_worker="somebodys-desk"), {}, [], None),  # no agent of the testbed's runs it
            (a_task(SILENT_LONG, last_worker=None), {}, [], None),
            (
                a_task(SILENT_LONG, last_worker=None, status_message="pulled by agent"),
                {},
                [],
                "the agent that took it died before it began",
            ),
            (
                a_task(SILENT_LONG, last_worker=None, status_message="pulled by agent", execution={"queue": "other"}),
                {},
                [],
                None,
            ),
            (a_task(SILENT_LONG, status="queued"), {}, ["t"], None),
            (a_task(SILENT_LONG, status="queued"), {}, [], "an agent took it out of its queue and died"),
            (a_task(SILENT_LONG, status="queued", execution={"queue": "other"}), {}, [], None),
            (a_task(ALIVE, status="queued"), {}, [], None),  # it is being taken
        ],
    )
    def test_a_task_is_lost_when_nobody_runs_it(self, watchdog, task, workers, queued, why):
        found = watchdog.find_lost([task], set(queued), {"q"}, workers, {WORKER}, NOW, SILENT)
        assert found == ({"t": why} if why else {})

    def test_it_is_queued_again_once(self, watchdog):
        task = a_task(SILENT_LONG)
        assert watchdog.decide_task(task, requeue=True) == "q"
        assert watchdog.decide_task(task | {"runtime": {watchdog.COUNT: "1"}}, requeue=True) is None
        assert watchdog.decide_task(task, requeue=False) is None
        assert watchdog.decide_task(task | {"execution": {}}, requeue=True) is None, "nobody knows its queue"


class FakeApi:
    """The server as the watchdog sees it: what it has, and what was asked of it."""

    def __init__(self, watchdog, **collections):
        self.watchdog, self.clock, self.token = watchdog, NOW, "token"
        self.collections = {"workers": [], "queues": [], "tasks": [], **collections}
        self.done, self.fails = [], set()

    def call(self, endpoint, **parameters):
        if endpoint in self.fails:
            raise self.watchdog.ApiError(f"400 {endpoint}", True)
        if endpoint.endswith("get_all"):
            return {name: self.pages(endpoint, name, **parameters) for name in self.collections}
        self.done.append((endpoint, parameters))
        for task in self.collections["tasks"]:
            if task["id"] == parameters.get("task") and endpoint in ("tasks.stopped", "tasks.enqueue"):
                task["status"] = "stopped" if endpoint == "tasks.stopped" else "queued"
                task["status_reason"], task["status_changed"] = parameters.get("status_reason"), "later"
        return {}

    def pages(self, endpoint, name, status=None, id=None, **_):  # noqa: A002
        return [
            each
            for each in self.collections[name]
            if (not status or each["status"] in status) and (not id or each["id"] in id)
        ]

    def send(self, endpoint, *_):
        self.done.append((endpoint, {}))

    @property
    def asked(self):
        return [endpoint for endpoint, _ in self.done]


class FakeManager:
    def __init__(self):
        self.restarted = []

    def pid(self, _):
        return 42

    def restart(self, service):
        self.restarted.append(service)
        return ""


@pytest.fixture
def look(watchdog, tmp_path):
    """A function that makes a watchdog whose server has these tasks and workers."""

    def make(tasks=(), workers=(), **settings):
        queues = [{"id": "q", "name": "gpu", "entries": []}]
        api = FakeApi(watchdog, tasks=list(tasks), workers=list(workers), queues=queues)
        given = {"workers": {WORKER: SERVICE}, "looks_after_tasks": True, "all_workers": [WORKER], "queues": ["gpu"]}
        given |= {"lost_tasks": "requeue", "silent_seconds": SILENT, "longest_pause_seconds": 3600}
        given |= {"state": str(tmp_path / "state.json")} | settings
        return watchdog.Watchdog(given, api, FakeManager())

    return make


def rounds(found, *moments):
    for moment in moments:
        found.round(moment)


class TestRounds:
    def test_nothing_is_done_until_all_could_have_reported(self, look, watchdog):
        found = look([a_task(SILENT_LONG)], a_worker(SILENT_LONG).values())
        rounds(found, 0, 30, SILENT - 1)
        assert (found.api.done, found.manager.restarted) == ([], [])
        found.lose_contact(watchdog.ApiError("away", False))
        rounds(found, SILENT, SILENT + 100)
        assert (found.api.done, found.manager.restarted) == ([], []), "the server was away: from its return on"
        rounds(found, 2 * SILENT, 2 * SILENT + 60)
        assert found.manager.restarted == [SERVICE]
        assert "tasks.enqueue" in found.api.asked

    def test_a_silent_agent_is_not_restarted_in_each_round(self, look):
        found = look(workers=a_worker(SILENT_LONG).values())
        rounds(found, *range(0, 2000, 30))
        assert len(found.manager.restarted) == 4  # 240, then 180, 360, 720 s later

    def test_what_reports_late_as_the_servers_clock_jumped_is_left_alone(self, look):
        found = look([a_task(ALIVE)], a_worker(ALIVE).values())
        rounds(found, 0, SILENT)
        found.api.clock += 7200
        rounds(found, SILENT + 30)
        found.api.clock -= 7200  # all have reported by the new clock
        rounds(found, SILENT + 60)
        found.api.clock += 7200
        rounds(found, SILENT + 90)
        assert (found.api.done, found.manager.restarted) == ([], [])

    def test_a_lost_task_is_queued_again_and_told_so(self, look, watchdog, capsys):
        found = look([a_task(SILENT_LONG, name="train", runtime={"kept": "1"})])
        rounds(found, *LONG_ENOUGH)
        assert found.api.asked == ["events.add_batch", "tasks.edit", "tasks.stopped", "tasks.enqueue"]
        [_, (_, edited), _, (_, enqueued)] = found.api.done
        assert edited["runtime"] == {"kept": "1", watchdog.COUNT: "1"}
        assert (enqueued["task"], enqueued["queue"]) == ("t", "q")
        assert "Task t (train) queued again: its worker agent-1:gpu is gone" in capsys.readouterr().out

    @pytest.mark.parametrize("how", [{"lost_tasks": "fail"}, {"runtime": "1"}])
    def test_it_fails_with_a_message_where_it_is_not_queued_again(self, look, watchdog, how):
        again = {"runtime": {watchdog.COUNT: how.pop("runtime")}} if "runtime" in how else {}
        found = look([a_task(SILENT_LONG, **again)], **how)
        rounds(found, *LONG_ENOUGH)
        assert found.api.asked == ["events.add_batch", "tasks.failed"]
        message = found.api.done[-1][1]["status_message"]
        assert message.startswith("its worker agent-1:gpu is gone")
        assert ("second time" in message) == bool(again)

    @pytest.mark.parametrize(
        ("task", "asked"),
        [
            (a_task(SILENT_LONG), ["tasks.stopped", "tasks.enqueue"]),  # killed before
            (a_task(ALIVE, status="stopped", status_reason="testbed watchdog"), ["tasks.enqueue"]),  # killed between
            (a_task(ALIVE, status_changed="somebody did"), []),
            (a_task(ALIVE, status="stopped", status_reason="by its owner"), []),
            (a_task(ALIVE, status="completed"), []),
        ],
    )
    def test_what_a_killed_watchdog_began_is_finished_unless_somebody_meddled(self, look, task, asked):
        noted = {"workers": [WORKER], "requeueing": {"t": {"queue": "q", "status_changed": ago(9999)}}}
        first = look()
        Path(first.settings["state"]).write_text(json.dumps(noted))
        found = look([task])
        rounds(found, 0)
        assert found.api.asked == asked
        assert json.loads(Path(first.settings["state"]).read_text())["requeueing"] == {}

    def test_a_refused_task_does_not_keep_others_from_being_mended(self, look):
        found = look([a_task(SILENT_LONG), a_task(SILENT_LONG, id="u")])
        found.api.fails = {"tasks.enqueue"}
        rounds(found, *LONG_ENOUGH)
        assert [parameters["task"] for endpoint, parameters in found.api.done if endpoint == "tasks.stopped"] == [
            "t",
            "u",
        ]

    def test_tasks_of_a_host_that_has_left_are_mended_too(self, look):
        rounds(look(), *LONG_ENOUGH)  # knows agent-1:gpu, and keeps it in mind
        found = look([a_task(SILENT_LONG)], all_workers=["agent-2:gpu"])
        rounds(found, *LONG_ENOUGH)
        assert "tasks.enqueue" in found.api.asked

    def test_elsewhere_tasks_are_left_alone(self, look):
        found = look([a_task(SILENT_LONG)], looks_after_tasks=False)
        rounds(found, *LONG_ENOUGH)
        assert found.api.done == []
        assert found.manager.restarted == [SERVICE]


def test_times_of_the_server_are_read_in_each_of_its_forms(watchdog):
    for text in (
        "2027-01-15T08:00:00+00:00",
        "2027-01-15T08:00:00Z",
        "2027-01-15T08:00:00",
        "2027-01-15T08:00:00.000000",
    ):
        assert watchdog.moment(text) == 1_800_000_000
    assert watchdog.moment(None) == 0


def test_its_settings_have_its_key_and_this_hosts_workers():
    from ansible.plugins.filter import core, mathstuff

    environment = jinja2.Environment(autoescape=False)  # noqa: S701 (JSON)
    environment.filters |= core.FilterModule().filters() | mathstuff.FilterModule().filters()
    text = environment.from_string((ROLE / "templates/watchdog.json.j2").read_text()).render(
        inventory_hostname="agent-1",
        clearml_conf_api_url="http://server:8008",
        clearml_watchdog_keys={"watchdog/agent-1": {"access_key": "A", "secret_key": 'S"'}},
        clearml_watchdog_workers=["default", "gpu"],
        clearml_watchdog_all_workers=[],
        clearml_watchdog_queues=[],
        clearml_watchdog_lost_tasks="requeue",
        clearml_watchdog_interval_seconds=30,
        clearml_watchdog_silent_seconds=180,
        clearml_watchdog_longest_pause_seconds=3600,
        clearml_watchdog_dir="/opt/testbed/watchdog",
    )
    found = json.loads(text)
    assert (found["access_key"], found["secret_key"]) == ("A", 'S"')
    assert found["workers"] == {"agent-1:default": "testbed-agent-default", "agent-1:gpu": "testbed-agent-gpu"}
    assert found["looks_after_tasks"] is False
