"""The `testbed` command: verbs only, which parse, call and print."""

from provision.cli import cloud, deployment, fleet, operations, project, secrets
from provision.cli.group import main

__all__ = ["cloud", "deployment", "fleet", "main", "operations", "project", "secrets"]
