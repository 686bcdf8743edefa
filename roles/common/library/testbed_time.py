#!/usr/bin/python
"""Keeps this machine's clock by NTP: with the service that it has, and the servers that the spec names."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_block import DamagedError, replaced
from ansible.module_utils.testbed_host import clock
from ansible.module_utils.testbed_record import load, replace_file, save
from ansible.module_utils.testbed_units import UnitError, is_active, is_on, systemctl

DOCUMENTATION = r"""
module: testbed_time
short_description: Keep the clock by NTP
description:
  - chrony and systemd-timesyncd are told the servers.
  - A container's clock is that of the machine beneath, and nothing is done.
options:
  servers: {type: list, elements: str, default: [], description: 'NTP servers; none: those that the machine has'}
  state: {type: str, choices: [present, absent], default: present, description: 'With absent, all is as it was before'}
author: [The testbed's authors (@clearml-testbed)]
"""

TIMESYNCD = Path("/etc/systemd/timesyncd.conf.d/testbed.conf")
CHRONY = Path("/etc/chrony/chrony.conf")
CHRONY_DROP_IN = Path("/etc/chrony/conf.d/testbed.conf")
HEADER = "# Written by the ClearML testbed toolkit, which overwrites changes made here.\n"
MARKS = (
    "# BEGIN servers of the ClearML testbed: `testbed up` overwrites changes made here",
    "# END servers of the ClearML testbed",
)


class ClockError(Exception):
    """The clock cannot be kept as the spec says; the text says why and what to do."""


def texts(service: str, servers: list[str]) -> dict[Path, str]:
    """Return what the files of the service are to say; an empty one is not wanted. Raises DamagedError."""
    if service == "systemd-timesyncd":
        # the empty line forgets the servers of files that were read before
        return {TIMESYNCD: f"{HEADER}[Time]\nNTP=\nNTP={' '.join(servers)}\n" if servers else ""}
    if service not in ("chrony", "missing"):
        return {}
    lines = [f"server {server} iburst{'' if number else ' prefer'}" for number, server in enumerate(servers)]
    main = CHRONY.read_text(errors="surrogateescape") if CHRONY.exists() else None
    if main is not None and f"confdir {CHRONY_DROP_IN.parent}" not in main:  # before chrony 4
        try:
            return {CHRONY: replaced(main, *MARKS, lines)}
        except DamagedError as error:
            raise DamagedError(f"{CHRONY}: {error}") from None
    return {CHRONY_DROP_IN: HEADER + "".join(f"{line}\n" for line in lines) if lines else ""}


def differing(wanted: dict[Path, str]) -> dict[Path, str]:
    """Return the files that are not as they are to be."""
    found = {path: path.read_text(errors="surrogateescape") if path.exists() else "" for path in wanted}
    return {path: text for path, text in wanted.items() if found[path] != text}


def put(path: Path, text: str) -> None:
    """Write the file, and record what is made for it; without text, remove what was made."""
    record = load()
    if text:
        made = [str(folder) for folder in [path.parent] if not folder.exists()]
        record["time"]["folders"] = sorted({*record["time"].get("folders", []), *made})
        record["time"]["pending"] = True  # the service does not know it yet, should this run be killed
        save(record)
        path.parent.mkdir(mode=0o755, exist_ok=True)
        replace_file(path, text, path.stat().st_mode & 0o7777 if path.exists() else 0o644)
        return
    record["time"]["pending"] = True
    save(record)
    path.unlink()
    if str(path.parent) in record["time"].get("folders", []) and not any(path.parent.iterdir()):
        path.parent.rmdir()


def converge(service: str, servers: list[str], dry: bool) -> list[dict]:
    """Write the files and see to it that the service runs with them; return the changes.

    One that is installed and off stays off, unless servers are named: it is the machine's administrator who decided.
    Raises ClockError, DamagedError, UnitError.
    """
    if service not in ("chrony", "systemd-timesyncd", "missing"):
        if servers:
            raise ClockError(
                f"{service} keeps the clock here, which the testbed does not set up. Name the servers in its own "
                "configuration and take `time` out of testbed.yaml, or install chrony in its place"
            )
        return []
    unit = f"{service if service != 'missing' else 'chrony'}.service"
    new = differing(texts(service, servers))
    needs = ["package chrony"] if service == "missing" else []
    changes = [
        {
            "kind": "file",
            "name": str(path),
            "action": "remove" if not text else "change" if path.exists() else "add",
            "diff": {"before": path.read_text(errors="replace") if path.exists() else "", "after": text},
            "needs": needs,
        }
        for path, text in new.items()
    ]
    if service == "missing":  # only in check mode: the package comes first
        return changes
    on = is_on(unit)
    pending = bool(load()["time"].get("pending") or new)
    if not dry:
        for path, text in new.items():
            put(path, text)
    if not on and servers:
        changes.append({"kind": "service", "name": unit, "action": "change", "detail": "comes up with the machine"})
        if not dry:
            record = load()
            record["time"]["switched_on"] = unit
            save(record)
            systemctl("enable", unit)
    if (on or servers) and not is_active(unit):
        changes.append({"kind": "service", "name": unit, "action": "start"})
        if not dry:
            systemctl("start", unit)
    elif on and pending:
        changes.append({"kind": "service", "name": unit, "action": "restart"})
        if not dry:
            systemctl("restart", unit)
    if not dry and load()["time"].get("pending"):
        record = load()
        del record["time"]["pending"]
        save(record)
    return changes


def remove(dry: bool) -> list[dict]:
    """Take away what was written, and switch off what was switched on; return the changes. Raises as `converge`."""
    changes, services = [], ("systemd-timesyncd", "chrony")
    wanted: dict = {}
    for service in services:
        wanted.update({path: text for path, text in texts(service, []).items() if path.exists()})
    new = differing(wanted)
    for path, text in new.items():
        changes.append({"kind": "file", "name": str(path), "action": "change" if text else "remove"})
        if not dry:
            put(path, text)
    record = load()["time"]
    touched = [service for service in services if any(path in new for path in texts(service, []))]
    switched_on = record.get("switched_on")
    if not dry:
        for service in touched if clock() != "beneath" else []:
            systemctl("try-restart", f"{service}.service")
        if switched_on and is_on(switched_on):
            systemctl("disable", "--now", switched_on)
        if record:
            save({**load(), "time": {}})
    if switched_on:
        changes.append({"kind": "service", "name": switched_on, "action": "change", "detail": "off, as it was before"})
    return changes


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "servers": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    service, servers = clock(), module.params["servers"]
    try:
        if module.params["state"] == "absent":
            changes = remove(module.check_mode)
        elif service == "beneath":
            if servers:
                module.warn("time.servers of testbed.yaml is not used here: the clock is that of the machine beneath")
            changes = []
        else:
            changes = converge(service, servers, module.check_mode)
    except (ClockError, DamagedError, UnitError) as error:
        module.fail_json(msg=f"{error}. Then run this again")
    diff = [{**change["diff"], "after_header": change["name"]} for change in changes if "diff" in change]
    module.exit_json(changed=bool(changes), clock=service, testbed_changes=changes, diff=diff)


if __name__ == "__main__":
    main()
