#!/usr/bin/python
"""Installs packages so that exactly they, and what came with them, can be taken away again.

ansible.builtin.apt is not used: killed half way it leaves its policy-rc.d behind (and the machine's own one lost),
it does not tell which packages it is about to add, and it installs python3-apt unasked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_apt import LISTS, SOURCES, bundle, options
from ansible.module_utils.testbed_host import service_manager
from ansible.module_utils.testbed_record import load, name_process, replace_file, save

DOCUMENTATION = r"""
module: testbed_packages
short_description: Install packages and record them, or remove the recorded ones
options:
  names: {type: list, elements: str, default: [], description: Packages that must be there}
  state: {type: str, choices: [present, absent], default: present, description: With absent, all that was recorded goes}
  services_off: {type: list, elements: str, default: [], description: Services that stay off if their package is ours}
  index_age: {type: int, default: 86400, description: Seconds after which an index is fetched anew}
  proxy: {type: dict, default: {}, description: 'Proxy for apt by scheme, http and https'}
  direct: {type: list, elements: str, default: [], description: Hosts that apt reaches without it}
  sources: {type: str, default: "", description: 'What testbed_sources wrote or will: these apt sources, and no others'}
  ca: {type: str, default: "", description: 'Certificates that it puts beside those of the system'}
  ca_bundle: {type: str, default: "", description: Certificates for https sources and proxies; empty for the usual ones}
  lock_timeout: {type: int, default: 300, description: Seconds to wait for another apt or dpkg}
