"""projects.*: a tree by names with slashes."""

from clearml_lite.auth import COMPANY
from clearml_lite.dispatch import Call, endpoint
from clearml_lite.errors import ApiError, validation_error
from clearml_lite.query import now
from clearml_lite.services.entities import checked_name, given, new_id, require, tree
from clearml_lite.storage import Document


@endpoint("projects.create", writes=True)
def create(call: Call) -> Document:
    """A project, and the parents that are not there yet."""
    name = checked_path(call.data["name"])
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


@endpoint("projects.update", writes=True)
def update(call: Call) -> Document:
    """Changes a project; a new name moves its sub-projects along."""
    project = require(call, "projects", call.data["project"])
    fields = given(call.data, ("description", "tags", "system_tags", "default_output_destination"))
    if (name := call.data.get("name")) and name != project["name"]:
        fields |= _renamed(call, project, checked_path(name))
        project = require(call, "projects", project["id"])
    call.transaction.put("projects", project | fields | {"last_update": now()})
    return {"updated": 1, "fields": fields}


def project_named(call: Call, name: str) -> Document:
    """The project with this name, made where it is not there."""
    path = checked_path(name)
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


def checked_path(name: str) -> str:
    """A project's whole name, each part without blanks around it.

    Raises:
        ApiError: 400/800 when a part is too short.
    """
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


def relocate(call: Call, project: Document, name: str) -> int:
    """Gives a project another name, which may be below another parent, and tells how many projects moved along.

    Raises:
        ApiError: 400/801 when the name is taken, 400/12 when it is below the project itself.
    """
    if call.transaction.first("projects", name=name):
        raise ApiError(400, 801, "Value combination is already in use", name=name, company=COMPANY)
    if name.startswith(f"{project['name']}/"):
        raise ApiError(400, 12, "A project cannot be moved below itself", id=project["id"], name=name)
    parent_name, _, basename = name.rpartition("/")
    below = [require(call, "projects", child) for child in tree(call.transaction, [project["id"]])[1:]]
    for child in below:
        call.transaction.put("projects", child | {"name": name + child["name"].removeprefix(project["name"])})
    project = {key: value for key, value in project.items() if key != "parent"}
    parent = {"parent": project_named(call, parent_name)["id"]} if parent_name else {}
    call.transaction.put("projects", project | {"name": name, "basename": basename, "last_update": now()} | parent)
    return 1 + len(below)


def _renamed(call: Call, project: Document, name: str) -> Document:
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
    relocate(call, project, name)
    return {"name": name, "basename": basename}
