"""The project of a run goes with all that is in it, and with nothing else."""

from __future__ import annotations

import datetime

import httpx
import pytest

from provision.clearml_api import ClearmlApi
from provision.credentials.conf import parse_key
from provision.smoke import project


@pytest.fixture
def api(ground):
    with ClearmlApi(ground.server.urls["api"], parse_key(ground.good.read_text())) as api:
        yield api


@pytest.fixture
def http():
    with httpx.Client() as client:
        yield client


def _names(api) -> list[str]:
    return sorted(each["name"] for each in api.call("projects.get_all", name="^smoke", search_hidden=True)["projects"])


def _fill(ground, api, name: str) -> tuple[list[str], list[str]]:
    """Put a task that runs, one that waits, a dataset and a file into a project; return tasks and URLs."""
    files, token = ground.server.urls["files"], {"Authorization": f"Bearer {api.login()}"}
    url = f"{files}/{name}/model.keras"
    assert httpx.post(files, files={f"{name}/model.keras": b"bytes"}, headers=token).status_code == 200
    project = api.call("projects.get_all", name=f"^{name}$")["projects"][0]["id"]
    below = api.call("projects.create", name=f"{name}/.datasets/data", description="", system_tags=["hidden"])["id"]
    queue = api.call("queues.create", name=f"queue of {name}")["id"]
    running, waiting = (
        api.call("tasks.create", name=kind, type="training", project=project)["id"] for kind in ("runs", "waits")
    )
    dataset = api.call("tasks.create", name="data", type="data_processing", project=below)["id"]
    api.call("tasks.add_or_update_artifacts", task=running, artifacts=[{"key": "model", "type": "custom", "uri": url}])
    api.call("tasks.started", task=running)
    api.call("tasks.enqueue", task=waiting, queue=queue)
    return [running, waiting, dataset], [url]


def test_a_run_leaves_nothing_and_touches_nothing_else(ground, api, http):
    files = ground.server.urls["files"]
    other = api.call("tasks.create", name="a user's", type="training")["id"]
    name = project.create(api, keep=False)
    tasks, urls = _fill(ground, api, name)
    project.remove(api, http, files, name)
    assert _names(api) == []
    assert api.call("tasks.get_all", id=tasks)["tasks"] == []
    token = {"Authorization": f"Bearer {api.login()}"}
    assert [http.get(url, headers=token).status_code for url in urls] == [404]
    assert [task["id"] for task in api.call("tasks.get_all", id=[other])["tasks"]] == [other]
    assert all(not queue["entries"] for queue in api.call("queues.get_all")["queues"])


def test_what_a_killed_run_left_goes_and_what_is_young_kept_or_a_users_own_stays(ground, api, http):
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=7)
    left, kept = (f"smoke/{then:%Y%m%dT%H%M%S}-{end}" for end in ("aaaaaa", "bbbbbb"))
    api.call("projects.create", name=left, description="")
    api.call("projects.create", name=kept, description="", tags=["kept"])
    api.call("projects.create", name="smoke/a user's", description="")
    young = project.create(api, keep=False)
    _fill(ground, api, left)
    project.remove_left(api, http, ground.server.urls["files"])
    assert _names(api) == sorted(["smoke", kept, "smoke/a user's", young])
    for name in (kept, "smoke/a user's", young):
        project.remove(api, http, ground.server.urls["files"], name)
    assert _names(api) == []
