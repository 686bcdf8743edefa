"""SSH to the testbed's hosts, by ssh(1) alone: what lets the toolkit in lets Ansible and testinfra in, too."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor
from concurrent.futures import wait as first_of
from dataclasses import dataclass, field
from pathlib import Path

from provision.errors import ReachError
from provision.known_hosts import Pin, entry, fingerprint, parse, pinned, render, replaced
from provision.machines import Console, Machine
from provision.paths import write_private
from provision.spec_types import JumpHost

KNOWN_HOSTS = "known_hosts"  # in the testbed's state folder
PARALLEL = 16
LIMIT_S = 900.0  # until a new server lets us in
CONNECT_S = 20
TRY_S = 60.0  # one try; a jump host may take long to find that nobody answers behind it
PAUSE_S = 2.0
# how long a host that answers may lack what cloud-init brings: its keys on the console, and ours in its account
CONSOLE_S = 120.0
DENIED_S = 45.0
ALONE = {"BatchMode": "yes", "ConnectTimeout": str(CONNECT_S), "ControlPath": "none"}
CLOUD_INIT = "sh -c '! command -v cloud-init >/dev/null || cloud-init status --long'"
TIMED_OUT = 124  # as timeout(1)
SSH_FAILED = 255
# (what is worked on, how it stands)
Tell = Callable[[str, str], None]
Warn = Callable[[str], None]
ReadConsole = Callable[[Machine], Console]


def options(machine: Machine, known_hosts: Path, *, ask: bool = False) -> list[str]:
    """Return ssh's options to reach `machine`, for `testbed ssh`, Ansible and testinfra alike.

    Hosts that `known_hosts` does not pin, or with another key, are refused; so is such a jump host. `ask`: there is
    somebody whom the ssh to the jump host may ask for a key's passphrase.
    """
    found = _login(machine.user, machine.port, machine.key, known_hosts)
    if (jump := machine.jump_host) is not None:
        # not ProxyJump, which takes neither this key nor these known hosts
        login = _login(jump.user, jump.port, jump.key.expanduser() if jump.key else None, known_hosts)
        command = ["ssh", *_words(login if ask else ALONE | login), "-W", "[%h]:%p", jump.host]
        found["ProxyCommand"] = shlex.join(word if word == "[%h]:%p" else _unexpanded(word) for word in command)
    return _words(found)


def command(machine: Machine, known_hosts: Path, *words: str) -> list[str]:
    """Return the command that runs `words` on `machine` by ssh; without any, it logs in. Raises `ReachError`."""
    if machine.address is None:
        raise ReachError(f"{machine.name} is this machine", "It needs no SSH.")
    return ["ssh", *options(machine, known_hosts, ask=True), machine.address, *words]


def pin(
    machines: Sequence[Machine],
    known_hosts: Path,
    *,
    tell: Tell,
    warn: Warn,
    console: ReadConsole | None = None,
    parallel: int = PARALLEL,
    limit_s: float = LIMIT_S,
) -> None:
    """Put the host keys of `machines` and their jump hosts into `known_hosts`, where they are not there yet.

    They are those of the spec, else those on the machine's console, else the first that it shows, with a warning.
    What is pinned stays, unless the server was made anew. Raises `ReachError`.
    """
    file = _KnownHosts(known_hosts)
    remote = [machine for machine in machines if not machine.is_local]
    jumps = {machine.jump_host for machine in remote if machine.jump_host}
    with _Work(tell, parallel, limit_s) as work:
        unknown = [jump for jump in jumps if not pinned(file.read(), entry(jump.host, jump.port), "")]
        work.each(list(map(_as_machine, unknown)), lambda machine: _trust(work, file, machine, warn))
        work.each(remote, lambda machine: _pin(work, file, machine, console, warn))


def wait(
    machines: Sequence[Machine],
    known_hosts: Path,
    *,
    tell: Tell,
    warn: Warn,
    parallel: int = PARALLEL,
    limit_s: float = LIMIT_S,
) -> None:
    """Wait until all `machines`, which are pinned, let us in, and cloud-init has done its work where there is any.

    Raises `ReachError`, which says of each host that does not what is wrong.
    """
    remote = [machine for machine in machines if not machine.is_local]
    file = _KnownHosts(known_hosts)
    with _Work(tell, parallel, limit_s) as work:
        work.each(remote, lambda machine: _log_in(work, file, machine, warn))


def _login(user: str, port: int, key: Path | None, known_hosts: Path) -> dict[str, str]:
    settings = {
        "User": user,
        "Port": str(port),
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": _path(known_hosts),
        "GlobalKnownHostsFile": "none",  # the same private address is another host elsewhere
        "HashKnownHosts": "no",
        "UpdateHostKeys": "no",
        "CheckHostIP": "no",
        "ForwardAgent": "no",
    }
    if key is not None:  # a key of that name and no others, of which an agent may have too many
        settings |= {"IdentityFile": _path(key), "IdentitiesOnly": "yes"}
    return settings


def _words(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def _unexpanded(text: str) -> str:
    """Return `text` as it stands where ssh expands %h and the like."""
    return text.replace("%", "%%")


def _path(path: Path) -> str:
    """Return a path as ssh's settings have it."""
    return f'"{_unexpanded(str(path))}"'


