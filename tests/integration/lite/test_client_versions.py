"""The SDK that hosts with Python 3.8 get, which is older than the one that these tests are installed with."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import REPOSITORY
from tests.integration.lite import test_client_life as life

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def older_sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with it; what it needs is that of the tests."""
    pins = re.findall(
        r"^clearml==(\S+) ; python_full_version < '3\.9'", (REPOSITORY / "requirements/hosts.txt").read_text(), re.M
    )
    folder = tmp_path_factory.mktemp("sdk")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, f"clearml=={pins[0]}"], check=True)
    return folder


@pytest.fixture
def with_older_sdk(lite: Any, older_sdk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(older_sdk))
    used = lite.run_python("import clearml; print(clearml.__file__)", lite.client_conf("used")).strip()
    assert used.startswith(str(older_sdk))


@pytest.mark.parametrize(
    "flow",
    [
        life.test_a_pipeline_of_steps_runs_here,
        life.test_reports_of_all_kinds_are_read_back,
        life.test_models_are_described_published_archived_and_removed,
        life.test_versions_of_a_dataset,
    ],
    ids=lambda flow: flow.__name__.removeprefix("test_"),
)
@pytest.mark.usefixtures("with_older_sdk")
def test_the_sdk_of_python_3_8_gets_the_same(lite: Any, flow: Callable[[Any], None]) -> None:
    flow(lite)
