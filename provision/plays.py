"""Runs one of the testbed's playbooks as a stage of a command."""

from __future__ import annotations

import os
from typing import Any

from provision import converge, locks
from provision.paths import PLAYBOOKS
from provision.session import Session


def play(
    session: Session,
    name: str,
    title: str,
    variables: dict[str, Any] | None = None,
    secret_variables: dict[str, Any] | None = None,
) -> converge.PlayResult:
    """Run playbook `name` on the session's hosts, shown as the stage `title`. Raises `ConvergeError`."""
    with session.stage(title) as current:
        result = converge.run_playbook(
            PLAYBOOKS / f"{name}.yml",
            session.inventory,
            session.vault,
            stage=current,
            log=session.log,
            work=session.work,
            variables={
                "testbed_private_dir": str(session.work),
                "testbed_run": os.environ.get(locks.VARIABLE, ""),
                **(variables or {}),
            },
            secret_variables=secret_variables or {},
            check=session.check,
            verbosity=session.verbosity,
            remote_tmp=session.remote_tmp,
        )
        current.result = f"{result.ok} tasks" if session.check else f"ok={result.ok} changed={result.changed}"
        return result
