"""The API's services; importing this package registers their endpoints."""

from clearml_lite.services import auth, debug, events, models, projects, queues, server, tasks, users, workers

__all__ = ["auth", "debug", "events", "models", "projects", "queues", "server", "tasks", "users", "workers"]
