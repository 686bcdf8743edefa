"""What people do with the SDK day by day: tasks, reports, models, datasets, pipelines."""

import json
from typing import Any

import httpx
import pytest

from clearml_lite import api  # which registers the endpoints
from tests.integration.lite.conftest import seen_by
from tests.integration.lite.test_client_agents import OBJECTIVE

pytestmark = pytest.mark.long


def test_a_task_is_made_changed_cloned_run_published_and_deleted(lite: Any) -> None:
    seen = seen_by(lite, "task_life.py")
    assert seen["artifacts"] == {
        "array": [0, 1, 2, 3],
        "frame": [1, 2],
        "file": "kept",
        "folder": ["leaf.txt"],
        "text": "some text",
        "extra": {"x": 1},
        "metadata": {"made": "by hand"},
    }
    assert seen["task"] == {
        "type": "testing",
        "parameters": {"Own/rate": "0.5", "Own/deep/er": "[1, 2]", "Own/gone": "soon"},
        "cast": {"deep": {"er": [1, 2]}, "gone": "soon", "rate": 0.5},
        "network": {"layers": [3, 4]},
        "plain": "kept",
        "labels": {"cat": 1, "dog": 2},
        "properties": {"owner": "me", "cell": "7"},
        "progress": 100,
        "comment": "words",
        "numpy": ["numpy >=1.0"],
        "script": "script.py",
    }
    assert seen["copy"] == {
        "name": "renamed",
        "comment": "other words",
        "project": "life/two",
        "type": "inference",
        "status": "created",
        "tags": ["y"],
        "docker": "ubuntu:24.04 --ipc=host",
        "parameters": {"Own/rate": "0.25", "Own/deep/er": "[1, 2]", "Own/new": "here", "Own/late": "3"},
        "network": {"layers": [9]},
        "requirements": "six==1.16.0",
        "script": {"repository": "https://example.org/r.git", "branch": "main", "entry_point": "run.py"},
        "properties": {"cell": "7"},
        "artifacts": [],
        "parent": True,
    }
    assert seen["imported"] == [True, "0.5", "created"]
    assert seen["states"] == [
        ["in_progress", ""],
        ["in_progress", "stopping"],
        ["stopped", "enough"],
        ["failed", "in the middle"],
        ["created", "reset"],
        ["completed", ""],
        ["published", ""],
    ]
    assert seen["archived"] == [True, False]
    assert (seen["queued"], seen["dequeued"]) == (["queued", 1, "default"], ["created", 0])
    assert (seen["deleted"], seen["left"]) == ([True, True], [])
    token = lite.token()
    answers = [httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code for url in seen["files"]]
    assert answers == [404] * 6


def test_reports_of_all_kinds_are_read_back(lite: Any) -> None:
    assert seen_by(lite, "reports.py") == {
        "last": {"last": 29.0, "min": 0.0, "max": 29.0},
        "scalars": {"name": "test", "x": list(range(0, 30, 3)), "y": [-float(step) for step in range(1, 30, 3)]},
        "all": [True, True],
        "by time": True,
        "single": [{"accuracy": 0.5}, 0.5],
        "plots": ["confusion", "histogram", "lines", "scatter", "space", "steps", "surface", "table"],
        "steps": [1, 2, 3],
        "latest step": [3],
        "drawn": True,
        "images": [3, 2, 1, 0],
        "latest image": [3],
        "media": ["txt"],
        "console": [True, True],
        "last iteration": 29,
    }


