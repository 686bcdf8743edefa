"""Scripts of the toolkit's own on a host, as root: how to start one whose input or output is a stream.

Such a script is a file `*_on_host.py` beside this one: Python 3.8, no library, one JSON object as its argument.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from provision import locks
from provision.machines import PYTHON


def command(
    variables: dict[str, Any], ssh_options: Sequence[str], script: str, argument: dict[str, Any], *, mark: str = ""
) -> list[str]:
    """Return the command that runs the script `NAME_on_host.py` on a host, from the administrator's machine.

    `variables`: the host's in the inventory; `ssh_options`: those that lead to it, unless it is this machine. `mark`:
    what the process carries, so that it is found when its command was killed. `argument` holds no secret.
    """
    text = (Path(__file__).parent / f"{script}_on_host.py").read_text(encoding="utf-8")
    words = ["env", f"{locks.VARIABLE}={mark}", PYTHON, "-I", "-c", text, json.dumps(argument)]
    if variables["ansible_become"]:
        words = ["sudo", "-n", *words]
    if variables.get("ansible_connection") == "local":
        return words
    # a connection of its own: it ends with its command, however that ends
    alone = ["-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "BatchMode=yes", "-T"]
    return ["ssh", *alone, *ssh_options, variables["ansible_host"], shlex.join(words)]


def this_mark() -> str:
    """Return the mark of the command at work; empty in one that changes nothing."""
    return os.environ.get(locks.VARIABLE, "")
