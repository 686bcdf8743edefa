"""The API's services; importing this package registers their endpoints."""

from clearml_lite.services import (
    auth,
    debug,
    events,
    models,
    projects,
    queues,
    server,
    task_contents,
    task_status,
    tasks,
    users,
    workers,
)

__all__ = [
    "auth",
    "debug",
    "events",
    "models",
    "projects",
    "queues",
    "server",
    "task_contents",
    "task_status",
    "tasks",
    "users",
    "workers",
]
