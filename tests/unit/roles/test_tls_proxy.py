"""What the rendered nginx.conf means, and how a certificate that nginx serves is told from another."""

from __future__ import annotations

import ast
import datetime
import importlib.util
import json
import re
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from provision import certificates

ROLE = Path(__file__).parents[3] / "roles" / "tls_proxy"
ONE_NAME = [
    {"name": name, "host": "lab.example", "port": port, "url": f"https://lab.example:{port}", "upstream": upstream}
    for name, port, upstream in (
        ("api", 8008, "127.0.0.1:18008"),
        ("web", 8080, "127.0.0.1:18080"),
        ("files", 8081, "127.0.0.1:18081"),
    )
]
THREE_NAMES = [
    {**each, "host": f"{each['name']}.example", "url": f"https://{each['name']}.example", "port": 443}
    for each in ONE_NAME
]
TOKEN = re.compile(
    r"""\s+|\#[^\n]*|(?P<mark>[{};])|"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>[^']*)'|(?P<word>[^\s{};]+)"""
)
Block = list[tuple[list[str], Any]]


def _parse(text: str) -> Block:
    """Return nginx.conf as nested lists of (words, block or None)."""
    top: Block = []
    stack, words = [top], []
    for match in TOKEN.finditer(text):
        if match["mark"] == ";":
            stack[-1].append((words, None))
            words = []
        elif match["mark"] == "{":
            inner: Block = []
            stack[-1].append((words, inner))
            stack.append(inner)
            words = []
        elif match["mark"] == "}":
            stack.pop()
        else:
            words += [word for word in match.group("double", "single", "word") if word is not None]
    assert len(stack) == 1
    return top


def _all(block: Block, name: str) -> list[list[str]]:
    return [words[1:] for words, _ in block if words[0] == name]


def _one(block: Block, *names: str) -> Any:
    [(words, inner)] = [(words, inner) for words, inner in block if words[: len(names)] == list(names)]
    return inner if inner is not None else words[len(names) :]


def _servers(http: Block) -> list[Block]:
    return [inner for words, inner in http if words == ["server"]]


@pytest.fixture(scope="module")
def conf(render_role):
    def make(services=ONE_NAME, **variables):
        text = render_role(
            "tls_proxy", "nginx.conf.j2", tls_proxy_services=services, common_data_dir="/srv/testbed", **variables
        )
        return _one(_parse(text), "http"), _parse(text)

    return make


def test_each_service_listens_on_its_own_port_and_leads_to_its_upstream(conf):
    http, _ = conf(tls_proxy_bind="192.0.2.5")
    found = {
        _all(server, "listen")[0][0]: _one(_one(server, "location", "/"), "proxy_pass")[0] for server in _servers(http)
    }
    assert found == {
        "192.0.2.5:8008": "http://127.0.0.1:18008",
        "192.0.2.5:8080": "http://127.0.0.1:18080",
        "192.0.2.5:8081": "http://127.0.0.1:18081",
    }
    assert all("ssl" in words for server in _servers(http) for words in _all(server, "listen"))


def test_an_ipv6_address_is_bracketed(conf):
    http, _ = conf(tls_proxy_bind="::")
    assert _all(_servers(http)[0], "listen") == [["[::]:8008", "ssl"]]


def test_three_names_share_a_port_and_any_other_name_is_misdirected(conf):
    http, _ = conf(THREE_NAMES, tls_proxy_hsts_seconds=60)
    default, *named = _servers(http)
    assert _all(default, "listen") == [["127.0.0.1:443", "ssl", "default_server"]]
    assert _one(default, "return") == ["421"]
    assert [_one(server, "server_name") for server in named] == [["api.example"], ["web.example"], ["files.example"]]
    assert [_one(_one(server, "location", "/"), "proxy_pass")[0][-5:] for server in named] == [
        "18008",
        "18080",
        "18081",
    ]


def test_only_modern_tls(conf):
    http, _ = conf()
    assert _one(http, "ssl_protocols") == ["TLSv1.2", "TLSv1.3"]
    assert all("GCM" in name or "CHACHA20" in name for name in _one(http, "ssl_ciphers")[0].split(":"))
    assert all(name.startswith("ECDHE") for name in _one(http, "ssl_ciphers")[0].split(":"))
    assert _one(http, "ssl_session_tickets") == ["off"]


