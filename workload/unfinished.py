"""A version of a dataset is finished or not there: what a run, or a killed one before it, left half made is deleted."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import logging
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Iterator

from workload.errors import DiskError, ServerError

LOG = logging.getLogger(__name__)

WORK = Path("~/.cache/testbed-workload")


@contextlib.contextmanager
def orderly_end() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: what is half made is deleted first."""

    def end(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def alone() -> Iterator[Path]:
    """A folder to work in, and no other ingest of this user on this machine: so what is unfinished is nobody's work."""
    base = WORK.expanduser() / "ingest"
    try:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (base / "lock").open("w")
    except OSError as error:
        raise DiskError(f"cannot write in {base} ({error.strerror}): check its owner and its disk") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            LOG.info("Waiting for another ingest of yours to end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield base


def clean_up(project: str, name: str) -> str:
    """Delete the version that could not be finished; what is left of it, in words."""
    try:
        delete_unfinished(project, name)
    except ServerError as error:
        LOG.info("%s", error)
        with contextlib.suppress(Exception):
            if not _unfinished(project, name):  # the SDK deletes the version first, and then its files
                return "files of it may be left on the file server"
        return "the next run deletes what is left of it"
    return "nothing is left of it"


def delete_unfinished(project: str, name: str) -> None:
    """Delete what an earlier run left. Raises ServerError."""
    from clearml import Task

    try:
        for task_id in _unfinished(project, name):
            LOG.info("Deleting unfinished version %s", task_id)
            Task.get_task(task_id).delete(raise_on_error=True)
    except Exception as error:  # the SDK raises a type of its own, and what its storage raises
        raise ServerError(
            f"cannot delete an unfinished version of dataset {project}/{name} ({' '.join(str(error).split())}):"
            " check the ClearML server and its file server, then run this again"
        ) from error


def _unfinished(project: str, name: str) -> list[str]:
    """Of this user on this machine."""
    return versions(project, name, ["created", "in_progress", "stopped", "failed"], [mark()])


def versions(project: str, name: str, status: list[str], tags: list[str] | None = None) -> list[str]:
    """IDs of the dataset's versions (each is a task of a hidden project) in one of these states."""
    from clearml import Task

    task_filter = {"status": status, "search_hidden": True, "_allow_extra_fields_": True}
    found = Task.query_tasks(project_name=f"{project}/.datasets/{name}", tags=tags, task_filter=task_filter)
    return [str(task_id) for task_id in found]


def mark() -> str:
    """The tag of versions that this user makes on this machine."""
    return f"ingest by {getpass.getuser()}@{socket.gethostname()}"
