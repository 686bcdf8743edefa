"""nginx as role tls_proxy sets it up, on free ports."""

from __future__ import annotations

import datetime
import os
import signal
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

from provision import certificates, forward

NAME = "localhost"


class Proxy:
    """nginx below the script that a service of ours starts, with the role's own configuration."""

    def __init__(self, folder: Path, nginx: Path, render: Any, services: list[dict[str, Any]], **more: Any) -> None:
        self.folder = folder
        now = datetime.datetime.now(datetime.UTC)
        self.authority = certificates.make_authority("lab", now)
        self.pem, self.pid = folder / "pair.pem", folder / "nginx.pid"
        self.pair = self.certify([NAME, "127.0.0.1"])
        self.urls = {each["name"]: each["url"] for each in services}
        folder.chmod(0o755)
        (folder / "temporary").mkdir(mode=0o711)
        (folder / "temporary" / "tls-proxy").mkdir(mode=0o711)
        variables = {
            "tls_proxy_services": services,
            "tls_proxy_pem": str(self.pem),
            "tls_proxy_pid": str(self.pid),
            "tls_proxy_conf": str(folder / "nginx.conf"),
            "common_data_dir": str(folder / "temporary"),
            **more,
        }
        (folder / "nginx.conf").write_text(render("tls_proxy", "nginx.conf.j2", **variables))
        script = render("tls_proxy", "run-tls-proxy.sh.j2", **variables).replace("/usr/sbin/nginx", str(nginx))
        (folder / "run").write_text(script)
        (folder / "run").chmod(0o755)
        test = subprocess.run([nginx, "-t", "-q", "-c", folder / "nginx.conf"], capture_output=True, check=False)
        assert test.returncode == 0, test.stderr.decode()
        assert b"warn" not in test.stderr, test.stderr.decode()

    def certify(self, names: list[str], life: datetime.timedelta = certificates.LIFE) -> certificates.Pair:
        """Put another certificate into the file; whoever serves it does not know yet."""
        self.pair = certificates.issue(self.authority, names, datetime.datetime.now(datetime.UTC), life)
        self.pem.write_text(self.pair.key + self.pair.certificate)
        self.pem.chmod(0o600)
        return self.pair

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([self.folder / "run"], stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + 10
        while True:
            try:
                forward.connect(self.urls["api"]).close()
                return
            except OSError:
                assert time.monotonic() < end, (self.folder / "log").read_text()
                time.sleep(0.02)

    def stop(self) -> int:
        """Stop it as the service manager does: the whole group."""
        os.killpg(self.process.pid, signal.SIGQUIT)
        return self.process.wait(20)

    @property
    def context(self) -> ssl.SSLContext:
        """What trusts its CA."""
        return ssl.create_default_context(cadata=self.authority.certificate)

    def children(self) -> list[int]:
        """Return the processes that listen for it."""
        done = subprocess.run(
            ["pgrep", "--session", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(word) for word in done.stdout.split() if int(word) != self.process.pid]


def services_at(ports: list[int], upstream: dict[str, int]) -> list[dict[str, Any]]:
    """Return what the role is told of the three services: their ports before and behind it."""
    return [
        {
            "name": name,
            "host": NAME,
            "port": port,
            "url": f"https://{NAME}:{port}",
            "upstream": f"127.0.0.1:{upstream[name]}",
        }
        for name, port in zip(("api", "web", "files"), ports, strict=True)
    ]
