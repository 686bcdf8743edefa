#!/usr/bin/python
"""Keeps a Docker Engine up with the settings that are wanted now, and gives back what was there before.

A digest of the testbed's settings travels in the engine's environment (TESTBED_DIGEST), so a run that was killed
between change and restart is made good. Settings of an engine that was there before stay, but for those that are given;
so do those that come later, for the record keeps which values are the testbed's, and what was in their place.
"""

from __future__ import annotations

import grp
import hashlib
import ipaddress
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_host import service_manager
from ansible.module_utils.testbed_mounts import Mount, content, read_mounts
from ansible.module_utils.testbed_record import load, name_process, replace_file, save

DOCUMENTATION = r"""
module: testbed_engine
short_description: Look at, set up, or give back a Docker Engine
options:
  state:
    type: str
    choices: [possible, recorded, present, absent]
    default: present
    description:
      - C(possible) only looks and refuses what could not work.
      - C(recorded) writes down, before its packages come, that the engine will be the testbed's.
      - C(present) sets it up and starts it; C(absent) gives back what was there
  settings: {type: dict, default: {}, description: Settings for daemon.json}
  defaults: {type: dict, default: {}, description: 'Settings that belong together, where daemon.json has none of them'}
  environment: {type: dict, default: {}, description: 'Environment of the engine, such as a proxy; never a secret'}
  pools:
    type: list
    elements: str
    default: []
    description: Networks for containers; without any, and without such in daemon.json, one is chosen
  candidates: {type: list, elements: str, default: [], description: Networks to choose from}
  reached: {type: list, elements: str, default: [], description: Addresses that containers must not cover up}
  compose_comes: {type: bool, default: false, description: A package with Compose v2 is known for this host}
  package: {type: str, default: "", description: 'The package that brings the engine, as told in check mode'}
  purge: {type: bool, default: false, description: 'With absent: images and containers go, too, if the engine is ours'}
author: [The testbed's authors (@clearml-testbed)]
"""

SETTINGS = Path("/etc/docker/daemon.json")
PLUGINS = [Path(f"/usr/{lib}/docker/cli-plugins") for lib in ("local/lib", "local/libexec", "lib", "libexec")]
ASIDE = Path("/etc/docker/daemon.json.before-testbed")
POOLS = "default-address-pools"
# what an earlier version of this module wrote, which recorded no values
WRITTEN_ONCE = ("log-driver", "log-opts", "registry-mirrors", POOLS)
DROP_IN = Path("/etc/systemd/system/docker.service.d/testbed.conf")
GROUP = "docker"  # the packages make it, and leave it behind
ENGINES = ("/usr/bin/dockerd", "/usr/sbin/dockerd")
CONTAINERDS = ("/usr/bin/containerd",)
# key.json: where /etc/docker was there before
FOLDERS = (
    *("/etc/docker", "/etc/docker/key.json", "/etc/cni"),
    *("/var/lib/docker", "/var/lib/containerd", "/opt/containerd"),
)
# of a containerd, which Kubernetes, too, may use; others keep files beside its own in the last
CONTAINERDS_DATA = "/var/lib/containerd"
CONTAINERDS_FOLDERS = (CONTAINERDS_DATA, "/opt/containerd", "/etc/cni")
NETWORKS = Path("/etc/cni")
UNITS = ("docker.service", "docker.socket")
CONTAINERDS_UNIT = "containerd.service"
DIGEST = "TESTBED_DIGEST"
# `up --wait` as it is used here; Ubuntu 20.04 has 2.20 and later
OLDEST_COMPOSE = (2, 20)
CONTAINERS_OWN = re.compile(r"^(docker0|br-[0-9a-f]{12}|veth\w+|docker_gwbridge)$")
SUBNET_BITS = 24
PATIENCE_S = 60


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command; its exit code is the caller's to judge, 127 where there is no such program."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except (FileNotFoundError, PermissionError) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


def answers() -> bool:
    """Tell whether an engine answers."""
    return run("docker", "info", "--format", "{{.ServerVersion}}").returncode == 0


