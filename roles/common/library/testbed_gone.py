#!/usr/bin/python
"""Removes folders with all that is in them; what is mounted stays mounted, and is emptied."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_mounts import cannot_go, take_away

DOCUMENTATION = r"""
module: testbed_gone
short_description: Remove folders, also where a disk of their own is mounted
options:
  paths: {type: list, elements: str, required: true, description: What goes, with all that is in it}
author: [The testbed's authors (@clearml-testbed)]
"""


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={"paths": {"type": "list", "elements": "str", "required": True}}, supports_check_mode=True
    )
    paths = [Path(path) for path in module.params["paths"]]
    try:
        changes = [change for path in paths for change in take_away(path, check=module.check_mode)]
    except OSError as error:
        module.fail_json(msg=cannot_go(error))
    module.exit_json(changed=bool(changes), testbed_changes=changes)


if __name__ == "__main__":
    main()
