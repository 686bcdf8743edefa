"""What kind of machine this is."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.testbed_units import is_on, is_there

RUNS_SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
CONTAINER = Path("/run/systemd/container")  # written by systemd as PID 1 of a container
CAP_SYS_TIME = 25
CLOCKS = ("chrony", "systemd-timesyncd", "ntpsec", "ntp", "openntpd")


def service_manager() -> str:
    """Return who keeps services up here: systemd where it runs, else supervisord.

    A container may have systemd installed, and even be made for it, while PID 1 is a shell.
    """
    return "systemd" if RUNS_SYSTEMD.is_dir() else "supervisord"


def is_container() -> bool:
    """Tell whether this is a container, whose clock and kernel are those of the machine beneath."""
    return CONTAINER.exists() or not may_set_clock()


def may_set_clock() -> bool:
    """Tell whether anything here can be allowed to set the clock (CAP_SYS_TIME, capabilities(7))."""
    lines = Path("/proc/self/status").read_text().splitlines()
    bounds = next(line.split()[1] for line in lines if line.startswith("CapBnd:"))
    return bool(int(bounds, 16) >> CAP_SYS_TIME & 1)


def clock() -> str:
    """Return what keeps this machine's clock: a service, `missing`, or `beneath` where it is not this machine's.

    One that comes up with the machine is taken before one that is only installed.
    """
    if service_manager() != "systemd" or is_container():
        return "beneath"
    found = [unit for unit in CLOCKS if is_there(f"{unit}.service")]
    return next((unit for unit in found if is_on(f"{unit}.service")), found[0] if found else "missing")
