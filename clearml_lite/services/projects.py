"""projects.*: a tree by names with slashes."""

from clearml_lite.auth import COMPANY
from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import ApiError, validation_error
from clearml_lite.query import now
from clearml_lite.services.entities import checked_name, filters, given, new_id, require
from clearml_lite.services.entities import get_all as get_all_entities
from clearml_lite.storage import Document


@endpoint("projects.create", writes=True)
def create(call: Call) -> Document:
    """A project, and the parents that are not there yet."""
    name = _checked_path(call.data["name"])
    if call.transaction.first("projects", name=name):
        raise ApiError(400, 801, "Value combination is already in use", name=name, company=COMPANY)
    fields = given(call.data, ("description", "tags", "system_tags", "default_output_destination"))
    return {"id": _make(call, name, fields)["id"]}


@endpoint("projects.get_by_id")
def get_by_id(call: Call) -> Document:
    """A project, with the IDs of its ancestors."""
    project = require(call, "projects", call.data["project"])
    path: list[str] = []
    parent = project.get("parent")
    while parent:
        path.insert(0, parent)
        parent = require(call, "projects", parent).get("parent")
    return {"project": project | {"path": path}}


@endpoint("projects.get_all")
def get_all(call: Call) -> Document:
    """Projects; `shallow_search` looks at the top of the tree only."""
    query = filters(call)
    if call.data.get("shallow_search"):
        query.equal("parent", None)
    return get_all_entities(call, "projects", query)


@endpoint("projects.update", writes=True)
def update(call: Call) -> Document:
    """Changes a project; a new name moves its sub-projects along."""
    project = require(call, "projects", call.data["project"])
    fields = given(call.data, ("description", "tags", "system_tags", "default_output_destination"))
    if (name := call.data.get("name")) and name != project["name"]:
        fields |= _renamed(call, project, _checked_path(name))
    call.transaction.put("projects", project | fields | {"last_update": now()})
    return {"updated": 1, "fields": fields}


def project_named(call: Call, name: str) -> Document:
    """The project with this name, made where it is not there."""
    path = _checked_path(name)
    return call.transaction.first("projects", name=path) or _make(call, path, {})


def target_project(call: Call) -> str | None:
    """The project that a move request names by ID or name; None is the root.

    Raises:
        ApiError: 400/12 when it names none, 400/401 when there is no such project.
    """
    if name := call.data.get("project_name"):
        return str(project_named(call, name)["id"])
    if identifier := call.data.get("project"):
        return str(require(call, "projects", identifier)["id"])
    if "project" in call.nulls:
        return None
    raise validation_error("project", "project or project_name is required!")


def moved(document: Document, project: str | None) -> Document:
    """A task or model in another project."""
    if project:
        return document | {"project": project}
    return {name: value for name, value in document.items() if name != "project"}


def touch(call: Call, project: str | None) -> None:
    """Notes that something happened in a project."""
    if project and (document := call.transaction.get("projects", project)):
        call.transaction.put("projects", document | {"last_update": now()})


def _checked_path(name: str) -> str:
    return "/".join(checked_name(part) for part in name.strip("/").split("/"))


def _make(call: Call, name: str, fields: Document) -> Document:
    parent_name, _, basename = name.rpartition("/")
    if parent_name:
        parent = call.transaction.first("projects", name=parent_name) or _make(call, parent_name, {})
        fields |= {"parent": parent["id"]}
    moment = now()
    project: Document = {"id": new_id(), "company": COMPANY, "user": call.identity.user}
    project |= {"name": name, "basename": basename, "description": "", "tags": [], "system_tags": [], "featured": 9999}
    project |= {"created": moment, "last_update": moment} | fields
    call.transaction.put("projects", project)
    touch(call, project.get("parent"))
    return project


def _renamed(call: Call, project: Document, name: str) -> Document:
    if call.transaction.first("projects", name=name):
        raise ApiError(400, 801, "Value combination is already in use", name=name, company=COMPANY)
    old_parent, _, _ = project["name"].rpartition("/")
    new_parent, _, basename = name.rpartition("/")
    if old_parent != new_parent:
        raise ApiError(
            400,
            800,
            "Data validation error",
            field="name",
            reason="projects.update cannot move a project to another parent",
        )
    for child in _descendants(call, project["id"]):
        call.transaction.put("projects", child | {"name": name + child["name"].removeprefix(project["name"])})
    return {"name": name, "basename": basename}


def _descendants(call: Call, project: str) -> list[Document]:
    children = call.transaction.all("projects", parent=project)
    return children + [below for child in children for below in _descendants(call, child["id"])]
