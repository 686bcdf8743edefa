"""What is on each page: which endpoints are asked, and what a template gets. Nothing here knows HTTP or HTML."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clearml_lite.api import Ask
from clearml_lite.auth import Identity
from clearml_lite.config import Config
from clearml_lite.query import new_scroll_id
from clearml_lite.storage import Document
from clearml_lite.web import view

PAGE_SIZE = 50
LINES = 500
PLOTS = 100
IMAGES = 200
STATUSES = ("created", "queued", "in_progress", "completed", "published", "stopped", "failed")
NOT_THERE = (101, 201, 401, 701)
_EVERYTHING = "*"


@dataclass(frozen=True)
class Page:
    """What a page is made from.

    Attributes:
        ask: the API for whoever is logged in; see `ApiServer.asking`.
        ids: what the path names.
        form: names and values of a form that was sent, in its order.
    """

    ask: Ask
    identity: Identity
    config: Config
    path: str
    ids: Mapping[str, str]
    query: Mapping[str, str]
    form: Sequence[tuple[str, str]]
    form_token: str

    def number(self, name: str) -> int:
        """A page's number in the query; 0 when there is none."""
        text = self.query.get(name, "")
        return int(text) if re.fullmatch(r"\d{1,9}", text) else 0

    def sent(self, name: str) -> str:
        """A field of the form."""
        return next((value for key, value in self.form if key == name), "")


@dataclass(frozen=True)
class Shown:
    """A template and its values."""

    template: str
    values: dict[str, Any] = field(default_factory=dict)
    charts: bool = False


@dataclass(frozen=True)
class Elsewhere:
    """Where the browser goes on."""

    path: str


@dataclass(frozen=True)
class Data:
    """JSON for a chart."""

    content: Any

    def json(self) -> str:
        """The JSON; what is no number there is nothing."""
        return json.dumps(view.without_nan(self.content), separators=(",", ":"), allow_nan=False)


def projects(page: Page) -> Shown:
    """Projects, the one that changed last first."""
    shown = _listed(
        page,
        "projects",
        _any_of=("name", "id"),
        search_hidden=_hidden(page),
        only_fields=["id", "name", "description", "tags", "system_tags", "last_update", "created"],
    )
    return Shown("projects.html", shown)


def tasks(page: Page) -> Shown:
    """Tasks of a project (or of all), by status and name."""
    project = page.ids["project"]
    status = page.query.get("status", "")
    filters: dict[str, Any] = {"status": [status]} if status in STATUSES else {}
    if project != _EVERYTHING:
        filters |= {"project": [project]}
    archived = page.query.get("archived") == "1"
    shown = _listed(
        page,
        "tasks",
        _any_of=("name", "id"),
        system_tags=["archived"] if archived else ["-archived"],
        search_hidden=True if project != _EVERYTHING else _hidden(page),
        only_fields=[
            "id", "name", "type", "status", "user", "project", "tags", "last_update", "started", "completed",
            "created", "last_iteration", "active_duration",
        ],
        **filters,
    )  # fmt: skip
    people = _names(page, (task.get("user") for task in shown["found"]))
    return Shown("tasks.html", shown | {"project": _project(page, project), "people": people, "statuses": STATUSES})


def models(page: Page) -> Shown:
    """Models of a project (or of all)."""
    project = page.ids["project"]
    filters = {} if project == _EVERYTHING else {"project": [project]}
    archived = page.query.get("archived") == "1"
    shown = _listed(
        page,
        "models",
        _any_of=("name", "id"),
        system_tags=["archived"] if archived else ["-archived"],
        only_fields=["id", "name", "framework", "ready", "task", "tags", "created", "last_update", "uri"],
        **filters,
    )
    return Shown("models.html", shown | {"project": _project(page, project)})


