"""The only way out of the lab's network: a forward proxy (tinyproxy) and a mirror of the package indexes (nginx).

Both are Debian's packages, in a container that shares this machine's network. What they pass on is where this machine
gets its own packages from, read from its settings when the test runs; the repository names no registry.
tinyproxy is the smallest forward proxy that tunnels https and logs each connection; nginx serves under another address,
over TLS with a certificate that nobody knows, what it fetches from the indexes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.conftest import Host

if TYPE_CHECKING:
    from tests.lab.conftest import Engine

# a name, not an address: pip's newest releases refuse TLS to a bare address
MIRROR = "mirror.lab"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
MIRROR_CONF = """\
events {{}}
http {{
  access_log /lab/mirror.log;
  proxy_ssl_server_name on;
  proxy_ssl_verify on;
  proxy_ssl_verify_depth 8;
  proxy_ssl_trusted_certificate {certificates};
  proxy_max_temp_file_size 0;
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_set_header Accept-Encoding "";
  server {{
    listen {address}:8443 ssl;
    ssl_certificate /lab/mirror.crt;
    ssl_certificate_key /lab/mirror.key;
    location /debian/ {{ proxy_pass {archive}/; }}
    location /debian-security/ {{ proxy_pass {security}/; }}
    location /index/ {{
      proxy_pass {index}/;
      sub_filter_types *;
      sub_filter_once off;
      sub_filter '{files}/' 'https://{mirror}:8443/files/';
    }}
    location /files/ {{ proxy_pass {files}/; }}
    location /v2/ {{
      proxy_pass http://{registry};
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-Proto https;
    }}
  }}
}}
"""
PROXY_CONF = """\
Port 3128
Listen {address}
Timeout 600
MaxClients 100
LogFile "/lab/proxy.log"
LogLevel Connect
PidFile "/run/tinyproxy.pid"
Allow 0.0.0.0/0
"""


@dataclass(frozen=True)
class Indexes:
    """Where this machine gets packages from: URLs without a trailing slash."""

    archive: str
    security: str
    pip: str
    pip_files: str  # origin of the files that the index names


@dataclass(frozen=True)
class Gateway:
    """The running gateway; `folder` has the certificate of the mirror and both logs."""

    engine: Engine
    folder: Path
    indexes: Indexes

    @property
    def network(self) -> str:
        """The network that it is the only way out of."""
        return f"{self.engine.name}-inside"

    @property
    def address(self) -> str:
        """Its address in that network."""
        return f"{self.engine.subnet}.1"

    @property
    def registry(self) -> str:
        """Where a registry of images listens, if there is one: on loopback, where Docker asks for no TLS."""
        return f"127.{self.engine.subnet.partition('.')[2]}.1:5000"

    @property
    def host(self) -> Host:
        """The container."""
        return Host(self.engine, f"{self.engine.name}-gateway")

    @property
    def proxy(self) -> str:
        """URL of the forward proxy."""
        return f"http://{self.address}:3128"

    @property
    def mirror(self) -> str:
        """URL below which the mirror has `debian`, `debian-security` and `index/<name>`."""
        return f"https://{MIRROR}:8443"

    @property
    def mirror_index(self) -> str:
        """URL of the mirror's simple index."""
        return f"{self.mirror}/index/{urllib.parse.urlsplit(self.indexes.pip).path.rsplit('/', 1)[1]}"

    def proxied(self) -> str:
        """Return the proxy's log."""
        return (self.folder / "proxy.log").read_text()

    def mirrored(self) -> str:
        """Return the mirror's log."""
        return (self.folder / "mirror.log").read_text()

    def forget(self) -> None:
        """Empty both logs."""
        for name in ("proxy.log", "mirror.log"):
            with (self.folder / name).open("r+") as log:
                log.truncate()


def apt_settings() -> str:
    """Return what this machine's apt says of the dates of indexes, which may be of a frozen archive."""
    dumped = subprocess.check_output(["apt-config", "dump"], text=True).splitlines()
    return "".join(f"{line}\n" for line in dumped if line.startswith("Acquire::Check-"))


