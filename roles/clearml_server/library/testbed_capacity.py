#!/usr/bin/python
"""Tells what a host has that the official server's containers need: memory, processors, AVX, limits, images, room."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import subprocess
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: testbed_capacity
short_description: Tell what a host has for the official server
options:
  nofile: {type: int, default: 65536, description: Open files that a container wants}
  paths: {type: list, elements: str, default: [], description: Folders whose free space is told}
  sizes: {type: list, elements: str, default: [], description: Folders whose size is told}
  images: {type: list, elements: str, default: [], description: 'Images of which those that are not here are told'}
author: [The testbed's authors (@clearml-testbed)]
"""

SETTINGS = Path("/etc/docker/daemon.json")
IMAGES = "/var/lib/docker"  # the Docker Engine's own choice
CAP_SYS_RESOURCE = 24  # capabilities(7): who has it may raise limits


def memory_mb() -> int:
    """Return the machine's memory in MiB."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    return int(line.split()[1]) // 1024


def has_avx(cpuinfo: str, machine: str) -> bool:
    """Tell whether the processor has AVX, or is of a kind that knows none of it."""
    if machine not in ("x86_64", "i686"):
        return True
    flags = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith("flags")]
    return bool(flags) and all("avx" in words for words in flags)


def may_raise_limits(status: str) -> bool:
    """Tell from /proc/self/status whether root here may give a container higher limits than it has itself."""
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> CAP_SYS_RESOURCE & 1)


def limits(nofile: int, may_raise: bool, hard_nofile: int, hard_memlock: int) -> dict:
    """Return the limits that containers can get: open files, and whether they may lock memory without end."""
    endless = resource.RLIM_INFINITY
    files = nofile if may_raise or hard_nofile in (endless, -1) else min(nofile, hard_nofile)
    return {"nofile": files, "memlock": may_raise or hard_memlock in (endless, -1)}


def free_mb(path: Path) -> int:
    """Return the free space in MiB below the path, or below its nearest parent that exists."""
    while not path.exists():
        path = path.parent
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize // 2**20


def size_mb(path: Path) -> int:
    """Return what the files below the path take, in MiB; what a running server removes meanwhile counts for nothing."""
    total = 0
    for above, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                total += Path(above, name).lstat().st_blocks * 512
    return total // 2**20


def docker(*arguments: str) -> str:
    """Return what a docker command printed; nothing where it failed, or there is none."""
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    except (FileNotFoundError, PermissionError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def images_folder(running: str) -> str:
    """Return where the Docker Engine keeps images, or will: as it says itself if it runs, or as its settings say."""
    if running:
        return running
    try:
        return str(json.loads(SETTINGS.read_text())["data-root"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return IMAGES


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "nofile": {"type": "int", "default": 65536},
            "paths": {"type": "list", "elements": "str", "default": []},
            "sizes": {"type": "list", "elements": "str", "default": []},
            "images": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    nofile, memlock = (resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_MEMLOCK))
    may_raise = may_raise_limits(Path("/proc/self/status").read_text())
    running = docker("info", "--format", "{{.DockerRootDir}}")
    folder = images_folder(running)
    module.exit_json(
        changed=False,
        engine_answers=bool(running),
        images_folder=folder,
        images_missing=[image for image in module.params["images"] if not docker("image", "inspect", image)],
        memory_mb=memory_mb(),
        cpus=os.cpu_count() or 1,
        avx=has_avx(Path("/proc/cpuinfo").read_text(), platform.machine()),
        limits=limits(module.params["nofile"], may_raise, nofile, memlock),
        free_mb={path: free_mb(Path(path)) for path in [folder, *module.params["paths"]]},
        size_mb={path: size_mb(Path(path)) for path in module.params["sizes"]},
    )


if __name__ == "__main__":
    main()
