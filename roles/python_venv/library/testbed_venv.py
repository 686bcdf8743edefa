#!/usr/bin/python
"""Makes a virtual environment with pinned packages; does and downloads nothing when it is there already.

A stamp, written last, says what the environment was made from. Without one the environment is half made and is made
anew; with an older one it is brought up to date in place, so that what its owner added stays. Stamps lie in a folder of
root's, for root neither writes to a folder of another account nor believes a file there.
pip runs as the environment's owner: nothing in it is root's, and root runs no code of another account. What the
environments of other accounts need, root fetches once for all of them; it shares the cache of root's environments.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_record import replace_file

DOCUMENTATION = r"""
module: testbed_venv
short_description: Make a virtual environment with pinned packages
options:
  path: {type: str, required: true, description: 'Folder of the environment; ~NAME is the home of that account'}
  owner: {type: str, default: root, description: Account that it belongs to}
  interpreter: {type: str, required: true, description: Python that it is made with}
  requirements: {type: list, elements: str, default: [], description: What pip installs}
  state: {type: str, choices: [present, compared], default: present, description: 'Make it, or tell whether it differs'}
  wheels: {type: list, elements: dict, default: [], description: 'Wheels (src; only the name counts) and their extras'}
  constraints: {type: str, required: true, description: Name of the pip constraints file}
  digests: {type: dict, required: true, description: SHA-256 of wheels and constraints by name}
  environment: {type: dict, default: {}, description: 'Settings for pip: proxy, CA, index'}
  pip_settings: {type: dict, default: {}, description: 'The same for whoever uses the environment, in its pip.conf'}
