"""TLS on the built-in testbed with three names, and with a certificate of one's own from below a CA of one's own."""

from __future__ import annotations

import datetime
import json
import os
import re
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision import certificates, forward, spec
from provision.inventory import CA_BUNDLE
from tests.integration.deployed.stored import is_there, store
from tests.integration.given import Given

pytestmark = [pytest.mark.deployed, pytest.mark.long]

NAMES = {service: f"{service}.testbed.test" for service in spec.URL_SERVICES}
HOSTS = Path("/etc/hosts")
LINE = f"127.0.0.1 {' '.join(NAMES.values())} # tests of tls\n"
PEM = Path("/etc/testbed/tls-proxy.pem")
PID = Path("/run/testbed-tls-proxy.pid")
REDIRECT = 8000


def _text(folder: Path) -> str:
    lines = spec.EXAMPLE.read_text().splitlines()
    here = next(number for number, line in enumerate(lines) if line.startswith("  # bind:"))
    said = {
        "names": NAMES,
        "certificate_file": str(folder / "server.pem"),
        "key_file": str(folder / "server.key"),
        "ca_file": str(folder / "root.crt"),
        "redirect_from": REDIRECT,
    }
    return "\n".join([*lines[:here], f"  tls: {json.dumps(said)}", *lines[here:], ""])


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Given:
    found = Given(tmp_path_factory.mktemp("given"))
    found.make()
    found.put([*NAMES.values()])
    (found.folder / "testbed.yaml").write_text(_text(found.folder))
    return found


@pytest.fixture(scope="module")
def file(given) -> Path:
    return given.folder / "testbed.yaml"


@pytest.fixture(scope="module")
def names() -> Iterator[None]:
    """The names lead to this machine."""
    before = HOSTS.read_text()
    HOSTS.write_text(f"{before.rstrip()}\n{LINE}")
    yield
    HOSTS.write_text(HOSTS.read_text().replace(LINE, ""))


@pytest.fixture(scope="module")
def secured(command, testbed, given, file, names) -> Iterator[spec.Testbed]:
    """The testbed with these names; afterwards without TLS. What a user stores is there before and after."""
    before = store(testbed, "http://127.0.0.1:8081")
    done = command("up", "--yes", "--spec", str(file))
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        for word in (
            "canonical url answers on every host: files",
            "certificate is good for two weeks: api",
            "workload completes",
        ):
            assert word in done.stdout
        forward.trust(testbed.name, (given.folder / "root.crt").read_text())
        assert is_there(testbed, before)
        meanwhile = store(testbed, f"https://{NAMES['files']}")
        yield spec.load(file)
    finally:
        forward.trust(testbed.name, "")
        off = command("up", "--yes")
    assert off.returncode == 0, off.stdout + off.stderr
    assert is_there(testbed, before)
    assert is_there(testbed, meanwhile)


def test_a_second_run_changes_nothing(secured, command, file):
    done = command("up", "--yes", "--json", "--spec", str(file))
    assert json.loads(done.stdout)["changed"] == 0, done.stderr


def test_confs_have_the_three_names_and_the_ca(secured, testbed):
    conf = Path(f"~{testbed.users[0].name}/clearml.conf").expanduser().read_text()
    for service in spec.URL_SERVICES:
        assert f'{service}_server: "https://{NAMES[service]}"' in conf
    assert conf.count(f'verify_certificate: "{CA_BUNDLE}"') == 2


def test_who_trusts_the_ca_alone_is_shown_the_whole_chain(secured, given):
    for name in NAMES.values():
        shown = subprocess.run(
            ["openssl", "s_client", "-connect", f"{name}:443", "-servername", name, "-verify_hostname", name]
            + ["-verify_return_error", "-CAfile", str(given.folder / "root.crt"), "-no-CApath"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Verify return code: 0 (ok)" in shown.stdout, shown.stdout + shown.stderr
        assert len(re.findall(r"^ *\d s:", shown.stdout, re.MULTILINE)) == 2


def test_each_name_leads_to_its_service_and_browsers_hold_on_to_https(secured):
    with forward.client(timeout=30) as http:
        answers = {service: http.get(f"{secured.server.url(service)}/") for service in spec.URL_SERVICES}
        assert http.get(f"{secured.server.url('api')}/debug.ping").json()["meta"]["result_code"] == 200
        assert "<html" in answers["web"].text.lower()
        for answer in answers.values():
            assert "max-age=" in answer.headers["Strict-Transport-Security"]
        for name in NAMES.values():
            led = http.get(f"http://{name}:{REDIRECT}/x?y=z", follow_redirects=False)
            assert (led.status_code, led.headers["Location"]) == (308, f"https://{name}/x?y=z")


def _serve(pair: certificates.Pair, chain: str, eventually) -> None:
    PEM.write_text(pair.key + pair.certificate + chain)
    os.kill(int(PID.read_text()), signal.SIGHUP)

    def served() -> bool:
        return ssl.get_server_certificate(("127.0.0.1", 443)).split() == pair.certificate.split()

    eventually("nginx serves the other certificate", served, 20)


def test_a_bad_certificate_is_named_with_what_to_do(secured, command, given, file, eventually):
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    names, theirs = [*NAMES.values()], certificates.make_authority("theirs", now)
    chain = given.signer.certificate
    for pair, below, told, remedy in (
        (certificates.issue(given.signer, names, now, -day / 2), chain, "has expired", "certificate_file"),
        (certificates.issue(given.signer, names, now, 3 * day), chain, "in 2 days", "certificate_file"),
        (certificates.issue(given.signer, names[:1], now), chain, "is not for", "certificate_file"),
        (certificates.issue(theirs, names, now), "", "is from a CA that is not trusted", "ca_file"),
    ):
        _serve(pair, below, eventually)
        done = command("status", "--json", "--spec", str(file))
        assert done.returncode == 1
        found = [problem for problem in json.loads(done.stdout)["problems"] if told in problem["message"]]
        assert found, done.stdout
        assert f"server.tls.{remedy}" in found[0]["remedy"]


def test_a_new_certificate_is_put_in_place_and_an_expired_one_is_refused(secured, command, given, file):
    pid = PID.read_text()
    given.put([*NAMES.values()], days=-0.5)
    done = command("up", "--yes", "--spec", str(file))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "expired" in done.stdout + done.stderr
    made = given.put([*NAMES.values()])
    done = command("up", "--yes", "--json", "--spec", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["changed"] == 2  # the file, and that nginx takes it
    assert PID.read_text() == pid
    assert ssl.get_server_certificate(("127.0.0.1", 443)).split() == made.certificate.split()
    assert command("status", "--spec", str(file)).returncode == 0
