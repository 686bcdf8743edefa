"""Certificates of the server's TLS: made and renewed by a CA of the testbed's own, or given and judged. Pure.

All are PEM texts. Lives are those of browsers' rules: 397 days for a server's certificate.
"""

from __future__ import annotations

import datetime
import ipaddress
import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from provision.secrets import TlsSecrets

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

AUTHORITY_LIFE = datetime.timedelta(days=3650)
LIFE = datetime.timedelta(days=397)
# `up` renews what ends sooner; a host's clock may be so far behind ours
RENEW = datetime.timedelta(days=45)
RENEW_AUTHORITY = LIFE + RENEW
BACK = datetime.timedelta(days=1)
# what `status` and `smoke` call near
NEAR = datetime.timedelta(days=14)
LONGEST_NAME = 64  # of a subject's common name


class Pair(NamedTuple):
    """A certificate and its private key."""

    certificate: str
    key: str


def ensured(held: TlsSecrets | None, testbed: str, names: Sequence[str], now: datetime.datetime) -> TlsSecrets:
    """Return `held` where it is good for a while: the CA, and the server's certificate for `names` from it.

    What is missing, near its end, or of other names is made anew. The CA is made anew only when its own end is near.
    """
    if held is None or _ends(held.authority) - now < RENEW_AUTHORITY:
        authority = make_authority(testbed, now)
    else:
        authority = Pair(held.authority, held.authority_key)
    if held is not None and is_good(held.certificate, authority.certificate, names, now):
        return held
    issued = issue(authority, names, now)
    return TlsSecrets(
        authority=authority.certificate,
        authority_key=authority.key,
        certificate=issued.certificate,
        certificate_key=issued.key,
    )


def is_good(certificate: str, authority: str, names: Iterable[str], now: datetime.datetime) -> bool:
    """Return whether the CA made the certificate, for exactly these names, and its end is not near."""
    from cryptography.exceptions import InvalidSignature

    found, issuer = _leaf(certificate), _leaf(authority)
    try:
        found.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return _names(found) == set(names) and found.not_valid_after_utc - now >= RENEW


def make_authority(testbed: str, now: datetime.datetime) -> Pair:
    """Return a CA that may sign servers' certificates and nothing below."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    key = _key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA of testbed {testbed}")])
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = _builder(name, name, key, now, AUTHORITY_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return _signed(builder.add_extension(usage, critical=True), key, key)


def issue(authority: Pair, names: Sequence[str], now: datetime.datetime, life: datetime.timedelta = LIFE) -> Pair:
    """Return a server's certificate for `names` (host names and addresses), valid from a day before `now`."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    issuer, key = _leaf(authority.certificate), _key()
    signer = load_pem_private_key(authority.key.encode(), None)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:LONGEST_NAME])])
    above = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = _builder(subject, issuer.subject, key, now, life)
    for extension, critical in (
        (x509.SubjectAlternativeName([_general(name) for name in names]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above), False),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return _signed(builder, key, signer)  # type: ignore[arg-type]


def faults(certificate: str, key: str, names: Iterable[str], now: datetime.datetime) -> list[str]:
    """Return in words why a certificate that was given, with its chain, cannot serve `names`."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        found = _leaf(certificate)
    except ValueError:
        return ["certificate_file holds no certificate in PEM form"]
    try:
        private = load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError):  # no key, or one with a passphrase
        return ["key_file holds no private key in PEM form without a passphrase"]
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    told = [f"certificate_file: {fault}" for fault in _gaps(certificate)]
    if private.public_key().public_bytes(*spki) != found.public_key().public_bytes(*spki):
        told.append("key_file is not the key of the first certificate in certificate_file")
    if missing := [name for name in names if not _covers(_names(found), name)]:
        told.append(
            f"certificate_file is for {', '.join(sorted(_names(found))) or 'no name'}: {', '.join(missing)} lack"
        )
    if found.not_valid_after_utc <= now:
        told.append(f"certificate_file expired on {found.not_valid_after_utc:%Y-%m-%d}")
    if found.not_valid_before_utc > now:
        told.append(f"certificate_file is not valid before {found.not_valid_before_utc:%Y-%m-%d}")
    return told


def _gaps(certificates: str) -> list[str]:
    """Return in words where a certificate and its chain do not follow from one another."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    found, told = x509.load_pem_x509_certificates(certificates.encode()), []
    for number, (below, above) in enumerate(itertools.pairwise(found), start=2):
        try:
            below.verify_directly_issued_by(above)
        except (InvalidSignature, ValueError, TypeError):
            told.append(f"certificate {number} did not sign the one before it")
    return told


def end_of(certificate: bytes) -> datetime.datetime:
    """Return when a certificate (DER) ends."""
    from cryptography import x509

    return x509.load_der_x509_certificate(certificate).not_valid_after_utc


def is_certificate(text: str) -> bool:
    """Return whether a text begins with a certificate in PEM form."""
    try:
        _leaf(text)
    except ValueError:
        return False
    return True


def _covers(found: Iterable[str], name: str) -> bool:
    below = name.partition(".")[2]
    wanted = {name.lower()} | ({f"*.{below.lower()}"} if below and not _is_address(name) else set())
    return any(each.lower() in wanted for each in found)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _general(name: str) -> x509.GeneralName:
    from cryptography import x509

    return x509.IPAddress(ipaddress.ip_address(name)) if _is_address(name) else x509.DNSName(name)


def _names(certificate: x509.Certificate) -> set[str]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {*found.get_values_for_type(x509.DNSName), *map(str, found.get_values_for_type(x509.IPAddress))}


def _leaf(text: str) -> x509.Certificate:
    from cryptography import x509

    return x509.load_pem_x509_certificates(text.encode())[0]


def _ends(text: str) -> datetime.datetime:
    return _leaf(text).not_valid_after_utc


def _key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _usage(**purposes: bool) -> x509.KeyUsage:
    from cryptography import x509

    all_of_them = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**(all_of_them | purposes))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: EllipticCurvePrivateKey,
    now: datetime.datetime,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:
    from cryptography import x509

    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = (
        builder.serial_number(x509.random_serial_number()).not_valid_before(now - BACK).not_valid_after(now + life)
    )
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _signed(builder: x509.CertificateBuilder, key: EllipticCurvePrivateKey, signer: EllipticCurvePrivateKey) -> Pair:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    certificate = builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return Pair(certificate, private)
