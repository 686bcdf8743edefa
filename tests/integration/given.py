"""A certificate of one's own, as an administrator has it: from a CA that is below another, in files."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provision import certificates


@dataclass(frozen=True)
class Given:
    """A CA, one below it that signs, and the files that the spec names."""

    folder: Path

    @property
    def signer(self) -> certificates.Pair:
        return certificates.Pair(*((self.folder / f"signer.{end}").read_text() for end in ("crt", "key")))

    def make(self) -> None:
        """Make both CAs, as an administrator does with openssl."""
        ca = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", *ca]
        below = ["-CA", "root.crt", "-CAkey", "root.key"]
        for name, more in (("root", []), ("signer", below)):
            files = ["-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name} of the tests"]
            subprocess.run([*new, *more, *files], cwd=self.folder, check=True, capture_output=True)

    def put(self, names: Sequence[str], days: float = 200) -> certificates.Pair:
        """Put a certificate for `names`, with its chain, and its key into the files; return the two."""
        now, life = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=days)
        made = certificates.issue(self.signer, names, now, life)
        (self.folder / "server.pem").write_text(made.certificate + self.signer.certificate)
        (self.folder / "server.key").write_text(made.key)
        return made
