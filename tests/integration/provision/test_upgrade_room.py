"""An upgrade wants twice the room of the data: stores migrate beside the old, and what fails needs the backup there."""

from __future__ import annotations

import os
import subprocess

import pytest

from provision.errors import ConvergeError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")

SIZE_MIB = 12
LOOK = """
    - name: Prepare an upgrade
      ansible.builtin.include_role: {{name: clearml_server, tasks_from: upgrade}}
      vars:
        clearml_server_data_dir: {folder}
        clearml_server_version_file: {folder}/version
        clearml_server_upgrade_to: ""
"""


@pytest.fixture
def data(tmp_path):
    """A disk of 12 MiB with the data of a server."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(folder)], check=True)
    (folder / "version").write_text("2.3.0\n")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_it_begins_where_the_data_go_in_twice_more_and_tells_their_version(run, data):
    (data / "store").write_bytes(bytes(3 << 20))
    assert run(LOOK.format(folder=data)).data == {"data_version": "2.3.0"}


def test_it_does_not_begin_where_they_do_not_and_says_what_is_needed(run, data):
    (data / "store").write_bytes(bytes(5 << 20))
    with pytest.raises(ConvergeError, match=rf"take 5 MiB, and 6 MiB are free in {data}") as error:
        run(LOOK.format(folder=data))
    assert "twice their size is needed" in error.value.message
    assert "Nothing was changed" in error.value.message
