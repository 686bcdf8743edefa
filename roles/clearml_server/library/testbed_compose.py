#!/usr/bin/python
"""Keeps a Compose project up with the definition that is wanted now, by health, gets its images, and takes it away.

Every service carries a digest as a label (see the filter clearml_digests), so what runs is compared with what is
wanted, and a run that was killed between change and start is made good.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_record import load, save

DOCUMENTATION = r"""
module: testbed_compose
short_description: Keep a Compose project up, or take it away
options:
  project: {type: str, required: true, description: Name of the Compose project}
  file: {type: str, required: true, description: Its Compose file}
  services: {type: dict, default: {}, description: 'By service, the digest that its container carries as a label'}
  images: {type: list, elements: str, default: [], description: 'Its images, which purge removes again'}
  config: {type: str, default: "", description: 'Folder of the config.json for docker, if not the user''s'}
  needs: {type: list, elements: str, default: [], description: 'What must be there first, as `kind name`'}
  state:
    type: str
    choices: [present, absent, fetched, trimmed]
    default: present
    description:
      - C(present) is up by health, C(absent) gone.
      - C(fetched) gets the images that are not here yet, and starts nothing.
      - C(trimmed) removes images that came with the project and are none of C(images); what a container uses stays
  timeout: {type: int, default: 600, description: Seconds to wait until every service is healthy}
  purge: {type: bool, default: false, description: 'With absent: its images go, too'}