def task(page: Page) -> Shown:
    """A task: status, parameters, latest values, artifacts, models."""
    found = _task(page)
    ids = [entry["model"] for kind in ("input", "output") for entry in found["models"][kind]]
    known = page.ask("models.get_all", id=ids, only_fields=["id", "name", "uri", "framework", "ready"]) if ids else {}
    return Shown(
        "task.html",
        _task_frame(page, found)
        | {
            "parameters": view.parameters(found),
            "latest": view.latest_values(found),
            "artifacts": [_with_link(page, artifact, "uri") for artifact in found["execution"].get("artifacts") or []],
            "models": {model["id"]: _with_link(page, model, "uri") for model in known.get("models", [])},
            "people": _names(page, [found.get("user")]),
            "parent": _named(page, "tasks.get_all", "tasks", found.get("parent")),
            "queue": _named(page, "queues.get_all", "queues", found["execution"].get("queue")),
        },
    )


def scalars(page: Page) -> Shown:
    """A task's scalars: a chart for each metric, and the values without iteration."""
    found = _task(page)
    single = page.ask("events.get_task_single_value_metrics", tasks=[found["id"]])["tasks"]
    values = single[0]["values"] if single else []
    by_time = page.query.get("key") == "iso_time"
    return Shown("scalars.html", _task_frame(page, found) | {"values": values, "by_time": by_time}, charts=True)


def scalars_data(page: Page) -> Data:
    """Figures of a task's scalars."""
    key = "iso_time" if page.query.get("key") == "iso_time" else "iter"
    metrics = page.ask("events.scalar_metrics_iter_histogram", task=page.ids["task"], key=key, samples=1000)
    return Data({"figures": view.scalar_figures(metrics, key)})


def plots(page: Page) -> Shown:
    """A task's plots."""
    return Shown("plots.html", _task_frame(page, _task(page)), charts=True)


def plots_data(page: Page) -> Data:
    """Figures of a task's plots: the last of each metric and variant."""
    events = page.ask("events.get_task_plots", task=page.ids["task"], no_scroll=True, most=PLOTS + 1)["plots"]
    return Data(
        {"figures": view.plot_figures(events[:PLOTS], lambda url: _link(page, url)), "more": len(events) > PLOTS}
    )


def console(page: Page) -> Shown:
    """A task's console, the last lines first to be seen; in pages backwards."""
    found, number = _task(page), page.number("page")
    answer = page.ask(
        "events.get_task_events",
        task=found["id"],
        event_type="log",
        order="desc",
        batch_size=LINES,
        scroll_id=new_scroll_id(number * LINES),
    )
    lines = [view.console_line(event) for event in reversed(answer["events"])]
    more = (number + 1) * LINES < answer["total"]
    return Shown(
        "console.html",
        _task_frame(page, found) | {"lines": lines, "total": answer["total"], "number": number, "more": more},
    )


def images(page: Page) -> Shown:
    """A task's debug images, those of the last iterations."""
    found = _task(page)
    answer = page.ask(
        "events.get_task_events", task=found["id"], event_type="training_debug_image", order="desc", batch_size=IMAGES
    )
    events = [_with_link(page, event, "url") for event in answer["events"]]
    return Shown("images.html", _task_frame(page, found) | {"images": events, "total": answer["total"]})


def model(page: Page) -> Shown:
    """A model."""
    found = page.ask("models.get_by_id", model=page.ids["model"])["model"]
    return Shown(
        "model.html",
        {
            "model": _with_link(page, found, "uri"),
            "project": _project(page, found.get("project") or ""),
            "task": _named(page, "tasks.get_all", "tasks", found.get("task")),
            "people": _names(page, [found.get("user")]),
        },
    )


def clone_form(page: Page) -> Shown:
    """The form for a copy of a task with other parameters."""
    found = _task(page)
    return Shown(
        "clone.html", _task_frame(page, found) | {"parameters": view.parameters(found), "queues": _queues(page)}
    )


