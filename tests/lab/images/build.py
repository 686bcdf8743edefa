"""Makes the stand-ins, and serves them to the lab's hosts from a registry, under the names of the official images."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import gateway as lab
from tests.lab.conftest import ROOT

if TYPE_CHECKING:
    from tests.lab.conftest import Engine

REGISTRY_CONF = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: /var/lib/docker-registry}}}}
http: {{addr: "{address}"}}
"""
HERE = Path(__file__).parent
PYTHON = "/opt/lab/bin/python"
STANDIN = "/opt/lab/standin.py"
# name of the official image: what the stand-in starts before the command's words, and the command without words
KINDS = {
    "clearml/server": ([], []),
    "mongo": (["mongo"], []),
    "elasticsearch": (["elasticsearch"], []),
    "redis": (["redis"], ["redis-server"]),
}
# what the healthchecks and the job of the official images call
PROGRAMS = {
    "/usr/local/bin/mongosh": """\
#!/bin/bash
# only what a healthcheck asks
case " $* " in *" --eval "*ping*) ;; *) echo "mongosh: $*" >&2; exit 2 ;; esac
exec 3<>/dev/tcp/127.0.0.1/27017 && echo get >&3 && read -r -t 5 <&3 && echo '{ ok: 1 }'
""",
    "/usr/local/bin/docker-entrypoint.sh": f"""\
#!/bin/sh
exec {PYTHON} {STANDIN} redis "$@"
""",
    "/opt/clearml/apiserver/jobs/async_urls_delete.py": f"""\
import os, sys
os.execv("{PYTHON}", ["{PYTHON}", "{STANDIN}", "async_delete", *sys.argv[1:]])
""",
}


def build(engine: Engine, indexes: lab.Indexes) -> dict[str, str]:
    """Make the images that the engine has not; return the image of each name of the official ones.

    They carry no setting of this machine.
    """
    tag = _digest()
    found = {name: f"testbed-lab-{name.rpartition('/')[2]}:{tag}" for name in KINDS}
    if all(map(engine.has, found.values())):
        return found
    builder = f"{engine.name}-images"
    # the images inherit the signal that stops them
    options = ("--network", "host", "--stop-signal", "SIGTERM", "-v", f"{lab.CERTIFICATES}:/lab/ca.crt:ro")
    there = engine.start(builder, *options, command=("sleep", "infinity"))
    try:
        lab.set_up_apt(there, indexes)
        there.run("apt-get", "-qqy", "--no-install-recommends", "install", "curl", "nginx-light", "redis-server")
        there.put_checkout("/src")
        there.run("python3", "-m", "venv", "/opt/lab")
        network = ("env", f"PIP_INDEX_URL={indexes.pip}", "PIP_CERT=/lab/ca.crt")
        packages = ("/src/clearml_lite", "pyhocon")
        there.run(*network, PYTHON, "-m", "pip", "--no-cache-dir", "-q", "install", *packages)
        there.write(STANDIN, (HERE / "standin.py").read_bytes())
        for path, text in PROGRAMS.items():
            there.write(path, text.encode())
            there.run("chmod", "755", path)
        there.write("/opt/clearml/apiserver/jobs/__init__.py", b"#")
        there.run("mkdir", "-p", "/var/log/clearml", "/data/db", "/data/configdb", "/usr/share/elasticsearch/data")
        own = "/src /var/lib/apt/lists/* /var/cache/apt/archives/*.deb /etc/apt/sources.list /etc/apt/apt.conf.d/99lab"
        there.run("sh", "-c", f"rm -rf {own}")
        for name, (start, command) in KINDS.items():
            changes = [f"ENTRYPOINT {json.dumps([PYTHON, STANDIN, *start])}", f"CMD {json.dumps(command)}"]
            changes += ["ENV container="]
            engine.run("commit", *(word for change in changes for word in ("--change", change)), builder, found[name])
        return found
    finally:
        engine.run("rm", "--force", "--volumes", builder)


def _digest() -> str:
    """Return a word for what the images are made of."""
    listed = subprocess.check_output(["git", "ls-files", "-z", "clearml_lite", "tests/lab/images"], cwd=ROOT)
    files = [ROOT / name for name in listed.decode().split("\0") if name]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def start_registry(gateway: lab.Gateway) -> None:
    """Run a registry, which the lab's hosts reach through the mirror."""
    host, port = gateway.registry.split(":")
    gateway.host.run("apt-get", "-qqy", "--no-install-recommends", "install", "docker-registry")
    gateway.host.write("/etc/registry.yml", REGISTRY_CONF.format(address=gateway.registry).encode())
    gateway.host.run("docker-registry", "serve", "/etc/registry.yml", options=("--detach",))
    gateway.host.run("timeout", "30", "bash", "-c", f"until : </dev/tcp/{host}/{port}; do sleep 0.1; done")


def publish(gateway: lab.Gateway, images: dict[str, str], versions: dict[str, str]) -> None:
    """Serve images from the gateway's registry, each under the name and version that the official one has."""
    for name, version in versions.items():
        there = f"{gateway.registry}/{name}:{version}"
        gateway.engine.run("tag", images[name], there)
        gateway.engine.run("push", there)


def build_ill(engine: Engine, image: str) -> str:
    """Make an image of a server that runs and never gets well; return its name."""
    name, _, tag = image.partition(":")
    waits = json.dumps(["sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"])
    engine.run("create", "--name", f"{engine.name}-ill", image)
    try:
        engine.run("commit", "--change", f"ENTRYPOINT {waits}", f"{engine.name}-ill", f"{name}-ill:{tag}")
    finally:
        engine.run("rm", f"{engine.name}-ill")
    return f"{name}-ill:{tag}"
