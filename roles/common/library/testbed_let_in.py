#!/usr/bin/python
"""Keeps people's public keys in a marked block of accounts' authorized_keys; other lines stay."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_block import DamagedError, replaced, split
from ansible.module_utils.testbed_record import load, replace_file, save

DOCUMENTATION = r"""
module: testbed_let_in
short_description: Keep public keys in authorized_keys
description:
  - Accounts that got the block in an earlier run are brought up to date too, so that a key that goes, goes everywhere.
options:
  who:
    type: str
    choices: [administrators, users]
    required: true
    description: "Whose keys they are; each has a block of its own, and a user's is written with that user's rights"
  keys:
    type: dict
    default: {}
    description: "Public keys by account. No account, or none of its keys: the block goes, and what was made for it"
  others:
    type: list
    elements: str
    default: []
    description: Public keys of accounts that got the block in an earlier run and are not in C(keys)
author: [The testbed's authors (@clearml-testbed)]
"""

MARKS = {
    who: (
        f"# BEGIN {who} of the ClearML testbed: `testbed up` overwrites changes made here",
        f"# END {who} of the ClearML testbed",
    )
    for who in ("administrators", "users")
}
RECORDS = {"administrators": "let_in", "users": "user_keys"}


class RefusedError(Exception):
    """The keys cannot be written; the text says why and what to do."""


@contextlib.contextmanager
def acting_as(owner: pwd.struct_passwd, who: str) -> Iterator[None]:
    """Have no more rights than a user has in the block: in their home they may have put a link to anything."""
    if who == "administrators" or os.geteuid() != 0 or owner.pw_uid == 0:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(owner.pw_gid)
    os.seteuid(owner.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def read(path: Path) -> str:
    """Return the file's text, whatever bytes it has; empty where there is no file."""
    return path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""


def write(path: Path, text: str, owner: pwd.struct_passwd) -> None:
    """Replace the file in one step, with the owner and mode that it has, or the account's and 0600."""
    path = path.resolve()  # where it is a link, the file behind it
    if path.exists():
        found = path.stat()
        its = (found.st_uid, found.st_gid) if os.geteuid() == 0 else None
        replace_file(path, text, found.st_mode & 0o7777, its)
    else:
        replace_file(path, text, 0o600, (owner.pw_uid, owner.pw_gid))


def place(owner: pwd.struct_passwd, text: str, who: str) -> None:
    """Write the file, making its folder, and record first what is made."""
    path = Path(owner.pw_dir) / ".ssh" / "authorized_keys"
    record = load()
    with acting_as(owner, who):
        made = {"file_made": not path.exists(), "folder_made": not path.parent.exists()}
    if owner.pw_name not in record[RECORDS[who]]:
        record[RECORDS[who]][owner.pw_name] = made
        save(record)
    with acting_as(owner, who):
        if not path.parent.exists():
            path.parent.mkdir(mode=0o700)
            os.chown(path.parent, owner.pw_uid, owner.pw_gid)
        write(path, text, owner)


def take_away(owner: pwd.struct_passwd, text: str, who: str) -> None:
    """Write the file without the block, or remove what was made for it; then forget the account."""
    path = Path(owner.pw_dir) / ".ssh" / "authorized_keys"
    made = load()[RECORDS[who]].get(owner.pw_name, {"file_made": False, "folder_made": False})
    with acting_as(owner, who):
        if path.exists():
            if made["file_made"] and not text:
                path.unlink()
            else:
                write(path, text, owner)
        if made["folder_made"] and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
    forget(owner.pw_name, who)


def forget(account: str, who: str) -> None:
    """Strike the account out of the record."""
    record = load()
    if record[RECORDS[who]].pop(account, None) is not None:
        save(record)


def converge(who: str, keys: dict[str, list[str]], others: list[str], dry: bool) -> list[dict]:
    """Bring the files of the accounts, and of those of earlier runs, to the wanted state; return the changes.

    Raises DamagedError and RefusedError.
    """
    changes = []
    recorded = list(load()[RECORDS[who]])
    for name in dict.fromkeys([*keys, *recorded]):
        lines = keys.get(name, others)
        try:
            owner = pwd.getpwnam(name)
        except KeyError:
            if name in keys and lines and dry and who == "users":  # it is about to be made
                needs = [f"account {name}"]
                changes.append(told(Path(f"/home/{name}/.ssh/authorized_keys"), "", who, lines, needs))
            elif name in keys and lines:
                raise RefusedError(f"there is no account {name}. Make it") from None
            elif not dry:
                forget(name, who)
            continue
        path = Path(owner.pw_dir) / ".ssh" / "authorized_keys"
        try:
            with acting_as(owner, who):
                before, there = read(path), path.exists()
            after = replaced(before, *MARKS[who], lines)
            if before != after:
                changes.append(told(path, before if there else None, who, lines))
                if not dry:
                    (place if lines else take_away)(owner, after, who)
            elif not lines and name in recorded and not dry:
                take_away(owner, after, who)  # an earlier run was killed before it had forgotten the account
        except DamagedError as error:
            raise DamagedError(f"{path}: {error}") from None
        except OSError as error:
            raise RefusedError(f"{path} of the account {name}: {error.strerror}. Let that account write it") from None
    return changes


def told(path: Path, before: str | None, who: str, lines: list[str], needs: list[str] | None = None) -> dict:
    """Return a change of a file, of which the diff shows nothing but the block: the other lines are none of ours."""
    begin, end = MARKS[who]
    diff = {"before": split(before or "", begin, end)[1], "after": replaced("", begin, end, lines)}
    action = "add" if before is None or needs else "change"
    header = {"before_header": str(path), "after_header": str(path)}
    change = {"kind": "file", "name": str(path), "action": action, "diff": {**header, **diff}}
    return {**change, "needs": needs} if needs else change


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "who": {"type": "str", "choices": ["administrators", "users"], "required": True},
            "keys": {"type": "dict", "default": {}, "no_log": False},
            "others": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    os.umask(0o077)
    wanted = module.params
    try:
        changes = converge(wanted["who"], wanted["keys"], wanted["others"], module.check_mode)
    except (DamagedError, RefusedError) as error:
        module.fail_json(msg=f"{error}, then run this again")
    module.exit_json(changed=bool(changes), testbed_changes=changes, diff=[change["diff"] for change in changes])


if __name__ == "__main__":
    main()