def test_key_and_certificate_are_one_private_file(conf):
    http, _ = conf()
    assert _one(http, "ssl_certificate") == _one(http, "ssl_certificate_key") == ["/etc/testbed/tls-proxy.pem"]
    tasks = (ROLE / "tasks/main.yml").read_text()
    assert re.search(r'dest: "\{\{ tls_proxy_pem \}\}"\n +mode: "0600"\n +no_log: true', tasks)


def test_files_of_any_size_go_through_unbuffered(conf):
    http, _ = conf()
    assert _one(http, "client_max_body_size") == ["0"]
    assert _one(http, "proxy_max_temp_file_size") == ["0"]
    buffering = {
        _one(server, "server_name")[0] + _all(server, "listen")[0][0][-4:]: _all(
            _one(server, "location", "/"), "proxy_request_buffering"
        )
        for server in _servers(http)
    }
    assert buffering == {"_8008": [], "_8080": [["off"]], "_8081": [["off"]]}


def test_a_server_is_not_told_to_close_before_it_has_read_what_it_refuses(conf):
    http, _ = conf()
    assert dict(_all(http, "proxy_set_header"))["Connection"] == ""
    for name in ("client_body_timeout", "send_timeout", "proxy_read_timeout", "proxy_send_timeout"):
        assert int(_one(http, name)[0].rstrip("s")) >= 600


@pytest.mark.parametrize(
    ("uri", "authorization", "limited"),
    [
        ("/auth.login", "", True),
        ("/auth.login", "Bearer x", True),
        ("/v2.23/auth.login", "Basic eA==", True),
        ("/v999.1/AUTH.LOGIN", "", True),
        ("/api/v2.5/auth.login", "", True),
        ("/login", "", True),
        ("/projects/login.supported_modes", "", False),
        ("/files/mylogin", "", False),
        ("/tasks.get_all", "Basic eA==", True),
        ("/tasks.get_all", "basic eA==", True),
        ("/tasks.get_all", "Bearer x", False),
        ("/tasks.get_all", "", False),
        ("/auth.login_history", "Bearer basic", False),
        ("/debug.ping", "", False),
    ],
)
def test_logins_under_any_version_and_basic_credentials_are_limited_by_address(conf, uri, authorization, limited):
    http, _ = conf()
    first, second = _one(http, "map", "$uri"), _one(http, "map", "$is_login:$http_authorization")
    assert _mapped(second, f"{_mapped(first, uri)}:{authorization}") == ("$binary_remote_addr" if limited else "")
    assert _one(http, "limit_req_zone")[0] == "$guesser"
    assert _one(http, "limit_req_status") == ["429"]
    zone, burst, nodelay = _one(http, "limit_req")
    assert zone in _one(http, "limit_req_zone")[1]
    assert int(burst.removeprefix("burst=")) >= 30
    assert nodelay == "nodelay"


def _mapped(block: Block, value: str) -> str:
    """Return what nginx's map gives for a value: the first regular expression that fits, or the default."""
    default = ""
    for (key, result), _ in ((words if len(words) == 2 else [*words, ""], None) for words, _ in block):
        if key == "default":
            default = result
        elif re.search(key.lstrip("~*"), value, re.IGNORECASE if key.startswith("~*") else 0):
            return result
    return default


def test_who_is_refused_gets_an_answer_of_the_api_and_a_time_to_wait(conf):
    http, _ = conf()
    for server in _servers(http):
        for place, code in (("@too_many", 429), ("@away", 503)):
            location = _one(server, "location", place)
            status, body = _one(location, "return")
            assert (int(status), json.loads(body)["meta"]["result_code"]) == (code, code)
            assert ["Retry-After", "1", "always"] in _all(location, "add_header")
        assert ["429", "@too_many"] in _all(server, "error_page")
        assert ["502", "=503", "@away"] in _all(server, "error_page")


def _headers(block: Block) -> dict[str, str]:
    found = _all(block, "add_header")
    assert all(words[-1] == "always" for words in found)
    return {words[0]: words[1] for words in found}


