#!/usr/bin/python
"""Makes Linux accounts and records those that were not there, so that exactly they can go again."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_mounts import cannot_go, take_away
from ansible.module_utils.testbed_record import load, name_process, save

DOCUMENTATION = r"""
module: testbed_accounts
short_description: Make accounts and record them, or remove the recorded ones
options:
  accounts:
    type: list
    elements: dict
    default: []
    description: Accounts that must be there
    suboptions:
      name: {type: str, required: true, description: Name of the account}
      home: {type: str, description: Home folder; by default /home/<name>}
      system: {type: bool, default: false, description: "A service's account: no shell, an empty home of mode 0700"}
      folders:
        type: list
        elements: str
        description: "Folders in its home that are to be the account's own, mode 0700, as the home; parents first"
  state: {type: str, choices: [present, absent], default: present, description: With absent, all that was recorded goes}
  purge: {type: bool, default: false, description: "With absent, remove made homes, too, but nothing mounted in them"}
author: [The testbed's authors (@clearml-testbed)]
"""


def exists(name: str) -> bool:
    """Tell whether the account is there."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def owner_without_account(folder: Path) -> int | None:
    """Return the user ID that owns a kept home, when no account has that ID now."""
    if not folder.is_dir():
        return None
    uid = folder.stat().st_uid
    return None if uid in {entry.pw_uid for entry in pwd.getpwall()} else uid


def add(name: str, home: Path, system: bool) -> None:
    """Make the account, with the ID that a kept home has."""
    command = ["useradd", "--user-group", "--home-dir", str(home)]
    command += ["--no-create-home", "--shell", "/usr/sbin/nologin" if system else "/bin/bash"]
    command += ["--system"] if system else []
    uid = owner_without_account(home)
    command += ["--uid", str(uid)] if uid is not None else []
    subprocess.run([*command, name], check=True, capture_output=True, text=True)


def make_home(account: dict) -> None:
    """Make an account's home, whole or not at all: a service's is empty, and no other account can look into it."""
    home = Path(account["home"])
    half = home.with_name(f"{home.name}.testbed-new")
    if half.exists():
        shutil.rmtree(half)
    if account["system"]:
        half.mkdir(mode=0o700)
    else:
        shutil.copytree("/etc/skel", half, symlinks=True)
        half.chmod(0o750)
    owner = pwd.getpwnam(account["name"])
    for path in [half, *half.rglob("*")]:
        os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)
    half.replace(home)


def is_own(path: Path, name: str) -> bool:
    """Tell whether the folder is the account's, and nobody else's to look into."""
    if not path.is_dir() or path.is_symlink():
        return False
    found, owner = path.stat(), pwd.getpwnam(name)
    return (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (owner.pw_uid, owner.pw_gid, 0o700)


def make_own(path: Path, name: str) -> None:
    """Make the folder, or make it the account's; a link that the account has put there leads nowhere."""
    if not path.is_symlink() and not path.exists():
        path.mkdir(mode=0o700)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        owner = pwd.getpwnam(name)
        os.fchown(folder, owner.pw_uid, owner.pw_gid)
        os.fchmod(folder, 0o700)
    finally:
        os.close(folder)


def keep_folders(account: dict, dry: bool) -> list[dict]:
    """Make the folders that are to be the account's own; return those that are not as changes."""
    name, home = account["name"], Path(account["home"])
    wanted = [home, *(home / folder for folder in account["folders"])]
    wrong = {path: path.is_dir() for path in wanted if not (exists(name) and is_own(path, name))}
    for path in wrong if not dry else []:
        make_own(path, name)
    return [
        {"kind": "folder", "name": str(path), "action": "change" if there else "add", "needs": [f"account {name}"]}
        for path, there in wrong.items()
    ]


def present(module: AnsibleModule) -> list[dict]:
    """Make what is missing; return accounts and homes as changes."""
    for account in module.params["accounts"]:
        account["home"] = account["home"] or f"/home/{account['name']}"
    missing = [account for account in module.params["accounts"] if not exists(account["name"])]
    record = load()
    ours = {account["name"] for account in missing} | {
        name for name, entry in record["accounts"].items() if entry["home_made"]
    }
    homes = [
        account
        for account in module.params["accounts"]
        if (account["system"] or account["name"] in ours) and not Path(account["home"]).is_dir()
    ]
    if missing and not module.check_mode:
        for account in missing:
            entry = {"home": account["home"], "home_made": not Path(account["home"]).exists()}
            record["accounts"].setdefault(account["name"], entry)
        save(record)
        for account in missing:
            add(account["name"], Path(account["home"]), account["system"])
    if homes and not module.check_mode:
        for account in homes:
            make_home(account)
    made = [{"kind": "account", "name": account["name"], "action": "add"} for account in missing]
    made += [
        {"kind": "folder", "name": account["home"], "action": "add", "needs": [f"account {account['name']}"]}
        for account in homes
    ]
    told = {change["name"] for change in made}
    for account in module.params["accounts"]:
        if account["folders"] is not None:
            changes = keep_folders(account, module.check_mode)
            made += [change for change in changes if change["name"] not in told]
    return made


def absent(module: AnsibleModule) -> list[dict]:
    """Remove what was recorded; return the accounts and the homes that go as changes."""
    record = load()
    names = [name for name in record["accounts"] if exists(name)]
    homes = [Path(entry["home"]) for entry in record["accounts"].values() if entry["home_made"]]
    homes = [home for home in homes if module.params["purge"] and home.is_dir()]
    if not module.check_mode:
        for name in names:
            subprocess.run(["userdel", "--force", name], check=True, capture_output=True, text=True)
    gone = [{"kind": "account", "name": name, "action": "remove"} for name in names]
    for home in homes:  # what users have mounted there, such as a share, is not the testbed's to empty
        gone += take_away(home, check=module.check_mode, empty_mounted=False)
    if not module.check_mode:
        kept = {name: entry for name, entry in record["accounts"].items() if Path(entry["home"]).is_dir()}
        if kept != record["accounts"]:
            save({**record, "accounts": kept})
    return gone


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "accounts": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "home": {"type": "str"},
                    "system": {"type": "bool", "default": False},
                    "folders": {"type": "list", "elements": "str"},
                },
            },
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "purge": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    name_process("testbed-account")  # useradd and userdel are not interrupted
    try:
        changes = (present if module.params["state"] == "present" else absent)(module)
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"{' '.join(error.cmd)}: {error.stderr.strip()}. Put that right, then run this again")
    except OSError as error:
        remedy = f"{error.filename}: {error.strerror}. Make it a folder, then run this again"
        module.fail_json(msg=remedy if module.params["state"] == "present" else cannot_go(error))
    lines = "".join(f"{change['name']}\n" for change in changes)
    before, after = ("", lines) if module.params["state"] == "present" else (lines, "")
    module.exit_json(changed=bool(changes), testbed_changes=changes, diff={"before": before, "after": after})


if __name__ == "__main__":
    main()
