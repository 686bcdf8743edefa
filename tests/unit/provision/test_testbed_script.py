"""`./testbed` on machines that lack something: what is missing and what to do, in plain words."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from provision.paths import ROOT

NEEDED = ("bash", "readlink", "dirname", "sha256sum", "cat", "id", "flock", "env", "rm", "mkdir", "touch")


@pytest.fixture
def machine(tmp_path):
    """A checkout with nothing but the script, on a PATH with nothing but what every Debian has."""
    checkout, programs = tmp_path / "a checkout with ä", tmp_path / "bin"
    (checkout / "requirements").mkdir(parents=True)
    programs.mkdir()
    shutil.copy(ROOT / "testbed", checkout)
    (checkout / "requirements" / "cli.txt").write_text("")
    for name in NEEDED:
        (programs / name).symlink_to(shutil.which(name))

    def run(*arguments, path=programs):
        return subprocess.run(
            [str(checkout / "testbed"), *arguments],
            env={"PATH": str(path)},
            capture_output=True,
            text=True,
            check=False,
        )

    def program(name, script):
        (programs / name).write_text(f"#!{shutil.which('bash')}\n{script}\n")
        (programs / name).chmod(0o755)

    run.program = program
    run.checkout = checkout
    run.programs = programs
    return run


def test_no_python_is_said_with_a_remedy(machine):
    done = machine("version")
    assert done.returncode == 1
    assert "no Python 3.11, 3.12 or 3.13 found" in done.stderr
    assert "apt-get install python3 python3-venv" in done.stderr


def test_an_old_python_is_passed_over(machine):
    machine.program("python3", "exit 1")
    machine.program("python3.12", f'exec {sys.executable} "$@"')
    assert "no Python" not in machine("version").stderr


def test_a_missing_venv_module_is_said_where_it_cannot_be_installed(machine):
    machine.program("python3", f'[[ $2 == *ensurepip* ]] && exit 1; exec {sys.executable} "$@"')
    done = machine("version")
    assert done.returncode == 1
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    assert f"As root: apt-get install {version}" in done.stderr


def test_a_missing_venv_module_is_installed_where_it_may_be(machine, tmp_path):
    installed = tmp_path / "installed"
    machine.program("python3", f'[[ $2 == *ensurepip* && ! -e "{installed}" ]] && exit 1; exec {sys.executable} "$@"')
    machine.program("apt-get", f'[[ $* == *install* ]] && touch "{installed}"; exit 0')
    machine.program("sudo", 'shift; exec "$@"')
    done = machine("version")
    assert installed.exists()
    assert (machine.checkout / ".venv" / "bin" / "python").exists(), done.stderr


def test_an_activated_environment_is_not_what_makes_it_anew(machine):
    activated = machine.checkout / ".venv" / "bin"
    activated.mkdir(parents=True)
    (activated / "python3").symlink_to(sys.executable)
    machine.program("python3", f'exec {sys.executable} "$@"')
    machine("version", path=f"{activated}:{machine.programs}")
    assert (activated / "python").exists()
