"""What kind of machine this is."""

from __future__ import annotations

from pathlib import Path

RUNS_SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)


def service_manager() -> str:
    """Return who keeps services up here: systemd where it runs, else supervisord.

    A container may have systemd installed, and even be made for it, while PID 1 is a shell.
    """
    return "systemd" if RUNS_SYSTEMD.is_dir() else "supervisord"