def compose_version() -> str:
    """Return the version of the Compose plugin, empty where there is none."""
    # the plugin may be there before the command that it is one of
    plugins = [[str(folder / "docker-compose")] for folder in PLUGINS]
    for command in (["docker", "compose"], *plugins):
        done = run(*command, "version", "--short")
        if done.returncode == 0:
            return done.stdout.strip().lstrip("v")
    return ""


def is_new_enough(version: str) -> bool:
    """Tell whether this Compose starts by health, as the roles want it."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found.group(1)), int(found.group(2))) >= OLDEST_COMPOSE


def parse_routes(text: str) -> list[str]:
    """Return the networks that the host reaches by a route of its own, from /proc/net/route; containers' are none."""
    found = []
    for line in text.splitlines()[1:]:
        interface, destination, _, _, _, _, _, mask = line.split()[:8]
        if CONTAINERS_OWN.match(interface) or mask == "00000000":
            continue
        address, bits = (bytes.fromhex(word)[::-1] for word in (destination, mask))
        found.append(str(ipaddress.IPv4Network((address, str(ipaddress.IPv4Address(bits))), strict=False)))
    return found


def overlapping(pool: str, taken: list[str]) -> list[str]:
    """Return which of the networks and addresses a pool would cover up."""
    network = ipaddress.IPv4Network(pool, strict=False)
    return [other for other in taken if ":" not in other and network.overlaps(ipaddress.IPv4Network(other, False))]


def choose_pools(pools: list[str], candidates: list[str], taken: list[str]) -> list[str]:
    """Return the pools that are given, else the first candidate that covers up nothing; none where all do."""
    return pools or [pool for pool in candidates if not overlapping(pool, taken)][:1]


def of_the_site(now: dict, written: dict) -> dict:
    """Return what daemon.json says without the testbed: where a value is the testbed's, what was there before."""
    found = {}
    for key, value in now.items():
        if value not in written.get(key, {}).get("ours", []):
            found[key] = value
        elif "before" in written[key]:
            found[key] = written[key]["before"]
    return found


def own_settings(site: dict, settings: dict, defaults: dict, pools: list[str]) -> dict:
    """Return what the testbed sets in daemon.json: what is given, and defaults that the site says nothing of."""
    own = {} if {*defaults} & {*site} else defaults
    networks = {POOLS: [{"base": pool, "size": SUBNET_BITS} for pool in pools]} if pools else {}
    return {**own, **settings, **networks}


def to_write_down(site: dict, own: dict) -> dict:
    """Return by key the value that is the testbed's, and the site's in its place if it has one."""
    return {
        key: {"ours": [value], **({"before": site[key]} if key in site else {})} for key, value in sorted(own.items())
    }


def through_a_kill(written: dict, now: dict, then: dict) -> dict:
    """Return what is recorded while daemon.json is written: its values may be those of before, or the new ones."""
    found = {**written, **then}
    for key in {*written} & {*then} & {*now}:
        if now[key] in written[key]["ours"] and now[key] not in then[key]["ours"]:
            found[key] = {**then[key], "ours": [now[key], *then[key]["ours"]]}
    return found


def site_pools(site: dict) -> list[str]:
    """Return the IPv4 networks for containers that the site has chosen."""
    return [pool["base"] for pool in site.get(POOLS) or [] if ":" not in pool["base"]]


def drop_in(environment: dict, own: dict) -> str:
    """Return what systemd is told beside the engine's own unit; a digest of the testbed's settings is in it."""
    settings = json.dumps(own, sort_keys=True)
    lines = [f'Environment="{key}={value}"'.replace("%", "%%") for key, value in sorted(environment.items())]
    digest = hashlib.sha256("\n".join([settings, *lines]).encode()).hexdigest()
    return "\n".join(["[Service]", *lines, f"Environment={DIGEST}={digest}", ""])


def addresses(reached: list[str]) -> list[str]:
    """Return those of the testbed's hosts that are named by an IPv4 address."""
    return [name for name in reached if re.match(r"^\d+\.\d+\.\d+\.\d+$", name)]


def read_json(path: Path) -> dict:
    """Return what a settings file says; nothing where there is none. Raises ValueError."""
    found = json.loads(path.read_text() or "{}") if path.exists() else {}
    if not isinstance(found, dict):
        raise ValueError("it holds no settings by name")
    return found