@dataclass(frozen=True)
class Refusal:
    """Why ssh did not get in; `lasting`: for how many seconds that may be so while a server comes up."""

    text: str
    lasting: float = float("inf")
    remedy: str = "Mend that and run the same command again; it goes on from here."


def refusal(machine: Machine, said: str) -> Refusal:
    """Return what ssh's error output means on the way to `machine`."""
    jump, where = machine.jump_host, f"port {machine.port} of {machine.address}"
    through = ""
    if jump is not None:
        through = f"jump host {jump.host}: "
        if f"{jump.user}@{jump.host}: Permission denied" in said:
            return Refusal(f"{through}denies user {jump.user} {_with(jump.key)}", DENIED_S)
        if f"connect to host {jump.host} port" in said or f"resolve hostname {jump.host.lower()}" in said:
            return Refusal(f"the jump host is not reached: {_last(said, jump.host)}")
    meanings = {
        "Permission denied": f"denies user {machine.user} {_with(machine.key)}",
        "administratively prohibited": f"{through}may not forward to {where}",
        "Connection refused": f"{through}connection refused: nothing listens on {where}",
        "timed out": f"{through}no answer from {where}: is the address right, and does the security group let SSH in?",
        "No route to host": f"{through}no route to {where}",
        "Network is unreachable": f"{through}no route to {where}",
        "resolve hostname": f"{through}the name {machine.address} is not known",
        "Name or service not known": f"{through}the name {machine.address} is not known",
    }
    for words, meaning in meanings.items():
        if words in said:
            return Refusal(meaning, DENIED_S if words == "Permission denied" else float("inf"))
    return Refusal(_last(said) or "ssh ended without a word")


def _with(key: Path | None) -> str:
    return f"with the key {key}" if key else "with the keys that ssh offers by itself"


def _last(said: str, words: str = "") -> str:
    lines = [line.strip() for line in said.splitlines() if words in line and line.strip()]
    return lines[-1][:300] if lines else ""


def _prints(keys: Iterable[str]) -> str:
    return ", ".join(f"{fingerprint(key)} ({key.split()[0]})" for key in keys) or "none"


def _refuses_host_key(said: str) -> bool:
    return "Host key verification failed" in said or re.search(r"No \S+ host key is known", said) is not None


class _KnownHosts:
    """The file, for several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def read(self) -> list[Pin]:
        return parse(self.path.read_text(encoding="utf-8")) if self.path.exists() else []

    def put(self, host: str, keys: Iterable[str], server: str) -> None:
        with self._lock:
            write_private(self.path, render(replaced(self.read(), host, keys, server)).encode())


@dataclass
class _Work:
    """Work on many hosts at a time: each is tried until it succeeds, or the time is over."""

    tell: Tell
    parallel: int
    limit_s: float
    _end: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _running: set[subprocess.Popen[str]] = field(default_factory=set)
    _began: dict[tuple[str, str], float] = field(default_factory=dict)

    def __enter__(self) -> _Work:
        self._end = time.monotonic() + self.limit_s
        return self

    def __exit__(self, *exception: object) -> None:
        """End what still runs: a command that is stopped does not wait for it."""
        self._stop.set()
        for process in list(self._running):
            process.terminate()

    @property
    def left_s(self) -> float:
        """The seconds that are left."""
        return max(0.0, self._end - time.monotonic())

    def lasts(self, machine: Machine, what: str) -> float:
        """Return for how many seconds `what` has been so on the machine, as far as was asked."""
        now = time.monotonic()
        return now - self._began.setdefault((machine.name, what), now)

    def each(self, machines: Sequence[Machine], attempt: Callable[[Machine], Refusal | None]) -> None:
        """Try every machine until there is no refusal. Raises `ReachError` that says what each of the others has."""
        failed: dict[str, Refusal] = {}
        pool = ThreadPoolExecutor(max_workers=self.parallel)
        try:
            futures = {pool.submit(attempt, machine): machine for machine in machines}
            while futures and not (failed and self.left_s):  # when the time is over, each tells what it has
                done, _ = first_of(futures, return_when=FIRST_COMPLETED)
                for future in done:
                    machine, found = futures.pop(future), future.result()
                    if found is None:
                        continue
                    self.tell(machine.name, found.text)
                    if self.left_s and self.lasts(machine, found.text) <= found.lasting:
                        futures[pool.submit(self._later, attempt, machine)] = machine
                    else:
                        failed[f"{machine.name} ({machine.address})"] = found
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if failed:
            lines = [f"  {name}: {found.text}" for name, found in sorted(failed.items())]
            lines += [f"  {len(futures)} others: not yet"] if futures else []
            remedies = dict.fromkeys(found.remedy for found in failed.values())
            raise ReachError("\n".join(["no SSH to", *lines]), " ".join(remedies))

    def _later(self, attempt: Callable[[Machine], Refusal | None], machine: Machine) -> Refusal | None:
        self._stop.wait(PAUSE_S)
        return attempt(machine)

    def run(self, words: Sequence[str], limit_s: float = TRY_S) -> tuple[int, str, str]:
        """Run a command and return its exit code, output and error output."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(words, **pipes, text=True, errors="replace") as process:  # type: ignore[call-overload]
            self._running.add(process)
            try:
                if self._stop.is_set():
                    process.terminate()
                out, said = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                process.terminate()
                out, said = process.communicate()
                return TIMED_OUT, out, f"{said}\ntimed out after {limit_s:.0f} s"
            finally:
                self._running.discard(process)
        return process.returncode, out, said


