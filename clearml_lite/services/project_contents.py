"""projects.*: what is in projects: lists with statistics, tags, parameters, metrics; move, merge and delete."""

from datetime import UTC, datetime, timedelta
from typing import TypeVar

from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import ApiError
from clearml_lite.query import Query, iso
from clearml_lite.schema import request_schema
from clearml_lite.services.entities import (
    ARCHIVED,
    expanded,
    filters,
    named,
    require,
    set_public,
    tags_of,
    tree,
    within,
)
from clearml_lite.services.entities import get_all as get_all_entities
from clearml_lite.services.event_batch import hashed
from clearml_lite.services.models import delete_model
from clearml_lite.services.projects import checked_path, moved, relocate, touch
from clearml_lite.services.task_status import BEFORE, delete_task, file_urls
from clearml_lite.storage import Document

STATES = ("active", "archived")
T = TypeVar("T")


@endpoint("projects.get_all")
def get_all(call: Call) -> Document:
    """Projects; `shallow_search` looks at the top of the tree only, or right below `parent`."""
    return get_all_entities(call, "projects", _filters(call), lambda project: _complete(call, project))


@endpoint("projects.get_all_ex", schema=request_schema("projects.get_all"))
def get_all_ex(call: Call) -> Document:
    """As get_all, with user and parent written out as ID and name."""
    return get_all_entities(call, "projects", _filters(call), lambda project: expanded(call, _complete(call, project)))


@endpoint("projects.move", writes=True)
def move(call: Call) -> Document:
    """Moves a project with all below it to another place, which is made if need be; none is the root."""
    project = require(call, "projects", call.data["project"])
    location = (call.data.get("new_location") or "").strip("/")
    name = f"{checked_path(location)}/{project['basename']}" if location else project["basename"]
    if name == project["name"]:
        return {"moved": 0}
    return {"moved": relocate(call, project, name)}


@endpoint("projects.merge", writes=True)
def merge(call: Call) -> Document:
    """Moves a project's tasks, models and sub-projects to another one (none: to the root), and removes it."""
    source = require(call, "projects", call.data["project"])
    target = call.data.get("destination_project")
    name = require(call, "projects", target)["name"] if target else ""
    if target in tree(call.transaction, [source["id"]]):
        raise ApiError(400, 12, "A project cannot be merged into itself or what is below it", id=source["id"])
    entities = 0
    for collection in ("tasks", "models"):
        for document in call.transaction.all(collection, project=source["id"]):
            call.transaction.put(collection, moved(document, target))
            entities += 1
    projects = 0
    for child in call.transaction.all("projects", parent=source["id"]):
        projects += relocate(call, child, f"{name}/{child['basename']}".lstrip("/"))
    call.transaction.delete("projects", [source["id"]])
    touch(call, target)
    return {"moved_entities": entities, "moved_projects": projects}


@endpoint("projects.validate_delete")
def validate_delete(call: Call) -> Document:
    """What is in a project and all below it."""
    projects = tree(call.transaction, [require(call, "projects", call.data["project"])["id"]])
    return {
        f"{prefix}{collection}": _inside(projects, archived).count(call.transaction, collection)
        for prefix, archived in (("", None), ("non_archived_", False))
        for collection in ("tasks", "models")
    }


@endpoint("projects.delete", writes=True)
def delete(call: Call) -> Document:
    """Removes a project with all below it; what is in it is unassigned by `force`, deleted by `delete_contents`."""
    project = require(call, "projects", call.data["project"])
    projects = tree(call.transaction, [project["id"]])
    inside = {
        collection: _inside(projects, None).run(call.transaction, collection) for collection in ("tasks", "models")
    }
    used = [document for documents in inside.values() for document in documents if not _is_archived(document)]
    if used and not call.data.get("force"):
        raise ApiError(400, 12, "Project is not empty (use force=true to delete it)", id=project["id"], count=len(used))
    answer: Document = {"disassociated_tasks": 0, "deleted_tasks": 0, "deleted_models": 0}
    if call.data.get("delete_contents"):
        answer |= _delete_contents(call, inside)
    else:
        for collection, documents in inside.items():
            for document in documents:
                call.transaction.put(collection, moved(document, None))
        answer["disassociated_tasks"] = len(inside["tasks"])
    call.transaction.delete("projects", projects)
    touch(call, project.get("parent"))
    return answer | {"deleted": len(projects)}