def test_every_answer_carries_security_headers(conf):
    http, top = conf()
    api, web, files = _servers(http)
    for server in (api, web, files):
        for block in (server, _one(server, "location", "@too_many"), _one(server, "location", "@away")):
            found = _headers(block)
            assert found["X-Content-Type-Options"] == "nosniff"
            assert "Referrer-Policy" in found
            assert "frame-ancestors" in found["Content-Security-Policy"]
            assert "Strict-Transport-Security" not in found
    assert _headers(api)["X-Frame-Options"] == "DENY"
    assert _headers(web)["X-Frame-Options"] == "SAMEORIGIN"
    # the web app shows files in frames; a file's own scripts are nobody's
    assert "https://lab.example:8080" in _headers(files)["Content-Security-Policy"]
    assert "sandbox" in _headers(files)["Content-Security-Policy"]
    below = _one(web, "location", "/files")
    assert _headers(below) == _headers(files), "the official webserver passes files on, too"
    assert _one(below, "proxy_pass") == _one(_one(web, "location", "/"), "proxy_pass")
    assert _one(http, "server_tokens") == ["off"]
    assert _one(top, "daemon") == ["off"]


def test_browsers_are_held_to_https_only_where_asked(conf):
    http, _ = conf(THREE_NAMES, tls_proxy_hsts_seconds=60)
    assert all(_headers(server)["Strict-Transport-Security"] == "max-age=60" for server in _servers(http)[1:])


def test_the_server_learns_who_asked_and_nobody_can_pretend(conf):
    http, _ = conf()
    sent = dict(_all(http, "proxy_set_header"))
    assert sent["Host"] == sent["X-Forwarded-Host"] == "$http_host"
    assert sent["X-Forwarded-For"] == sent["X-Real-IP"] == "$remote_addr"
    assert sent["X-Forwarded-Proto"] == "https"


def test_plain_http_is_led_to_the_canonical_url(conf):
    http, _ = conf(tls_proxy_redirect_port=80)
    *services, redirect = _servers(http)
    for server, each in zip(services, ONE_NAME, strict=True):
        assert ["497", "=308", f"{each['url']}$request_uri"] in _all(server, "error_page")
    assert _all(redirect, "listen") == [["127.0.0.1:80", "default_server"]]
    assert _one(redirect, "return") == ["308", "https://lab.example:8080$request_uri"]
    named = conf(THREE_NAMES, tls_proxy_redirect_port=80)[0]
    assert [_one(server, "return") for server in _servers(named)[-3:]] == [
        ["308", f"{each['url']}$request_uri"] for each in THREE_NAMES
    ]


def test_it_is_apart_from_the_distributions_nginx(conf):
    http, top = conf()
    assert _one(top, "pid") == ["/run/testbed-tls-proxy.pid"]
    for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        assert _one(http, f"{name}_temp_path")[0].startswith("/srv/testbed/tls-proxy/")
    assert not _all(top, "include")
    assert not _all(http, "include")


def _module():
    spec = importlib.util.spec_from_file_location("testbed_served", ROLE / "library/testbed_served.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def served(tmp_path):
    """A TLS server that serves the certificate of `tmp_path/pair.pem`, and its port."""
    now = datetime.datetime.now(datetime.UTC)
    authority = certificates.make_authority("lab", now)
    first, second = (certificates.issue(authority, ["lab.example"], now) for _ in range(2))
    (tmp_path / "pair.pem").write_text(first.key + first.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pair.pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                plain, _ = listener.accept()
                with context.wrap_socket(plain, server_side=True) as wrapped:
                    wrapped.recv(1)
            except ssl.SSLError:
                continue
            except OSError:
                return

    threading.Thread(target=run, daemon=True).start()
    yield listener.getsockname()[1], first, second, authority
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_the_very_certificate_is_known_and_no_other_even_of_the_same_ca(served):
    port, first, second, authority = served

    def is_served(certificate: str, port: int = port) -> bool:
        return _module().Wanted(certificate, "127.0.0.1", port).is_served()

    assert is_served(first.certificate)
    assert is_served(f"text\n{first.certificate}")
    assert not is_served(first.certificate + authority.certificate)  # its chain is not shown
    assert not is_served(second.certificate)
    with pytest.raises(OSError, match="refused"):
        is_served(first.certificate, 1)


def test_the_module_is_python_3_8():
    ast.parse((ROLE / "library/testbed_served.py").read_text(), feature_version=(3, 8))
