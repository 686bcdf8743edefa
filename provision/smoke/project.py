"""The project that a run of the checks has for itself on the server, and its removal with all that is in it."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping
from typing import Any

import httpx

from provision.clearml_api import ClearmlApi
from provision.errors import ApiError

PARENT = "smoke"
KEPT = "kept"
OURS = re.compile(rf"{PARENT}/(\d{{8}}T\d{{6}})-[0-9a-f]{{6}}")
# a run that is younger may still be at work, from another machine
LEFT_AFTER = datetime.timedelta(hours=6)
RUNNING = ("queued", "in_progress")
GONE = (400, 404)


def create(api: ClearmlApi, *, keep: bool) -> str:
    """Make a project whose name nobody else has, and return the name. Raises `ApiError`."""
    name = f"{PARENT}/{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{os.urandom(3).hex()}"
    api.call(
        "projects.create",
        name=name,
        description="Made by `testbed smoke`, which removes it at its end.",
        tags=[KEPT] if keep else [],
    )
    return name


def is_left(name: str, tags: list[str], now: datetime.datetime) -> bool:
    """Return whether a project is what a run that was killed left; `now` is in UTC. Pure."""
    found = OURS.fullmatch(name)
    if found is None or KEPT in tags:
        return False
    made = datetime.datetime.strptime(found.group(1), "%Y%m%dT%H%M%S").replace(tzinfo=datetime.UTC)
    return now - made > LEFT_AFTER


def remove_left(api: ClearmlApi, http: httpx.Client, files_url: str) -> None:
    """Remove what runs left that were killed. Raises `ApiError`."""
    now = datetime.datetime.now(datetime.UTC)
    for each in _projects(api, f"^{PARENT}/[0-9T]+-[0-9a-f]+$"):
        if is_left(each["name"], each.get("tags") or [], now):
            remove(api, http, files_url, each["name"])


def remove(api: ClearmlApi, http: httpx.Client, files_url: str, name: str) -> None:
    """Stop the tasks of a project, delete it with tasks, models and datasets, and their files. Raises `ApiError`."""
    found = _projects(api, f"^{re.escape(name)}$")
    for each in found:
        running = api.call(
            "tasks.get_all",
            project=[each["id"]],
            include_subprojects=True,
            search_hidden=True,
            status=list(RUNNING),
            only_fields=["id", "status"],
        )
        for task in running["tasks"]:
            _stop(api, task)
        deleted = api.call("projects.delete", project=each["id"], force=True, delete_contents=True)
        _delete_files(api, http, files_url, deleted.get("urls") or {})
    for parent in _projects(api, f"^{PARENT}$"):
        if not _projects(api, f"^{PARENT}/"):
            try:
                api.call("projects.delete", project=parent["id"])
            except ApiError as error:
                if error.code not in GONE:  # somebody has put something into it
                    raise


def _projects(api: ClearmlApi, pattern: str) -> list[dict[str, Any]]:
    found = api.call("projects.get_all", name=pattern, search_hidden=True, only_fields=["id", "name", "tags"])
    return list(found["projects"])


def _stop(api: ClearmlApi, task: Mapping[str, Any]) -> None:
    try:
        if task["status"] == "queued":
            api.call("tasks.dequeue", task=task["id"])
        else:
            api.call("tasks.stop", task=task["id"], force=True, status_reason="the smoke test has ended")
    except ApiError as error:
        if error.code not in GONE:  # it has ended meanwhile
            raise


def _delete_files(api: ClearmlApi, http: httpx.Client, files_url: str, urls: Mapping[str, list[str]]) -> None:
    token = {"Authorization": f"Bearer {api.login()}"}
    for url in dict.fromkeys(url for found in urls.values() for url in found):
        if url.startswith(f"{files_url}/"):
            http.delete(url, headers=token)
