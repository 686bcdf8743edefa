"""The wheel, built from a clean clone and installed into an empty environment, is the same command as the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from provision import version, wheels
from provision.inventory import NETWORK_VARIABLES
from provision.paths import ROOT

PIP = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]


class Installed:
    """A wheel's command, called from a folder that is none of the checkout's."""

    def __init__(self, folder: Path, environment: Path) -> None:
        self.folder = folder
        self.environment = environment
        self.program = environment / "bin" / "testbed"
        (folder / "elsewhere").mkdir()

    def __call__(self, *arguments: str, where: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        found = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **(where or {})}
        command = [str(self.program), *arguments]
        return subprocess.run(
            command, cwd=self.folder / "elsewhere", env=found, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel") / "clone"
    subprocess.run(["git", "-c", f"safe.directory={ROOT}", "clone", "-q", ROOT, folder], check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(clone):
    built = clone.parent / "dist"
    # what builds it is in the environment of the tests already
    subprocess.run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", built, clone], check=True)
    (found,) = built.iterdir()
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Installed without its dependencies, which it finds where the tests have them: no checkout is importable there."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "an ënvironment", symlinks=True)
    found = Installed(folder, folder / "an ënvironment")
    python = found.environment / "bin" / "python"
    subprocess.run([*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    (site,) = found.environment.glob("lib/python3.*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    # an environment made by uv, or by Python 3.13, has this
    (found.environment / ".gitignore").write_text("*\n")
    return found


def test_the_version_is_that_of_the_clone(installed, clone):
    assert installed("version").stdout == f"testbed {version.find(clone)}\n"
    said = json.loads(installed("version", "--json").stdout)
    assert said["version"] == version.find(clone)
    assert Path(said["data"]).is_relative_to(installed.environment)
    assert set(said) == {"version", "python", "ansible_core", "data"}


def test_the_verbs_are_those_of_the_checkout(installed):
    checkout = subprocess.run([ROOT / "testbed", "--help"], capture_output=True, text=True, check=True)
    assert installed("--help").stdout == checkout.stdout


def test_a_first_file_is_written_and_a_mistake_in_it_is_told(installed):
    written = installed.folder / "elsewhere" / "testbed.yaml"
    assert installed("init").returncode == 0
    assert written.read_text() == (ROOT / "testbed.example.yaml").read_text()
    written.write_text(written.read_text().replace("name: local", "naem: local"))
    done = installed("status")
    written.unlink()
    assert done.returncode == 2
    assert "did you mean `name`?" in done.stderr


def test_the_projects_tests_are_said_to_be_elsewhere(installed):
    done = installed("test")
    assert done.returncode == 2
    assert "the project's own tests are in its checkout" in done.stderr
    assert done.stdout == ""


def test_hosts_get_the_same_wheels_from_it(installed, tmp_path):
    script = "import sys; from pathlib import Path; from provision import wheels; wheels.build(Path(sys.argv[1]))"
    subprocess.run([installed.environment / "bin" / "python", "-P", "-c", script, tmp_path / "its"], check=True)
    ours = wheels.build(tmp_path / "ours")
    for path in (ours.lite, ours.workload):
        assert (tmp_path / "its" / path.name).read_bytes() == path.read_bytes()


def test_all_that_playbooks_need_is_inside(installed, clone):
    (inside,) = installed.environment.glob("lib/python3.*/site-packages/provision/_data")
    for folder in ("playbooks", "roles", "templates", "tests/stack", "clearml_lite", "workload"):
        listed = subprocess.run(
            ["git", "-C", clone, "ls-files", folder], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        assert [name for name in listed if not (inside / name).is_file()] == []
    for name in ("ansible.cfg", "testbed.example.yaml", "requirements/hosts.txt"):
        assert (inside / name).is_file()


@pytest.mark.long
@pytest.mark.deployed
def test_the_installed_command_works_on_the_testbed_that_is_up(wheel, tmp_path):
    """With dependencies of its own, from the package index; nothing of the testbed differs in its eyes."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    subprocess.run([tmp_path / "env/bin/pip", "-q", "install", wheel], check=True)
    found = Installed(tmp_path, tmp_path / "env")
    # services keep the way to packages that they were given
    kept = [name for name in os.environ if name == "HOME" or name.startswith("XDG_") or NETWORK_VARIABLES.match(name)]
    home = {name: os.environ[name] for name in kept}
    done = found("up", "--yes", where=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("changed=0") == 2, done.stdout
    assert found("smoke", "--level", "quick", where=home).returncode == 0
    assert json.loads(found("status", "--json", where=home).stdout)["healthy"]
    shutil.rmtree(tmp_path / "env")
