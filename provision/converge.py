"""Runs playbooks through ansible-runner: progress as it happens, everything else into a log file."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import ansible_runner
import yaml

from provision import locks
from provision.changes import Change, Collector
from provision.console import Stage
from provision.errors import ConvergeError
from provision.inventory import network_environment
from provision.paths import ROLES, ROOT, make_private, write_private
from provision.secrets import Vault

# a shorter one is only hidden where it stands alone: it may be part of any word
LONG_SECRET = 12
# what stands beside secrets, and is none
PUBLIC = {"username", "access_key", "user_key", "id", "certificate", "authority"}
# what programs of Ansible's may see of the administrator's environment: nothing that could hold a password
ENVIRONMENT = {"HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "SHELL", "SSH_AUTH_SOCK", "TERM", "TZ", "USER"}
# the tag of tasks that tell what those before them would change
ANNOUNCE = "announce"
FAILED_EVENTS = {"runner_on_failed", "runner_on_unreachable", "runner_item_on_failed"}


@dataclass
class PlayResult:
    """What a playbook did, from Ansible's own statistics; `data`: what it told with `set_stats`."""

    changed: int = 0
    ok: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)


class Redaction:
    """Takes secrets out of text: as they are, a line of theirs, and as JSON, Python, shell, URL or base64 writes them.

    ansible-core 2.19 shows the message of a failed task in its error display, even under no_log.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        words = [
            re.escape(form) if len(form) >= LONG_SECRET else rf"(?<!\w){re.escape(form)}(?!\w)"
            for form in sorted(forms, key=len, reverse=True)
        ]
        self._pattern = re.compile("|".join(words)) if words else None

    def __call__(self, text: str) -> str:
        return self._pattern.sub("********", text) if self._pattern else text


def _forms(secret: str) -> set[str]:
    lines = {secret, *(line.strip() for line in secret.splitlines())}
    found = set(lines)
    for line in lines:
        found |= {json.dumps(line)[1:-1], json.dumps(line, ensure_ascii=False)[1:-1], repr(line)[1:-1]}
        found |= {shlex.quote(line).strip("'"), urllib.parse.quote(line, safe=""), urllib.parse.quote(line)}
        found |= {urllib.parse.quote_plus(line), urllib.parse.quote_plus(line, safe="/")}
        found |= {json.dumps(form)[1:-1] for form in set(found)}  # text within text
        found |= {base64.b64encode(line.encode()).decode(), base64.urlsafe_b64encode(line.encode()).decode()}
    return {form for form in found if len(form) > 3}


@dataclass
class _Watch:
    """Follows the events of one playbook run."""

    stage: Stage
    log: TextIO
    redact: Redaction
    result: PlayResult = field(default_factory=PlayResult)
    collector: Collector = field(default_factory=Collector)
    failures: list[str] = field(default_factory=list)

    def event(self, event: dict[str, Any]) -> bool:
        if text := event.get("stdout"):
            self.log.write(self.redact(text) + "\n")
            self.log.flush()
        data = event.get("event_data", {})
        task, host, result = data.get("task", ""), data.get("host", ""), data.get("res") or {}
        self.collector.event(event.get("event", ""), data)
        match event.get("event"):
            case "runner_on_start":
                self.stage.step(f"{host}: {task}")
            case kind if kind in FAILED_EVENTS and not data.get("ignore_errors"):
                self.failures.append(self.redact(f"{host}: {task}: {_reason(result)}"))
            case "playbook_on_stats":
                self.result.changed = sum(data.get("changed", {}).values())
                self.result.ok = sum(data.get("ok", {}).values())
                self.result.data = data.get("artifact_data", {})
        return False  # runner need not keep the event


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


def secret_values(found: object) -> Iterator[str]:
    """Yield the secrets in nested variables."""
    if isinstance(found, dict):
        for key, value in found.items():
            if key not in PUBLIC:
                yield from secret_values(value)
    elif isinstance(found, str) and found:
        yield found


@contextmanager
def _only_environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Leave no other variables to programs that are started within the block: ansible-runner hands on all there are."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _reason(result: dict[str, Any]) -> str:
    if "censored" in result:
        return "failed; its output is hidden because it holds a secret"
    for key in ("stderr", "msg", "module_stderr", "stdout"):
        if text := str(result.get(key) or "").strip():
            return text[-2000:]
    return "failed"


def _run(
    folder: Path,
    playbook: Path,
    secrets: Path,
    password: Path,
    environment: dict[str, str],
    watch: _Watch,
    *,
    check: bool,
    verbosity: int,
) -> Any:
    arguments = ["-e", f"@{folder / 'variables.json'}", "-e", f"@{secrets}", "--vault-password-file", str(password)]
    # tasks that only tell what a check has found would be skipped on every host, at a price
    arguments += ["--check", "--diff"] if check else ["--skip-tags", ANNOUNCE]
    return ansible_runner.run(
        private_data_dir=str(folder),
        project_dir=str(playbook.parent),
        playbook=str(playbook),
        inventory=str(folder / "inventory.yml"),
        cmdline=shlex.join(arguments),
        envvars=environment,
        verbosity=verbosity or None,
        event_handler=watch.event,
        # what one playbook of a command has gathered of the hosts, the next one knows; it goes with the command
        fact_cache=str(folder.parent / "facts"),
        cancel_callback=lambda: False,  # else ansible-runner takes the signals for itself
        quiet=True,
    )


def temporary_dir(work: Path) -> Path:
    """Return the folder, in the private folder `work`, in which Ansible and its modules make their temporary files.

    Hosts have it under the same name.
    """
    return work / "tmp"


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
    check: bool = False,
    verbosity: int = 0,
    remote_tmp: str | None = None,
) -> PlayResult:
    """Run `playbook` and return what it did.

    `work` is a private folder. `secret_variables` reach Ansible as a file encrypted with the testbed's vault, so that
    none is in clear on disk or in an argument list. With `check` it changes nothing; `changes` are what it would do.
    `verbosity` is Ansible's, for the log. `remote_tmp`: a folder for temporary files that is there on all hosts, where
    these are other machines. Raises `ConvergeError` with the reason and the log's name.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{playbook.stem}-", dir=work))
    temporary = temporary_dir(work)
    make_private(temporary)
    there = remote_tmp or str(temporary)
    secret_file = folder / "secret-variables.yml"
    write_private(secret_file, vault.encrypt(literal_yaml(secret_variables)))
    write_private(folder / "inventory.yml", yaml.safe_dump(inventory).encode())
    # sudo does not hand TMPDIR on; plays give it to their modules by this variable
    write_private(folder / "variables.json", json.dumps({**variables, "testbed_tmp": there}).encode())
    environment = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": str(ROLES),
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "tmp"),
        "ANSIBLE_REMOTE_TMP": there,
        "TMPDIR": str(temporary),  # what is killed leaves its files in a folder that goes
        "PYTHONDONTWRITEBYTECODE": "1",
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",  # there on every machine; Ansible refuses a locale that is not
    }
    seen = {name: value for name, value in os.environ.items() if name in {*ENVIRONMENT, locks.VARIABLE}}
    password = vault.password_path(work)
    with log.open("a", encoding="utf-8") as log_file, _only_environment(seen | network_environment(os.environ)):
        watch = _Watch(stage, log_file, Redaction(secret_values(secret_variables)))
        runner = _run(folder, playbook, secret_file, password, environment, watch, check=check, verbosity=verbosity)
    if runner.status != "successful":
        what = (
            "\n".join(dict.fromkeys(watch.failures))
            or f"ansible-playbook ended with status {runner.status}, code {runner.rc}"
        )
        raise ConvergeError(
            f"{playbook.stem}: {what}",
            ("" if check else f"The whole log: {log}. ") + "Mend the cause and run the same command again.",
        )
    watch.result.changes = watch.collector.found
    return watch.result