def clone(page: Page) -> Elsewhere:
    """Copies a task with the parameters that were sent, and puts it into the queue that was chosen."""
    source = page.ask("tasks.get_by_id", task=page.ids["task"])["task"]
    changed = view.sent_parameters(source["hyperparams"], page.form)
    new = page.ask(
        "tasks.clone",
        task=source["id"],
        new_task_name=page.sent("name").strip() or None,
        new_task_comment=page.sent("comment").strip() or None,
        new_task_hyperparams=changed,
    )["id"]
    if queue := page.sent("queue"):
        page.ask("tasks.enqueue", task=new, queue=queue)
    return Elsewhere(f"/tasks/{new}")


def enqueue(page: Page) -> Elsewhere:
    """Puts a task into a queue."""
    page.ask("tasks.enqueue", task=page.ids["task"], queue=page.sent("queue") or None)
    return Elsewhere(f"/tasks/{page.ids['task']}")


def dequeue(page: Page) -> Elsewhere:
    """Takes a task out of its queue."""
    page.ask("tasks.dequeue", task=page.ids["task"])
    return Elsewhere(f"/tasks/{page.ids['task']}")


def stop(page: Page) -> Elsewhere:
    """Aborts a task."""
    page.ask("tasks.stop", task=page.ids["task"])
    return Elsewhere(f"/tasks/{page.ids['task']}")


def queues(page: Page) -> Shown:
    """Queues with the tasks that wait, and workers with what they do."""
    found = _queues(page)
    waiting = [entry["task"] for queue in found for entry in queue["entries"]]
    workers = sorted(page.ask("workers.get_all", last_seen=0)["workers"], key=lambda worker: str(worker["id"]))
    listens: dict[str, list[str]] = {}
    for worker in workers:
        for queue in worker["queues"]:
            listens.setdefault(queue["id"], []).append(worker["id"])
    names = {}
    if waiting:
        fields = ["id", "name", "project"]
        names = {task["id"]: task for task in page.ask("tasks.get_all", id=waiting, only_fields=fields)["tasks"]}
    return Shown("queues.html", {"queues": found, "workers": workers, "listens": listens, "names": names})


def credentials(page: Page) -> Shown:
    """One's own credentials."""
    return Shown("credentials.html", {"keys": page.ask("auth.get_credentials")["credentials"], "new": None})


def create_credentials(page: Page) -> Shown:
    """Makes a key pair; its secret is on this page and nowhere else."""
    new = page.ask("auth.create_credentials", label=page.sent("label").strip()[:200] or None)["credentials"]
    return Shown("credentials.html", {"keys": page.ask("auth.get_credentials")["credentials"], "new": new})


def revoke_credentials(page: Page) -> Elsewhere:
    """Ends a key of one's own, and every login that was made with it."""
    page.ask("auth.revoke_credentials", access_key=page.sent("access_key"))
    return Elsewhere("/credentials")


SHOWN: dict[str, Callable[[Page], Shown | Data]] = {
    "/projects": projects,
    "/projects/{project}": tasks,
    "/projects/{project}/models": models,
    "/tasks/{task}": task,
    "/tasks/{task}/scalars": scalars,
    "/tasks/{task}/scalars.json": scalars_data,
    "/tasks/{task}/plots": plots,
    "/tasks/{task}/plots.json": plots_data,
    "/tasks/{task}/console": console,
    "/tasks/{task}/images": images,
    "/tasks/{task}/clone": clone_form,
    "/models/{model}": model,
    "/queues": queues,
    "/credentials": credentials,
}
DONE: dict[str, Callable[[Page], Shown | Elsewhere]] = {
    "/tasks/{task}/clone": clone,
    "/tasks/{task}/enqueue": enqueue,
    "/tasks/{task}/dequeue": dequeue,
    "/tasks/{task}/stop": stop,
    "/credentials/create": create_credentials,
    "/credentials/revoke": revoke_credentials,
}


def _task_moved(ids: Mapping[str, str]) -> str:
    return f"/tasks/{ids['task']}{view.task_tab(ids.get('rest', ''))}"


