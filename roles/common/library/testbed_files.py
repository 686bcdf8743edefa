#!/usr/bin/python
"""Keeps files and folders as they are wanted, many of them in one step, and tells in check mode what that changes.

Texts are rendered on the administrator's machine. A file is replaced in one step, and whatever lies under its name that
is no regular file of that owner and mode is replaced, too: its folder may be another account's.
"""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_record import replace_file

DOCUMENTATION = r"""
module: testbed_files
short_description: Keep files and folders as they are wanted
options:
  files:
    type: list
    elements: dict
    default: []
    description: What is to be there, in this order
    suboptions:
      path: {type: str, required: true, description: 'Absolute, or ~NAME for the home of that account'}
      content: {type: str, description: 'Its text, not shown by the module; without one it is a folder'}
      owner: {type: str, default: root, description: Account that it belongs to}
      mode: {type: str, description: '0644, and 0755 for a folder, if not said otherwise'}
      secret: {type: bool, default: false, description: Its text is told to nobody}
      needs:
        type: list
        elements: str
        default: []
        description: "What must be there first, such as `package x`: told in check mode"
  unwanted:
    type: list
    elements: str
    default: []
    description: Patterns of files that go, unless they are in `files` or `kept`
  kept:
    type: list
    elements: str
    default: []
    description: Files that stay all the same
author: [The testbed's authors (@clearml-testbed)]
"""

SPEC = {
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "str", "required": True},
            "content": {"type": "str"},
            "owner": {"type": "str", "default": "root"},
            "mode": {"type": "str"},
            "secret": {"type": "bool", "default": False},
            "needs": {"type": "list", "elements": "str", "default": []},
        },
    },
    "unwanted": {"type": "list", "elements": "str", "default": []},
    "kept": {"type": "list", "elements": "str", "default": []},
}


class FilesError(Exception):
    """A file cannot be as it is wanted; the text says why and what to do."""


def ids_of(name: str, dry: bool) -> tuple[int, int] | None:
    """Return the IDs of the account and its group; None where it is only to come. Raises FilesError."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        if dry:
            return None
        raise FilesError(f"There is no account {name}. Make it first") from None
    return entry.pw_uid, entry.pw_gid


def mode_of(file: dict) -> int:
    """Return the mode that a file or folder is to have."""
    return int(file["mode"] or ("0755" if file["content"] is None else "0644"), 8)


def expanded(path: str) -> Path:
    """Return the path with ~NAME as that account's home; one that is about to be made gets /home/NAME."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path("/home") / path[1:]


def text_of(path: Path) -> str | None:
    """Return the text of a regular file; None where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return stream.read().decode("utf-8", errors="surrogateescape")


def is_as_wanted(path: Path, owner: tuple[int, int] | None, mode: int) -> bool:
    """Tell whether what is there belongs to the owner and has the mode; its group is what it was made with."""
    found = path.lstat()
    return owner is not None and (found.st_uid, stat.S_IMODE(found.st_mode)) == (owner[0], mode)


def keep_folder(path: Path, file: dict, dry: bool) -> list[dict]:
    """Make a folder, or make it as it is wanted; return what that changes. Raises FilesError."""
    owner, mode = ids_of(file["owner"], dry), mode_of(file)
    there = path.is_dir() and not path.is_symlink()
    if there and is_as_wanted(path, owner, mode):
        return []
    if not dry:
        if not there:
            path.mkdir(mode=0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
    return [{"kind": "folder", "name": file["path"], "action": "change" if there else "add", "needs": needs_of(file)}]


def keep_file(path: Path, file: dict, dry: bool) -> list[dict]:
    """Write a file unless it is as it is wanted; return what that changes. Raises FilesError."""
    owner, mode, before = ids_of(file["owner"], dry), mode_of(file), text_of(path)
    if before == file["content"] and is_as_wanted(path, owner, mode):
        return []
    if not dry:
        replace_file(path, file["content"], mode, owner)
    action = "add" if before is None else "change"
    told = {"kind": "file", "name": file["path"], "action": action, "needs": needs_of(file)}
    if file["secret"]:
        told["detail"] = "its text is secret"
    else:
        told["diff"] = {"before": before or "", "after": file["content"]}
    return [told]


def needs_of(file: dict) -> list[str]:
    """Return what must be there before the file, as `kind name`."""
    return ([f"account {file['owner']}"] if file["owner"] != "root" else []) + file["needs"]


def matches(pattern: str) -> list[str]:
    """Return the files whose names match; only the last part of a pattern has wildcards."""
    return sorted(map(str, Path(pattern).parent.glob(Path(pattern).name)))


def remove_unwanted(params: dict, dry: bool) -> list[dict]:
    """Remove the files that match a pattern and are not wanted; return them as changes."""
    wanted = {str(expanded(file["path"])) for file in params["files"]} | {*params["kept"]}
    found = [path for pattern in params["unwanted"] for path in matches(pattern) if path not in wanted]
    for path in found if not dry else []:
        Path(path).unlink()
    return [{"kind": "file", "name": path, "action": "remove"} for path in found]


def keep(params: dict, dry: bool) -> list[dict]:
    """Bring everything to what is wanted, and return what that changes. Raises FilesError."""
    changes = []
    for file in params["files"]:
        path = expanded(file["path"])
        try:
            changes += (keep_folder if file["content"] is None else keep_file)(path, file, dry)
        except OSError as error:
            raise FilesError(f"{path}: {error.strerror}. Put that right, then run this again") from None
    return changes + remove_unwanted(params, dry)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    try:
        changes = keep(module.params, module.check_mode)
    except FilesError as error:
        module.fail_json(msg=str(error))
    diff = [
        {"before_header": change["name"], "after_header": change["name"], **change["diff"]}
        if "diff" in change
        else {"prepared": f"{change['action']} {change['name']}\n"}
        for change in changes
    ]
    module.exit_json(changed=bool(changes), testbed_changes=changes, diff=diff)


if __name__ == "__main__":
    main()
