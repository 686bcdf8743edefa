"""What `clearml-init` checks of a clearml.conf, and more: every URL, certificate, login, clock, files, SDK."""

from __future__ import annotations

import datetime
import json
import os
import re
import socket
import ssl
import stat
import subprocess
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

import httpx

from provision.diagnosis import CLOCK_S
from provision.reports import ConfCheck

# versions below load what others pickled (CVE-2024-24590, CVE-2024-24591, CVE-2025-8917)
OLDEST_SDK = (2, 0, 2)
TIMEOUT_S = 30.0
SERVICES = {"api": "API server", "web": "web server", "files": "file server"}
NAMES = ("api_server", "web_server", "files_server", "access_key", "secret_key", "verify_certificate")
_STRING = r'"((?:[^"\\\n]|\\.)*)"'
_NAME = rf'(?:"({"|".join(NAMES)})"|(?<!\w)({"|".join(NAMES)}))'
# a setting, whose value is in quotes and may come after ${HOME}, or is a bare word; else a string or a comment, where
# a setting is none
_PARTS = re.compile(
    rf'{_NAME}\s*[:=][ \t]*(\$\{{\??HOME\}})?[ \t]*(?:{_STRING}|([^\s"#,{{}}$]*))|{_STRING}|(?:^|(?<=\s))(?:#|//).*',
    re.MULTILINE,
)
# what the SDK's own parser makes of the file; secrets stay in that process
_SDK = """
import importlib.metadata, json, sys
version = importlib.metadata.version("clearml")
from clearml.utilities.pyhocon import ConfigFactory
api = ConfigFactory.parse_file(sys.argv[1])["api"]
found = {name: str(api.get(name + "_server", "") or "") for name in ("api", "web", "files")}
print(json.dumps({"version": version, **found, "key": str(api["credentials"]["access_key"] or "")}))
"""


@dataclass(frozen=True)
class Conf:
    """What a clearml.conf says. `certificate`: what certificates are checked against; True: public CAs."""

    urls: dict[str, str]
    access_key: str
    secret_key: str = field(repr=False)
    certificate: str | bool = True


def read(text: str) -> Conf:
    """Return what a clearml.conf says, as the SDK and the web app write one; what is not there is empty.

    Values that refer to others are not followed, but for `${HOME}`.
    """
    found = dict.fromkeys(NAMES, "")
    for part in _PARTS.finditer(text):
        quoted_name, name, home, quoted, bare, _ = part.groups()
        if (name := quoted_name or name) and not found[name]:
            found[name] = (os.environ.get("HOME", "") if home else "") + (
                "" if bare == "null" else bare or _unquoted(quoted or "")
            )
    certificate: str | bool = found["verify_certificate"] or True
    if isinstance(certificate, str) and certificate.lower() in ("true", "false", "yes", "no", "on", "off"):
        certificate = certificate.lower() in ("true", "yes", "on")
    return Conf(
        {name: found[f"{name}_server"].rstrip("/") for name in SERVICES},
        found["access_key"],
        found["secret_key"],
        certificate,
    )


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text


@dataclass(frozen=True)
class Way:
    """How services are reached: `connect` to a URL, a `client` for HTTP; what certificates are checked against."""

    connect: Callable[[str], socket.socket]
    client: Callable[[], httpx.Client]
    trust: ssl.SSLContext


def direct(conf: Conf) -> Way:
    """Return the way that the SDK goes from this machine. Raises `OSError` where the CA's file cannot be read."""
    if cas := _cas(conf):
        is_folder = Path(cas).is_dir()
        trust = ssl.create_default_context(cafile=None if is_folder else cas, capath=cas if is_folder else None)
    else:
        trust = httpx.create_ssl_context(trust_env=False)

    def connect(url: str) -> socket.socket:
        parts = urllib.parse.urlsplit(url)
        return socket.create_connection((parts.hostname or "", parts.port or 443), TIMEOUT_S)

    return Way(connect, lambda: httpx.Client(verify=trust, timeout=TIMEOUT_S), trust)


def _cas(conf: Conf) -> str | None:
    """Return the file with the CAs that the SDK trusts, and no other: the one named, else that of requests.

    None: the public CAs of certifi. The system's own do not count.
    """
    if isinstance(conf.certificate, str):
        return conf.certificate
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")


