#!/usr/bin/python
"""Keeps a kernel setting at least at a value, now and after a boot, and gives back the value of before."""

from __future__ import annotations

import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_record import replace_file

DOCUMENTATION = r"""
module: testbed_sysctl
short_description: Keep a kernel setting at least at a value
options:
  name: {type: str, required: true, description: 'The setting, such as vm.max_map_count'}
  at_least: {type: int, default: 0, description: Its least value; a higher one stays}
  file: {type: str, required: true, description: Where it is kept for the next boot}
  state: {type: str, choices: [present, absent], default: present, description: With absent the former value returns}
author: [The testbed's authors (@clearml-testbed)]
"""


KERNEL = Path("/proc/sys")


def text(name: str, value: int, former: int) -> str:
    """Return the settings file; it carries the former value."""
    return f"# Written by the ClearML testbed toolkit. Before: {former}\n{name} = {value}\n"


def former(content: str) -> int:
    """Return the value of before, out of the settings file."""
    return int(re.findall(r"Before: (\d+)", content)[0])


def converge(module: AnsibleModule) -> None:
    """Bring the setting to where it is wanted, or back to where it was, with its file."""
    wanted, path = module.params, Path(module.params["file"])
    setting = KERNEL.joinpath(*wanted["name"].split("."))
    now, there = int(setting.read_text()), path.read_text() if path.exists() else ""
    before = former(there) if there else now
    if wanted["state"] == "present":
        value = wanted["at_least"]
        content = text(wanted["name"], value, before) if there or now < value else ""
        value = max(now, value)
    else:
        content = ""
        value = before if there else now
    action = "remove" if not content else "change" if there else "add"
    changes = [{"kind": "file", "name": str(path), "action": action}] if content != there else []
    if now != value:
        change = f"{wanted['name']} from {now} to {value}"
        changes.append({"kind": "task", "name": "Set kernel settings", "action": "change", "detail": change})
    if changes and not module.check_mode:
        if content != there and content:
            replace_file(path, content, 0o644)
        if now != value:
            try:
                setting.write_text(f"{value}\n")
            except OSError as error:
                module.fail_json(
                    msg=f"{wanted['name']} is {now}, {value} is needed, and it cannot be set here ({error}). "
                    "Set it on the machine that this host runs on"
                )
        if content != there and not content:
            path.unlink()
    diff = {"before": there, "after": content, "before_header": str(path), "after_header": str(path)}
    module.exit_json(changed=bool(changes), testbed_changes=changes, diff=diff)


def main() -> None:
    """Run as an Ansible module."""
    converge(
        AnsibleModule(
            argument_spec={
                "name": {"type": "str", "required": True},
                "at_least": {"type": "int", "default": 0},
                "file": {"type": "str", "required": True},
                "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            },
            supports_check_mode=True,
        )
    )


if __name__ == "__main__":
    main()
