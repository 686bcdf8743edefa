"""The model that a run of the checks has trained, and what its training host answered, through the API."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import httpx

from provision.clearml_api import ClearmlApi

ANSWERS = "answers"  # the artifact of the task that registered the model
COPIED = ("name", "project", "uri", "labels", "design", "framework", "task")


@dataclass(frozen=True)
class Trained:
    """A registered model: its ID, rows as a consumer asks, and what the host that trained it answered."""

    model: str
    rows: list[dict[str, float]]
    predictions: list[dict[str, Any]]


def trained(api: ClearmlApi, http: httpx.Client, project: str) -> Trained | None:
    """Return what the newest completed `evaluate` of a project left; None where there is none. Raises `ApiError`."""
    projects = api.call("projects.get_all", name=f"^{re.escape(project)}$", search_hidden=True, only_fields=["id"])
    tasks = api.call(
        "tasks.get_all",
        project=[each["id"] for each in projects["projects"]] or ["none"],
        name="^evaluate$",
        status=["completed"],
        order_by=["-created"],
        only_fields=["id", "execution.artifacts", "models.output"],
    )["tasks"]
    if not tasks:
        return None
    artifacts = {entry["key"]: entry["uri"] for entry in tasks[0]["execution"]["artifacts"]}
    answer = http.get(artifacts[ANSWERS], headers={"Authorization": f"Bearer {api.login()}"})
    answer.raise_for_status()
    return Trained(tasks[0]["models"]["output"][-1]["model"], **answer.json())


def published_copy(api: ClearmlApi, model: str) -> str:
    """Publish another model with the same file; return its ID. Raises `ApiError`."""
    found = api.call("models.get_by_id", model=model)["model"]
    kept = {name: found[name] for name in COPIED if found.get(name)}
    kept |= {name: kept[name]["id"] for name in ("project", "task") if isinstance(kept.get(name), dict)}
    return str(api.call("models.create", **kept, ready=True)["id"])
