"""The cloud's part of `up` and `down` alone: `driver.py up|down SPEC PARALLEL`.

What comes behind it in `up`, SSH and playbooks, finds nobody on a fake hypervisor.
"""

from __future__ import annotations

import sys
from pathlib import Path

from provision import spec
from provision.cloud.plan import Action, Plan
from provision.cloud.run import Project, refuse
from provision.errors import TestbedError


class Printer:
    """Says what is done."""

    def planned(self, plan: Plan) -> None:
        """Say nothing; what is done is said."""

    def told(self, action: Action, result: str) -> None:
        """Say what was done."""
        print(f"{action.verb} {action.kind} {action.name}: {result}", flush=True)


def main(verb: str, file: str, parallel: str) -> int:
    """Run it, and return the exit code; errors are said as the command says them."""
    try:
        project = Project.of(spec.load(Path(file)), int(parallel))
        if verb == "up":
            first = project.look()
            refuse(first.plan)
            with project.marked(first.observed, break_lock=False):
                project.bring_up(Printer(), agreed=first, fresh=True)
        else:
            there = project.removal(keep_volumes=False).observed
            with project.marked(there, break_lock=False):
                project.take_down(Printer(), keep_volumes=False)
    except TestbedError as error:
        print(f"testbed: {error.message}\n  {error.remedy}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
