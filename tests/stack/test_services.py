"""Every service of the testbed runs, where it should listen and nowhere else, with room to work in."""

from __future__ import annotations

import ipaddress

from provision import hosts

FREE_BYTES = 2 * 1024**3


def test_service_runs(on, service):
    host, name = service
    state = hosts.service_state(on(host), name)
    assert state == hosts.RUNS, f"{host}: service {name} {state}; see `testbed logs {name}`, `testbed up` starts it"


def test_ports_listen_where_they_should(on, stack):
    for name, host in stack.inventory["all"]["hosts"].items():
        wanted = {entry["port"]: entry["bind"] for entry in host["common_ports"]}
        found: dict[int, set[str]] = {}
        for address, port in _listening(on(name)):
            found.setdefault(port, set()).add(address)
        for port, bind in wanted.items():
            assert found.get(port) == {bind}, (
                f"{name}: port {port} should listen on {bind} only; it listens on {sorted(found.get(port, []))}"
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
    for name in sorted(stack.inventory["all"]["hosts"]):
        done = on(name).run("df --block-size=1 --output=avail %s | tail -n 1", stack.testbed.data_dir)
        free = int(done.stdout)
        record_property("reference", f"{free / 1e9:.0f} GB free in {stack.testbed.data_dir}")
        assert free >= FREE_BYTES, (
            f"{name}: {stack.testbed.data_dir} has {free / 1e9:.1f} GB left; make room on its disk"
        )
