"""The testbed's own CA and the server's certificate from it: made, kept, renewed; and those that are given, judged."""

from __future__ import annotations

import datetime
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from provision import certificates

NOW = datetime.datetime(2027, 3, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
NAMES = ["clearml.lab.example", "192.0.2.7"]


@pytest.fixture(scope="module")
def held():
    return certificates.ensured(None, "lab", NAMES, NOW)


def _load(text: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(text.encode())


def test_the_first_certificate_is_for_the_names_and_from_the_ca(held):
    found, authority = _load(held.certificate), _load(held.authority)
    found.verify_directly_issued_by(authority)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["clearml.lab.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7"]
    assert found.not_valid_before_utc < NOW < found.not_valid_after_utc <= NOW + 398 * DAY


def test_the_ca_signs_servers_certificates_and_no_other_cas(held):
    authority, found = _load(held.authority), _load(held.certificate)
    basic = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert "lab" in authority.subject.rfc4514_string()


def test_openssl_takes_the_ca_strictly(held):
    context = ssl.create_default_context(cadata=held.authority)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    assert context.cert_store_stats()["x509_ca"] == 1
    assert _handshake(context, server, certificates.ensured(None, "lab", NAMES, _now()), "192.0.2.7") is None


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _handshake(context, server, held, name: str):
    """Let both talk in memory; return what the client says against it, None for nothing."""
    import tempfile

    context.load_verify_locations(cadata=held.authority)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(held.certificate_key + held.certificate)
        file.flush()
        server.load_cert_chain(file.name)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return error
    return None


def test_what_is_good_for_a_while_stays(held):
    assert certificates.ensured(held, "lab", NAMES, NOW) is held
    assert certificates.ensured(held, "lab", list(reversed(NAMES)), NOW) is held


def test_near_its_end_the_certificate_is_renewed_and_the_ca_stays(held):
    later = NOW + certificates.LIFE - certificates.RENEW + DAY
    assert certificates.ensured(held, "lab", NAMES, later - 2 * DAY) is held
    found = certificates.ensured(held, "lab", NAMES, later)
    assert found.authority == held.authority
    assert found.certificate_key != held.certificate_key
    assert _load(found.certificate).not_valid_after_utc == later + certificates.LIFE


def test_an_expired_one_is_renewed(held):
    found = certificates.ensured(held, "lab", NAMES, NOW + 500 * DAY)
    assert _load(found.certificate).not_valid_after_utc > NOW + 500 * DAY


def test_other_names_need_another_certificate(held):
    found = certificates.ensured(held, "lab", ["other.example"], NOW)
    assert found.authority == held.authority
    assert certificates.is_good(found.certificate, found.authority, ["other.example"], NOW)
    assert not certificates.is_good(held.certificate, held.authority, ["other.example"], NOW)


def test_the_ca_is_made_anew_before_it_ends_before_a_certificate_of_its(held):
    almost = NOW + certificates.AUTHORITY_LIFE - certificates.RENEW_AUTHORITY
    assert certificates.ensured(held, "lab", NAMES, almost - DAY).authority == held.authority
    found = certificates.ensured(held, "lab", NAMES, almost + DAY)
    assert found.authority != held.authority
    _load(found.certificate).verify_directly_issued_by(_load(found.authority))


def test_a_certificate_of_another_ca_is_not_good(held):
    other = certificates.ensured(None, "lab", NAMES, NOW)
    assert not certificates.is_good(other.certificate, held.authority, NAMES, NOW)


def _given(names, life=90 * DAY):
    return certificates.issue(certificates.make_authority("theirs", NOW), names, NOW, life)


def test_a_given_chain_leads_from_each_certificate_to_the_one_that_signed_it():
    authority, another = (certificates.make_authority(name, NOW) for name in ("lab", "another"))
    given = certificates.issue(authority, ["x.example"], NOW)
    assert certificates.faults(given.certificate + authority.certificate, given.key, ["x.example"], NOW) == []
    [fault] = certificates.faults(given.certificate + another.certificate, given.key, ["x.example"], NOW)
    assert fault == "certificate_file: certificate 2 did not sign the one before it"


def test_a_given_certificate_that_fits_has_no_fault():
    given = _given(["clearml.lab.example"])
    assert certificates.faults(given.certificate, given.key, ["clearml.lab.example"], NOW) == []


def test_a_wildcard_covers_one_level():
    given = _given(["*.lab.example"])
    assert certificates.faults(given.certificate, given.key, ["api.lab.example", "Files.lab.example"], NOW) == []
    [fault] = certificates.faults(given.certificate, given.key, ["a.b.lab.example", "lab.example"], NOW)
    assert "a.b.lab.example, lab.example lack" in fault


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"certificate": "nothing"}, "certificate_file holds no certificate"),
        ({"key": "nothing"}, "key_file holds no private key"),
        ({"key": _given(["x.example"]).key}, "key_file is not the key of"),
        ({"names": ["other.example"]}, "is for clearml.lab.example: other.example lack"),
        ({"now": NOW + 91 * DAY}, "expired on 2027-05-30"),
        ({"now": NOW - 2 * DAY}, "is not valid before 2027-02-28"),
    ],
)
def test_what_is_wrong_with_a_given_certificate_is_named(change, told):
    given = _given(["clearml.lab.example"])
    what = {"certificate": given.certificate, "key": given.key, "names": ["clearml.lab.example"], "now": NOW}
    [fault] = certificates.faults(**(what | change))
    assert told in fault


def test_a_key_with_a_passphrase_is_named():
    key = ec.generate_private_key(ec.SECP256R1())
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"words")).decode()
    [fault] = certificates.faults(_given(["x.example"]).certificate, text, ["x.example"], NOW)
    assert "without a passphrase" in fault
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    assert "passphrase" not in certificates.faults(_given(["x.example"]).certificate, plain, ["x.example"], NOW)[0]
