"""The whole of `testbed up` on hosts of other kinds than this machine, with a proxy or mirrors as the only way out."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.lab import gateway as lab

if TYPE_CHECKING:
    from tests.lab.conftest import Engine, Host

ROOT = Path(__file__).parents[2]
NAME = "testbed-lab-up"
ENVIRONMENT = "LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# systemd's own, and what people at the host leave in their homes
NOT_COMPARED = ("/var/log/journal", "/var/lib/systemd", "/run/", "/home/tester/")
SERVICES = [
    *(
        "testbed-clearml-lite",
        "testbed-expiry",
        "testbed-influxdb",
        "testbed-agent-default",
        "testbed-agent-prepared",
        "testbed-inference",
        "testbed-watchdog",
    ),
]

MIRRORED_APT = """\
mirrors:
  apt: {mirror}/debian
  apt_security: {mirror}/debian-security
  ca_file: ./mirror.crt
"""
MIRRORED_PIP = "  pip: {index}\n"
PROXIED = "proxy: {{http: '{proxy}', no_proxy: [{host}], ca_file: ./machine.crt}}\n"


@dataclass(frozen=True)
class Kind:
    """A kind of host, and what its testbed.yaml says of the way to packages."""

    user: str
    checkout: str
    spec: str
    boots_systemd: bool = True
    apt_by: str = "mirror"
    pip_by: str = "mirror"


KINDS = [
    pytest.param(
        Kind("tester", "/home/tester/Prüf stand/testbed", MIRRORED_APT + PROXIED, pip_by="proxy"),
        id="systemd, sudo, odd path, apt from a mirror, pip by a proxy",
    ),
    pytest.param(
        Kind("root", "/root/testbed", PROXIED, apt_by="proxy", pip_by="proxy"),
        id="systemd, root, proxied",
    ),
    pytest.param(
        Kind("root", "/srv/testbed", MIRRORED_APT + MIRRORED_PIP, boots_systemd=False),
        id="systemd installed, PID 1 a shell, root, all from mirrors",
    ),
]


@pytest.fixture(scope="module")
def gateway(engine: Engine) -> Iterator[lab.Gateway]:
    """The lab's proxy and mirror."""
    with lab.running(engine) as found:
        yield found


@pytest.fixture
def host(engine: Engine, gateway: lab.Gateway, kind: Kind) -> Iterator[Host]:
    """A new host of that kind, with nothing on it but what a person needs to run `./testbed`."""
    shell = () if kind.boots_systemd else ("sh", "-c", "while :; do sleep 60; done")
    known = f"{lab.MIRROR}:{gateway.address}"
    found = engine.start(NAME, "--network", gateway.network, "--add-host", known, command=shell)
    found.run("ip", "route", "delete", "default")  # Docker's internal networks have one, and firewall it
    found.write("/etc/apt/apt.conf.d/99lab", lab.apt_settings().encode())
    if kind.apt_by == "proxy":  # the host's own sources; what comes from the mirror needs none
        found.write("/etc/apt/sources.list", f"deb {gateway.indexes.archive} bookworm main\n".encode())
    if kind.user != "root":
        found.run("useradd", "--create-home", "--shell", "/bin/bash", kind.user)
        found.write("/etc/sudoers.d/lab", f"{kind.user} ALL=(ALL) NOPASSWD: ALL\n".encode())
    found.put_checkout(kind.checkout)
    words = {"mirror": gateway.mirror, "index": gateway.mirror_index}
    words |= {"proxy": gateway.proxy, "host": lab.MIRROR}
    spec = (ROOT / "testbed.example.yaml").read_text() + kind.spec.format(**words)
    found.write(f"{kind.checkout}/testbed.yaml", spec.encode())
    found.write(f"{kind.checkout}/mirror.crt", (gateway.folder / "mirror.crt").read_bytes())
    found.write(f"{kind.checkout}/machine.crt", lab.CERTIFICATES.read_bytes())
    if kind.user != "root":
        found.run("chown", "-R", f"{kind.user}:", str(Path(kind.checkout).parent))
    yield found
    engine.run("rm", "--force", "--volumes", NAME)