author: [The testbed's authors (@clearml-testbed)]
"""

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
DIGEST = "testbed.digest"
LAST_LINES = 20


class ComposeError(Exception):
    """Docker refused, or a service is not healthy; the text says which and why."""


class NoDockerError(ComposeError):
    """There is no docker command."""


def docker(*arguments: str) -> str:
    """Run a docker command and return what it printed. Raises ComposeError with its words."""
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NoDockerError("there is no docker command here") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-LAST_LINES:]
        raise ComposeError(f"docker {' '.join(arguments)}: " + "\n".join(said))
    return done.stdout


def containers(project: str) -> dict[str, dict]:
    """Return by service the project's containers as `docker inspect` tells them. Raises ComposeError."""
    names = docker("ps", "--all", "--quiet", "--filter", f"label={PROJECT}={project}").split()
    found = json.loads(docker("inspect", *names)) if names else []
    return {container["Config"]["Labels"][SERVICE]: container for container in found}


def health(container: dict) -> str:
    """Return a container's state in a word: `healthy`, `starting`, `unhealthy`, or why it does not run."""
    state = container["State"]
    if state["Status"] != "running":
        return f"{state['Status']} ({state['ExitCode']})" if state["Status"] == "exited" else state["Status"]
    return state.get("Health", {}).get("Status", "healthy")


def plan(wanted: dict[str, str], there: dict[str, dict]) -> dict[str, str]:
    """Return by service what `up` has to do: add, change, start, restart, or remove one that is wanted no more."""
    found = {}
    for service, digest in wanted.items():
        if service not in there:
            found[service] = "add"
        elif there[service]["Config"]["Labels"].get(DIGEST) != digest:
            found[service] = "restart"
        elif there[service]["State"]["Status"] != "running":
            found[service] = "start"
        elif health(there[service]) == "unhealthy":
            found[service] = "restart"
    return {**found, **dict.fromkeys(sorted({*there} - {*wanted}), "remove")}


def told(project: str, actions: dict[str, str], needs: list[str]) -> list[dict]:
    """Return the actions as changes; a container is told as a service."""
    return [
        {"kind": "service", "name": f"{project}-{service}", "action": action, "needs": needs}
        for service, action in actions.items()
    ]


def unwell(project: str, wanted: dict[str, str]) -> dict[str, str]:
    """Return the states of the services that are not healthy. Raises ComposeError."""
    there = containers(project)
    states = {service: health(there[service]) if service in there else "not there" for service in wanted}
    return {service: state for service, state in states.items() if state != "healthy"}


def bring_up(module: AnsibleModule) -> None:
    """Start what does not run, and anew what runs otherwise than wanted, and wait until all of it is healthy."""
    given = module.params
    project, file, wanted = given["project"], given["file"], given["services"]
    try:
        there = containers(project)
    except ComposeError:
        if not module.check_mode:
            raise
        there = {}  # the engine is to come, too
    actions = plan(wanted, there)
    changes = told(project, actions, given["needs"])
    ill = {service: health(container) for service, container in there.items()}
    waits = any(state != "healthy" for state in ill.values())
    if module.check_mode or not (actions or waits):
        module.exit_json(changed=bool(actions), testbed_changes=changes)
    record_images(given["images"])
    compose = ["compose", "--project-name", project, "--file", file]
    restarted = [service for service in actions if actions[service] == "restart" and ill[service] == "unhealthy"]
    if restarted:
        docker(*compose, "rm", "--stop", "--force", *restarted)
    try:
        patience = ["--wait", "--wait-timeout", str(given["timeout"])]
        docker(*compose, "up", "--detach", "--quiet-pull", "--remove-orphans", *patience)
    except ComposeError as error:
        states = unwell(project, wanted)
        words = [f"{error}"]
        for service, state in states.items():
            words.append(f"{project}-{service} is {state}; the end of its log:\n{last_words(compose, service)}")
        raise ComposeError("\n".join(words)) from None
    module.exit_json(changed=bool(actions), testbed_changes=changes)


def is_here(image: str) -> bool:
    """Tell whether an image is on this host."""
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", image]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def fetch(module: AnsibleModule) -> None:
    """Get the images that are not here yet."""
    containers(module.params["project"])  # says so where no engine answers
    missing = [image for image in module.params["images"] if not is_here(image)]
    if not module.check_mode:
        record_images(missing)
        for image in missing:
            docker("pull", "--quiet", image)
    module.exit_json(changed=bool(missing), fetched=missing)


def trim(module: AnsibleModule) -> None:
    """Remove the images that came with the project and that it needs no longer."""
    record = load()
    former = [image for image in record.get("images", []) if image not in module.params["images"]]
    gone = [image for image in former if is_here(image)]
    if former and not module.check_mode:
        for image in gone:  # one that a container was made of is refused, and stays
            subprocess.run(["docker", "image", "rm", image], capture_output=True, check=False)
        stay = [image for image in gone if is_here(image)]
        gone = [image for image in gone if image not in stay]
        save({**record, "images": [image for image in record["images"] if image not in former or image in stay]})
    module.exit_json(changed=bool(gone), removed=gone)


def record_images(images: list[str]) -> None:
    """Write down, before they come, which images come with the project."""
    new = {image for image in images if not is_here(image)}
    record = load()
    if new - {*record.get("images", [])}:
        save({**record, "images": sorted(new | {*record.get("images", [])})})


def last_words(compose: list[str], service: str) -> str:
    """Return the end of a service's log."""
    try:
        return docker(*compose, "logs", "--no-color", "--no-log-prefix", "--tail", str(LAST_LINES), service).strip()
    except ComposeError as error:
        return str(error)


def take_down(module: AnsibleModule) -> None:
    """Remove the project's containers and networks; with purge the images that it brought."""
    project, purge = module.params["project"], module.params["purge"]
    try:
        there = containers(project)
    except NoDockerError:
        there = {}
    except ComposeError as error:
        if Path(module.params["file"]).exists():
            raise ComposeError(f"{error}. Start the Docker Engine, then run this again") from None
        there = {}
    changes = told(project, dict.fromkeys(there, "remove"), [])
    record = load()
    images = record.get("images", []) if purge else []
    if not module.check_mode:
        if there:
            docker("compose", "--project-name", project, "down", "--remove-orphans")
        for image in images:
            subprocess.run(["docker", "image", "rm", image], capture_output=True, check=False)  # another may use it
        if images:
            record.pop("images")
            save(record)
    module.exit_json(changed=bool(changes or images), testbed_changes=changes)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "file": {"type": "str", "required": True},
            "services": {"type": "dict", "default": {}},
            "images": {"type": "list", "elements": "str", "default": []},
            "config": {"type": "str", "default": ""},
            "needs": {"type": "list", "elements": "str", "default": []},
            "state": {"type": "str", "choices": ["present", "absent", "fetched", "trimmed"], "default": "present"},
            "timeout": {"type": "int", "default": 600},
            "purge": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    os.chdir(Path("/"))
    if module.params["config"]:
        os.environ["DOCKER_CONFIG"] = module.params["config"]
    try:
        steps = {"present": bring_up, "absent": take_down, "fetched": fetch, "trimmed": trim}
        steps[module.params["state"]](module)
    except ComposeError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
