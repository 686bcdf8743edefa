"""Training on a server alone, here and on an agent's queue; data and models that change on the disk are found."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.smoke import training
from tests.integration.workload.conftest import running_agent

pytestmark = pytest.mark.long


def _files(ground) -> list[Path]:
    folder = Path(ground.server.config["data_dir"], "files")
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


@contextlib.contextmanager
def _altered(ground, piece: str) -> Iterator[None]:
    """Change a byte in the middle of each file whose path has `piece` in it, as soon as it is there."""
    over, done = threading.Event(), set()

    def watch() -> None:
        while not over.wait(0.05):
            for path in _files(ground):
                if piece in str(path) and path not in done:
                    done.add(path)
                    content = bytearray(path.read_bytes())
                    content[len(content) // 2] ^= 1
                    path.write_bytes(content)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert done, "something was altered"


def _projects(ground) -> list[str]:
    found = ground.server.call("projects.get_all", {"search_hidden": True})["projects"]
    return [project["name"] for project in found if project["name"].startswith("smoke")]


def _need_trained(found) -> None:
    assert [check.message for check in found.checks if check.result != "passed"] == []
    assert {f"training completes: {step}" for step in training.STEPS} <= {check.name for check in found.checks}
    assert set(found.figures["loss"]) == {"train", "validation"}
    assert len(found.figures["confusion"]["rows"]) == 3


def test_it_trains_here_and_leaves_nothing(ground, checked):
    found = checked(ground.good, "full", only="train")
    _need_trained(found)
    assert "latency" not in found.figures
    assert _projects(ground) == []
    assert _files(ground) == []


def test_it_trains_on_an_agent_of_the_queue_and_leaves_nothing(ground, checked, tmp_path):
    with running_agent(ground.server, tmp_path) as queue:
        found = checked(ground.good, "full", queue=queue, only="train")
    _need_trained(found)
    assert set(found.figures["latency"]) == set(training.STEPS)
    assert _projects(ground) == []
    assert _files(ground) == []


@pytest.mark.parametrize(
    ("piece", "check", "words"),
    [
        ("/.datasets/", "generated dataset is what was uploaded", "dataset: data"),
        ("/models/", "registered model is the trained one", "is another file than was trained"),
    ],
    ids=["dataset altered on disk", "model file swapped"],
)
def test_what_changes_on_the_disk_is_found(ground, checked, piece, check, words):
    with _altered(ground, piece):
        found = checked(ground.good, "full", only="")
    failed = {each.name: each for each in found.checks if each.result == "failed"}
    assert check in failed, sorted(failed)
    assert words in failed[check].seen
    assert _projects(ground) == []
