"""Every service of the testbed runs, where it should listen and nowhere else, with room to work in."""

from __future__ import annotations

import ipaddress
import time

import pytest

from provision import hosts
from provision.diagnosis import CLOCK_S
from provision.smoke.problem import need

pytestmark = pytest.mark.hosts

FREE_BYTES = 2 * 1024**3


def test_service_runs(on, service):
    """The service manager of the host says that the service runs; a container is healthy, too."""
    host, name = service
    state = hosts.service_state(on(host), name)
    need(
        state == hosts.RUNS,
        f"{host}: service {name} {state}",
        expected=f"{host}: service {name} runs",
        remedy=f"`testbed logs {name.removeprefix('testbed-')}` says why; `testbed up` starts it.",
    )


def test_ports_listen_where_they_should(on, stack):
    """Every port of the testbed listens on the address that testbed.yaml says, and on no other."""
    for name, host in stack.inventory["all"]["hosts"].items():
        wanted = {entry["port"]: entry["bind"] for entry in host["common_ports"]}
        found: dict[int, set[str]] = {}
        for address, port in _listening(on(name)):
            found.setdefault(port, set()).add(address)
        for port, bind in wanted.items():
            listens = ", ".join(sorted(found.get(port, []))) or "nowhere"
            need(
                found.get(port) == {bind},
                f"{name}: port {port} listens on {listens}",
                expected=f"{name}: port {port} listens on {bind} only",
                remedy="`testbed status` tells which service is not well; `testbed up` sets it right.",
            )


def _listening(host) -> list[tuple[str, int]]:
    """Return (address, port) of every listening TCP socket, from the kernel's tables."""
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in host.file(table).content_string.splitlines()[1:] if host.file(table).exists else []:
            local, state = line.split()[1], line.split()[3]
            if state == "0A":
                address, port = local.split(":")
                words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
                found.append((str(ipaddress.ip_address(b"".join(words))), int(port, 16)))
    return found


def test_disk_has_room(on, stack, record_property):
    """The disk of each host has room for data."""
    for name in sorted(stack.inventory["all"]["hosts"]):
        done = on(name).run("df --block-size=1 --output=avail %s", stack.testbed.data_dir)
        need(
            done.rc == 0,
            f"{name}: df {stack.testbed.data_dir}: {' '.join(done.stderr.split())[-200:]}",
            expected=f"{name}: df says how much is free in {stack.testbed.data_dir}",
            remedy="See whether the folder is there and its disk is mounted.",
        )
        free = int(done.stdout.splitlines()[-1])
        record_property("reference", f"{free / 1e9:.0f} GB free in {stack.testbed.data_dir}")
        need(
            free >= FREE_BYTES,
            f"{name}: {stack.testbed.data_dir} has {free / 1e9:.1f} GB left",
            expected=f"{name}: at least {FREE_BYTES / 1e9:.1f} GB are free in {stack.testbed.data_dir}",
            remedy=f"Make room on its disk: du -xh {stack.testbed.data_dir} | sort -h | tail",
        )


def test_clock_agrees_on_every_host(on, stack, record_property):
    """The clock of each host agrees with this machine's."""
    for name in sorted(stack.inventory["all"]["hosts"]):
        began = time.time()
        done = on(name).run("date +%s.%N")
        need(
            done.rc == 0,
            f"{name}: date: {' '.join(done.stderr.split())[-200:]}",
            expected=f"{name}: date tells its clock",
            remedy="`testbed status` says whether the host can be reached.",
        )
        offset = float(done.stdout) - (began + time.time()) / 2
        record_property("reference", f"{offset:+.1f} s")
        need(
            abs(offset) <= CLOCK_S,
            f"{name}: its clock is {abs(offset):.0f} s {'ahead' if offset > 0 else 'behind'}",
            expected=f"{name}: its clock is at most {CLOCK_S:.0f} s off",
            remedy="Set the clocks right: timedatectl set-ntp true, on the host and here.",
        )