@endpoint("projects.make_public", writes=True)
def make_public(call: Call) -> Document:
    """Makes projects public."""
    return set_public(call, "projects", public=True)


@endpoint("projects.make_private", writes=True)
def make_private(call: Call) -> Document:
    """Makes projects the company's again."""
    return set_public(call, "projects", public=False)


@endpoint("projects.get_task_tags")
def get_task_tags(call: Call) -> Document:
    """The tags of tasks in projects and all below them."""
    return tags_of(call, ["tasks"], within(call))


@endpoint("projects.get_model_tags")
def get_model_tags(call: Call) -> Document:
    """The tags of models in projects and all below them."""
    return tags_of(call, ["models"], within(call))


@endpoint("projects.get_project_tags")
def get_project_tags(call: Call) -> Document:
    """The tags of projects and all below them."""
    query = Query()
    if projects := call.data.get("projects"):
        query.one_of("id", tree(call.transaction, projects))
    return tags_of(call, ["projects"], query)


@endpoint("projects.get_hyper_parameters")
def get_hyper_parameters(call: Call) -> Document:
    """Sections and names of the hyper-parameters of a project's tasks."""
    found = _of_project(call).names_below(call.transaction, "tasks", "hyperparams")
    shown, counts = _page(call, found)
    return {"parameters": [{"section": section, "name": name} for section, name in shown]} | counts


@endpoint("projects.get_hyperparam_values")
def get_hyperparam_values(call: Call) -> Document:
    """The values that a hyper-parameter has in the tasks of projects."""
    path = ("hyperparams", call.data["section"], call.data["name"], "value")
    values = [str(value) for value in _of_projects(call).values(call.transaction, "tasks", *path)]
    return {"values": values, "total": len(values)}


@endpoint("projects.get_model_metadata_keys")
def get_model_metadata_keys(call: Call) -> Document:
    """The metadata keys of a project's models."""
    shown, counts = _page(call, _of_project(call).names(call.transaction, "models", "metadata"))
    return {"keys": shown} | counts


@endpoint("projects.get_model_metadata_values")
def get_model_metadata_values(call: Call) -> Document:
    """The values that a metadata key has in the models of projects."""
    path = ("metadata", call.data["key"], "value")
    values = [str(value) for value in _of_projects(call).values(call.transaction, "models", *path)]
    return {"values": values, "total": len(values)}


@endpoint("projects.get_unique_metric_variants")
def get_unique_metric_variants(call: Call) -> Document:
    """The metrics and variants that a project's tasks have reported."""
    query = _of_project(call)
    rows = call.transaction.execute(
        f"""SELECT DISTINCT metric, variant FROM series WHERE task IN (SELECT id FROM tasks WHERE {query.condition})
            ORDER BY metric, variant""",  # noqa: S608
        query.params,
    )
    return {
        "metrics": [
            {"metric": metric, "metric_hash": hashed(metric), "variant": variant, "variant_hash": hashed(variant)}
            for metric, variant in rows
        ]
    }


@endpoint("projects.get_task_parents")
def get_task_parents(call: Call) -> Document:
    """The tasks that are parents of those in projects; `tasks_state`: of active ones, archived ones, or (null) all."""
    query = within(call, subprojects=call.data.get("include_subprojects", True))
    if "tasks_state" not in call.nulls:
        state = call.data.get("tasks_state") or "active"
        query.one_of("system_tags", [ARCHIVED if state == "archived" else f"-{ARCHIVED}"])
    found = (call.transaction.get("tasks", parent) for parent in query.values(call.transaction, "tasks", "parent"))
    parents = []
    for task in sorted(filter(None, found), key=lambda task: task["name"]):
        project = {"project": named(call, "projects", task["project"])} if task.get("project") else {}
        parents.append({"id": task["id"], "name": task["name"]} | project)
    return {"parents": parents}