def _as_machine(jump: JumpHost) -> Machine:
    return Machine(
        f"jump host {jump.host}", (), jump.host, jump.host, jump.user, jump.port, jump.key and jump.key.expanduser()
    )


def _ssh(machine: Machine, known_hosts: Path, settings: dict[str, str], *words: str) -> list[str]:
    # what comes first holds
    return [
        "ssh",
        *_words(ALONE | {"LogLevel": "ERROR"} | settings),
        *options(machine, known_hosts),
        machine.address or "",
        *words,
    ]


def _shown(work: _Work, machine: Machine, known_hosts: Path) -> tuple[list[str], str]:
    """Return the host key that the machine shows, offering it no login; and what ssh said."""
    with tempfile.TemporaryDirectory(prefix="testbed-key-") as folder:
        new = Path(folder, "new")
        settings = {
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": _path(new),
            "PreferredAuthentications": "none",
        }
        _, _, said = work.run(_ssh(machine, known_hosts, settings))
        return [found.key for found in parse(new.read_text(encoding="utf-8"))] if new.exists() else [], said


def _trust(work: _Work, file: _KnownHosts, machine: Machine, warn: Warn) -> Refusal | None:
    """Pin the first key that the machine shows."""
    keys, said = _shown(work, machine, file.path)
    if not keys:
        return _why(work, file, machine, said)
    file.put(entry(machine.address or "", machine.port), keys, machine.id)
    warn(
        f"{machine.name} ({machine.address}) is trusted on first use: nothing vouches for its host key " + _prints(keys)
    )
    return None


def _pin(work: _Work, file: _KnownHosts, machine: Machine, console: ReadConsole | None, warn: Warn) -> Refusal | None:
    host = entry(machine.address or "", machine.port)
    there = pinned(file.read(), host, machine.id)
    if machine.host_keys:
        if set(there) != set(machine.host_keys):
            file.put(host, machine.host_keys, machine.id)
        return None
    if there:
        return None
    shown = console(machine) if console else Console((), final=True)
    if shown.host_keys:
        file.put(host, shown.host_keys, machine.id)
        return None
    if shown.final:
        return _trust(work, file, machine, warn)
    keys, said = _shown(work, machine, file.path)
    if not keys:
        return _why(work, file, machine, said)
    if work.lasts(machine, "answer") > min(CONSOLE_S, work.limit_s / 2):
        return _trust(work, file, machine, warn)
    return Refusal("its console does not show its host keys yet")


def _log_in(work: _Work, file: _KnownHosts, machine: Machine, warn: Warn) -> Refusal | None:
    code, out, said = work.run(_ssh(machine, file.path, {}, CLOUD_INIT))
    state = re.search(r"^status: (.*)$", out, re.MULTILINE)
    if code in (SSH_FAILED, TIMED_OUT) or (code and not state):
        return _why(work, file, machine, said)
    # one that never ran will not run on a machine that was there before
    if state and (state[1] == "running" or (machine.id and state[1].startswith("not "))):
        return Refusal("cloud-init is at work")
    if code:
        warn(f"{machine.name} ({machine.address}): cloud-init met errors: {' '.join(out.split())[-500:]}")
    work.tell(machine.name, "reached")
    return None


def _why(work: _Work, file: _KnownHosts, machine: Machine, said: str) -> Refusal:
    return _other_key(work, file, machine, said) if _refuses_host_key(said) else refusal(machine, said)


def _other_key(work: _Work, file: _KnownHosts, machine: Machine, said: str) -> Refusal:
    """Say which key is pinned and which one the machine, or its jump host, shows."""
    whose, jump = "it", machine.jump_host
    if jump is not None and re.search(
        rf"host key .*for {re.escape(entry(jump.host, jump.port))} ", said, re.IGNORECASE
    ):
        machine = _as_machine(jump)
        whose = machine.name
    host = entry(machine.address or "", machine.port)
    shown, _ = _shown(work, machine, file.path)
    known = pinned(file.read(), host, "")
    return Refusal(
        f"{whose} shows another host key than the one that is pinned, so another machine may stand in for it; "
        f"pinned: {_prints(known)}; "
        f"shown: {_prints(shown)}",
        0.0,
        "If you know why a host key changed, as by a new installation, remove the old one and run the same command "
        f"again: ssh-keygen -R '{host}' -f {shlex.quote(str(file.path))}",
    )
