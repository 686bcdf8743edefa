#!/usr/bin/python
"""Keeps the administrators' public keys in a marked block of an account's authorized_keys; other lines stay."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_record import load, replace_file, save

DOCUMENTATION = r"""
module: testbed_let_in
short_description: Keep the administrators' public keys in authorized_keys
description:
  - Accounts that got the block in an earlier run keep it up to date too, so that a key that goes, goes everywhere.
options:
  account: {type: str, description: Account that the keys open}
  lines:
    type: list
    elements: str
    required: true
    description: "Public keys. None: the block goes, and what was made for it"
author: [The testbed's authors (@clearml-testbed)]
"""

BEGIN = "# BEGIN administrators of the ClearML testbed: `testbed up` overwrites changes made here"
END = "# END administrators of the ClearML testbed"


class DamagedError(Exception):
    """The block's last line is gone; the text says what to do."""


def without_block(text: str) -> str:
    """Return the file's text without the block. Raises DamagedError when its end is not to be seen."""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    if not begin:
        return text
    _, end, after = rest.partition(f"{END}\n")
    if not end:
        raise DamagedError(f"the line '{BEGIN}' has no '{END}' below it. Put that line below the last key of the block")
    return before + after


def with_block(text: str, lines: list[str]) -> str:
    """Return the file's text with the block as its end; without lines there is no block."""
    others = without_block(text)
    if not lines:
        return others
    gap = "" if others.endswith("\n") or not others else "\n"
    return others + gap + "\n".join([BEGIN, *lines, END]) + "\n"


def read(path: Path) -> str:
    """Return the file's text, whatever bytes it has; empty where there is no file."""
    return path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""


def write(path: Path, text: str, owner: pwd.struct_passwd) -> None:
    """Replace the file in one step, with the owner and mode that it has, or the account's and 0600."""
    path = path.resolve()  # where it is a link, the file behind it
    if path.exists():
        found = path.stat()
        replace_file(path, text, found.st_mode & 0o7777, (found.st_uid, found.st_gid))
    else:
        replace_file(path, text, 0o600, (owner.pw_uid, owner.pw_gid))


def place(owner: pwd.struct_passwd, text: str) -> None:
    """Write the file, making its folder, and record first what is made."""
    path = Path(owner.pw_dir) / ".ssh" / "authorized_keys"
    record = load()
    made = {"file_made": not path.exists(), "folder_made": not path.parent.exists()}
    if owner.pw_name not in record["let_in"]:
        record["let_in"][owner.pw_name] = made
        save(record)
    if not path.parent.exists():
        path.parent.mkdir(mode=0o700)
        os.chown(path.parent, owner.pw_uid, owner.pw_gid)
    write(path, text, owner)


def take_away(owner: pwd.struct_passwd, text: str) -> None:
    """Write the file without the block, or remove what was made for it; then forget the account."""
    path = Path(owner.pw_dir) / ".ssh" / "authorized_keys"
    record = load()
    made = record["let_in"].get(owner.pw_name, {"file_made": False, "folder_made": False})
    if path.exists():
        if made["file_made"] and not text:
            path.unlink()
        else:
            write(path, text, owner)
    if made["folder_made"] and path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()
    forget(owner.pw_name)


def forget(account: str) -> None:
    """Strike the account out of the record."""
    record = load()
    if record["let_in"].pop(account, None) is not None:
        save(record)


def converge(account: str | None, lines: list[str], dry: bool) -> list[dict]:
    """Bring the files of the account, and of those of earlier runs, to the wanted state; return what changed."""
    changes = []
    recorded = list(load()["let_in"])
    for name in dict.fromkeys(([account] if account else []) + recorded):
        try:
            owner = pwd.getpwnam(name)
        except KeyError:
            if name == account and lines:
                raise DamagedError(f"there is no account {name}") from None
            if not dry:
                forget(name)
            continue
        path = Path(owner.pw_dir) / ".ssh" / "authorized_keys"
        before = read(path)
        try:
            after = with_block(before, lines)
        except DamagedError as error:
            raise DamagedError(f"{path}: {error}") from None
        if before != after:
            header = {"before_header": str(path), "after_header": str(path)}
            changes.append({**header, "before": block_of(before), "after": block_of(after)})
            if not dry:
                (place if lines else take_away)(owner, after)
        elif not lines and name in recorded and not dry:
            take_away(owner, after)  # an earlier run was killed before it had forgotten the account
    return changes


def block_of(text: str) -> str:
    """Return the block, for a diff: the other lines are none of ours."""
    return BEGIN + text.partition(BEGIN)[2].partition(END)[0] + END + "\n" if BEGIN in text else ""


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={"account": {"type": "str"}, "lines": {"type": "list", "elements": "str", "required": True}},
        supports_check_mode=True,
    )
    os.umask(0o077)
    try:
        changes = converge(module.params["account"], module.params["lines"], module.check_mode)
    except DamagedError as error:
        module.fail_json(msg=f"{error}, then run this again")
    told = [{"kind": "file", "name": change["before_header"], "action": "change", "diff": change} for change in changes]
    module.exit_json(changed=bool(changes), testbed_changes=told, diff=changes)


if __name__ == "__main__":
    main()
