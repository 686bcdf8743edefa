"""TLS from the administrator's side: what is served is looked at, and the toolkit's calls check names and CAs."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from pathlib import Path

import httpx
import pytest

from provision import certificates, converge, deploy, forward, spec, tls
from provision.clearml_api import ClearmlApi
from provision.errors import ApiError, SpecError
from provision.machines import Machine, local
from provision.secrets import KeyPair, Vault
from provision.spec_types import JumpHost

DAY = datetime.timedelta(days=1)
TEXT = """\
name: lab
provider: local
server: {{tls: {tls}, host: localhost, ports: {{api: {port}, web: {port2}, files: {port3}}}}}
users: [{{name: alice}}]
"""


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@pytest.fixture
def authority():
    return certificates.make_authority("lab", _now())


@pytest.fixture(autouse=True)
def _nobody_is_trusted(monkeypatch):
    monkeypatch.setattr(forward, "_TRUSTED", {})
    monkeypatch.setattr(forward, "_SOCKETS", {})


class Server(threading.Thread):
    """Answers HTTP 204 over TLS, on TCP or a Unix socket, with a certificate."""

    def __init__(self, folder: Path, pair: certificates.Pair, path: Path | None = None) -> None:
        super().__init__(daemon=True)
        (folder / "pair.pem").write_text(pair.key + pair.certificate)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "pair.pem")
        if path is None:
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.port = self.listener.getsockname()[1]
        else:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(str(path))
            self.listener.listen()
        self.start()

    def run(self) -> None:
        while True:
            try:
                plain, _ = self.listener.accept()
            except OSError:
                return
            try:
                with self.context.wrap_socket(plain, server_side=True) as wrapped:
                    wrapped.recv(65536)
                    wrapped.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            except OSError:
                plain.close()


@pytest.fixture
def serve(tmp_path):
    servers = []

    def start(pair: certificates.Pair, path: Path | None = None) -> Server:
        servers.append(Server(tmp_path, pair, path))
        return servers[-1]

    yield start
    for server in servers:
        server.listener.shutdown(socket.SHUT_RDWR)
        server.listener.close()


def _testbed(port: int, tls_section: str = "{}") -> spec.Testbed:
    free = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [each.getsockname()[1] for each in free]
    for each in free:
        each.close()
    return spec.parse(TEXT.format(port=port, port2=ports[0], port3=ports[1], tls=tls_section), "t.yaml")


def _pair(authority, names=("localhost",), life=90 * DAY):
    return certificates.issue(authority, list(names), _now(), life)


def test_a_good_certificate_is_reported_with_its_end(authority, serve):
    forward.trust("lab", authority.certificate)
    found = tls.look(_testbed(serve(_pair(authority)).port))[0]
    assert found.problem == ""
    assert abs(datetime.datetime.fromisoformat(found.ends) - _now() - 90 * DAY) < DAY


def test_one_near_its_end_is_named_with_the_remedy(authority, serve):
    forward.trust("lab", authority.certificate)
    found = tls.look(_testbed(serve(_pair(authority, life=13 * DAY)).port))[0]
    assert found.problem.endswith("in 12 days")
    assert found.remedy == "Have a new one made: testbed up"
    assert found.ends


def test_fourteen_days_are_enough(authority, serve):
    forward.trust("lab", authority.certificate)
    pair = _pair(authority, life=14 * DAY + datetime.timedelta(hours=1))
    assert tls.look(_testbed(serve(pair).port))[0].problem == ""


@pytest.mark.parametrize(
    ("names", "life", "told"),
    [
        (["localhost"], -datetime.timedelta(hours=1), "has expired"),
        (["other.example"], 90 * DAY, "is not for localhost"),
    ],
)
def test_an_expired_one_and_one_for_another_name_are_named(authority, serve, names, life, told):
    forward.trust("lab", authority.certificate)
    found = tls.look(_testbed(serve(_pair(authority, names, life)).port))[0]
    assert found.problem.endswith(told)
    assert found.remedy == "Have a new one made: testbed up"
    assert found.ends is None


def test_one_that_is_not_valid_yet_is_a_matter_of_clocks(serve, authority, monkeypatch):
    forward.trust("lab", authority.certificate)
    later = certificates.issue(authority, ["localhost"], _now() + 5 * DAY)
    assert "clocks" in tls.look(_testbed(serve(later).port))[0].remedy


def test_one_from_another_ca_is_named(authority, serve):
    forward.trust("lab", certificates.make_authority("other", _now()).certificate)
    found = tls.look(_testbed(serve(_pair(authority)).port))[0]
    assert "is not from the CA of these secrets" in found.problem
    assert "testbed secrets import" in found.remedy


def test_with_a_given_certificate_the_remedies_are_the_owners(authority, serve, tmp_path):
    section = f"{{certificate_file: {tmp_path}/c, key_file: {tmp_path}/k}}"
    expired = serve(_pair(authority, life=-datetime.timedelta(hours=1))).port
    assert "server.tls.ca_file" in tls.look(_testbed(expired, section))[0].remedy
    forward.trust("lab", authority.certificate)
    assert "Put a new one into server.tls.certificate_file" in tls.look(_testbed(expired, section))[0].remedy


def test_where_nobody_answers_that_is_said(authority):
    testbed = _testbed(1)
    assert f"{testbed.server.url('api')} shows no certificate" in tls.look(testbed)[0].problem


def test_without_tls_there_is_nothing_to_look_at():
    assert tls.look(spec.load(None)) == []


def test_calls_through_a_forward_check_the_name_in_the_url(authority, serve, tmp_path, monkeypatch):
    forward.trust("lab", authority.certificate)
    serve(_pair(authority, ["clearml.example"]), tmp_path / "s")
    for url, refused in (("https://clearml.example:8008", False), ("https://other.example:8008", True)):
        monkeypatch.setitem(forward._SOCKETS, url, tmp_path / "s")
        with forward.client() as http:
            if refused:
                with pytest.raises(httpx.ConnectError, match=r"not valid for 'other.example'"):
                    http.get(url)
            else:
                assert http.get(url).status_code == 204


def test_a_look_goes_through_a_forward_too(authority, serve, tmp_path, monkeypatch):
    forward.trust("lab", authority.certificate)
    serve(_pair(authority, ["localhost"]), tmp_path / "s")
    testbed = _testbed(1)
    monkeypatch.setitem(forward._SOCKETS, testbed.server.url("api"), tmp_path / "s")
    assert [bool(found.problem) for found in tls.look(testbed)] == [False, True, True]


def test_the_toolkit_trusts_no_unknown_ca(authority, serve):
    port = serve(_pair(authority)).port
    with (
        ClearmlApi(f"https://localhost:{port}", KeyPair(access_key="a", secret_key="b")) as api,
        pytest.raises(ApiError, match="certificate verify failed") as error,
    ):
        api.login()
    assert error.value.code == 0


def _vault(tmp_path, monkeypatch, held=None) -> Vault:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    vault = Vault("lab")
    secrets = vault.ensure(spec.load(None))
    if held is not None:
        vault.save(secrets.model_copy(update={"tls": held}))
    return vault


def test_the_ca_in_the_vault_is_trusted(authority, serve, tmp_path, monkeypatch):
    testbed = _testbed(1)
    secrets, served = tls.prepare(testbed, local("root"), _vault(tmp_path, monkeypatch).load())
    assert served.authority == secrets.tls.authority
    assert served.authority not in served.key
    tls.trust(testbed, _vault(tmp_path, monkeypatch, secrets.tls))
    pair = certificates.Pair(secrets.tls.certificate, secrets.tls.certificate_key)
    assert tls.look(_testbed(serve(pair).port))[0].problem == ""


def test_the_certificate_stays_from_run_to_run(tmp_path, monkeypatch):
    testbed, secrets = _testbed(1), _vault(tmp_path, monkeypatch).load()
    first, _ = tls.prepare(testbed, local("root"), secrets)
    assert tls.prepare(testbed, local("root"), first)[0] == first


def test_ansible_never_gets_the_cas_key_and_logs_show_no_key(tmp_path, monkeypatch):
    secrets, served = tls.prepare(_testbed(1), local("root"), _vault(tmp_path, monkeypatch).load())
    told = deploy._secret_variables(_testbed(1), secrets, served)
    assert set(told["testbed_secrets"]["tls"]) == {"certificate", "key", "authority"}
    assert secrets.tls.authority_key not in str(told)
    redact = converge.Redaction(converge.secret_values(told))
    assert served.key.splitlines()[1] not in redact(served.key)
    assert redact(served.certificate) == served.certificate


def test_without_tls_nothing_is_made(tmp_path, monkeypatch):
    secrets = _vault(tmp_path, monkeypatch).load()
    assert tls.prepare(spec.load(None), local("root"), secrets) == (secrets, None)


def test_the_certificate_is_also_for_the_address_by_which_people_reach_the_server():
    testbed = _testbed(1)
    inside = Machine("server", ("server",), "203.0.113.9", "10.0.0.5", "ubuntu")
    assert tls.names(testbed, [inside]) == ["localhost", "203.0.113.9"]
    assert tls.names(testbed, local("root")) == ["localhost"]


def test_given_files_are_served_as_they_are(authority, tmp_path, monkeypatch):
    pair = _pair(authority)
    (tmp_path / "c").write_text(pair.certificate)
    (tmp_path / "k").write_text(pair.key)
    (tmp_path / "ca").write_text(authority.certificate)
    testbed = _testbed(1, f"{{certificate_file: {tmp_path}/c, key_file: {tmp_path}/k, ca_file: {tmp_path}/ca}}")
    secrets = _vault(tmp_path, monkeypatch).load()
    assert tls.prepare(testbed, local("root"), secrets) == (secrets, tls.Served(pair.certificate, pair.key, ""))
    tls.trust(testbed, Vault("lab"))
    assert {"lab": authority.certificate} == forward._TRUSTED


def test_given_files_that_cannot_serve_are_named(authority, tmp_path, monkeypatch):
    pair = _pair(authority, ["other.example"])
    (tmp_path / "c").write_text(pair.certificate)
    testbed = _testbed(1, f"{{certificate_file: {tmp_path}/c, key_file: {tmp_path}/k}}")
    secrets = _vault(tmp_path, monkeypatch).load()
    with pytest.raises(SpecError, match=r"server.tls.key_file: .*/k: cannot be read"):
        tls.prepare(testbed, local("root"), secrets)
    (tmp_path / "k").write_text(pair.key)
    with pytest.raises(SpecError, match="is for other.example: localhost lack"):
        tls.prepare(testbed, local("root"), secrets)


def test_a_ca_file_without_a_certificate_is_named(tmp_path):
    (tmp_path / "ca").write_text("nothing")
    testbed = _testbed(1, f"{{certificate_file: c, key_file: k, ca_file: {tmp_path}/ca}}")
    with pytest.raises(SpecError, match="holds no certificate"):
        tls.trust(testbed, Vault("lab"))


JUMP = JumpHost(host="gate.example", user="keeper")
ADDRESSES = "{api: 'https://a.example', web: 'https://w.example', files: 'https://f.example'}"
OTHERS = f"{{backend: external, urls: {ADDRESSES}, credentials_file: k}}"


@pytest.mark.parametrize(
    ("server", "machine", "open_here"),
    [
        ("{host: lab.example, bind: 0.0.0.0}", {"address": "192.0.2.7"}, True),
        ("{host: 192.0.2.7, bind: 0.0.0.0}", {"address": "192.0.2.7"}, True),
        ("{host: 10.0.0.7, bind: 0.0.0.0}", {"address": "192.0.2.7"}, False),  # behind a floating IP
        ("{host: lab.example, bind: 0.0.0.0}", {"address": "192.0.2.7", "jump_host": JUMP}, False),
        ("{host: lab.example, bind: 127.0.0.1}", {"address": "192.0.2.7"}, False),
        ("{}", {"address": None}, True),
        (OTHERS, {"address": "192.0.2.7"}, False),
    ],
)
def test_urls_are_to_work_here_where_nothing_is_between(server, machine, open_here):
    testbed = spec.parse(f"name: lab\nprovider: local\nserver: {server}\nusers: [{{name: alice}}]\n", "t.yaml")
    there = Machine(name="server", groups=("server",), internal="10.0.0.7", user="keeper", **machine)
    assert tls.is_open_here(testbed, [there]) is open_here