def snapshot(host: Host, kind: Kind) -> dict[str, list[str]]:
    """Return packages, accounts and files of the host, without what passes and what the person has at home."""
    host.run("python3", f"{kind.checkout}/tests/integration/removal/snapshot.py", "/tmp/snapshot.json")
    found = json.loads(host.run("cat", "/tmp/snapshot.json"))
    passing = (*NOT_COMPARED, kind.checkout)
    found["files"] = [path for path in found["files"] if not path.startswith(passing)]
    return found


def settings(host: Host) -> str:
    """Return digests of how the host itself is set up to reach packages."""
    return host.run("sh", "-c", "find /etc/apt /etc/pip.conf /etc/ssl -type f 2>/dev/null | sort | xargs sha256sum")


def running(host: Host, kind: Kind) -> list[str]:
    """Return those of the testbed's services that the host's service manager says run."""
    if kind.boots_systemd:
        return [name for name in SERVICES if host.run("systemctl", "is-active", name, check=False).strip() == "active"]
    status = host.run("supervisorctl", "status", check=False)
    return [name for name in SERVICES if re.search(rf"^{name} +RUNNING", status, re.MULTILINE)]


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_a_testbed_comes_up_and_goes_without_a_trace(host: Host, gateway: lab.Gateway, kind: Kind) -> None:
    times: list[str] = []

    def testbed(*arguments: str, environment: tuple[str, ...] = ()) -> str:
        """Run ./testbed in the checkout as the person who is there, in a login's environment."""
        begun = time.monotonic()
        home = "/root" if kind.user == "root" else f"/home/{kind.user}"
        options = ("--user", kind.user, "--workdir", kind.checkout)
        clean = ("env", "-i", f"HOME={home}", *ENVIRONMENT.split(), *environment)
        try:
            return host.run(*clean, "./testbed", *arguments, options=options)
        finally:
            times.append(f"{' '.join(arguments)} {time.monotonic() - begun:.0f} s")

    routes = host.run("cat", "/proc/net/route").splitlines()[1:]
    assert [line for line in routes if line.split()[1] == "00000000"] == [], "the lab's hosts have no way out"

    # the command's own packages come the administrator's way, not the spec's
    own = (f"https_proxy={gateway.proxy}", f"PIP_CERT={kind.checkout}/machine.crt")
    testbed("version", environment=(*own, f"PIP_INDEX_URL={gateway.indexes.pip}"))
    before, settings_before = snapshot(host, kind), settings(host)
    gateway.forget()

    first = testbed("up", "--yes")
    passed = re.search(r"(\d+) of (\d+) checks passed", first)
    assert passed, first
    assert passed[1] == passed[2], first
    assert int(passed[2]) > 30, f"the full chain runs, too: {first}"
    assert running(host, kind) == SERVICES
    assert settings(host) == settings_before, "the host's own apt, pip and certificates stay as they are"
    user_pip = ("/home/researcher/clearml-venv/bin/python", "-m", "pip", "install", "--no-cache-dir", "iniconfig")
    host.run("runuser", "-u", "researcher", "--", "env", "-i", "HOME=/home/researcher", *ENVIRONMENT.split(), *user_pip)

    mirrored, proxied = gateway.mirrored(), gateway.proxied()
    archive, index = (urlsplit(url).netloc for url in (gateway.indexes.archive, gateway.indexes.pip))
    assert (" /debian/pool/" in mirrored, archive in proxied) == (kind.apt_by == "mirror", kind.apt_by == "proxy")
    assert (" /files/" in mirrored, index in proxied) == (kind.pip_by == "mirror", kind.pip_by == "proxy")
    if kind.pip_by == "mirror":
        assert "iniconfig" in mirrored
    else:  # the log of a tunnel does not name the package
        assert "proxy = " in host.run("cat", "/home/researcher/clearml-venv/pip.conf")
    assert "127.0.0.1" not in proxied, "the testbed's own services are reached directly"

    gateway.forget()
    second = testbed("up", "--yes")
    assert re.findall(r"changed=(\d+)", second) == ["0", "0"], second
    assert gateway.mirrored() + gateway.proxied() == "", "a second run downloads nothing"

    testbed("down", "--yes", "--purge")
    assert snapshot(host, kind) == before
    print(f"\nlab: {'; '.join(times)}; checks {passed[0]}")
