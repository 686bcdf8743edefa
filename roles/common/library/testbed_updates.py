#!/usr/bin/python
"""Lets unattended-upgrades install the distribution's security updates, and nothing else."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_apt import options
from ansible.module_utils.testbed_record import load, replace_file, save
from ansible.module_utils.testbed_units import UnitError, is_masked, is_on, is_there, systemctl

DOCUMENTATION = r"""
module: testbed_updates
short_description: Install security updates every day
options:
  proxy: {type: dict, default: {}, description: 'Proxy for apt by scheme, http and https'}
  direct: {type: list, elements: str, default: [], description: Hosts that apt reaches without it}
  mirror: {type: bool, default: false, description: 'From the sources that testbed_sources wrote, and no others'}
  ca_bundle: {type: str, default: "", description: Certificates for https sources and proxies; empty for the usual ones}
  state:
    type: str
    choices: [present, off, absent]
    default: present
    description: "With off, none are installed where the package came for this; with absent, all is as it was before"
author: [The testbed's authors (@clearml-testbed)]
"""

# read after the distribution's own 50unattended-upgrades, whose origins it clears
SETTINGS = Path("/etc/apt/apt.conf.d/95testbed-security-updates")
WAY = Path("/etc/testbed/apt/security-updates.conf")
UNITS = ("apt-daily", "apt-daily-upgrade")
TEXT = """\
// Written by the ClearML testbed toolkit, which overwrites changes made here.
APT::Periodic::Enable "1";
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
#clear Unattended-Upgrade::Allowed-Origins;
#clear Unattended-Upgrade::Origins-Pattern;
Unattended-Upgrade::Origins-Pattern {
  "origin=Debian,codename=${distro_codename},label=Debian-Security";
  "origin=Debian,codename=${distro_codename}-security,label=Debian-Security";
  "origin=Ubuntu,archive=${distro_codename}-security";
  "origin=UbuntuESM,archive=${distro_codename}-infra-security";
  "origin=UbuntuESMApps,archive=${distro_codename}-apps-security";
};
// their update ends what runs in containers: `apt-get install` them when nobody works
Unattended-Upgrade::Package-Blacklist { "docker"; "containerd"; "runc$"; };
// a task that trains is not to be ended by a reboot
Unattended-Upgrade::Automatic-Reboot "false";
"""


OFF = """\
// Written by the ClearML testbed toolkit: unattended-upgrades came for security_updates, which are off in testbed.yaml.
APT::Periodic::Unattended-Upgrade "0";
"""


def drop_in(unit: str) -> Path:
    """Return the file by which a unit of apt's learns where to go; apt's own settings stay those of the machine."""
    return Path(f"/etc/systemd/system/{unit}.service.d/testbed.conf")


def texts(way: list[str]) -> dict[Path, str]:
    """Return what the files are to say; an empty one is not wanted. `way`: apt-get's options."""
    # the empty setting of a cache means none
    settings = [word.partition("=") for word in way if word != "-o"]
    return {
        SETTINGS: TEXT,
        WAY: "".join(f'{key} "{value}";\n' for key, _, value in settings),
        **{drop_in(unit): f"[Service]\nEnvironment=APT_CONFIG={WAY}\n" if way else "" for unit in UNITS},
    }


def converge(wanted: dict[Path, str], dry: bool) -> list[dict]:
    """Write the files; return the changes."""
    changes = []
    for path, text in wanted.items():
        before = path.read_text(errors="replace") if path.exists() else ""
        if before == text:
            continue
        action = "remove" if not text else "change" if path.exists() else "add"
        changes.append({"kind": "file", "name": str(path), "action": action, "diff": {"before": before, "after": text}})
        if dry:
            continue
        if text:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace_file(path, text, 0o644)
        else:
            path.unlink()
            if path.parent.suffix == ".d" and path.parent.suffixes[0] == ".service" and not any(path.parent.iterdir()):
                path.parent.rmdir()
    return changes


def switch_on(dry: bool) -> tuple[list[dict], list[str]]:
    """Switch apt's timers on; return the changes, and the timers that are forbidden here. Raises UnitError."""
    timers = [f"{unit}.timer" for unit in UNITS]
    off = [timer for timer in timers if is_there(timer) and not is_on(timer)]
    if off and not dry:
        record = load()
        record["updates"]["switched_on"] = sorted({*record["updates"].get("switched_on", []), *off})
        save(record)
        systemctl("enable", "--now", *off)
    changes = [{"kind": "service", "name": timer, "action": "change", "detail": "on"} for timer in off]
    return changes, [timer for timer in timers if is_masked(timer)]


def switch_off(dry: bool) -> list[dict]:
    """Switch off the timers that were switched on; return the changes. Raises UnitError."""
    record = load()
    ours = record["updates"].get("switched_on", [])
    if ours and not dry:
        systemctl("disable", "--now", *ours)
        save({**record, "updates": {}})
    return [{"kind": "service", "name": timer, "action": "change", "detail": "off, as before"} for timer in ours]


def reload(dry: bool) -> None:
    """Let systemd read drop-ins that it has not read yet, those of a killed run, too. Raises UnitError."""
    services = [f"{unit}.service" for unit in UNITS]
    if not dry and "NeedDaemonReload=yes" in systemctl("show", "--property=NeedDaemonReload", *services):
        systemctl("daemon-reload")


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "proxy": {"type": "dict", "default": {}},
            "direct": {"type": "list", "elements": "str", "default": []},
            "mirror": {"type": "bool", "default": False},
            "ca_bundle": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["present", "off", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    given, dry = module.params, module.check_mode
    try:
        if given["state"] == "present":
            way = options(given["proxy"], given["direct"], given["mirror"], given["ca_bundle"])
            changes = converge(texts(way), dry)
            switched, masked = switch_on(dry)
            if masked:
                module.warn(f"{' and '.join(masked)} are masked here: no security updates come by themselves")
            reload(dry)
        else:
            ours = given["state"] == "off" and "unattended-upgrades" in load()["packages"]
            changes = converge({**dict.fromkeys(texts([]), ""), SETTINGS: OFF if ours else ""}, dry)
            switched = switch_off(dry)
            if any(change["name"].endswith(".service.d/testbed.conf") for change in changes):
                reload(dry)
    except UnitError as error:
        module.fail_json(msg=str(error))
    changes += switched
    diff = [{**change["diff"], "after_header": change["name"]} for change in changes if "diff" in change]
    module.exit_json(changed=bool(changes), testbed_changes=changes, diff=diff)


if __name__ == "__main__":
    main()
