"""A playbook of a test's own, run as `up` runs the project's."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from provision import converge
from provision.console import Stage
from provision.secrets import Vault

INVENTORY = {
    "all": {"hosts": {"local": {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}}}
}


class Steps(Stage):
    """A stage that remembers its steps."""

    def __init__(self):
        super().__init__(Console(file=io.StringIO()), "test", None)
        self.steps = []

    def step(self, text):
        self.steps.append(text)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    vault = Vault("lab")

    def call(tasks, secret_variables=None, play=""):
        playbook = tmp_path / "play.yml"
        playbook.write_text(f"- hosts: all\n  gather_facts: false\n{play}  tasks:\n{tasks}")
        call.stage = Steps()
        with converge.private_dir(tmp_path, "run-") as work:
            return converge.run_playbook(
                playbook,
                INVENTORY,
                vault,
                stage=call.stage,
                log=tmp_path / "log",
                work=work,
                variables={"folder": str(tmp_path), "work": str(work)},
                secret_variables=secret_variables or {"secret": "a-secret-that-is-nowhere-in-clear"},
            )

    call.log = tmp_path / "log"
    call.folder = tmp_path
    return call
