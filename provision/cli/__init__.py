"""The `testbed` command: verbs only, which parse, call and print."""

from provision.cli import cloud, deployment, operations, project, secrets
from provision.cli.group import main

__all__ = ["cloud", "deployment", "main", "operations", "project", "secrets"]
