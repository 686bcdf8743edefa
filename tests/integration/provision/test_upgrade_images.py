"""An upgrade's images come before anything stops, and where there is room for them; the role's own tasks run."""

from __future__ import annotations

import pytest

from provision.errors import ConvergeError

FETCH = """
    - name: Fetch the images
      ansible.builtin.include_role: {name: clearml_server, tasks_from: fetch_images}
      vars:
        clearml_server_backend: docker
        clearml_server_data_dir: FOLDER
        clearml_server_registry: mirror.example
        clearml_server_version: VERSION
        clearml_server_image_mb: MB
"""
# an engine that has the images of one version, and keeps them in the test's folder
ENGINE = """#!/bin/sh
echo "$@" >>FOLDER/asked
case "$*" in
info*) echo FOLDER;;
*" mirror.example/clearml/server:2.3.0"|*" mirror.example/mongo:7.0.22") echo [];;
*" mirror.example/elasticsearch:8.17.0"|*" mirror.example/redis:7.4.1") echo [];;
"image inspect"*) exit 1;;
esac
"""


@pytest.fixture
def fetch(run, tmp_path):
    """Run the role's tasks for a version of the server, each of whose images takes so much room."""
    engine = tmp_path / "bin/docker"
    engine.parent.mkdir()
    engine.write_text(ENGINE.replace("FOLDER", str(tmp_path)))
    engine.chmod(0o755)

    def call(version, image_mb):
        tasks = FETCH.replace("FOLDER", str(tmp_path)).replace("VERSION", version).replace("MB", str(image_mb))
        run(tasks, play=f"  environment: {{PATH: '{engine.parent}:/usr/bin:/bin'}}\n")
        return (tmp_path / "asked").read_text()

    return call


def test_none_is_fetched_that_is_here(fetch):
    asked = fetch("2.3.0", 1 << 40)
    assert "image inspect mirror.example/clearml/server:2.3.0" in asked
    assert "pull" not in asked


def test_nothing_comes_where_there_is_no_room_for_it(fetch, tmp_path):
    with pytest.raises(ConvergeError) as error:
        fetch("2.4.0", 1 << 40)
    assert f"MiB are free for images in {tmp_path}, and those that are not here yet take about" in error.value.message
    assert "mirror.example/clearml/server:2.4.0" in error.value.message
    assert "Free some space" in error.value.message
    assert "Nothing was changed." in error.value.message
    assert "pull" not in (tmp_path / "asked").read_text()
