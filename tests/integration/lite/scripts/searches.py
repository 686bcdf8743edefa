"""Tasks found by the SDK's filters."""

import json

from clearml import Task
from clearml.backend_api.session.client import APIClient

names = {}
for name, project, tags, kind in (
    ("first of all", "search/one", ["a", "b"], "training"),
    ("second of all", "search/one", ["a"], "testing"),
    ("third", "search/two", ["b", "c"], "training"),
    ("fourth", "search/two/deep", [], "training"),
):
    task = Task.create(project_name=project, task_name=name, task_type=kind)
    task.set_tags(tags)
    task.set_comment(f"about the {name}")
    names[task.id] = name.split()[0]
archived = Task.create(project_name="search/one", task_name="gone from sight")
archived.set_archived(True)
names[archived.id] = "archived"


def found(*arguments, **filters):
    """The names of those found; other tests have tasks on the same server."""
    return sorted(names[identifier] for identifier in Task.query_tasks(*arguments, **filters) if identifier in names)


def in_order(*fields):
    identifiers = Task.query_tasks(task_filter={"order_by": list(fields)}, tags=["a"])
    return [names[identifier] for identifier in identifiers if identifier in names]


completed = Task.get_task(project_name="search/two", task_name="third")
completed.mark_started()
completed.mark_completed()
client = APIClient()
project = client.projects.get_all(name="^search/two$", search_hidden=True)[0].id
print(
    json.dumps(
        {
            "any": found(tags=["a", "c"]),
            "without": found(tags=["a", "-b"]),
            "only without": found("search/one", tags=["-b"]),
            "all": found(tags=["__$all", "a", "b"]),
            "all but": found(tags=["__$all", "b", "__$not", "a"]),
            "any of": found(tags=["__$any", "a", "c"]),
            "mixed": found(tags=["__$all", "b", "__$or", "a", "__$not", "c"]),
            "project": found("search/two"),
            "projects": found(["search/one", "search/two"], "first|third"),
            "exactly": found(task_name="^third$"),
            "type": found("search/one", task_filter={"type": ["testing"]}),
            "status": found(["search/one", "search/two"], task_filter={"status": ["completed"]}),
            "drafts": found(
                ["search/one", "search/two"], task_filter={"status": ["created"], "system_tags": ["-archived"]}
            ),
            "archived": found("search/one", task_filter={"system_tags": ["archived"]}),
            "visible": sorted(
                names[task.id] for task in Task.get_tasks(project_name="search/one", allow_archived=False)
            ),
            "text": found(task_filter={"search_text": "about the fourth"}),
            "pattern": found(task_filter={"_any_": {"fields": ["comment", "name"], "pattern": "second|fourth"}}),
            "both": found(task_filter={"_all_": {"fields": ["comment", "name"], "pattern": "^.*third$"}}),
            "ordered": in_order("name"),
            "backwards": in_order("-name"),
            "fields": Task.query_tasks(task_name="^third$", additional_return_fields=["name", "script.binary", "tags"])[
                0
            ],
            "by parent": len(Task.get_tasks(task_filter={"parent": completed.id})),
            "below": sorted(
                names[task.id]
                for task in client.tasks.get_all(
                    project=[project], include_subprojects=True, only_fields=["id"], _allow_extra_fields_=True
                )
            ),
            "page": [
                len(client.tasks.get_all(name="all|third|fourth|gone", page=page, page_size=2, only_fields=["id"]))
                for page in range(3)
            ],
        },
        default=str,
    )
)
