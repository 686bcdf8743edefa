"""The `testbed` command: verbs only, which parse, call and print."""

from provision.cli import deployment, project, secrets
from provision.cli.group import main

__all__ = ["deployment", "main", "project", "secrets"]