def _filters(call: Call) -> Query:
    query = filters(call)
    parents = call.data.get("parent")
    parents = [parents] if isinstance(parents, str) else parents
    if isinstance(parents, list) and parents:
        wanted = [parent for parent in parents if isinstance(parent, str)]
        if call.data.get("shallow_search"):
            query.one_of("parent", wanted)
        else:
            query.one_of("id", [project for project in tree(call.transaction, wanted) if project not in wanted])
    elif call.data.get("shallow_search"):
        query.equal("parent", None)
    return query


def _complete(call: Call, project: Document) -> Document:
    """The project with what is counted when it is asked for."""
    own: Document = {}
    if call.data.get("check_own_contents"):
        own = {
            f"own_{name}": _inside([project["id"]], None).count(call.transaction, name) for name in ("tasks", "models")
        }
    if call.data.get("include_stats"):
        projects = tree(call.transaction, [project["id"]])
        below = [require(call, "projects", child) for child in projects[1:]]
        own["sub_projects"] = [{"id": child["id"], "name": child["name"]} for child in below]
        wanted = call.data.get("stats_for_state")
        own["stats"] = {
            state: _statistics(call, projects, state) for state in (STATES if wanted not in STATES else (wanted,))
        }
    return project | own


def _statistics(call: Call, projects: list[str], state: str) -> Document:
    query = _inside(projects, state == "archived")
    day_ago = iso(datetime.now(UTC) - timedelta(days=1))
    rows = call.transaction.execute(
        f"""SELECT json_extract(doc, '$.status') AS status, count(*),
                coalesce(sum(json_extract(doc, '$.active_duration')), 0), max(json_extract(doc, '$.started')),
                sum(json_extract(doc, '$.status') = 'completed' AND json_extract(doc, '$.completed') >= ?)
            FROM tasks WHERE {query.condition} GROUP BY status""",  # noqa: S608
        (day_ago, *query.params),
    ).fetchall()
    started = [row[3] for row in rows if row[3]]
    return {
        "status_count": dict.fromkeys(sorted(BEFORE), 0) | {row[0]: row[1] for row in rows},
        "total_tasks": sum(row[1] for row in rows),
        "total_runtime": sum(row[2] for row in rows),
        "completed_tasks_24h": sum(row[4] or 0 for row in rows),
        "last_task_run": int(datetime.fromisoformat(max(started)).timestamp()) if started else None,
    }


def _inside(projects: list[str], archived: bool | None) -> Query:
    """The condition to be in one of these projects, archived or not."""
    query = Query()
    query.one_of("project", projects)
    if archived is not None:
        query.one_of("system_tags", [ARCHIVED if archived else f"-{ARCHIVED}"])
    return query


def _of_project(call: Call) -> Query:
    return within(call, subprojects=call.data.get("include_subprojects", True))


def _of_projects(call: Call) -> Query:
    query = _of_project(call)
    if call.data.get("allow_public") is False:
        query.add("json_extract(doc, '$.company') != ''")
    return query


def _page(call: Call, found: list[T]) -> tuple[list[T], Document]:
    size = max(call.data.get("page_size", 500), 0)
    start = max(call.data.get("page", 0), 0) * size
    shown = found[start : start + size]
    return shown, {"total": len(found), "remaining": max(len(found) - start - len(shown), 0)}


def _is_archived(document: Document) -> bool:
    return ARCHIVED in document["system_tags"]


def _delete_contents(call: Call, inside: dict[str, list[Document]]) -> Document:
    """Deletes tasks and models, and tells where their files are."""
    urls: dict[str, set[str]] = {"artifact_urls": set(), "event_urls": set(), "model_urls": set()}
    for task in inside["tasks"]:
        for kind, found in file_urls(call, task).items():
            urls[kind] |= set(found)
    for model in inside["models"]:
        urls["model_urls"] |= {model["uri"]} - {""}
        delete_model(call, model, force=True)
    for task in inside["tasks"]:
        delete_task(call, task, force=True)
    return {
        "deleted_tasks": len(inside["tasks"]),
        "deleted_models": len(inside["models"]),
        "urls": {kind: sorted(found) for kind, found in urls.items()},
    }
