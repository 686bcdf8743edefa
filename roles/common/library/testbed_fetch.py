#!/usr/bin/python
"""Reads files of a host, many in one step; its action plugin writes them on the administrator's machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: testbed_fetch
short_description: Copy those files that a host has into a private folder on the administrator's machine
options:
  files: {type: dict, required: true, description: 'Names to give them, by path on the host; ~NAME is a home'}
  dest: {type: path, required: true, description: Folder on the administrator's machine}
author: [The testbed's authors (@clearml-testbed)]
"""


LARGEST = 1 << 20  # bytes; a clearml.conf has some thousand


def text_of(path: str) -> str | None:
    """Return the text of a file; None where there is none. A user may put anything there: links and pipes are none."""
    try:
        descriptor = os.open(Path(path).expanduser(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (OSError, RuntimeError):  # the last: there is no such account
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return os.read(descriptor, LARGEST).decode("utf-8", errors="replace")
    finally:
        os.close(descriptor)


def main() -> None:
    """Run as an Ansible module."""
    spec = {"files": {"type": "dict", "required": True}, "dest": {"type": "path", "required": True}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    texts = {name: text_of(path) for path, name in module.params["files"].items()}
    module.exit_json(changed=False, texts={name: text for name, text in texts.items() if text is not None})


if __name__ == "__main__":
    main()
