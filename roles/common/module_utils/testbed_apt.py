"""Where apt finds the testbed's mirror, beside the machine's own sources, which stay as they are."""

from __future__ import annotations

from pathlib import Path

SOURCES = Path("/etc/testbed/apt/mirror.sources")
LISTS = Path("/opt/testbed/apt/lists")
SYSTEM_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def options(proxy: dict, direct: list[str], mirror: bool, ca_bundle: str) -> list[str]:
    """Return apt-get's options for this proxy, by scheme, for our mirror alone, and for these certificates.

    Hosts in `direct` need a setting each: https by a proxy does not heed no_proxy (apt 2.6 asks them for a tunnel).
    """
    settings = {f"Acquire::{scheme}::Proxy": url for scheme, url in sorted(proxy.items()) if url}
    settings.update({f"Acquire::{scheme}::Proxy::{host}": "DIRECT" for scheme in sorted(proxy) for host in direct})
    if ca_bundle:
        settings["Acquire::https::CAInfo"] = ca_bundle
    if mirror:
        settings.update({"Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": str(SOURCES.parent)})
        # the caches of the machine's own sources are not ours to overwrite
        settings.update({"Dir::State::lists": str(LISTS), "Dir::Cache::pkgcache": "", "Dir::Cache::srcpkgcache": ""})
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def bundle(certificates: str) -> str:
    """Return the system's certificates and these."""
    system = SYSTEM_BUNDLE.read_text() if SYSTEM_BUNDLE.exists() else ""
    return f"{system.rstrip()}\n{certificates.strip()}\n".lstrip()
