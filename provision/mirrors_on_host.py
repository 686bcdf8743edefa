"""Asks package mirrors whether they answer this machine. Runs on hosts: Python 3.8, no library.

The argument is a JSON object: `urls` to ask, the `environment` that apt, pip and Docker reach them in (proxy and
certificates), and the `seconds` that all of it may take. What is wrong is printed as a JSON object, by URL; empty where
one answers.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

# where Docker has the certificates of registries that it trusts beside the system's, by HOST[:PORT]
DOCKER_CERTIFICATES = Path("/etc/docker/certs.d")


def trusted(url: str, extra: Path = DOCKER_CERTIFICATES) -> ssl.SSLContext:
    """Return what verifies the certificate behind `url`."""
    context = ssl.create_default_context()
    for file in sorted((extra / urllib.parse.urlsplit(url).netloc).glob("*.crt")):
        context.load_verify_locations(file)
    return context


def wrong_with(url: str, seconds: float) -> str:
    """Return why nothing answers at `url`; empty where something does: what it answers is apt's or pip's to judge."""
    try:
        with urllib.request.urlopen(url, timeout=seconds, context=trusted(url)):  # noqa: S310 (http or https)
            return ""
    except urllib.error.HTTPError as error:
        broken = error.code == http.client.PROXY_AUTHENTICATION_REQUIRED or error.code >= 500
        return f"HTTP {error.code} {error.reason}" if broken else ""
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(getattr(error, "reason", "") or error) or type(error).__name__


def ask(urls: list[str], seconds: float) -> dict[str, str]:
    """Return what is wrong with each of `urls`, asked all at once, within `seconds`."""
    found: dict[str, str] = {}

    def look(url: str) -> None:
        found[url] = wrong_with(url, seconds)

    # a name server that does not answer is waited for longer than any timeout says; nobody waits for these threads
    threads = [threading.Thread(target=look, args=(url,), daemon=True) for url in urls]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds + 1
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return {url: found.get(url, f"no answer within {seconds:g} s") for url in urls}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    os.environ.update(asked["environment"])
    print(json.dumps(ask(asked["urls"], asked["seconds"])))