def check_file(path: Path) -> Iterator[ConfCheck]:
    """Check that a clearml.conf is its owner's alone. Raises `OSError`."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        yield _failed("file", f"{path} has mode {mode:04o}: others can read the secret key", f"chmod 600 {path}")
    else:
        yield _passed("file", f"mode {mode:04o}")


def check(conf: Conf, way: Way | None) -> Iterator[ConfCheck]:
    """Check what `conf` says, step by step, with the server; `way`: None where the CA's file cannot be read."""
    missing = [f"{name}_server" for name, url in conf.urls.items() if not _is_url(url)]
    missing += [] if conf.access_key and conf.secret_key else ["credentials"]
    if missing:
        yield _failed(
            "settings",
            f"no usable value: {', '.join(missing)}",
            "Take the file that `testbed credentials issue` wrote, or make one with clearml-init.",
        )
    else:
        yield _passed("settings", "URLs and key are there")
    if conf.certificate is False:
        yield _failed(
            "certificate check",
            "verify_certificate is off: whoever is between can read the key",
            "Set it to true, or to the file with the server's CA.",
        )
    if way is None:
        yield _failed(
            "certificate check",
            f"{_cas(conf)}: holds no certificates that can be read",
            "Put the CA's file there that came with the clearml.conf.",
        )
        return
    bad = []
    for name, url in conf.urls.items():
        if not _is_url(url):
            continue
        found = _chain(SERVICES[name], url, way)
        yield found
        if found.result == "failed":
            bad.append(name)
    with way.client() as client:
        for name, url in conf.urls.items():
            if _is_url(url) and name not in bad:
                yield _answers(client, name, url)
        if _is_url(conf.urls["api"]) and "api" not in bad and conf.access_key:
            yield from _login(client, conf, files="files" not in bad and _is_url(conf.urls["files"]))


def _is_url(url: str) -> bool:
    with suppress(ValueError, httpx.InvalidURL):
        parts, _ = urllib.parse.urlsplit(url), httpx.URL(url)
        host = (parts.hostname or "").encode("idna")  # `ValueError` for a name that can be none, or a port below
        return parts.scheme in ("http", "https") and bool(host) and parts.port != 0
    return False


def _chain(what: str, url: str, way: Way) -> ConfCheck:
    name = f"certificate of the {what}"
    if not url.startswith("https:"):
        return _skipped(name, f"{url} has none: what goes there can be read on its way")
    try:
        host = urllib.parse.urlsplit(url).hostname
        with way.connect(url) as plain, way.trust.wrap_socket(plain, server_hostname=host) as secure:
            shown = secure.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return _failed(
            name,
            f"{url}: {error.verify_message}",
            "Where the CA is one's own, name its file in verify_certificate; else tell who runs the server.",
        )
    except OSError as error:
        return _failed(name, f"{url}: {error}", "Look at the URL, at the way there, and at whether the server runs.")
    ends = datetime.datetime.fromtimestamp(ssl.cert_time_to_seconds(str(shown["notAfter"])), datetime.UTC)
    return _passed(name, f"good until {ends:%Y-%m-%d}")


def _answers(client: httpx.Client, name: str, url: str) -> ConfCheck:
    what = SERVICES[name]
    try:
        answer = client.get(f"{url}/debug.ping" if name == "api" else f"{url}/")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        said = str(error) or type(error).__name__
        return _failed(what, f"{url}: {said}", "Look at the URL, at the way there, and at whether the server runs.")
    is_api = _is_api(answer)
    if (name == "api") != is_api:
        is_what = "the API server" if is_api else "no API server of ClearML's"
        return _failed(what, f"{url} is {is_what}", f"Write the URL of the {what} into {name}_server.")
    if answer.status_code >= 400:
        return _failed(what, f"{url}: HTTP {answer.status_code}", f"Write the URL of the {what} into {name}_server.")
    return _passed(what, url)


def _is_api(answer: httpx.Response) -> bool:
    try:
        return "result_code" in answer.json()["meta"]
    except (ValueError, KeyError, TypeError):
        return False


def _login(client: httpx.Client, conf: Conf, *, files: bool) -> Iterator[ConfCheck]:
    url = conf.urls["api"]
    try:
        answer = client.get(f"{url}/auth.login", auth=(conf.access_key, conf.secret_key))
        token = answer.json()["data"]["token"] if answer.status_code == 200 else ""
        who = client.get(f"{url}/users.get_current_user", headers=_bearer(token)).json() if token else {}
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        yield _failed("login", f"{url}: {error or type(error).__name__}", "Look at whether the API server runs.")
        return
    if not token:
        refused = answer.status_code in (401, 403)
        yield _failed(
            "login",
            f"{url}: does not take key {conf.access_key}" if refused else f"{url}: HTTP {answer.status_code}",
            "Have a new key issued (`testbed credentials rotate`), and put its file in this one's place."
            if refused
            else "Look at the log of the API server.",
        )
        return
    yield _passed("login", f"as {_name(who)}")
    yield _clock(url, answer.headers.get("Date"))
    if files:
        yield _round_trip(client, conf.urls["files"], token)


