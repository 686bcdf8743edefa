#!/usr/bin/python
"""Writes what apt and pip need to reach a private mirror or a proxy: sources of our own, and certificates."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_apt import LISTS, SOURCES, bundle
from ansible.module_utils.testbed_record import replace_file

DOCUMENTATION = r"""
module: testbed_sources
short_description: Write down where packages come from
options:
  apt: {type: str, default: "", description: apt sources in place of the machine's own; empty for the machine's own}
  ca: {type: str, default: "", description: Certificates to trust beside the system's; empty for the system's alone}
  ca_bundle: {type: str, required: true, description: File for both}
author: [The testbed's authors (@clearml-testbed)]
"""


def folder(path: Path) -> None:
    """Make the folder so that apt's own account can look into it, whatever the umask."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o755)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "apt": {"type": "str", "default": ""},
            "ca": {"type": "str", "default": ""},
            "ca_bundle": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    apt, ca = module.params["apt"], module.params["ca"]
    wanted = {SOURCES: apt, Path(module.params["ca_bundle"]): bundle(ca) if ca else ""}
    diff, changes = [], []
    for path, content in wanted.items():
        before = path.read_text() if path.exists() else ""
        if before == content:
            continue
        shown = (before, content) if path == SOURCES else ("", f"(certificates, {len(content)} bytes)\n")
        header = {"before_header": str(path), "after_header": str(path)}
        action = "remove" if not content else "change" if before else "add"
        texts = {"diff": {"before": before, "after": content}} if path == SOURCES else {}
        changes.append({"kind": "file", "name": str(path), "action": action, **texts})
        diff.append({**header, "before": shown[0], "after": shown[1]})
        if module.check_mode:
            continue
        if content:
            folder(path.parent)
            replace_file(path, content, 0o644)
        else:
            path.unlink()
    if apt and not module.check_mode:
        folder(LISTS.parent)
        folder(LISTS)
    module.exit_json(changed=bool(diff), testbed_changes=changes, diff=diff)


if __name__ == "__main__":
    main()
