#!/usr/bin/python
"""Puts the data of a backup, which lie unpacked beside the server's, in their place.

`PATH.restored-ID` are the data of backup ID, `PATH.before` those that they replaced, kept until the new ones are
proven; `PATH/.restored` says whose they are. Each step is a rename, so a run that is killed at one is made good.
"""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_mounts import cannot_go, take_away

DOCUMENTATION = r"""
module: testbed_restored
short_description: Put the data of a backup in place, or clear away what a restore left
options:
  path: {type: path, required: true, description: Folder of the server's data; the server must not run}
  id: {type: str, default: "", description: 'The backup that is being restored; empty: none, so what one left goes'}
  owner: {type: str, default: "", description: 'Account that all of it is given to; empty: as in the backup'}
  purge: {type: bool, default: false, description: 'The data go, too, with what a restore left beside'}
  proof: {type: str, default: "", description: 'With purge: only folders with this file go, others are not ours'}
author: [The testbed's authors (@clearml-testbed)]
"""

MARK = ".restored"
UNPACKED = "data"  # in what is being unpacked, the folder (see volume_on_host)


class MissingError(Exception):
    """Neither is in place nor beside what is to be restored; the text says what to do."""


def mark_of(path: Path) -> str:
    """Return the backup whose data are in place; empty where that was proven, or none was restored."""
    try:
        return (path / MARK).read_text().strip()
    except OSError:
        return ""


def give(folder: Path, name: str) -> None:
    """Give a folder and all in it to an account: its number may be another one on this host."""
    account = pwd.getpwnam(name)
    for above, folders, files in os.walk(folder):
        for each in (".", *folders, *files):
            os.chown(Path(above, each), account.pw_uid, account.pw_gid, follow_symlinks=False)


def leavings(path: Path, identifier: str) -> list[Path]:
    """Return what killed restores left beside; while one goes on, what that needs is not among it."""
    kept = {f"{path.name}.restored-{identifier}", f"{path.name}.before"} if identifier else set()
    found = [
        each for what in ("before", "restored-*", "restoring-*") for each in path.parent.glob(f"{path.name}.{what}")
    ]
    return sorted(each for each in found if each.name not in kept)


def settle(path: Path, identifier: str, owner: str, *, check: bool) -> list[dict]:
    """Bring the data to where they belong; return the changes. Raises MissingError."""
    beside, before = path.with_name(f"{path.name}.restored-{identifier}"), path.with_name(f"{path.name}.before")
    changes = [{"kind": "folder", "name": str(each), "action": "remove"} for each in leavings(path, identifier)]
    if identifier and beside.is_dir():
        changes.append({"kind": "folder", "name": str(path), "action": "replace", "detail": "by the data of a backup"})
    elif identifier and mark_of(path) != identifier:
        raise MissingError(
            f"a restore was begun, and the data of its backup are not on this host ({beside}). "
            "Run `testbed restore` with that backup again"
        )
    elif not identifier and mark_of(path):
        changes.append({"kind": "file", "name": str(path / MARK), "action": "remove"})
    if check:
        return changes
    for each in leavings(path, identifier):
        shutil.rmtree(each)
    if identifier and beside.is_dir():
        if owner:
            give(beside, owner)
        (beside / MARK).write_text(identifier)
        if path.exists() and mark_of(path):  # the data of a restore that was never proven: the ones before it count
            path.rename(path.with_name(f"{path.name}.restoring-old"))
            shutil.rmtree(path.with_name(f"{path.name}.restoring-old"))
        elif path.exists():
            path.rename(before)
        beside.rename(path)
    elif not identifier and mark_of(path):
        (path / MARK).unlink()
    return changes


def clear(path: Path, proof: str, *, check: bool) -> list[dict]:
    """Remove the data and what restores left beside, as far as they are proven to be ours; return the changes."""
    found = [each for each in (path, *leavings(path, "")) if os.path.lexists(each)]
    ours = [each for each in found if not proof or (each / proof).is_file() or (each / UNPACKED / proof).is_file()]
    return [change for each in ours for change in take_away(each, check=check)]


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "id": {"type": "str", "default": ""},
            "owner": {"type": "str", "default": ""},
            "purge": {"type": "bool", "default": False},
            "proof": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    path = Path(wanted["path"])
    try:
        if wanted["purge"]:
            changes = clear(path, wanted["proof"], check=module.check_mode)
        else:
            changes = settle(path, wanted["id"], wanted["owner"], check=module.check_mode)
    except MissingError as error:
        module.fail_json(msg=f"{error}.")
    except OSError as error:
        if not wanted["purge"]:
            raise
        module.fail_json(msg=cannot_go(error))
    module.exit_json(changed=bool(changes), testbed_changes=changes)


if __name__ == "__main__":
    main()