def _name(answer: dict[str, Any]) -> str:
    user = (answer.get("data") or {}).get("user") or {}
    return str(user.get("name") or user.get("id") or "somebody")


def _clock(url: str, date: str | None) -> ConfCheck:
    try:
        offset = parsedate_to_datetime(str(date)).timestamp() - time.time()
    except ValueError:
        return _skipped("clock", f"{url} does not tell its time")
    if abs(offset) > CLOCK_S:
        way = "behind" if offset > 0 else "ahead of"
        return _failed(
            "clock", f"this machine's clock is {abs(offset):.0f} s {way} the server's", "Have NTP set it: timedatectl"
        )
    return _passed("clock", f"{abs(offset):.0f} s apart")


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _round_trip(client: httpx.Client, url: str, token: str) -> ConfCheck:
    path, content = f"testbed-verify/{uuid.uuid4().hex}.txt", os.urandom(1024)
    remedy = "Look at the log of the file server, at its disk, and at what a proxy between lets through."
    try:
        sent = client.post(f"{url}/", files={path: ("verify.txt", content)}, headers=_bearer(token))
        try:
            back = client.get(f"{url}/{path}", headers=_bearer(token))
        finally:
            gone = client.delete(f"{url}/{path}", headers=_bearer(token))
    except httpx.HTTPError as error:
        return _failed("files", f"{url}: {error or type(error).__name__}", remedy)
    if sent.status_code >= 400:
        return _failed("files", f"{url}: an upload is refused: HTTP {sent.status_code}", remedy)
    if back.status_code >= 400 or back.content != content:
        return _failed("files", f"{url}: does not give back what was uploaded: HTTP {back.status_code}", remedy)
    if gone.status_code >= 400:
        return _failed("files", f"{url}: does not delete what was uploaded: HTTP {gone.status_code}", remedy)
    return _passed("files", "uploaded, read back and deleted")


def check_sdk(conf: Conf, path: Path, python: str | None) -> ConfCheck:
    """Check the SDK that `python` has, and that its own parser reads the file at `path` as it is meant."""
    install = 'pip install "clearml>=2.0.2"'
    if python is None:
        return _skipped("SDK", f"there is no python3 here; where there is one: {install}")
    command = [python, "-I", "-W", "ignore", "-c", _SDK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        error = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        if "PackageNotFoundError" in error:
            return _skipped("SDK", f"{python} has no clearml; in the environment that is to have it: {install}")
        return _failed("SDK", f"{python}: cannot read {path}: {error}", "Mend the file, or take the one issued.")
    return judge_sdk(conf, json.loads(done.stdout))


def judge_sdk(conf: Conf, found: dict[str, str]) -> ConfCheck:
    """Return the check of what an SDK said: its `version`, and where it knows them the URLs and the `key`."""
    version = found["version"]
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < OLDEST_SDK:
        least = ".".join(map(str, OLDEST_SDK))
        return _failed(
            "SDK",
            f"clearml {version}: versions below {least} run code out of others' artifacts",
            "pip install -U clearml",
        )
    other = [name for name in SERVICES if name in found and found[name].rstrip("/") != conf.urls[name]]
    if other or found.get("key", conf.access_key) != conf.access_key:
        named = ", ".join([f"{name}_server" for name in other] or ["access_key"])
        return _failed("SDK", f"clearml {version} reads another {named}", "Write each setting once, and in quotes.")
    return _passed("SDK", f"clearml {version}")


def _check(name: str, result: Literal["passed", "failed", "skipped"], message: str, remedy: str = "") -> ConfCheck:
    return ConfCheck(name=name, result=result, message=message, remedy=remedy)


def _passed(name: str, message: str) -> ConfCheck:
    return _check(name, "passed", message)


def _failed(name: str, message: str, remedy: str) -> ConfCheck:
    return _check(name, "failed", message, remedy)


def _skipped(name: str, message: str) -> ConfCheck:
    return _check(name, "skipped", message)
