#!/usr/bin/python
"""Takes a machine for a testbed (record, folders, marker) and gives it back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_host import clock, service_manager
from ansible.module_utils.testbed_mounts import cannot_go, mount_points, take_away
from ansible.module_utils.testbed_record import MARKER, RECORD, claimed_by, claimed_id, load, replace_file, save

DOCUMENTATION = r"""
module: testbed_claim
short_description: Take a machine for a testbed, or give it back
options:
  name: {type: str, required: true, description: Name of the testbed}
  id: {type: str, description: The id of its secrets}
  state: {type: str, choices: [present, absent], default: present, description: Take it or give it back}
  directories: {type: dict, default: {}, description: 'Folders to make: {absolute path: mode}'}
  data_dir: {type: str, required: true, description: 'Folder for the data; made, and kept unless purge'}
  purge: {type: bool, default: false, description: With absent, forget the kept data too}
author: [The testbed's authors (@clearml-testbed)]
"""


def claim(module: AnsibleModule) -> None:
    """Write the record, then the folders, then the marker."""
    wanted = {Path(path): int(mode, 8) for path, mode in module.params["directories"].items()}
    data = Path(module.params["data_dir"])
    wanted.setdefault(data, 0o755)
    missing = [path for path in wanted if not path.is_dir()]
    made = {folder for path in missing for folder in [path, *path.parents] if not folder.is_dir()}
    # the data folder may be one that was there before: its mode is its owner's business
    ours = [path for path in wanted if path.is_dir() and path != data]
    wrong = [path for path in ours if path.stat().st_mode & 0o7777 != wanted[path]]
    claimant = {"name": module.params["name"], "id": module.params["id"]}
    marked = {"name": claimed_by(), "id": claimed_id()} == claimant
    record = load()
    new = [path for path in (MARKER, RECORD) if not path.exists()]
    recorded = {"name": record["testbed"], "id": record["id"]} == claimant
    unknown = str(data) not in record.get("data_dirs", [])
    changed = bool(missing or wrong or unknown or not marked or not recorded)
    if changed and not module.check_mode:
        record.update(testbed=claimant["name"], id=claimant["id"])
        record["directories"] = sorted({*record["directories"], *map(str, made)})
        record["data_dirs"] = sorted({*record.get("data_dirs", []), str(data)})
        save(record)
        for path in [*missing, *wrong]:
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(wanted[path])
        if not marked:
            replace_file(MARKER, json.dumps(claimant) + "\n", 0o644)
    lines = [str(path) for path in [*missing, *wrong]] + ([] if marked else [str(MARKER)])
    changes = [{"kind": "folder", "name": str(path), "action": "add"} for path in sorted(made)]
    changes += [
        {"kind": "folder", "name": str(path), "action": "change", "detail": f"mode {wanted[path]:04o}"}
        for path in wrong
    ]
    files = ([] if marked else [MARKER]) + ([RECORD] if changed else [])
    changes += [{"kind": "file", "name": str(path), "action": "add" if path in new else "change"} for path in files]
    diff = {"before": "", "after": "".join(f"{line}\n" for line in lines)}
    here = {"service_manager": service_manager(), "clock": clock()}
    module.exit_json(changed=changed, testbed_changes=changes, diff=diff, **here)


def release(module: AnsibleModule) -> None:
    """Remove the folders that were made, except data unless purge; forget the record when nothing is kept.

    Data of a data folder from before are data, too. What was made on the way to data goes when nothing is in it. What
    is a mount point by now stays.
    """
    record, data = load(), Path(module.params["data_dir"])
    # who has put a link in a folder's place has moved what was in it
    made = [path for path in map(Path, record["directories"]) if path.is_dir() and not path.is_symlink()]
    mounted = {path: mount_points(path) for path in made}
    former = {*map(Path, record.get("data_dirs", []))} - {data}
    way = {*data.parents, *(above for path in former for above in path.parents)}
    spared = {data, *way} | (set() if module.params["purge"] else former)
    gone = [path for path in made if path not in spared]
    gone = [path for path in gone if not {*path.parents} & {*gone}]
    whole = {path for path in gone if not mounted[path]}
    empty: list[Path] = []
    for path in sorted((path for path in made if path in spared), key=lambda path: len(path.parts), reverse=True):
        if path not in mounted[path] and not {*path.iterdir()} - {*whole, *empty}:
            empty.append(path)
    stay = [path for path in made if module.params["purge"] and path in spared & mounted[path]]
    left = [path for path in former if path.is_dir() and path not in gone and any(path.iterdir())]
    kept = (data.is_dir() and data not in empty) or any(
        Path(entry["home"]).is_dir() for entry in record["accounts"].values()
    )
    kept = kept or bool(left)
    forget = [RECORD.parent] if RECORD.parent.exists() and (module.params["purge"] or not kept) else []
    changes = [change for path in gone for change in take_away(path, check=module.check_mode)]
    if not module.check_mode:
        for path in empty:
            path.rmdir()
        for path in forget:
            shutil.rmtree(path)
    changes += [{"kind": "folder", "name": str(path), "action": "remove"} for path in [*empty, *forget]]
    changed = bool(changes)
    changes += [{"kind": "folder", "name": str(path), "action": "change", "detail": "it is mounted"} for path in stay]
    lines = [change["name"] for change in changes if change["action"] == "remove"]
    diff = {"before": "".join(f"{line}\n" for line in lines), "after": ""}
    module.exit_json(changed=changed, kept=kept, testbed_changes=changes, diff=diff)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "id": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "directories": {"type": "dict", "default": {}},
            "data_dir": {"type": "str", "required": True},
            "purge": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    if module.params["state"] == "present":
        claim(module)
        return
    try:
        release(module)
    except OSError as error:
        module.fail_json(msg=cannot_go(error))


if __name__ == "__main__":
    main()