author: [The testbed's authors (@clearml-testbed)]
"""

STAMPS = Path("/opt/testbed/stamps")
FILES = Path("/opt/testbed/wheels")
FETCHED = FILES / "fetched"
CACHE = "/opt/testbed/cache/pip"
FETCHER = Path("/opt/testbed/venvs/.fetcher")
PIP_CONF_HEADER = "# Written by the ClearML testbed toolkit, which overwrites changes made here."
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class VenvError(Exception):
    """The environment cannot be made; the text says why and what to do."""


def wheels_wanted(params: dict) -> list[tuple[str, list[str]]]:
    """Return (file name, extras) for each wheel."""
    return [(Path(wheel["src"]).name, wheel.get("extras", [])) for wheel in params["wheels"]]


def wanted_stamp(params: dict) -> dict:
    """Return what the environment is to be made from."""
    question = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.run([params["interpreter"], "-c", question], capture_output=True, text=True, check=False)
    if version.returncode != 0:
        raise VenvError(f"{params['interpreter']} does not run. Name a Python that does in python_venv_interpreter")
    settings = {"pip_settings": params["pip_settings"]} if params["pip_settings"] else {}
    return {
        **settings,
        "python": version.stdout.strip(),
        "requirements": sorted(params["requirements"]),
        "wheels": [[name, params["digests"][name], extras] for name, extras in wheels_wanted(params)],
        "constraints": params["digests"][params["constraints"]],
    }


def stamp_file(venv: Path) -> Path:
    """Return where the stamp of the environment lies."""
    return STAMPS / f"{str(venv).strip('/').replace('/', '_')}.json"


def read_stamp(venv: Path) -> dict | None:
    """Return what the environment was made from; None when it is half made, or its Python is gone."""
    there = stamp_file(venv).exists() and (venv / "bin/python").exists()
    return json.loads(stamp_file(venv).read_text()) if there else None


def missing_names(venv: Path, params: dict) -> list[str]:
    """Return the wanted packages that somebody took out of the environment."""
    asked = [re.split(r"[\s\[<>=!~;@]", requirement)[0] for requirement in params["requirements"]]
    asked += [Path(wheel["src"]).name.split("-")[0] for wheel in params["wheels"]]
    folders = [folder.name.split("-")[0] for folder in venv.glob("lib/python*/site-packages/*.dist-info")]
    there = {re.sub(r"[-_.]+", "-", name).lower() for name in folders}
    return [name for name in asked if re.sub(r"[-_.]+", "-", name).lower() not in there]


def run_as(owner: str, params: dict, command: list[str]) -> None:
    """Run a command as the account. Raises VenvError with the end of what it said."""
    home = pwd.getpwnam(owner).pw_dir
    settings = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": home}
    settings["TESTBED_RUN"] = os.environ.get("TESTBED_RUN", "")  # it is ended by that when the command is killed
    settings.update({"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"})
    settings.update({"PIP_CACHE_DIR": CACHE} if owner == "root" else {"PIP_NO_CACHE_DIR": "1"})
    settings.update({key: str(value) for key, value in params["environment"].items()})
    if owner != "root":
        command = ["runuser", "--user", owner, "--", *command]
    # root's pip inherits the lock of `alone`, and so holds it when this module is killed
    done = subprocess.run(
        command, env=settings, cwd="/", capture_output=True, text=True, check=False, close_fds=owner != "root"
    )
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise VenvError(
            f"{params['path']}: {' '.join(command)} failed:\n{said}\n"
            "Put that right (network, pip's settings in `environment` of testbed.yaml, free space), then run this again"
        )


@contextlib.contextmanager
def alone(venv: Path) -> Iterator[None]:
    """Keep out a second run, for a killed one may have left its pip at work."""
    STAMPS.mkdir(parents=True, exist_ok=True)
    with stamp_file(venv).with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.set_inheritable(lock.fileno(), True)
        yield


def write_stamp(venv: Path, stamp: dict) -> None:
    """Say what the environment was made from, in one step."""
    replace_file(stamp_file(venv), json.dumps(stamp, indent=1), 0o644)


def fetched_from(stamp: dict | None) -> dict | None:
    """Return what of a stamp tells what is fetched."""
    return stamp and {key: value for key, value in stamp.items() if key != "pip_settings"}


def fetch(params: dict, stamp: dict, arguments: list[str]) -> None:
    """Put wheels of all that pip's arguments ask for where every account can read them. Raises VenvError."""
    with alone(FETCHER):
        there = read_stamp(FETCHER)
        if there is None or there.get("python") != stamp["python"]:
            run_as("root", params, [params["interpreter"], "-m", "venv", "--clear", str(FETCHER)])
        if fetched_from(there) != fetched_from(stamp):
            pip = [str(FETCHER / "bin/python"), "-m", "pip"]
            run_as("root", params, [*pip, "wheel", "--wheel-dir", str(FETCHED), *arguments])
            write_stamp(FETCHER, stamp)


def pip_conf(settings: dict) -> str:
    """Return the text of a pip.conf with these settings; none without any."""
    lines = [PIP_CONF_HEADER, "[global]", *(f"{key} = {value}" for key, value in sorted(settings.items()))]
    return "\n".join(lines) + "\n" if settings else ""


def write_pip_conf(venv: Path, before: dict, params: dict) -> None:
    """Say in the environment's pip.conf where packages come from; take away what we said before. Raises VenvError."""
    settings = params["pip_settings"]
    if settings == before and (venv / "pip.conf").exists() == bool(settings):
        return
    text = pip_conf(settings)
    # as the owner, for root writes to no folder of another account
    # TEXT is no secret: a login is refused where the settings come from
    replace = "import pathlib, sys; f = pathlib.Path(sys.argv[1]); f.unlink(missing_ok=True); t = sys.argv[2]"
    if text or before:
        replace += "; t and f.write_text(t)"
        run_as(params["owner"], params, [str(venv / "bin/python"), "-c", replace, str(venv / "pip.conf"), text])


def make(venv: Path, stamp: dict, there: dict | None, params: dict) -> None:
    """Make the environment, or bring it up to date, and write the stamp last. Raises VenvError."""
    owner, names = params["owner"], wheels_wanted(params)
    if there is None or there.get("python") != stamp["python"]:
        stamp_file(venv).unlink(missing_ok=True)
        run_as(owner, params, [params["interpreter"], "-m", "venv", "--clear", str(venv)])
    wheels = [f"{FILES / name}[{','.join(extras)}]" if extras else str(FILES / name) for name, extras in names]
    pinned = ["--quiet", "--constraint", str(FILES / params["constraints"])]
    install = [str(venv / "bin/python"), "-m", "pip", "install", *pinned]
    if owner != "root":
        fetch(params, stamp, [*pinned, *params["requirements"], *wheels])
        install += ["--no-index", "--find-links", str(FETCHED)]
    if there and wheels and there.get("wheels") != stamp["wheels"]:  # a new build may carry the same version
        run_as(owner, params, [*install, "--force-reinstall", "--no-deps", *[str(FILES / name) for name, _ in names]])
    run_as(owner, params, [*install, *params["requirements"], *wheels])
    write_pip_conf(venv, (there or {}).get("pip_settings", {}), params)
    write_stamp(venv, stamp)


def changes_of(params: dict, there: dict | None, stamp: dict) -> list[dict]:
    """Return what making the environment changes: itself, and what accounts but root have fetched for them."""
    action = "add" if there is None else "change"
    needs = ["package python3-venv", f"account {params['owner']}"]
    if "PIP_CERT" in params["environment"]:
        needs.append(f"file {params['environment']['PIP_CERT']}")
    found = [{"kind": "environment", "name": params["path"], "action": action, "needs": needs}]
    found += pip_conf_changes(params, (there or {}).get("pip_settings", {}))
    if params["owner"] != "root" and fetched_from(read_stamp(FETCHER)) != fetched_from(stamp):
        made = "change" if FETCHER.exists() else "add"
        fetched = [need for need in needs if not need.startswith("account ")]
        found.append({"kind": "environment", "name": str(FETCHER), "action": made, "needs": fetched})
        if not FETCHED.exists():
            needs = [f"environment {FETCHER}"]
            found.append({"kind": "folder", "name": str(FETCHED), "action": "add", "needs": needs})
    return found


def pip_conf_changes(params: dict, before: dict) -> list[dict]:
    """Return what becomes of the environment's pip.conf, which said what `before` has."""
    settings = params["pip_settings"]
    if settings == before:
        return []
    action = "remove" if not settings else "change" if before else "add"
    name, needs = f"{params['path']}/pip.conf", [f"environment {params['path']}"]
    diff = {"before": pip_conf(before), "after": pip_conf(settings)}
    return [{"kind": "file", "name": name, "action": action, "needs": needs, "diff": diff}]


def expanded(path: str) -> str:
    """Return the path with ~NAME as that account's home; one that is about to be made gets /home/NAME."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        return f"/home/{path[1:]}"


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "str", "required": True},
            "owner": {"type": "str", "default": "root"},
            "interpreter": {"type": "str", "required": True},
            "requirements": {"type": "list", "elements": "str", "default": []},
            "wheels": {"type": "list", "elements": "dict", "default": []},
            "constraints": {"type": "str", "required": True},
            "digests": {"type": "dict", "required": True},
            "state": {"type": "str", "choices": ["present", "compared"], "default": "present"},
            "environment": {"type": "dict", "default": {}},
            "pip_settings": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    module.params["path"] = expanded(module.params["path"])
    venv = Path(module.params["path"])
    try:
        os.umask(0o022)
        stamp, there = wanted_stamp(module.params), read_stamp(venv)
        different = there != stamp or bool(missing_names(venv, module.params))
        if module.params["state"] == "compared":
            module.exit_json(changed=False, different=different)
        changes = changes_of(module.params, there, stamp) if different else []
        if different and not module.check_mode:
            with alone(venv):
                make(venv, stamp, read_stamp(venv), module.params)
    except VenvError as error:
        module.fail_json(msg=str(error))
    shown = [json.dumps(state, indent=1) + "\n" if state else "" for state in (there, stamp)]
    diff = {"before_header": str(venv), "after_header": str(venv), "before": shown[0], "after": shown[1]}
    module.exit_json(changed=different, testbed_changes=changes, diff=diff)


if __name__ == "__main__":
    main()
