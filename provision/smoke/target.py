"""The ClearML server that is checked, as one of its clients knows it: from a testbed, or from a clearml.conf alone."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provision import forward
from provision import spec as specs
from provision.credentials.conf import parse_key
from provision.errors import InputError
from provision.secrets import KeyPair
from provision.session import Session
from provision.spec import URL_SERVICES, Service

VALUE = r'\s*[:=]\s*((?:\$\{\w+\}|"[^"]*"|[^\s,{}])+)'
URL_KEYS: dict[Service, str] = {"api": "api_server", "web": "web_server", "files": "files_server"}
PART = re.compile(r'\$\{(\w+)\}|"([^"]*)"|([^\s"$]+)')


@dataclass(frozen=True)
class Target:
    """A server, the key to check it with, and the queues that agents are to serve.

    `theirs`: somebody else runs it. `conf`: the file that it was read from; None: it is a testbed's.
    """

    name: str
    urls: Mapping[Service, str]
    key: KeyPair
    theirs: bool
    queues: tuple[str, ...] = ()
    conf: Path | None = None

    def url(self, service: Service) -> str:
        """Return the URL of one of the server's services, without a trailing slash."""
        return self.urls[service]

    @property
    def remedy(self) -> str:
        """What to do about what is wrong with the server itself."""
        return "Tell who runs the server." if self.theirs else "`testbed status` says more; `testbed up` mends it."


def of_testbed(session: Session, key: KeyPair) -> Target:
    """Return the server of the session's testbed, checked with the toolkit's own key."""
    testbed = session.testbed
    return Target(
        name=testbed.name,
        urls={service: testbed.server.url(service) for service in URL_SERVICES},
        key=key,
        theirs=testbed.server.is_external,
        queues=tuple(dict.fromkeys(queue for worker in testbed.agents.workers for queue in worker.queues)),
    )


def of_conf(path: Path, queue: str | None) -> Target:
    """Return the server that a clearml.conf leads to, and trust the CA that it names. Raises `InputError`."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--conf {path}: cannot be read: {error}", "Name a clearml.conf.") from None
    text = re.sub(r"^\s*(#|//).*$", "", text, flags=re.MULTILINE)
    urls: dict[Service, str] = {}
    for service, name in URL_KEYS.items():
        urls[service] = (_value(text, name) or "").rstrip("/")
        if urllib.parse.urlsplit(urls[service]).scheme not in ("http", "https"):
            raise InputError(
                f"--conf {path}: {name} is {urls[service] or 'not there'}, not a URL of a ClearML server",
                "Take the clearml.conf that the web app or `testbed credentials issue` makes.",
            )
    key = parse_key(text)
    if key is None:
        raise InputError(
            f"--conf {path}: has no access_key and secret_key",
            "Make a key in the web app (Settings, Workspace), or with `testbed credentials issue`.",
        )
    certificates = _value(text, "verify_certificate") or "true"
    if certificates not in ("true", "false"):  # one is checked in any case, as it should be
        forward.trust(str(path), specs.certificates(Path(certificates), f"verify_certificate in {path}"))
    return Target(str(path), urls, key, theirs=True, queues=(queue,) if queue else (), conf=path.expanduser())


def _value(text: str, name: str) -> str | None:
    """Return a value of HOCON: strings and variables of the environment beside each other are one."""
    found = re.search(rf'"?\b{name}"?{VALUE}', text)
    if found is None:
        return None
    return "".join(
        os.environ.get(variable, "") if variable else quoted or bare
        for variable, quoted, bare in PART.findall(found.group(1))
    )
