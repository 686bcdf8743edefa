"""The `testbed` command: verbs only, which parse, call and print."""

from provision.cli import (
    cloud,
    credentials,
    deployment,
    fleet,
    operations,
    people,
    project,
    revoke,
    rotate,
    secrets,
    users,
    verify,
)
from provision.cli.group import main

__all__ = [
    "cloud",
    "credentials",
    "deployment",
    "fleet",
    "main",
    "operations",
    "people",
    "project",
    "revoke",
    "rotate",
    "secrets",
    "users",
    "verify",
]
