"""What tasks of queue `prepared` run in is as it was installed: a model is stored and loaded by one line of Keras."""

from __future__ import annotations

import pytest

from provision import inventory
from provision.smoke.problem import need

pytestmark = [pytest.mark.hosts, pytest.mark.of("agents")]

PREPARED = "/opt/testbed/venvs/prepared/bin/python"
PACKAGES = ("clearml", "tensorflow-cpu", "keras")
VERSIONS = """
import importlib.metadata as metadata, sys
for name in sys.argv[1:]:
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        print(name, "missing")
"""
AGAIN = "Run `testbed up`, which installs what is missing and sets versions right."


def test_prepared_environment_is_whole(on, stack, record_property):
    """On each agent's host, the prepared environment has what the workload needs, in versions that fit together."""
    for name in inventory.hosts(stack.inventory, "agents"):
        host = on(name)
        done = host.run("%s -I -c %s " + " ".join(PACKAGES), PREPARED, VERSIONS)
        need(
            done.rc == 0,
            f"{name}: {PREPARED}: {' '.join(done.stderr.split())[-200:]}",
            expected=f"{name}: {PREPARED} runs",
            remedy=AGAIN,
        )
        found = dict(line.split() for line in done.stdout.splitlines())
        missing = [package for package in PACKAGES if found.get(package, "missing") == "missing"]
        need(not missing, f"{name}: the prepared environment has no {', '.join(missing)}", remedy=AGAIN)
        record_property("reference", ", ".join(f"{package} {version}" for package, version in found.items()))
        checked = host.run("%s -I -m pip --disable-pip-version-check check", PREPARED)
        need(
            checked.rc == 0,
            f"{name}: the prepared environment: {'; '.join((checked.stdout or checked.stderr).splitlines())[:500]}",
            expected=f"{name}: `pip check` finds no package that lacks another, or has the wrong version of it",
            remedy=AGAIN,
        )
