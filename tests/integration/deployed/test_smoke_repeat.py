"""A good testbed passes the smoke test again and again, and it is as before afterwards: 50 times quick, 5 times full.

TESTBED_SMOKE_QUICK and TESTBED_SMOKE_FULL say how often, where it is to be fewer.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.deployed, pytest.mark.long, pytest.mark.full]

QUICK = int(os.environ.get("TESTBED_SMOKE_QUICK", "50"))
FULL = int(os.environ.get("TESTBED_SMOKE_FULL", "5"))


@pytest.fixture
def there(api):
    """A function that tells all that the server has: projects, tasks, models, waiting tasks, and files on its disk."""
    files = Path(yaml.safe_load(Path("/etc/testbed/clearml-lite.yaml").read_text())["data_dir"]) / "files"

    def tell() -> dict[str, set[str]]:
        return {
            "projects": {each["id"] for each in api.call("projects.get_all", search_hidden=True)["projects"]},
            "tasks": {each["id"] for each in api.call("tasks.get_all", search_hidden=True, page_size=500)["tasks"]},
            "models": {each["id"] for each in api.call("models.get_all", page_size=500)["models"]},
            "waiting": {entry["task"] for each in api.call("queues.get_all")["queues"] for entry in each["entries"]},
            "files": {str(path) for path in files.rglob("*") if path.is_file()},
        }

    return tell


@pytest.mark.parametrize(("level", "times"), [("quick", QUICK), ("full", FULL)])
def test_a_good_testbed_passes_again_and_again_and_nothing_is_left(command, there, level, times):
    before = there()
    done = command("smoke", "--level", level, "--repeat", str(times), "--json")
    found = json.loads(done.stdout)
    assert [check for check in found["checks"] if check["result"] == "failed"] == []
    assert done.returncode == 0, done.stderr
    runs = [check["run"] for check in found["checks"]]
    assert set(runs) == set(range(1, times + 1))
    assert {runs.count(number) for number in set(runs)} == {len(runs) // times}, "each run has the same checks"
    assert there() == before
    seconds = [sum(check["seconds"] for check in found["checks"] if check["run"] == run) for run in set(runs)]
    print(f"{level}: {times} runs of {len(runs) // times} checks; {min(seconds):.0f} to {max(seconds):.0f} s each")
