#!/usr/bin/python
"""Keeps a service up, under systemd or supervisord, with the definition and the settings that are wanted now.

A digest of definition and settings travels in the service's environment (TESTBED_DIGEST). What runs is compared with
what is wanted by reading the running process, so a run that was killed between change and restart is made good.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import pwd
import re
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
import xmlrpc.client
from collections.abc import Callable
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_host import service_manager
from ansible.module_utils.testbed_record import replace_file

DOCUMENTATION = r"""
module: testbed_service
short_description: Keep a service up, or remove services
options:
  name: {type: str, description: 'The service, testbed-<what>'}
  state:
    type: str
    choices: [present, absent, possible]
    default: present
    description: 'Up, or (absent) gone; possible only asks the service manager whether it would take services'
  description: {type: str, description: One line for the machine's administrator}
  command: {type: list, elements: str, description: Absolute program and its arguments; no secret}
  user: {type: str, default: root, description: Account that it runs as}
  environment: {type: dict, default: {}, description: 'Its environment; lies in a file of mode 0600'}
  directory: {type: str, default: /, description: Working directory}
  log: {type: str, default: '', description: 'File that stdout and stderr go to; /var/log/testbed/<name>.log'}
  files: {type: list, elements: str, default: [], description: 'Settings read at start; their change restarts it'}
  trigger: {type: raw, description: Any value; the service is restarted when it changes}
  stop_signal: {type: str, default: TERM, description: Signal that ends it cleanly}
  stop_timeout: {type: int, default: 30, description: Seconds after which it is killed}
  health_urls: {type: list, elements: str, default: [], description: URLs that answer below 500 when the service works}
  health_port: {type: int, description: Port on loopback that accepts connections when the service works}
  health_timeout: {type: int, default: 60, description: Seconds to wait for that}
  needs:
    type: list
    elements: str
    default: []
    description: "What must be there first, such as `package x`: told in check mode"
  instances:
    type: list
    elements: dict
    default: []
    description: 'Several services in one step: name, and what differs from the rest that is said here'
    suboptions:
      name: {type: str, required: true, description: 'The service, testbed-<what>'}
      description: {type: str, description: One line for the machine's administrator}
      command: {type: list, elements: str, description: Absolute program and its arguments; no secret}
      environment: {type: dict, description: 'Its environment; lies in a file of mode 0600'}
      files: {type: list, elements: str, description: 'Settings read at start; their change restarts it'}
  prefix: {type: str, description: 'With absent: every service whose name starts so goes'}
  keep: {type: list, elements: str, default: [], description: Names that stay all the same}
author: [The testbed's authors (@clearml-testbed)]
"""

SPEC = {
    "name": {"type": "str"},
    "state": {"type": "str", "choices": ["present", "absent", "possible"], "default": "present"},
    "description": {"type": "str"},
    "command": {"type": "list", "elements": "str"},
    "user": {"type": "str", "default": "root"},
    "environment": {"type": "dict", "default": {}},
    "directory": {"type": "str", "default": "/"},
    "log": {"type": "str", "default": ""},
    "files": {"type": "list", "elements": "str", "default": []},
    "trigger": {"type": "raw"},
    "stop_signal": {"type": "str", "default": "TERM"},
    "stop_timeout": {"type": "int", "default": 30},
    "health_urls": {"type": "list", "elements": "str", "default": []},
    "health_port": {"type": "int"},
    "health_timeout": {"type": "int", "default": 60},
    "needs": {"type": "list", "elements": "str", "default": []},
    "instances": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "name": {"type": "str", "required": True},
            "description": {"type": "str"},
            "command": {"type": "list", "elements": "str"},
            "environment": {"type": "dict"},
            "files": {"type": "list", "elements": "str"},
        },
    },
    "prefix": {"type": "str"},
    "keep": {"type": "list", "elements": "str", "default": []},
}
DEFINITION = {"name", "description", "command", "user", "environment", "directory", "log", "files"}
DEFINITION |= {"trigger", "stop_signal", "stop_timeout"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNITS = Path("/etc/systemd/system")
ENVIRONMENTS = Path("/etc/testbed/services")
PROGRAMS = Path("/etc/supervisor/conf.d")
SUPERVISOR_CONF = "/etc/supervisor/supervisord.conf"
SUPERVISOR_SOCKET = "/var/run/supervisor.sock"
DIGEST = "TESTBED_DIGEST"
NOT_CARRIED = re.compile(r"""["'\\\n]|\s[;#]""")  # supervisord's files have no way to quote these


class ServiceError(Exception):
    """The service cannot be brought to the wanted state; the text says why and what to do."""


def digest(service: dict) -> str:
    """Return what tells two states of a service apart: its definition, its trigger, the content of its files."""
    parts = {key: value for key, value in service.items() if key in DEFINITION}
    total = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for path in map(Path, service["files"]):
        total.update(path.read_bytes() if path.exists() else b"")
    return total.hexdigest()


def environment_of(service: dict) -> dict[str, str]:
    """Return the whole environment of the service, the same under both managers."""
    try:
        home = pwd.getpwnam(service["user"]).pw_dir
    except KeyError:  # in check mode the account may not be there yet
        home = "/"
    own = {key: str(value) for key, value in service["environment"].items()}
    base = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": home, "USER": service["user"]}
    return {**base, **own, "TESTBED_SERVICE": service["name"], DIGEST: digest(service)}


def refuse_what_cannot_be_written(service: dict) -> None:
    """Raise ServiceError for a value that supervisord's (or systemd's) file cannot carry unchanged."""
    values = {f"argument {number}": value for number, value in enumerate(service["command"])}
    values.update(environment_of(service), description=service["description"])
    for name, value in values.items():
        if NOT_CARRIED.search(value):
            raise ServiceError(
                f"{service['name']}: {name} has a quote, backslash, line break or comment sign in it; put it in a file"
            )


def systemd_files(service: dict) -> dict[Path, tuple[str, int]]:
    """Return the unit and its environment file as {path: (content, mode)}."""
    environment = ENVIRONMENTS / f"{service['name']}.env"
    command = " ".join(f'"{argument}"' for argument in service["command"]).replace("%", "%%").replace("$", "$$")
    unit = f"""\
[Unit]
Description={service["description"].replace("%", "%%")}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart={command}
EnvironmentFile={environment}
User={service["user"]}
WorkingDirectory={service["directory"]}
Restart=always
RestartSec=1
KillSignal=SIG{service["stop_signal"]}
TimeoutStopSec={service["stop_timeout"]}
StandardOutput=append:{service["log"]}
StandardError=inherit

[Install]
WantedBy=multi-user.target
"""
    lines = "".join(f'{key}="{value}"\n' for key, value in sorted(environment_of(service).items()))
    return {UNITS / f"{service['name']}.service": (unit, 0o644), environment: (lines, 0o600)}


def supervisord_files(service: dict) -> dict[Path, tuple[str, int]]:
    """Return the program file as {path: (content, mode)}."""
    command = " ".join(map(shlex.quote, service["command"])).replace("%", "%%")
    pairs = [f'{key}="{value}"'.replace("%", "%%") for key, value in sorted(environment_of(service).items())]
    program = f"""\
[program:{service["name"]}]
command={command}
environment={",".join(pairs)}
user={service["user"]}
directory={service["directory"]}
autostart=true
autorestart=true
startsecs=1
startretries=1000000
stopsignal={service["stop_signal"]}
stopwaitsecs={service["stop_timeout"]}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={service["log"]}
stdout_logfile_maxbytes=20MB
stdout_logfile_backups=3
"""
    return {PROGRAMS / f"{service['name']}.conf": (program, 0o600)}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a service manager's command; its exit code is the caller's to judge."""
    clean = {"PATH": PATH, "LANG": "C.UTF-8"}  # supervisord hands its own environment down to what it starts
    return subprocess.run(command, env=clean, cwd="/", capture_output=True, text=True, check=False)


def checked(*command: str) -> None:
    """Run a service manager's command. Raises ServiceError with its words when it fails."""
    done = run(*command)
    if done.returncode != 0:
        raise ServiceError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Poll until it holds; tell whether it did in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


class Systemd:
    """Services as systemd units."""

    def validate(self) -> None:
        """Raise ServiceError when systemd cannot be asked, as in a container that only has its folder."""
        done = run("systemctl", "show", "--property", "Version")
        if done.returncode != 0:
            raise ServiceError(
                f"systemd runs this machine (/run/systemd/system is there) and does not answer: {done.stderr.strip()}. "
                "Mend it, or take that folder away where systemd does not run. Nothing was changed"
            )

    def files(self, service: dict) -> dict[Path, tuple[str, int]]:
        """Return what defines the service as {path: (content, mode)}."""
        return systemd_files(service)

    def names(self) -> list[str]:
        """Return the services of ours that are defined."""
        return [path.stem for path in UNITS.glob("testbed-*.service")]

    def definitions(self, name: str) -> list[Path]:
        """Return the files that define the service."""
        return [UNITS / f"{name}.service", ENVIRONMENTS / f"{name}.env"]

    def pid(self, name: str) -> int:
        """Return the process ID of the running service, or 0."""
        return int(run("systemctl", "show", "--property", "MainPID", "--value", name).stdout.strip() or 0)

    def at_boot(self, name: str) -> bool:
        """Tell whether the service comes up with the machine."""
        return run("systemctl", "is-enabled", name).returncode == 0

    def restart(self, name: str) -> None:
        """Bring the service up with the definition that is on disk."""
        checked("systemctl", "daemon-reload")
        checked("systemctl", "--quiet", "enable", name)
        run("systemctl", "reset-failed", name)
        checked("systemctl", "restart", name)

    def remove(self, name: str) -> None:
        """Stop the service and forget it."""
        checked("systemctl", "--quiet", "disable", "--now", name)
        (UNITS / f"{name}.service").unlink()
        (ENVIRONMENTS / f"{name}.env").unlink(missing_ok=True)
        checked("systemctl", "daemon-reload")
        run("systemctl", "reset-failed", name)


class SocketTransport(xmlrpc.client.Transport):
    """XML-RPC over supervisord's socket: the state of a service without the time that supervisorctl takes."""

    def make_connection(self, host: str) -> http.client.HTTPConnection:
        """Connect to the socket, whatever the host."""
        connection = http.client.HTTPConnection(host)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(SUPERVISOR_SOCKET)
        return connection


class Supervisord:
    """Services as programs of supervisord, which is started when it does not run."""

    def validate(self) -> None:
        """Raise ServiceError when this machine's supervisord would not see our programs."""
        conf = Path(SUPERVISOR_CONF)
        if conf.exists() and not re.search(r"(?m)^files\s*=.*conf\.d/\*\.conf", conf.read_text(errors="replace")):
            raise ServiceError(
                f"{conf} does not include {PROGRAMS}/*.conf, where the testbed's services go. "
                f"Add `files = {PROGRAMS}/*.conf` to its [include] section. Nothing was changed"
            )

    def files(self, service: dict) -> dict[Path, tuple[str, int]]:
        """Return what defines the service as {path: (content, mode)}."""
        return supervisord_files(service)

    def names(self) -> list[str]:
        """Return the services of ours that are defined."""
        return [path.stem for path in PROGRAMS.glob("testbed-*.conf")]

    def definitions(self, name: str) -> list[Path]:
        """Return the files that define the service."""
        return [PROGRAMS / f"{name}.conf"]

    def control(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Ask supervisord."""
        return run("supervisorctl", "--configuration", SUPERVISOR_CONF, *arguments)

    def rpc(self) -> xmlrpc.client.ServerProxy:
        """Return supervisord's functions; to call one raises OSError when supervisord does not run."""
        return xmlrpc.client.ServerProxy("http://supervisord", transport=SocketTransport())

    def answers(self) -> bool:
        """Tell whether supervisord runs (its pid file and socket may be stale)."""
        try:
            self.rpc().supervisor.getState()
        except OSError:
            return False
        return True

    def pid(self, name: str) -> int:
        """Return the process ID of the running service, or 0."""
        try:
            return self.rpc().supervisor.getProcessInfo(name)["pid"]
        except (OSError, xmlrpc.client.Fault):
            return 0

    def at_boot(self, name: str) -> bool:
        """Tell whether the service comes up with the machine: its program says autostart."""
        return (PROGRAMS / f"{name}.conf").exists()

    def restart(self, name: str) -> None:
        """Bring the service up with the definition that is on disk."""
        if not self.answers():
            end_processes("testbed-", [])  # supervisord that is killed leaves its programs, which hold their ports
            checked("/usr/bin/supervisord", "--configuration", SUPERVISOR_CONF)
            if not wait_until(self.answers, 20):
                raise ServiceError("supervisord does not come up; see /var/log/supervisor/supervisord.log")
        updated = self.control("update", name)
        if updated.returncode != 0 or "ERROR" in updated.stdout:
            raise ServiceError(f"supervisorctl update {name}: {updated.stdout.strip()}{updated.stderr.strip()}")
        if name not in updated.stdout:  # nothing new for supervisord, so it did not restart the program
            self.control("restart", name)

    def remove(self, name: str) -> None:
        """Stop the service and forget it."""
        (PROGRAMS / f"{name}.conf").unlink()
        if self.answers():
            self.control("update", name)


def running_digest(pid: int) -> str | None:
    """Return the digest that the running service was started with."""
    if not pid:
        return None
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it ended meanwhile
        return None
    return next((value.partition("=")[2] for value in variables if value.startswith(f"{DIGEST}=")), None)


def processes_of(prefix: str, keep: list[str]) -> list[int]:
    """Return the processes that services with the prefix left behind: an agent's task may outlive the agent.

    Containers' processes, which their host sees, are not this machine's.
    """
    found = []
    machine = Path("/proc/self/ns/pid").stat()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if not os.path.samestat((process / "ns/pid").stat(), machine):
                continue
            variables = (process / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it ended meanwhile, or is the kernel's
            continue
        names = {value.partition("=")[2] for value in variables if value.startswith("TESTBED_SERVICE=")}
        if any(name.startswith(prefix) and name not in keep for name in names):
            found.append(int(process.name))
    return found


def end_processes(prefix: str, keep: list[str]) -> None:
    """End what services with the prefix left behind, gently first."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes_of(prefix, keep):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sign)
        if wait_until(lambda: not processes_of(prefix, keep), 10):
            return


def write(path: Path, content: str, mode: int) -> None:
    """Replace the file in one step, in a folder that is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content, mode)


def answers(url: str) -> bool:
    """Tell whether the URL answers below 500, without any proxy."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def healthy(service: dict) -> bool:
    """Tell whether the service works: its URLs answer, its port accepts; without either, that it runs."""
    if not all(answers(url) for url in service["health_urls"]):
        return False
    if service["health_port"]:
        try:
            socket.create_connection(("127.0.0.1", service["health_port"]), timeout=5).close()
        except OSError:
            return False
    return True


def last_words(log: str, size: int = 2000) -> str:
    """Return the end of the service's log."""
    path = Path(log)
    return path.read_bytes()[-size:].decode(errors="replace") if path.exists() else "(no log yet)"


def comparable(content: str) -> str:
    """Return a definition without its environment, which is nobody's to see in a diff."""
    return re.sub(r"(?m)^environment=.*$", "environment=(not shown)", content)


def needs_of(service: dict) -> list[str]:
    """Return what must be there before the service can start, as `kind name`."""
    manager = ["package supervisor"] if service_manager() == "supervisord" else []
    paths = [f"path {path}" for path in (service["command"][0], *service["files"])]
    return [*manager, *service["needs"], f"account {service['user']}", *paths]


def services_of(params: dict) -> list[dict]:
    """Return the services that are described: the instances, or else the one. Raises ServiceError for half a one."""
    found = []
    for instance in params["instances"] or [{}]:
        service = {**params, **{key: value for key, value in instance.items() if value is not None}}
        lacking = [key for key in ("name", "description", "command") if not service[key]]
        if lacking:
            raise ServiceError(f"{service['name'] or 'a service'}: say {' and '.join(lacking)} of it, too")
        service["log"] = service["log"] or f"/var/log/testbed/{service['name']}.log"
        found.append(service)
    return found


def converge(manager: Systemd | Supervisord, service: dict, dry: bool) -> tuple[bool, list[dict], list[dict]]:
    """Write the definition and (re)start the service when it runs with another one.

    Return whether that changes anything, what it changes, and the diffs.
    """
    refuse_what_cannot_be_written(service)
    name, wanted, changes = service["name"], digest(service), []
    files = manager.files(service)
    there = all(path.exists() for path in files)
    told = []
    for path, (content, mode) in files.items():
        before = path.read_text() if path.exists() else ""
        if before != content or path.stat().st_mode & 0o7777 != mode:
            shown = ("", "") if path.suffix == ".env" else (comparable(before), comparable(content))
            header = {"before_header": str(path), "after_header": str(path)}
            changes.append({**header, "before": shown[0], "after": shown[1]})
            file = {"kind": "file", "name": str(path), "action": "change" if path.exists() else "add"}
            told.append({**file, "diff": {"before": shown[0], "after": shown[1]}})
            if not dry:
                write(path, content, mode)
    pid = manager.pid(name)
    stale = running_digest(pid) != wanted or not manager.at_boot(name)
    told.append(
        {
            "kind": "service",
            "name": name,
            "action": ("restart" if pid else "start" if there else "add") if changes or stale else "keep",
            "needs": needs_of(service),
            "files": service["files"],
        }
    )
    changed = bool(changes) or stale
    if changed and not dry:
        manager.restart(name)
    return changed, told, changes


def wait_for(manager: Systemd | Supervisord, service: dict) -> None:
    """Wait until the service works. Raises ServiceError with the end of its log."""
    name, wanted = service["name"], digest(service)

    def works() -> bool:
        return running_digest(manager.pid(name)) == wanted and healthy(service)

    if not wait_until(works, service["health_timeout"]):
        raise ServiceError(
            f"{name} does not work {service['health_timeout']} s after its start. "
            f"The end of its log, {service['log']}:\n{last_words(service['log'])}"
        )


def bring_up(module: AnsibleModule, manager: Systemd | Supervisord) -> None:
    """Bring all services to what is wanted, then wait until each works."""
    services = services_of(module.params)
    changed, told, diff = False, [], []
    for service in services:
        one_changed, one_told, one_diff = converge(manager, service, module.check_mode)
        changed, told, diff = changed or one_changed, told + one_told, diff + one_diff
    for service in services if not module.check_mode else []:
        wait_for(manager, service)
    module.exit_json(changed=changed, testbed_changes=told, diff=diff)


def take_down(module: AnsibleModule, manager: Systemd | Supervisord) -> None:
    """Remove every service with the prefix that is not to be kept."""
    names = [name for name in manager.names() if name.startswith(module.params["prefix"])]
    names = sorted({*names} - {*module.params["keep"]})
    if not module.check_mode:
        for name in names:
            manager.remove(name)
        end_processes(module.params["prefix"], module.params["keep"])
    told = [{"kind": "service", "name": name, "action": "remove"} for name in names]
    for name in names:
        told += [{"kind": "file", "name": str(path), "action": "remove"} for path in manager.definitions(name)]
    diff = {"before": "".join(f"{n}\n" for n in names), "after": ""}
    module.exit_json(changed=bool(names), removed=names, testbed_changes=told, diff=diff)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec=SPEC,
        supports_check_mode=True,
        required_if=[("state", "absent", ["prefix"])],
    )
    manager = Systemd() if service_manager() == "systemd" else Supervisord()
    try:
        if module.params["state"] == "possible":
            manager.validate()
            module.exit_json(changed=False)
        elif module.params["state"] == "absent":
            take_down(module, manager)
        elif not hasattr(signal, f"SIG{module.params['stop_signal']}"):
            raise ServiceError(f"stop_signal {module.params['stop_signal']!r} is no signal; say TERM, INT or QUIT")
        else:
            bring_up(module, manager)
    except ServiceError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