def read_settings(module: AnsibleModule) -> dict:
    """Return what daemon.json says; fail where it cannot be read."""
    try:
        return read_json(SETTINGS)
    except ValueError as error:
        module.fail_json(msg=f"{SETTINGS} is no JSON ({error}). Mend it. Nothing was changed.")


def recorded(record: dict, now: dict) -> dict:
    """Return by key which values in daemon.json are the testbed's, and what was there before."""
    written = record.get("engine_settings") or {}
    if written is True:  # an earlier version kept a copy of the whole file, and no values
        return to_write_down(read_json(ASIDE), {key: now[key] for key in WRITTEN_ONCE if key in now})
    return written


def running_digest() -> str:
    """Return the digest that the running engine was started with."""
    pid = run("systemctl", "show", "--property", "MainPID", "--value", "docker.service").stdout.strip()
    try:
        variables = Path(f"/proc/{int(pid or 0)}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return next((value.partition("=")[2] for value in variables if value.startswith(f"{DIGEST}=")), "")


def look(module: AnsibleModule) -> dict:
    """Return what there is: engine, Compose, the pools to use. Fails where it could not work."""
    given = module.params
    there, systemd = any(Path(path).exists() for path in ENGINES), service_manager() == "systemd"
    compose = compose_version()
    taken = parse_routes(Path("/proc/net/route").read_text()) + addresses(given["reached"])
    now = read_settings(module)
    site = of_the_site(now, recorded(load(), now))
    theirs = [] if given["pools"] else site_pools(site)
    chosen = choose_pools(given["pools"], [] if site.get(POOLS) else given["candidates"], taken)
    problems = []
    if not systemd and not answers():
        problems.append(
            "the Docker Engine is a service of systemd, which does not run here, and no engine answers. "
            "Use a host with systemd as the server, or start an engine here"
        )
    if not is_new_enough(compose) and not given["compose_comes"]:
        oldest = ".".join(map(str, OLDEST_COMPOSE))
        has = f"Compose here is {compose}" if compose else "there is no Compose plugin here"
        problems.append(
            f"{has}, {oldest} or later is needed, and this distribution has no package with it. "
            "Set server.engine.source to docker (Docker's own packages), or put the plugin into "
            "/usr/local/lib/docker/cli-plugins"
        )
    covered = {pool: overlapping(pool, taken) for pool in given["pools"]}
    problems += [
        f"server.engine.address_pools: {pool} covers up {', '.join(others)}, which this host reaches. Choose another"
        for pool, others in covered.items()
        if others
    ]
    problems += [
        f"{POOLS} in {SETTINGS}: {pool} covers up {', '.join(others)}, a host of the testbed. "
        "Set server.engine.address_pools, which go before it"
        for pool, others in ((pool, overlapping(pool, addresses(given["reached"]))) for pool in theirs)
        if others
    ]
    if not chosen and not site.get(POOLS):
        problems.append("every network for containers that is known is in use here. Set server.engine.address_pools")
    if problems:
        module.fail_json(msg=". ".join(problems) + ". Nothing was changed.", problems=problems)
    return {"engine": there, "compose": is_new_enough(compose), "pools": chosen, "systemd": systemd}


def write_down(module: AnsibleModule) -> None:
    """Record, as long as there is no engine, which of its folders are not there or empty, and whether its group is."""
    record = load()
    there = any(Path(path).exists() for path in ENGINES)
    missing = [] if there else [path for path in FOLDERS if not Path(path).exists()]
    empty = [] if there else [path for path in FOLDERS if Path(path).is_dir() and not content(Path(path))]
    new = sorted({*missing} - {*record.get("engine", [])})
    to_fill = sorted({*empty} - {*record.get("engine_fills", []), *record.get("engine", [])})
    brings_group = not there and GROUP not in record["groups"] and not has_group(GROUP)
    if (new or to_fill or brings_group) and not module.check_mode:
        mounted = {mount.point for mount in read_mounts()}
        record["engine"] = sorted({*record.get("engine", []), *new})
        record["engine_fills"] = sorted({*record.get("engine_fills", []), *to_fill})
        record["engine_mounts"] = sorted({*record.get("engine_mounts", []), *({*to_fill} & mounted)})
        if brings_group:
            record["groups"][GROUP] = list(ENGINES)
        save(record)
    # the record itself is told where the machine is taken
    module.exit_json(changed=bool(new or to_fill or brings_group), testbed_changes=[])


def has_group(name: str) -> bool:
    """Tell whether the host has a group."""
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def keep_aside(record: dict) -> None:
    """Keep the settings of an engine that was there before as they stood there, once."""
    if "engine_settings" in record:
        return
    if SETTINGS.exists():
        replace_file(ASIDE, SETTINGS.read_text(), SETTINGS.stat().st_mode & 0o777)
    else:  # a killed run left it
        ASIDE.unlink(missing_ok=True)


def write_settings(text: str) -> None:
    """Write daemon.json for those who may read it now; a site may have passwords in it."""
    there = SETTINGS.stat() if SETTINGS.exists() else None
    SETTINGS.parent.mkdir(parents=True, exist_ok=True)
    owner = (there.st_uid, there.st_gid) if there else None
    replace_file(SETTINGS, text, there.st_mode & 0o777 if there else 0o644, owner)


def lay_out(settings: dict) -> str:
    """Return settings as the text of a file."""
    return json.dumps(settings, indent=2) + "\n"


def difference(path: Path, was: str, wanted: str) -> dict:
    """Return how a file changes, as Ansible shows it."""
    return {"before_header": str(path), "after_header": str(path), "before": was, "after": wanted}


def set_up(module: AnsibleModule) -> None:
    """Write the settings, start or restart the engine where it runs with others, and wait until it answers."""
    found = look(module)
    if not found["systemd"]:  # whoever started it chose its settings
        module.exit_json(changed=False, testbed_changes=[])
    record, now = load(), read_settings(module)
    written = recorded(record, now)
    site = of_the_site(now, written)
    own = own_settings(site, module.params["settings"], module.params["defaults"], found["pools"])
    wanted, unit = {**site, **own}, drop_in(module.params["environment"], own)
    was = DROP_IN.read_text() if DROP_IN.exists() else ""
    diff = []
    if now != wanted:  # only what changes is shown: the rest may have passwords in it
        differ = [key for key in {**now, **wanted} if key not in now or key not in wanted or now[key] != wanted[key]]
        shown = [lay_out({key: side[key] for key in differ if key in side}) for side in (now, wanted)]
        diff.append(difference(SETTINGS, *shown))
    if was != unit:
        diff.append(difference(DROP_IN, was, unit))
    changes = [
        {
            "kind": "file",
            "name": each["after_header"],
            "action": "change" if Path(each["after_header"]).exists() else "add",
            "diff": {"before": each["before"], "after": each["after"]},
        }
        for each in diff
    ]
    stale = running_digest() != unit.rpartition("=")[2].strip() or bool(diff)
    if stale:
        up = run("systemctl", "is-active", "--quiet", "docker.service").returncode == 0
        action = "restart" if up else "start" if found["engine"] else "add"
        needs = [f"package {module.params['package']}"] if module.params["package"] else []
        needs += [f"file {path}" for path in (SETTINGS, DROP_IN)]
        changes.append({"kind": "service", "name": "docker", "action": action, "needs": needs})
    if module.check_mode or not stale:
        module.exit_json(changed=stale, testbed_changes=changes, diff=diff)
    keep_aside(record)
    then = to_write_down(site, own)
    save({**record, "engine_settings": through_a_kill(written, now, then)})
    if now != wanted:
        write_settings(lay_out(wanted))
    save({**record, "engine_settings": then})
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    replace_file(DROP_IN, unit, 0o644)
    for command in (["daemon-reload"], ["--quiet", "enable", "docker.service"], ["restart", "docker.service"]):
        done = run("systemctl", *command)
        if done.returncode != 0:
            fail(module, f"systemctl {' '.join(command)}: {done.stderr.strip()}")
    deadline = time.monotonic() + PATIENCE_S
    while not answers():
        if time.monotonic() > deadline:
            fail(module, f"the Docker Engine does not answer {PATIENCE_S} s after its start")
        time.sleep(0.2)
    module.exit_json(changed=True, testbed_changes=changes, diff=diff)


def fail(module: AnsibleModule, problem: str) -> None:
    """End with the engine's last words."""
    said = run("journalctl", "--no-pager", "--lines", "20", "--unit", "docker.service").stdout.strip()
    module.fail_json(msg=f"{problem}. The end of its journal:\n{said}")


def is_bound_to_itself(mount: Mount, mounts: list[Mount]) -> bool:
    """Tell whether a folder is mounted in its own place, as an engine does that was killed."""
    above = [other for other in mounts if f"{mount.point}/".startswith(f"{other.point.rstrip('/')}/")]
    above = [other for other in above if other.point != mount.point]
    if not above:
        return False
    under = max(reversed(above), key=lambda other: len(other.point))
    inside = os.path.relpath(mount.point, under.point)
    return mount.device == under.device and mount.root == f"{under.root.rstrip('/')}/{inside}"


def owners(program: str) -> set[str]:
    """Return the packages that a program is of; none where nobody's is."""
    said = run("dpkg-query", "--search", program, os.path.realpath(program)).stdout
    lines = [line.rpartition(": ")[0] for line in said.splitlines() if not line.startswith("diversion ")]
    return {name.split(":")[0] for line in lines for name in line.split(", ") if name}


def is_ours(record: dict, programs: tuple[str, ...]) -> bool:
    """Tell whether those of the programs that are here came with the testbed; so it is where there are none."""
    brought = {*record["packages"], *record["dependencies"]}
    return all(owners(program) & brought for program in programs if Path(program).exists())


def forget_theirs(record: dict) -> None:
    """Take out of the record what is an administrator's by now, who has installed an engine or a containerd."""
    if not is_ours(record, ENGINES):
        record.update(engine=[], engine_fills=[])
        record["groups"].pop(GROUP, None)
    if not is_ours(record, CONTAINERDS):
        for what in ("engine", "engine_fills"):
            record[what] = [path for path in record.get(what, []) if path not in CONTAINERDS_FOLDERS]


def spare_mounted(module: AnsibleModule, paths: list[Path], before: list[str]) -> list[Path]:
    """Return those of the folders that did not become mount points since; the others are told."""
    mounts = read_mounts()
    foreign = {mount.point for mount in mounts if not is_bound_to_itself(mount, mounts)} - {*before}
    for path in paths:
        if str(path) in foreign:
            module.warn(f"{path} stays, with what is in it: it is a mount point now, and was none before the testbed")
    return [path for path in paths if str(path) not in foreign]


def bare(folder: Path) -> list[Path]:
    """Return the folder for networks and the one in it, the deepest first, as far as nothing is in them."""
    found: list[Path] = []
    for path in (folder / "net.d", folder):
        if path.is_dir() and not {*path.iterdir()} - {*found}:
            found.append(path)
    return found


def give_back(module: AnsibleModule) -> None:
    """Take our settings away; an engine that is ours stops, and its folders go with purge."""
    record = load()
    was = json.dumps(record)
    forget_theirs(record)
    theirs = json.dumps(record) != was
    before = record.get("engine_mounts", [])
    ours = [path for path in map(Path, record.get("engine", [])) if path.exists()]
    filled = [path for path in map(Path, record.get("engine_fills", [])) if path.is_dir() and content(path)]
    touched = "engine_settings" in record
    text = settings_to_leave(record, read_settings(module)) if touched else None
    changes = []
    if touched:
        files = {DROP_IN: "remove"}
        if text is None or text != SETTINGS.read_text():
            files[SETTINGS] = "change" if text else "remove"
        changes += [{"kind": "file", "name": str(path), "action": files[path]} for path in files if path.exists()]
    elif ASIDE.exists():  # a killed run left it
        changes.append({"kind": "file", "name": str(ASIDE), "action": "remove"})
    brought = bool(record.get("engine") or record.get("engine_fills"))
    stops = brought and run("systemctl", "is-active", "--quiet", "docker.service").returncode == 0
    if stops:
        changes.append({"kind": "service", "name": "docker", "action": "remove"})
    gone, emptied = (ours, filled) if module.params["purge"] else ([], [])
    unused = bare(NETWORKS) if NETWORKS in [*gone, *emptied] else []
    unused = [path for path in unused if path != NETWORKS or path in gone]
    gone, emptied = (
        spare_mounted(module, [path for path in paths if path != NETWORKS], before) for paths in (gone, emptied)
    )
    changes += [{"kind": "folder", "name": str(path), "action": "remove"} for path in [*gone, *unused]]
    changes += [{"kind": "folder", "name": str(path), "action": "change", "detail": "empty again"} for path in emptied]
    if not module.check_mode and (changes or touched or theirs):
        if brought:
            stop_ours(record)
        if touched:
            put_back(text, restart=not brought)
        for path in [*[path for path in gone if not path.is_symlink()], *[path.resolve() for path in emptied]]:
            unmount_below(module, path)
        for path in gone:
            remove(path)
        for path in emptied:
            for inside in content(path):
                remove(inside)
        for path in unused:
            path.rmdir()
        record.pop("engine_settings", None)
        if module.params["purge"]:
            for what in ("engine", "engine_fills", "engine_mounts"):
                record.pop(what, None)
        save(record)
        ASIDE.unlink(missing_ok=True)  # not before: without it, settings that are back count as ours
    module.exit_json(changed=bool(changes), testbed_changes=changes)


def remove(path: Path) -> None:
    """Remove a folder with what is in it, or a file; one that is gone already is left at that."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def stop_ours(record: dict) -> None:
    """Stop an engine that the testbed brought, and take away the bridge that it leaves."""
    brought = {*record.get("engine", []), *record.get("engine_fills", [])}
    for unit in (*UNITS, CONTAINERDS_UNIT) if CONTAINERDS_DATA in brought else UNITS:
        run("systemctl", "--quiet", "disable", "--now", unit)
    run("ip", "link", "delete", "docker0")


def settings_to_leave(record: dict, now: dict) -> str | None:
    """Return daemon.json without the testbed, as it stood there before if it says the same; None: no file."""
    site = of_the_site(now, recorded(record, now))
    if not SETTINGS.exists() or not (site or ASIDE.exists()):
        return None
    return ASIDE.read_text() if ASIDE.exists() and read_json(ASIDE) == site else lay_out(site)


def put_back(text: str | None, restart: bool) -> None:
    """Leave the site's settings; what was kept aside stays until that is written down."""
    DROP_IN.unlink(missing_ok=True)
    if DROP_IN.parent.is_dir() and not any(DROP_IN.parent.iterdir()):
        DROP_IN.parent.rmdir()
    if text is None:
        SETTINGS.unlink(missing_ok=True)
    else:
        write_settings(text)
    run("systemctl", "daemon-reload")
    if restart:
        run("systemctl", "restart", "docker.service")


def mounted_below(path: Path) -> list[str]:
    """Return what is mounted in a folder, the deepest first, and where the folder is in its own place."""
    mounts = read_mounts()
    own = [mount.point for mount in mounts if mount.point == str(path) and is_bound_to_itself(mount, mounts)]
    return sorted((mount.point for mount in mounts if mount.point.startswith(f"{path}/")), reverse=True) + own


def unmount_below(module: AnsibleModule, path: Path) -> None:
    """Unmount what a stopped engine left mounted; fail where it stays, before it would be removed with the rest."""
    said = [run("umount", point).stderr.strip() for point in mounted_below(path)]
    still = mounted_below(path)
    if still:
        module.fail_json(
            msg=f"{path} was not removed: {', '.join(still)} cannot be unmounted ({' '.join(filter(None, said))}). "
            "End what uses it, unmount it, then run this again."
        )


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": ["possible", "recorded", "present", "absent"],
                "default": "present",
            },
            "settings": {"type": "dict", "default": {}},
            "defaults": {"type": "dict", "default": {}},
            "environment": {"type": "dict", "default": {}},
            "pools": {"type": "list", "elements": "str", "default": []},
            "candidates": {"type": "list", "elements": "str", "default": []},
            "reached": {"type": "list", "elements": "str", "default": []},
            "compose_comes": {"type": "bool", "default": False},
            "package": {"type": "str", "default": ""},
            "purge": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    name_process("testbed-engine")
    os.umask(0o022)
    if module.params["state"] == "possible":
        module.exit_json(changed=False, **look(module))
    {"recorded": write_down, "present": set_up, "absent": give_back}[module.params["state"]](module)


if __name__ == "__main__":
    main()
