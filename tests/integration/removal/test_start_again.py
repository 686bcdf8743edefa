"""On a machine without a testbed: `up --check` changes nothing, and announces what `up` then brings, and nothing else.

Runs after the removal, on the machine that it left; removes its own testbed at the end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provision import spec
from provision.clearml_api import ClearmlApi
from provision.credentials.ensure import user_id
from provision.paths import HOST_MARKER, ROOT, config_dir, state_dir
from provision.secrets import Vault
from provision.spec import ADMIN_USER, AGENT_USER
from tests.integration.removal import snapshot

pytestmark = pytest.mark.removes

Paths = dict[str, list[object]]
SETTINGS = ("/etc/testbed/", "/etc/supervisor/conf.d/", "/etc/systemd/system/testbed-")
# what programs write into while they work; each of these folders is announced itself
WORKING = ("/opt/testbed/cache/", "/opt/testbed/stamps/", "/opt/testbed/wheels/fetched/")


def _touched() -> Paths:
    """Everything on this machine but what pytest and this checkout's own tools are at work on."""
    return snapshot.touched((str(ROOT), "/root/.cache/"))


@pytest.fixture(scope="module")
def announced(said) -> list[dict[str, object]]:
    assert not HOST_MARKER.exists(), "this machine carries a testbed: ./testbed down --yes --purge"
    before, temporary = _touched(), {*Path("/tmp").iterdir()}
    found = json.loads(said("up", "--check", "--diff", "--json"))["changes"]
    after = _touched()
    assert {path for path in {*before, *after} if before.get(path) != after.get(path)} == set()
    left = {*Path("/tmp").iterdir()} - temporary
    assert {path for path in left if "ansible" in path.name or "testbed" in path.name} == set()
    assert not config_dir("local").exists()
    assert not state_dir("local").exists()
    return found


@pytest.fixture(scope="module")
def came(announced, said) -> Iterator[dict[str, set[str]]]:
    """What `up` brought: packages, accounts and files that were not there before."""
    before = snapshot.take()
    said("up", "--yes")
    after = snapshot.take()
    yield {kind: {*after[kind]} - {*before[kind]} for kind in after}
    said("down", "--yes", "--purge")


@pytest.fixture(scope="module")
def names(announced) -> Callable[[str], set[str]]:
    return lambda kind: {str(Path(change["name"]).expanduser()) for change in announced if change["kind"] == kind}


def test_every_change_has_a_kind_of_its_own(announced):
    assert [change for change in announced if change["kind"] == "task"] == []


def test_packages_are_those_that_came(came, names):
    assert {line.split()[0] for line in came["packages"]} == names("package")


def test_accounts_are_those_that_came(came, names):
    accounts = {line.split(":")[0] for line in came["accounts"]}
    assert accounts == names("account")


def test_services_are_those_that_came(came, names):
    folders = ("/etc/supervisor/conf.d/", "/etc/systemd/system/")
    defined = {Path(path).stem for path in came["files"] if path.startswith(folders) and "/testbed-" in path}
    assert {name for name in defined if name.startswith("testbed-")} == names("service")


def test_settings_are_those_that_came(came, names):
    there = {path for path in came["files"] if path.startswith(SETTINGS)}
    assert there == {path for path in names("file") | names("folder") if path.startswith(SETTINGS)}


def test_programs_are_in_environments_and_files_that_were_announced(came, names):
    below = tuple(f"{path}/" for path in names("environment")) + WORKING
    there = {path for path in came["files"] if path.startswith("/opt/testbed/")}
    assert {path for path in there if not path.startswith(below)} == {
        path
        for kind in ("file", "folder", "environment")
        for path in names(kind)
        if path.startswith("/opt/testbed/") and not path.startswith(below)
    }


def test_every_file_folder_and_environment_that_was_announced_is_there(came, names):
    paths = names("file") | names("folder") | names("environment")
    assert {path for path in paths if not Path(path).exists()} == set()


def test_keys_are_those_that_were_issued(came, announced):
    testbed = spec.load(spec.EXAMPLE)
    secrets = Vault(testbed.name).load()
    assert secrets is not None
    with ClearmlApi(testbed.server.url("api"), secrets.clearml.apiserver.pair) as api:
        labels = {
            entry["label"]
            for user in (ADMIN_USER, AGENT_USER, *(user.name for user in testbed.users))
            for entry in api.call("auth.get_credentials", impersonate=user_id(user))["credentials"]
            if str(entry.get("label")).startswith("testbed:")
        }
    told = {str(change["detail"]) for change in announced if change["kind"] == "key"}
    assert {f"of {label.split(' user:')[1].replace(' purpose:', ', for ')}" for label in labels} == told


def test_what_waits_for_something_says_for_what(announced):
    after = {str(change["name"]): change["after"] for change in announced}
    assert "environment /opt/testbed/venvs/clearml-agent" in after["testbed-agent-default"]
    assert "service testbed-clearml-lite" in after["user/researcher"]
    assert "key user/researcher" in after["~researcher/clearml.conf"]


def test_texts_of_files_are_shown_but_no_secret_ones(announced):
    shown = {str(change["name"]): str(change["diff"]) for change in announced if change["kind"] == "file"}
    assert "+reporting-disabled = true" in shown["/etc/testbed/influxdb.conf"]
    assert shown["/etc/testbed/clearml-lite.yaml"] == shown["~researcher/clearml.conf"] == ""


def test_after_up_nothing_would_change(came, said):
    assert json.loads(said("up", "--check", "--json"))["changes"] == []
    assert "Nothing would change." in said("up", "--check")