author: [The testbed's authors (@clearml-testbed)]
"""

POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_ASIDE = Path("/usr/sbin/policy-rc.d.before-testbed")
POLICY_TEXT = "#!/bin/sh\n# testbed: packages are being installed, their services stay down\nexit 101\n"
INDEX_STAMPS = (Path("/var/lib/apt/periodic/update-success-stamp"), Path("/var/lib/apt/lists/partial"))
LOCK_WORDS = ("Could not get lock", "lock is held", "was locked by another process", "Unable to lock")
SUPERVISOR_PID = Path("/var/run/supervisord.pid")
# the package leaves its logs behind, and supervisord that was killed these
SUPERVISOR_LEAVINGS = (Path("/var/log/supervisor"), SUPERVISOR_PID, Path("/var/run/supervisor.sock"))
# apt writes none of its caches and logs, takes no lock, drops no privileges, and runs no hook of the machine's
APART = """\
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Debug::NoLocking "true";
APT::Sandbox::User "root";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""
MARKS = Path("/var/lib/apt/extended_states")
JOURNAL = Path("/var/lib/dpkg/updates")
CONFOLD = ["--force-confdef", "--force-confold"]  # an administrator's own settings stay
INSTALL = ["--yes", "--no-install-recommends", "--fix-broken"]
INSTALL += [word for option in CONFOLD for word in ("-o", f"Dpkg::Options::={option}")] + ["install"]
AUTOREMOVE = ["-o", "APT::AutoRemove::RecommendsImportant=false", "-o", "APT::AutoRemove::SuggestsImportant=false"]


class AptError(Exception):
    """An apt or dpkg command failed; its text is what the command said."""


def run(command: list[str], deadline: float) -> str:
    """Run apt or dpkg and return what it printed; wait for another one that holds the lock."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    while True:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return done.stdout
        if not any(word in done.stderr for word in LOCK_WORDS) or time.monotonic() > deadline:
            raise AptError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
        time.sleep(1)


def states() -> dict[str, str]:
    """Return every known package's state: 'ii' is installed, 'rc' left its settings behind."""
    command = ["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Abbrev}\n"]
    return dict(line.split()[:2] for line in subprocess.check_output(command, text=True).splitlines())


def put_policy_back() -> None:
    """Take our policy-rc.d away, also one that a killed run left."""
    if POLICY.exists() and "# testbed:" in POLICY.read_text(errors="replace"):
        POLICY.unlink()
    if POLICY_ASIDE.exists():
        POLICY_ASIDE.replace(POLICY)


@contextlib.contextmanager
def services_stay_down() -> Iterator[None]:
    """Keep packages from starting their services while they are installed."""
    put_policy_back()
    if POLICY.exists():
        POLICY.replace(POLICY_ASIDE)
    replace_file(POLICY, POLICY_TEXT, 0o755)
    try:
        yield
    finally:
        put_policy_back()


def index_age(mirror: bool) -> float:
    """Return the age of the package index in seconds; one older than the mirror's sources is of another mirror."""
    stamps = (LISTS / "partial",) if mirror else INDEX_STAMPS
    newest = max([stamp.stat().st_mtime for stamp in stamps if stamp.exists()], default=0)
    if mirror and SOURCES.exists() and SOURCES.stat().st_mtime > newest:
        newest = 0
    return time.time() - newest


def planned(output: str, verb: str) -> list[tuple[str, bool]]:
    """Return (package, is new) for each line of a simulated apt run that starts with the verb."""
    lines = [line.split() for line in output.splitlines() if line.startswith(f"{verb} ")]
    return [(words[1].split(":")[0], not words[2].startswith("[")) for words in lines]


def to_come(names: list[str], params: dict, private: str, deadline: float) -> list[dict]:
    """Return the packages that `install` would add, with all that comes along, as changes. Raises AptError.

    Nothing of apt's is written: neither its caches, nor the index, which is fetched into a private folder if it is old
    or of other sources. Sources and certificates that are not written yet, or others, are in that folder, too.
    """
    mirror = bool(params["sources"])
    needs = [f"file {SOURCES}"] if mirror else []
    own = options(params["proxy"], params["direct"], mirror, params["ca_bundle"])
    if params["ca_bundle"]:
        needs.append(f"file {params['ca_bundle']}")
        certificates = Path(private) / "ca.crt"
        certificates.write_text(bundle(params["ca"]))
        own += ["-o", f"Acquire::https::CAInfo={certificates}"]
    fresh = index_age(mirror) < params["index_age"]
    if mirror and not (SOURCES.exists() and SOURCES.read_text() == params["sources"]):
        fresh = False
        parts = Path(private) / "sources"
        parts.mkdir()
        (parts / SOURCES.name).write_text(params["sources"])
        own += ["-o", f"Dir::Etc::sourceparts={parts}"]
    settings = Path(private) / "apt.conf"
    apart = ["apt-get", f"--config-file={settings}", *own]
    settings.write_text(f'{APART}Dir::Log "{private}";\n')
    simulate = [*INSTALL, "--simulate", *names]
    if not fresh:
        apart += fetch_apart(settings, apart, deadline)
    try:
        said = run([*apart, *simulate], deadline)
    except AptError:
        if not fresh:
            raise
        apart += fetch_apart(settings, apart, deadline)  # as in `install`
        said = run([*apart, *simulate], deadline)
    whose = {name: "" if name in names else f"for {', '.join(names)}" for name, _ in planned(said, "Inst")}
    return [
        {
            "kind": "package",
            "name": name,
            "action": "add" if is_new else "change",
            "detail": whose[name],
            "needs": needs,
        }
        for name, is_new in planned(said, "Inst")
    ]


def fetch_apart(settings: Path, apart: list[str], deadline: float) -> list[str]:
    """Fetch the package index into the folder of the settings; return the options that name it. Raises AptError."""
    lists = settings.parent / "lists"
    (lists / "partial").mkdir(parents=True)
    there = ["-o", f"Dir::State::lists={lists}"]  # the last word, also after those of a mirror
    run([*apart, *there, "update"], deadline)
    return there


def apt_get(params: dict) -> list[str]:
    """Return the command that goes the spec's way to packages."""
    return ["apt-get", *options(params["proxy"], params["direct"], bool(params["sources"]), params["ca_bundle"])]


def interrupted() -> str:
    """Return what a dpkg that was killed left half done, in dpkg's words; nothing when all is well."""
    journal = [path.name for path in JOURNAL.glob("[0-9]*")]
    audit = subprocess.check_output(["dpkg", "--audit"], text=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    return audit or ("dpkg was interrupted" if journal else "")


def repair(apt: list[str], deadline: float) -> None:
    """Let dpkg end what it was doing when it was killed, and apt fetch anew what was half unpacked. Raises AptError."""
    with services_stay_down():
        try:
            run(["dpkg", "--configure", "-a", *CONFOLD], deadline)
        except AptError:  # it cannot configure what it has only half of
            if not interrupted():
                raise
        if interrupted():
            run([*apt, *INSTALL], deadline)
            run(["dpkg", "--configure", "-a", *CONFOLD], deadline)


def install(names: list[str], params: dict, deadline: float) -> None:
    """Install the packages: refresh an old index, record, install. Raises AptError."""
    apt = apt_get(params)
    command = [*apt, *INSTALL, *names]
    with services_stay_down():
        fresh = index_age(bool(params["sources"])) < params["index_age"]
        if not fresh:
            run([*apt, "update"], deadline)
        try:
            record_and_run(command, names, deadline)
        except AptError:
            if not fresh:
                raise
            run([*apt, "update"], deadline)  # an index can be too old (or empty) whatever its date says
            record_and_run(command, names, deadline)


def record_and_run(command: list[str], names: list[str], deadline: float) -> None:
    """Write down what the command will add, then run it. Raises AptError."""
    new = {name for name, is_new in planned(run([*command, "--simulate"], deadline), "Inst") if is_new}
    record = load()
    record["packages"] = sorted({*record["packages"], *(new & {*names})})
    record["dependencies"] = sorted({*record["dependencies"], *(new - {*names})})
    save(record)
    run(command, deadline)


def switched_on(services: list[str]) -> list[str]:
    """Return those of the services that would come up with the machine and whose package is one that we installed."""
    ours = {*load()["packages"]} & {*services}
    links = {path.name[3:] for path in Path("/etc").glob("rc[2-5].d/S*")}
    units = {path.stem for path in Path("/etc/systemd/system").glob("*.wants/*.service")}
    return sorted(ours & (units if service_manager() == "systemd" else links))


def switch_off(service: str, deadline: float) -> None:
    """Stop the package's own service, now and at boot. Raises AptError."""
    if service_manager() == "systemd":
        run(["systemctl", "disable", "--now", service], deadline)
    else:
        run(["update-rc.d", service, "disable"], deadline)


def stop_supervisor(deadline: float) -> None:
    """Stop supervisord, which its package leaves running where policy-rc.d forbids to touch services."""
    if not SUPERVISOR_PID.exists():
        return
    process = Path("/proc") / SUPERVISOR_PID.read_text().strip()
    subprocess.run(["supervisorctl", "shutdown"], capture_output=True, check=False)
    # the argument list of a process that has ended is empty, even where PID 1 never collects it (a plain container)
    while (process / "cmdline").exists() and b"supervisord" in (process / "cmdline").read_bytes():
        if time.monotonic() > deadline:
            raise AptError(f"supervisord (pid {process.name}) does not stop. Stop it, then run this again")
        time.sleep(0.1)


def clear_supervisor() -> None:
    """Remove what supervisord leaves when it goes: its logs, and after a kill its pid file and socket."""
    for path in SUPERVISOR_LEAVINGS:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def unneeded(ours: set[str], deadline: float, private: str | None = None) -> list[str]:
    """Mark our packages as automatic and return those that nothing else on the machine needs.

    With `private`, the marks are made on a copy in that folder.
    """
    aside = []
    if private is not None:
        marks = Path(private) / MARKS.name
        marks.write_bytes(MARKS.read_bytes() if MARKS.exists() else b"")
        settings = Path(private) / "apt.conf"
        settings.write_text(f'{APART}Dir::Log "{private}";\nDir::State::extended_states "{marks}";\n')
        aside = [f"--config-file={settings}"]
    run(["apt-mark", *aside, "auto", *sorted(ours)], deadline)
    listed = planned(run(["apt-get", *aside, "--simulate", *AUTOREMOVE, "autoremove"], deadline), "Remv")
    return sorted(ours & {name for name, _ in listed})


def remove_groups(record: dict) -> None:
    """Remove the groups that packages leave behind, each when none of the programs that use it is there any more."""
    for group, programs in list(record["groups"].items()):
        if not any(Path(program).exists() for program in programs):
            subprocess.run(["groupdel", group], capture_output=True, check=False)  # it may be gone
            del record["groups"][group]
    save(record)


def mend(module: AnsibleModule, broken: str, deadline: float) -> str:
    """Repair what a killed dpkg left, and return what it was; another's package may stay broken, and is told."""
    try:
        repair(apt_get(module.params), deadline)
    except AptError as error:
        ours = {*load()["packages"], *load()["dependencies"], *module.params["names"]}
        if any(line.split()[0] in ours for line in interrupted().splitlines() if line.startswith(" ")):
            raise
        module.warn(f"dpkg has packages that are not whole, and not the testbed's: {error}")
    return "" if interrupted() == broken else broken


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "services_off": {"type": "list", "elements": "str", "default": []},
            "index_age": {"type": "int", "default": 86400},
            "lock_timeout": {"type": "int", "default": 300},
            "proxy": {"type": "dict", "default": {}},
            "direct": {"type": "list", "elements": "str", "default": []},
            "sources": {"type": "str", "default": ""},
            "ca": {"type": "str", "default": ""},
            "ca_bundle": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    name_process("testbed-package")
    deadline = time.monotonic() + module.params["lock_timeout"]
    changes: list = []
    try:
        broken = interrupted()
        if broken and not module.check_mode:
            broken = mend(module, broken, deadline)
        there = states()
        if module.params["state"] == "present":
            names = [name for name in module.params["names"] if there.get(name) not in ("ii", "hi")]
            if names and module.check_mode:
                changes = to_come(names, module.params, module.tmpdir, deadline)
            elif names:
                install(names, module.params, deadline)
            off = switched_on(module.params["services_off"])
            for service in off if not module.check_mode else []:
                switch_off(service, deadline)
            changes += [
                {"kind": "service", "name": name, "action": "change", "detail": "off: it is not the testbed's"}
                for name in off
            ]
            changed = bool(names or off or broken)
        else:
            record = load()
            recorded = {*record["packages"], *record["dependencies"]}
            names = sorted(name for name in recorded if there.get(name, "un") != "un")
            installed = {name for name in names if there[name] != "rc"}
            private = module.tmpdir if module.check_mode else None
            gone = unneeded(installed, deadline, private) if installed else []
            names = gone + [name for name in names if there[name] == "rc"]
            leavings = list(record["groups"]) if names else []
            if not module.check_mode:
                put_policy_back()
                if "supervisor" in gone:
                    stop_supervisor(deadline)
                if names:
                    run(["apt-get", "--yes", "purge", *names], deadline)
                if "supervisor" in names:
                    clear_supervisor()
                if recorded:
                    record.update(packages=[], dependencies=[])
                    save(record)
                if record["groups"]:
                    remove_groups(record)
            changed = bool(names or broken)
            changes = [{"kind": "package", "name": name, "action": "remove"} for name in names]
            changes += [
                {"kind": "account", "name": name, "action": "remove", "detail": "a group that a package made"}
                for name in leavings
            ]
    except AptError as error:
        module.fail_json(msg=f"{error}. Put that right (network, apt sources, free space), then run this again")
    lines = "".join(f"{name}\n" for name in names)
    if broken:
        lines += f"dpkg --configure -a: {broken}"
        changes.append(
            {"kind": "package", "name": "dpkg", "action": "change", "detail": "completes what was half done"}
        )
    before, after = ("", lines) if module.params["state"] == "present" else (lines, "")
    module.exit_json(changed=changed, packages=names, testbed_changes=changes, diff={"before": before, "after": after})


if __name__ == "__main__":
    main()
