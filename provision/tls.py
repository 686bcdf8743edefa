"""TLS as the administrator's machine sees it: the certificate, whom to trust, and what is wrong with either."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from provision import certificates, forward
from provision import spec as specs
from provision.errors import SecretsError, SpecError
from provision.machines import Machine, with_group
from provision.reports import CertificateState
from provision.secrets import Secrets, Vault
from provision.spec import URL_SERVICES, Testbed
from provision.spec_tls import Tls

# OpenSSL's codes (x509_vfy.h) for what people can mend
NOT_YET_VALID = 9
EXPIRED = 10
UNKNOWN_CA = {18, 19, 20, 21}
OTHER_NAME = {62, 64}
THEIRS = "Tell who runs the server."


class Served(NamedTuple):
    """What the server's host gets: PEM texts; `authority` is what hosts trust beside their system's CAs."""

    certificate: str
    key: str
    authority: str


def names(testbed: Testbed, machines: Iterable[Machine]) -> list[str]:
    """Return the names and addresses that the server's certificate is for: those in URLs, and where people reach it."""
    found = [testbed.server.name(service) for service in URL_SERVICES]
    outside = [
        machine.address for machine in with_group(machines, "server") if machine.address and not machine.jump_host
    ]
    return list(dict.fromkeys([*found, *([] if testbed.server.names else outside)]))


def is_open_here(testbed: Testbed, machines: Iterable[Machine]) -> bool:
    """Return whether the testbed means its URLs to work on this machine without SSH.

    Not where its server is reached through a jump host, listens for its own host alone, is named by an address that is
    not the one which SSH goes to (behind a floating IP), or is somebody else's.
    """
    server = next(iter(with_group(machines, "server")), None)
    if server is None or testbed.server.is_external or server.jump_host:
        return False
    if server.is_local:
        return True
    name = testbed.server.name("api")
    return not is_loopback(testbed.server.bind) and (name == server.address or not _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(bind: str) -> bool:
    """Return whether nobody but this machine reaches what listens on the address `bind`."""
    return ipaddress.ip_address(bind).is_loopback


def prepare(testbed: Testbed, machines: Iterable[Machine], secrets: Secrets) -> tuple[Secrets, Served | None]:
    """Return the secrets, with a certificate that is good for a while, and what the server gets; None without TLS.

    Raises `SpecError` for certificates that were given and cannot serve.
    """
    tls, now = testbed.server.tls, datetime.datetime.now(datetime.UTC)
    if tls is None:
        return secrets, None
    if tls.certificate_file and tls.key_file:
        certificate, key = _read(tls.certificate_file, "certificate_file"), _read(tls.key_file, "key_file")
        wanted = [testbed.server.name(service) for service in URL_SERVICES]
        if found := certificates.faults(certificate, key, dict.fromkeys(wanted), now):
            raise SpecError(
                "\n".join(f"server.tls: {fault}" for fault in found),
                "Give others, or leave both out. Nothing was done.",
            )
        return secrets, Served(certificate, key, "")
    made = certificates.ensured(secrets.tls, testbed.name, names(testbed, machines), now)
    return secrets.model_copy(update={"tls": made}), Served(made.certificate, made.certificate_key, made.authority)


def trust(testbed: Testbed, vault: Vault) -> None:
    """Have the toolkit's own calls trust the CA of the server's certificate, where that is no public one."""
    tls = testbed.server.tls
    if tls is None:
        return
    if tls.ca_file is not None:
        found = _read(tls.ca_file, "ca_file")
        if not certificates.is_certificate(found):
            raise SpecError(f"server.tls: ca_file: {tls.ca_file} holds no certificate in PEM form", "Name another.")
        forward.trust(testbed.name, found)
    elif tls.own_authority:
        try:
            secrets = vault.load()
        except SecretsError:  # who needs them says so
            return
        if secrets is not None and secrets.tls is not None:
            forward.trust(testbed.name, secrets.tls.authority)


def authority(testbed: Testbed, secrets: Secrets) -> str:
    """Return the CA that clients of the server are to trust beside the public ones, as PEM; empty for none."""
    if testbed.server.ca_file is not None:
        return specs.certificates(testbed.server.ca_file, "server.ca_file")
    tls = testbed.server.tls
    if tls is None:
        return ""
    if tls.ca_file is not None:
        return _read(tls.ca_file, "ca_file")
    return secrets.tls.authority if tls.own_authority and secrets.tls is not None else ""


def look(testbed: Testbed) -> list[CertificateState]:
    """Return the state of the certificate of each service, as this machine sees it; none without TLS."""
    tls, now = testbed.server.tls, datetime.datetime.now(datetime.UTC)
    if tls is None:
        return []
    return [_look(testbed.server.url(service), testbed.server.name(service), tls, now) for service in URL_SERVICES]


def look_at(url: str) -> CertificateState:
    """Return the state of the certificate of a service that somebody else runs."""
    return _look(url, urllib.parse.urlsplit(url).hostname or "", None, datetime.datetime.now(datetime.UTC))


def _look(url: str, name: str, tls: Tls | None, now: datetime.datetime) -> CertificateState:
    ends, problem, remedy = None, "", ""
    try:
        with forward.connect(url) as plain, forward.trusted().wrap_socket(plain, server_hostname=name) as wrapped:
            ends = certificates.end_of(wrapped.getpeercert(binary_form=True) or b"")
    except ssl.SSLCertVerificationError as error:
        what, remedy = _refused(error, name, tls)
        problem = f"the certificate of {url} {what}"
    except (OSError, ValueError) as error:
        problem = f"{url} shows no certificate: {error}"
        remedy = "Bring it up: testbed up" if tls else THEIRS
    if ends is not None and ends - now < certificates.NEAR:
        problem = f"the certificate of {url} ends on {ends:%Y-%m-%d}, in {(ends - now).days} days"
        remedy = _renewal(tls)
    return CertificateState(url=url, ends=ends.isoformat() if ends else None, problem=problem, remedy=remedy)


def _refused(error: ssl.SSLCertVerificationError, name: str, tls: Tls | None) -> tuple[str, str]:
    """Return what is wrong with a certificate, and what to do."""
    code = error.verify_code
    if code == EXPIRED:
        return "has expired", _renewal(tls)
    if code == NOT_YET_VALID:
        return "is not valid yet", "Set the clocks of this machine and the server's right: timedatectl set-ntp true"
    if code in OTHER_NAME:
        return f"is not for {name}", _renewal(tls)
    if code in UNKNOWN_CA and tls is None:
        what = "is from a CA that is not trusted"
        return what, "Name a file with its certificate as api.verify_certificate in the clearml.conf."
    if code in UNKNOWN_CA and tls is not None and tls.own_authority:
        return (
            "is not from the CA of these secrets",
            "Put its certificate in place: testbed up. Where the secrets are another administrator's, take them: "
            "testbed secrets import FILE",
        )
    if code in UNKNOWN_CA:
        return "is from a CA that is not trusted", "Name its certificate in server.tls.ca_file, then testbed up"
    return f"is refused: {error.verify_message}", _renewal(tls)


def _renewal(tls: Tls | None) -> str:
    if tls is None:
        return THEIRS
    if tls.own_authority:
        return "Have a new one made: testbed up"
    return "Put a new one into server.tls.certificate_file, and its key into key_file, then testbed up"


def _read(path: Path, key: str) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"server.tls.{key}: {path}: cannot be read: {error}", "Name a file in PEM form.") from None
