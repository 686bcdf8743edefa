"""Writes what the module `testbed_fetch` reads on a host into a private folder of the administrator's machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """What Ansible looks for."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Copy the files; the result has none of their texts."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        result.update(self._execute_module(task_vars=task_vars))
        folder = Path(self._task.args["dest"])
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, text in result.pop("texts", {}).items():
            path = folder / Path(name).name  # a host has no say in where it is written
            path.unlink(missing_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
                file.write(text)
        return result