def test_all_that_the_api_client_reads_is_as_it_expects(lite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # refused by the SDK itself, which does not allow its own field `method` here; no JSON
    beyond_it = {"auth.get_credentials", "events.download_task_log"}
    reading = [one for one in api.ENDPOINTS.values() if not one.writes and not one.roles and one.name not in beyond_it]
    required = {one.name: one.validator.schema.get("required", []) for one in sorted(reading, key=lambda one: one.name)}
    monkeypatch.setenv("READING", json.dumps(required))
    seen = seen_by(lite, "api_client.py")
    assert not seen["failed"], json.dumps(seen["failed"], indent=1)
    assert sorted(seen["seen"] + seen["unknown"]) == sorted(required)
    # its services; of these the SDK has no class for the endpoints of the web app
    services = ("auth.", "events.", "models.", "projects.", "queues.", "tasks.", "workers.")
    assert [name for name in seen["unknown"] if name.startswith(services)] == [
        "auth.fixed_users_mode",
        "models.get_all_ex",
        "projects.get_all_ex",
        "queues.get_all_ex",
        "tasks.get_all_ex",
    ]


def test_models_are_described_published_archived_and_removed(lite: Any) -> None:
    assert seen_by(lite, "models.py") == {
        "model": {
            "name": "detector",
            "framework": "PyTorch",
            "labels": {"cat": 1},
            "tags": ["good"],
            "comment": "the first one",
            "design": {"layers": 3},
            "metadata": {"cells": 3, "site": "north"},
            "weights": "one",
            "task": True,
        },
        "package": ["part.txt"],
        "of the task": {"input": ["imported"], "output": ["detector", "detector", "package"]},
        "found": {"tags": ["detector"], "name": ["detector", "detector"], "metadata": ["detector"], "none": []},
        "published": [False, True],
        "only published": ["detector"],
        "task": "completed",
        "visible": ["detector", "imported", "package"],
        "all": ["detector", "detector", "imported", "package"],
        "again": ["detector", "detector", "imported", "package"],
        "removed": [True, True],
        "left": ["imported", "package"],
    }


def test_a_task_made_without_a_server_is_given_to_it_later(lite: Any) -> None:
    assert seen_by(lite, "offline.py") == {
        "name": "made alone",
        "project": "offline",
        "status": "completed",
        "parameters": "0.5",
        "scalars": [0.0, 1.0, 2.0, 3.0, 4.0],
        "plots": ["confusion"],
        "artifact": {"a": 1},
    }


def test_a_pipeline_of_decorated_functions_runs_here(lite: Any) -> None:
    assert seen_by(lite, "pipeline_decorated.py") == {
        "result": 10,
        "status": "completed",
        "steps": [["load", "completed"], ["total", "completed"]],
    }


def test_a_pipeline_of_steps_runs_here(lite: Any) -> None:
    assert seen_by(lite, "pipeline_local.py") == {
        "status": "completed",
        "type": "controller",
        "tagged": True,
        "project": "pipes/.pipelines/added up",
        "parameters": {"size": "4"},
        "steps": {"load": "completed", "total": "completed"},
        "children": True,
        "result": "12",
        "metric": [12.0],
        "found": True,
    }


def test_a_search_of_hyper_parameters_runs_here(lite: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (lite.folder / "objective.py").write_text(OBJECTIVE)
    monkeypatch.setenv("LOCALLY", "1")
    assert seen_by(lite, "optimizer.py") == {
        "best": ["2", 0.0],
        "tried": ["1", "2", "3"],
        "children": 3,
        "archived": 1,
        "tags": ["optimization"],
    }


def test_versions_of_a_dataset(lite: Any) -> None:
    assert seen_by(lite, "datasets.py") == {
        "sync": [1, 1, 0],
        "latest": [True, "1.0.2", True, 2],
        "graph": [True, 2],
        "changes": {"added": ["d.csv"], "removed": ["c.csv"], "modified": [], "files": ["b.csv", "d.csv"]},
        "copy": {"b.csv": "changed\n", "d.csv": "4\n"},
        "verified": [],
        "spoilt": ["d.csv"],
        "old": [True, {"a.csv": "1\n", "b.csv": "2\n"}, ["raw"], [1, 2]],
        "tagged": True,
        # what was removed in a version is back: the SDK joins the files of all
        "squashed": {"a.csv": "1\n", "b.csv": "changed\n", "c.csv": "3\n", "d.csv": "4\n"},
        "links": ["outside.txt"],
        "writable": True,
        "published": "published",
        "moved": ["links"],
        "renamed": "renamed",
        "listed": [["kpi", "1.0.0"], ["kpi", "1.0.1"], ["kpi", "1.0.2"], ["squashed", "1.0.0"]],
        "kept": True,
        "left": ["kpi", "links"],  # what is published stays
    }


def test_schedulers_run_tasks_at_their_time_and_when_something_happens(lite: Any) -> None:
    assert seen_by(lite, "schedulers.py") == {
        "scheduled": ["nightly", "schedules/runs", "0.5", "queued"],
        "schedule": [["every night", 3, 30]],
        "triggered": {"after a task": [True], "after a model": [True], "after a dataset": [True]},
        "called": True,
    }