def read_indexes() -> Indexes:
    """Return where this machine gets packages from."""
    subprocess.run(["apt-get", "-qq", "update"], check=False, capture_output=True)  # a new machine has no lists yet
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)"]
    listed = [line.split() for line in subprocess.check_output(targets, text=True).splitlines()]
    found = {release: url.rstrip("/") for url, release in listed}
    archive, security = found["bookworm"], found["bookworm-security"]
    pip = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    said = os.environ.get("PIP_INDEX_URL") or subprocess.run(pip, capture_output=True, text=True, check=False).stdout
    said = said.strip()
    default = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"
    index = (said or subprocess.check_output([sys.executable, "-c", default], text=True).strip()).rstrip("/")
    request = urllib.request.Request(  # noqa: S310
        f"{index}/pip/", headers={"Accept": "application/vnd.pypi.simple.v1+json, text/html;q=0.1"}
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        page = answer.read().decode()
        where = answer.url
    link = json.loads(page)["files"][0]["url"] if page.startswith("{") else page.split('href="', 1)[1].split('"', 1)[0]
    files = urllib.parse.urlsplit(urllib.parse.urljoin(where, link))
    return Indexes(archive, security, index, f"{files.scheme}://{files.netloc}")


@contextmanager
def running(engine: Engine) -> Iterator[Gateway]:
    """Yield the gateway of a new network that has no other way out."""
    indexes = read_indexes()
    folder = Path(tempfile.mkdtemp(prefix=f"{engine.name}-gateway-", dir=engine.folder))
    gateway = Gateway(engine, folder, indexes)
    # a subnet that is asked for is one in which hosts may have fixed addresses
    subnet = ("--subnet", f"{engine.subnet}.0/24", "--gateway", gateway.address)
    engine.run("network", "create", "--internal", *subnet, gateway.network)
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=lab mirror"]
    request += ["-addext", f"subjectAltName=DNS:{MIRROR}", "-keyout", "mirror.key", "-out", "mirror.crt"]
    subprocess.run(request, cwd=folder, check=True, capture_output=True)
    (folder / "nginx.conf").write_text(
        MIRROR_CONF.format(
            certificates=CERTIFICATES,
            address=gateway.address,
            registry=gateway.registry,
            mirror=MIRROR,
            archive=indexes.archive,
            security=indexes.security,
            index=indexes.pip.rsplit("/", 1)[0],
            files=indexes.pip_files,
        )
    )
    (folder / "tinyproxy.conf").write_text(PROXY_CONF.format(address=gateway.address))
    folder.chmod(0o755)
    mounts = ("-v", f"{folder}:/lab", "-v", f"{CERTIFICATES}:{CERTIFICATES}:ro")
    there = engine.start(gateway.host.name, "--network", "host", *mounts, command=("sleep", "infinity"))
    try:
        set_up_apt(there, indexes)
        there.run("apt-get", "-qqy", "--no-install-recommends", "install", "nginx-light", "tinyproxy")
        there.run("nginx", "-c", "/lab/nginx.conf")
        there.run("tinyproxy", "-c", "/lab/tinyproxy.conf")
        yield gateway
    finally:
        engine.run("rm", "--force", "--volumes", gateway.host.name)
        engine.run("network", "rm", gateway.network)


def set_up_apt(there: Host, indexes: Indexes) -> None:
    """Let a container that shares this machine's network install packages from where this machine gets them."""
    sources = f"deb {indexes.archive} bookworm main\ndeb {indexes.security} bookworm-security main\n"
    there.write("/etc/apt/sources.list", sources.encode())
    there.write("/etc/apt/apt.conf.d/99lab", apt_settings().encode())
    there.write("/usr/sbin/policy-rc.d", b"#!/bin/sh\nexit 101\n")
    there.run("chmod", "755", "/usr/sbin/policy-rc.d")
    there.run("apt-get", "-qq", "update")
