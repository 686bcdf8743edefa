"""What a dpkg that was killed left half done is completed by the next run, and only told in check mode."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from provision.paths import ROLES

pytestmark = pytest.mark.deployed

NAME = "testbed-half-made"
# the first time, it kills the dpkg that runs it
POSTINST = f"#!/bin/sh\n[ -e /var/tmp/{NAME} ] && exit 0\ntouch /var/tmp/{NAME}\nkill -9 $PPID\n"


def _dpkg(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["dpkg", *arguments], capture_output=True, text=True, check=False)


def _state() -> str:
    shown = ["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev}", NAME]
    return subprocess.run(shown, capture_output=True, text=True, check=False).stdout.strip()


@pytest.fixture
def package(tmp_path):
    """A package of this test's own, as a file."""
    control = tmp_path / "package/DEBIAN"
    control.mkdir(parents=True)
    for folder in (control, control.parent):  # dpkg-deb takes no private ones, which `./testbed test` makes
        folder.chmod(0o755)
    (control / "control").write_text(
        f"Package: {NAME}\nVersion: 1\nArchitecture: all\nMaintainer: tests <tests@localhost>\nDescription: of a test\n"
    )
    (control / "postinst").write_text(POSTINST)
    (control / "postinst").chmod(0o755)
    file = tmp_path / f"{NAME}.deb"
    subprocess.run(["dpkg-deb", "--build", str(control.parent), str(file)], check=True, capture_output=True)
    yield file
    _dpkg("--purge", NAME)
    Path(f"/var/tmp/{NAME}").unlink(missing_ok=True)


@pytest.fixture
def packages(tmp_path):
    """Run module testbed_packages as a role does, wanting no package; return what it said it changed."""

    def run(*arguments: str) -> str:
        ansible = str(Path(sys.executable).with_name("ansible"))
        command = [ansible, "localhost", "-c", "local", "-m", "testbed_packages", "-a", "state=present", *arguments]
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(tmp_path),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_LIBRARY": str(ROLES / "common/library"),
            "ANSIBLE_MODULE_UTILS": str(ROLES / "common/module_utils"),
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize(("how", "state"), [("--install", "iF"), ("--unpack", "iU")])
def test_what_a_killed_dpkg_left_is_completed(package, packages, how, state):
    if how == "--unpack":
        Path(f"/var/tmp/{NAME}").touch()
    _dpkg(how, str(package))
    assert _state() == state
    assert "CHANGED" in packages("--check")
    assert _state() == state, "check mode changes nothing"
    assert "CHANGED" in packages()
    assert _state() == "ii"
    assert _dpkg("--audit").stdout == ""
    assert "CHANGED" not in packages(), "the second run has nothing to do"


def test_a_package_of_somebody_else_that_stays_broken_does_not_stop_us(package, packages, tmp_path):
    Path(f"/var/tmp/{NAME}").touch()
    (tmp_path / "package/DEBIAN/postinst").write_text("#!/bin/sh\nexit 1\n")
    subprocess.run(["dpkg-deb", "--build", str(tmp_path / "package"), str(package)], check=True, capture_output=True)
    _dpkg("--install", str(package))
    assert _state() == "iF"
    assert "CHANGED" not in packages()
    assert _state() == "iF"