# Where the clients' links to the official web app lead to here.
MOVED: dict[str, Callable[[Mapping[str, str]], str]] = {
    "/projects/{project}/tasks": lambda ids: f"/projects/{ids['project']}",
    "/projects/{project}/experiments": lambda ids: f"/projects/{ids['project']}",
    "/projects/{project}/tasks/{task}": _task_moved,
    "/projects/{project}/tasks/{task}/{rest:path}": _task_moved,
    "/projects/{project}/experiments/{task}": _task_moved,
    "/projects/{project}/experiments/{task}/{rest:path}": _task_moved,
    "/pipelines/{project}/experiments/{task}": _task_moved,
    "/pipelines/{project}/tasks/{task}": _task_moved,
    "/datasets/simple/{project}/experiments/{task}": _task_moved,
    "/datasets/simple/{project}/tasks/{task}": _task_moved,
    "/projects/{project}/models/{model}": lambda ids: f"/models/{ids['model']}",
    "/projects/{project}/models/{model}/{rest:path}": lambda ids: f"/models/{ids['model']}",
    "/datasets": lambda ids: "/projects?hidden=1&q=.datasets",
    "/datasets/{rest:path}": lambda ids: "/projects?hidden=1&q=.datasets",
    "/pipelines": lambda ids: "/projects?hidden=1&q=.pipelines",
    "/dashboard": lambda ids: "/projects",
    "/workers-and-queues": lambda ids: "/queues",
    "/workers-and-queues/{rest:path}": lambda ids: "/queues",
    "/settings/{rest:path}": lambda ids: "/credentials",
    "/profile": lambda ids: "/credentials",
}


def _listed(page: Page, collection: str, _any_of: Sequence[str], **filters: Any) -> dict[str, Any]:
    """One page of a list, what was searched for in it, and whether there is more."""
    number, text = page.number("page"), page.query.get("q", "").strip()
    if text:
        filters["_any_"] = {"fields": list(_any_of), "pattern": f"(?i){re.escape(text)}"}
    filters["order_by"] = ["-last_update"]

    def ask(number: int, size: int) -> list[Document]:
        found: list[Document] = page.ask(f"{collection}.get_all", page=number, page_size=size, **filters)[collection]
        return found

    found = ask(number, PAGE_SIZE)
    more = len(found) == PAGE_SIZE and bool(ask((number + 1) * PAGE_SIZE, 1))
    return {"found": found, "text": text, "number": number, "more": more}


def _hidden(page: Page) -> bool | None:
    return True if page.query.get("hidden") == "1" else None


def _task(page: Page) -> Document:
    found: Document = page.ask("tasks.get_by_id", task=page.ids["task"])["task"]
    return found


def _task_frame(page: Page, task: Document) -> dict[str, Any]:
    """What every page of a task shows."""
    return {"task": task, "project": _project(page, task.get("project") or ""), "queues": _queues(page)}


def _project(page: Page, identifier: str) -> Document:
    if identifier == _EVERYTHING:
        return {"id": _EVERYTHING, "name": "All projects"}
    if not identifier:
        return {"id": _EVERYTHING, "name": "No project"}
    found: Document = page.ask("projects.get_by_id", project=identifier)["project"]
    return found


def _queues(page: Page) -> list[Document]:
    found: list[Document] = page.ask("queues.get_all", order_by=["name"])["queues"]
    return found


def _named(page: Page, endpoint: str, collection: str, identifier: str | None) -> Document | None:
    if not identifier:
        return None
    found = page.ask(endpoint, id=[identifier], only_fields=["id", "name"])[collection]
    return found[0] if found else {"id": identifier, "name": identifier}


def _names(page: Page, users: Iterable[str | None]) -> dict[str, str]:
    ids = sorted({user for user in users if user})
    found = page.ask("users.get_all", id=ids, only_fields=["id", "name"])["users"] if ids else []
    return {user["id"]: user["name"] for user in found}


def _with_link(page: Page, document: Document, name: str) -> Document:
    return document | {"link": _link(page, document.get(name) or "")}


def _link(page: Page, url: str) -> str:
    return view.link(url, page.config.urls.files)
