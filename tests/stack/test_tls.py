"""Each service has one URL that works from everywhere, and with TLS a certificate that everybody trusts."""

from __future__ import annotations

import httpx
import pytest

from provision import forward, hosts, inventory, tls
from provision.inventory import CA_BUNDLE
from provision.machines import with_group
from provision.smoke.problem import need
from provision.spec import URL_SERVICES

# what a host finds at a URL, without the proxy for package indexes, as its own tools would: an HTTP status
ASK = """
import os, ssl, sys, urllib.error, urllib.request as request
url, bundle = sys.argv[1:]
context = ssl.create_default_context(cafile=bundle if os.path.exists(bundle) else None)
opener = request.build_opener(request.ProxyHandler({}), request.HTTPSHandler(context=context))
try:
    print(opener.open(url, timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""
AGENT_ACCOUNT = "clearml-agent"
PATHS = {"api": "/debug.ping", "web": "/", "files": "/"}


@pytest.mark.hosts
@pytest.mark.of("api", "web", "files")
@pytest.mark.parametrize("of", URL_SERVICES)
def test_canonical_url_answers_on_every_host(on, stack, of, record_property):
    """The server, each agent, client and inference host reaches the service by its one URL and trusts it; so does this
    machine by itself, where the testbed is open to it.

    Agents' hosts do so as the account that tasks run as, too: it may have a proxy or a firewall of its own.
    """
    url = stack.testbed.server.url(of)
    record_property("reference", url)
    names = [machine.name for machine in with_group(stack.machines, "server", "agents", "clients", "inference")]
    agents = [(name, AGENT_ACCOUNT) for name in inventory.hosts(stack.inventory, "agents")]
    everywhere = dict.fromkeys([*inventory.hosts(stack.inventory, "server"), *names])
    for name, account in [*((name, "root") for name in everywhere), *agents]:
        done = hosts.run_as(on(name), account, "/usr/bin/python3", "-I", "-c", ASK, url + PATHS[of], CA_BUNDLE)
        said = done.stdout.strip() or " ".join(done.stderr.strip().splitlines()[-1:])
        who = name if account == "root" else f"{name}, as {account},"
        need(
            said == "200",
            f"{who} does not reach {url}: {said}",
            expected=f"{who} reaches {url}",
            remedy=f"The name in {url} must mean the same on {name} as here, and no firewall may close its port; "
            "`testbed status` tells of its certificate.",
        )
    if tls.is_open_here(stack.testbed, stack.machines):
        said = _answer_here(url + PATHS[of])
        need(
            said == "200",
            f"this machine reaches {url} through SSH only: {said}",
            expected=f"a browser on this machine reaches {url}",
            remedy=f"Have the name in {url} mean the same here as on the hosts (DNS, or a line in /etc/hosts), and its "
            "port let in by the firewalls between: users need both.",
        )


def _answer_here(url: str) -> str:
    """Return the HTTP status of a URL, or what comes instead, as asked from this machine by no forward."""
    try:
        with forward.direct(timeout=20) as client:
            return str(client.get(url).status_code)
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__


@pytest.mark.tls
@pytest.mark.parametrize("of", URL_SERVICES)
def test_certificate_is_good_for_two_weeks(request, target, of, record_property):
    """The service shows a certificate for its name, from a CA that is trusted, which does not end within two weeks."""
    url = target.url(of)
    if target.conf is not None:
        if not url.startswith("https:"):
            pytest.skip(f"{url} is without TLS")
        found = tls.look_at(url)
    else:
        testbed = request.getfixturevalue("stack").testbed
        [found] = [found for found in tls.look(testbed) if found.url == url]
    record_property("reference", f"until {found.ends}")
    need(not found.problem, found.problem, remedy=f"{found.remedy.rstrip('.')}.")
