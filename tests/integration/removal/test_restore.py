"""backup, `down --purge`, `up`, restore: the same tasks, datasets and users, and the keys of then work.

The machine is then without its old secrets and data; removes its own testbed at the end.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from provision import spec
from provision.clearml_api import ClearmlApi
from provision.credentials import ensure
from provision.credentials.ensure import parse_key
from provision.paths import HOST_MARKER
from provision.secrets import Vault

pytestmark = pytest.mark.removes

FILES = Path("/var/lib/testbed/clearml-lite/files")
WHAT = {
    "users.get_all": ("users", ["id", "name"]),
    "projects.get_all": ("projects", ["id", "name"]),
    "tasks.get_all": ("tasks", ["id", "name", "status", "last_metrics", "execution", "system_tags"]),
    "models.get_all": ("models", ["id", "name", "uri"]),
}


def _seen(testbed):
    """All that the API tells of the data, and the SHA-256 of every file of the file server."""
    found = {}
    with ClearmlApi(testbed.server.url("api"), Vault(testbed.name).load().toolkit) as api:
        for endpoint, (what, fields) in WHAT.items():
            entries = api.call(endpoint, only_fields=fields, page_size=500, page=0)[what]
            found[what] = {entry["id"]: {name: entry.get(name) for name in fields} for entry in entries}
        found["scalars"] = {
            task: api.call("events.scalar_metrics_iter_histogram", task=task) for task in found["tasks"]
        }
    files = [path for path in FILES.rglob("*") if path.is_file()]
    found["files"] = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return found


def test_after_a_purge_a_backup_brings_all_back(said, tmp_path):
    assert not HOST_MARKER.exists(), "this machine carries a testbed: ./testbed down --yes --purge"
    testbed = spec.load(spec.EXAMPLE)
    said("up", "--yes")
    said("smoke", "--keep")  # data of every kind
    before = _seen(testbed)
    keys = {user.name: parse_key(Path(f"~{user.name}/clearml.conf").expanduser().read_text()) for user in testbed.users}
    password = tmp_path / "vault-password"
    shutil.copy(Vault(testbed.name).path.with_name("vault-password"), password)
    backup = json.loads(said("backup", "--yes", "--json", "--to", str(tmp_path)))["backup"]
    said("down", "--yes", "--purge")
    said("up", "--yes")
    assert not any(ensure.works(testbed.server.url("api"), key) for key in keys.values())
    report = json.loads(said("restore", backup, "--yes", "--json", "--backup-password-file", str(password)))
    assert report["healthy"]
    after = _seen(testbed)
    for what, entries in before.items():
        assert entries
        assert {each: after[what].get(each) for each in entries} == entries, what
    held = {user.name: parse_key(Path(f"~{user.name}/clearml.conf").expanduser().read_text()) for user in testbed.users}
    assert held == keys
    assert all(ensure.works(testbed.server.url("api"), key) for key in keys.values())
    assert "changed=0" in said("up", "--yes")
    said("down", "--yes", "--purge")
    said("down", "--yes", "--purge")
