"""What a task that writes files would change, told in check mode as the toolkit's own modules tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def testbed_changes(written: Mapping[str, Any], files: list[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the changes of a registered `template` or `copy`, for the files of its loop (one without a loop).

    Each of `files` has `path` and may have `owner` and `needs` (what must be there first, as `kind name`).
    With no_log Ansible has blanked the texts, and so they are left out here.
    """
    results = written.get("results", [written])
    found = []
    for file, result in zip(files, results):
        if not result.get("changed"):
            continue
        texts = [part for part in result.get("diff") or [] if "before" in part or "after" in part]
        there = any("before_header" in part or part.get("dst_binary") for part in result.get("diff") or [])
        owner = [f"account {file['owner']}"] if "owner" in file else []
        change = {"kind": "file", "name": file["path"], "action": "change" if there else "add"}
        change["needs"] = [*owner, *file.get("needs", [])]
        if result.get("_ansible_no_log") or any(" [[ Diff output has been hidden" in str(part) for part in texts):
            change["detail"] = "its text is secret"
        elif texts and isinstance(texts[0].get("after"), str):
            change["diff"] = {key: texts[0].get(key) or "" for key in ("before", "after")}
        found.append(change)
    return {"testbed_changes": found}


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"testbed_changes": testbed_changes}
