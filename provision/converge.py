"""Runs playbooks through ansible-runner: progress as it happens, everything else into a log file."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import ansible_runner
import yaml

from provision.console import Stage
from provision.errors import ConvergeError
from provision.paths import ROLES, ROOT, write_private
from provision.secrets import Vault

# shorter values, such as user names, are no secrets
SHORTEST_SECRET = 12
FAILED_EVENTS = {"runner_on_failed", "runner_on_unreachable", "runner_item_on_failed"}


@dataclass
class PlayResult:
    """What a playbook did, from Ansible's own statistics."""

    changed: int = 0
    ok: int = 0
    changed_tasks: list[str] = field(default_factory=list)


@dataclass
class _Watch:
    """Follows the events of one playbook run."""

    stage: Stage
    log: TextIO
    secrets: list[str]
    result: PlayResult = field(default_factory=PlayResult)
    failures: list[str] = field(default_factory=list)

    def event(self, event: dict[str, Any]) -> bool:
        if text := event.get("stdout"):
            self.log.write(self._redact(text) + "\n")
            self.log.flush()
        data = event.get("event_data", {})
        task, host, result = data.get("task", ""), data.get("host", ""), data.get("res") or {}
        match event.get("event"):
            case "runner_on_start":
                self.stage.step(f"{host}: {task}")
            case "runner_on_ok" if result.get("changed"):
                self.result.changed_tasks.append(task)
            case kind if kind in FAILED_EVENTS and not data.get("ignore_errors"):
                self.failures.append(self._redact(f"{host}: {task}: {_reason(result)}"))
            case "playbook_on_stats":
                self.result.changed = sum(data.get("changed", {}).values())
                self.result.ok = sum(data.get("ok", {}).values())
        return False  # runner need not keep the event

    def _redact(self, text: str) -> str:
        # ansible-core 2.19 shows the message of a failed task in its error display, even under no_log
        for secret in self.secrets:
            text = text.replace(secret, "********")
        return text


class _Literal(str):
    """A value that Ansible takes as it is, whatever braces it has."""


class _LiteralDumper(yaml.SafeDumper):
    pass


_LiteralDumper.add_representer(_Literal, lambda dumper, value: dumper.represent_scalar("!unsafe", value))


def literal_yaml(variables: dict[str, Any]) -> str:
    """Return `variables` as YAML whose strings Ansible does not template: a password may hold `{{`."""

    def literal(found: Any) -> Any:
        if isinstance(found, dict):
            return {key: literal(value) for key, value in found.items()}
        return _Literal(found) if isinstance(found, str) else found

    return yaml.dump(literal(variables), Dumper=_LiteralDumper)


def _strings(found: object) -> Iterator[str]:
    if isinstance(found, dict):
        for value in found.values():
            yield from _strings(value)
    elif isinstance(found, str) and len(found) >= SHORTEST_SECRET:
        yield found


def _reason(result: dict[str, Any]) -> str:
    if "censored" in result:
        return "failed; its output is hidden because it holds a secret"
    for key in ("stderr", "msg", "module_stderr", "stdout"):
        if text := str(result.get(key) or "").strip():
            return text[-2000:]
    return "failed"


def _run(
    folder: Path, playbook: Path, secrets: Path, password: Path, environment: dict[str, str], watch: _Watch
) -> Any:
    arguments = ["-e", f"@{folder / 'variables.json'}", "-e", f"@{secrets}", "--vault-password-file", str(password)]
    return ansible_runner.run(
        private_data_dir=str(folder),
        project_dir=str(playbook.parent),
        playbook=str(playbook),
        inventory=str(folder / "inventory.yml"),
        cmdline=shlex.join(arguments),
        envvars=environment,
        event_handler=watch.event,
        quiet=True,
    )


@contextmanager
def private_dir(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder (0700) below `parent`, named `prefix` and more, that is gone after the block."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def run_playbook(
    playbook: Path,
    inventory: dict[str, Any],
    vault: Vault,
    *,
    stage: Stage,
    log: Path,
    work: Path,
    variables: dict[str, Any],
    secret_variables: dict[str, Any],
) -> PlayResult:
    """Run `playbook` and return what it did.

    `work` is a private folder. `secret_variables` reach Ansible as a file encrypted with the testbed's vault, so that
    none is in clear on disk or in an argument list. Raises `ConvergeError` with the reason and the log's name.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{playbook.stem}-", dir=work))
    secret_file = folder / "secret-variables.yml"
    write_private(secret_file, vault.encrypt(literal_yaml(secret_variables)))
    write_private(folder / "inventory.yml", yaml.safe_dump(inventory).encode())
    write_private(folder / "variables.json", json.dumps(variables).encode())
    environment = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": str(ROLES),
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",  # there on every machine; Ansible refuses a locale that is not
    }
    with log.open("a", encoding="utf-8") as log_file:
        watch = _Watch(stage, log_file, list(_strings(secret_variables)))
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            runner = _run(folder, playbook, secret_file, vault.password_path(work), environment, watch)
        finally:  # ansible-runner puts its own in their place and leaves them
            for number, handler in handlers.items():
                signal.signal(number, handler)
    if runner.status == "canceled":
        raise KeyboardInterrupt
    if runner.status != "successful":
        what = (
            "\n".join(dict.fromkeys(watch.failures))
            or f"ansible-playbook ended with status {runner.status}, code {runner.rc}"
        )
        raise ConvergeError(
            f"{playbook.stem}: {what}", f"The whole log: {log}. Mend the cause and run the same command again."
        )
    return watch.result
