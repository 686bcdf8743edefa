#!/usr/bin/python
"""Grows the disk that a folder lies on to its full size: partition, LVM's physical and logical volume, filesystem.

An image knows nothing of its flavor's disk, and cloud-init grows plain partitions only: a root on LVM, as in an image
that was made from a server, stays as small as it was.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testbed_record import name_process

DOCUMENTATION = r"""
module: testbed_grow
short_description: Grow the disk below a folder to its full size
description:
  - Grows the last partition of the way down to the disk, LVM's physical and logical volume on it, and the filesystem.
  - Whatever else is there (RAID, encryption, thin volumes, other filesystems, partitions behind) is left alone.
  - Each step is done once it is seen to be missing, so a killed run is completed by the next.
options:
  path: {type: path, default: /, description: A folder on the filesystem that is to grow}
author: [The testbed's authors (@clearml-testbed)]
"""

SECTOR = 512  # the kernel's unit in /sys, whatever the disk has
MIB = 2**20
# Less than this is none: alignment and the second header of a partition table leave some, and so do filesystems.
LEAST = 32 * MIB
GROWABLE = ("ext2", "ext3", "ext4", "xfs")
PLAIN_LAYOUTS = ("linear", "striped")


class GrowError(Exception):
    """A tool failed; its text is what the tool said."""


class Layer(NamedTuple):
    """A block device below the filesystem; `holds`: what blkid takes its content for."""

    name: str
    kind: str
    size: int
    holds: str


class Volume(NamedTuple):
    """A physical volume of LVM: bytes that it could have more, and its volume group's free bytes."""

    name: str
    room: int
    group_free: int


class Step(NamedTuple):
    """What is to be grown; `room`: bytes, as far as that is known before the steps before it are done."""

    what: str
    name: str
    room: int
    command: list

    @property
    def title(self) -> str:
        """What it is and its name."""
        return f"{self.what} {self.name}"


def parse_layers(text: str) -> list[Layer]:
    """Return lsblk's inverse tree from the bottom, the disk, to the top, each device once."""
    found: list[Layer] = []

    def walk(device: dict) -> None:
        for child in device.get("children", []):
            walk(child)
        layer = Layer(device["name"], device["type"], int(device["size"]), device["fstype"] or "")
        if layer not in found:
            found.append(layer)

    for device in json.loads(text)["blockdevices"]:
        walk(device)
    return found


def parse_volumes(text: str) -> list[Volume]:
    """Return the physical volumes of a report of pvs."""
    volumes = []
    for row in json.loads(text)["report"][0]["pv"]:
        extent = int(row["vg_extent_size"])
        more = int(row["dev_size"]) - int(row["pe_start"]) - int(row["pv_size"])
        free = int(row["vg_free_count"]) * extent
        volumes.append(Volume(row["pv_name"], more // extent * extent, free))
    return volumes


def parse_layout(text: str) -> str:
    """Return the layout of the logical volume in a report of lvs."""
    return json.loads(text)["report"][0]["lv"][0]["lv_layout"]


def parse_ext_size(text: str) -> int:
    """Return the bytes of the filesystem that dumpe2fs describes."""
    fields = dict(re.findall(r"^(Block (?:count|size)):\s+(\d+)$", text, re.MULTILINE))
    return int(fields["Block count"]) * int(fields["Block size"])


def parse_xfs_size(text: str) -> int:
    """Return the bytes of the filesystem that xfs_info describes."""
    size, blocks = re.findall(r"^data\s.*bsize=(\d+)\s+blocks=(\d+)", text, re.MULTILINE)[0]
    return int(size) * int(blocks)


def room_behind(start: int, size: int, starts: list[int], disk: int) -> int:
    """Return the bytes between a partition and what comes next, another one or the disk's end; all in sectors."""
    end = min([other for other in starts if other > start] + [disk])
    return max(0, end - start - size) * SECTOR


def why_not(layers: list[Layer], filesystem: str, layout: str) -> str:
    """Return why a stack is left alone; nothing where it can be grown."""
    if not layers:
        return "it is on no disk"
    odd = [f"{layer.name} ({layer.kind})" for layer in layers if layer.kind not in ("disk", "part", "lvm")]
    if odd:
        return "it is on " + ", ".join(odd)
    if layout and not {*layout.split(",")} <= {*PLAIN_LAYOUTS}:
        return f"its logical volume is {layout}"
    return "" if filesystem in GROWABLE else f"its filesystem is {filesystem}"


def plan(
    layers: list[Layer], rooms: dict[str, int], volumes: list[Volume], size: int, mount: str, done: frozenset
) -> list[Step]:
    """Return what is to be grown, from the disk up; what grows below lets grow what is above it.

    `rooms`: bytes behind each partition; `size`: the filesystem's bytes; `done`: what this run has grown.
    """
    steps = []
    top = layers[-1]
    for layer in layers:
        if rooms.get(layer.name, 0) >= LEAST:
            command = ["growpart", *split_partition(layer.name)]
            steps.append(Step("partition", layer.name, rooms[layer.name], command))
    grown = {step.name: step.room for step in steps}
    more = grown.get(top.name, 0)
    for volume in volumes:
        room = volume.room + grown.get(volume.name, 0)
        if room:
            steps.append(Step("physical volume", volume.name, room, ["pvresize", volume.name]))
        more += room
    if volumes:
        more += max(volume.group_free for volume in volumes)
        if more:
            steps.append(Step("logical volume", top.name, more, ["lvextend", "--extents", "+100%FREE", top.name]))
    more += max(0, top.size - size)
    if more >= LEAST:
        command = ["xfs_growfs", mount] if top.holds == "xfs" else ["resize2fs", top.name]
        steps.append(Step("filesystem", mount, more, command))
    return [step for step in steps if step.title not in done]


def split_partition(name: str) -> tuple[str, str]:
    """Return the disk and the number of a partition, by the kernel's rule for names."""
    found = re.match(r"(.*\d)p(\d+)$|(.*?)(\d+)$", name)
    if found is None:
        raise GrowError(f"{name} is no partition's name")
    return found.group(1) or found.group(3), found.group(2) or found.group(4)


def run(*command: str) -> str:
    """Run a tool and return what it printed. Raises GrowError."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise GrowError(f"{command[0]} is not installed here") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-500:]
        raise GrowError(f"{' '.join(command)}: {said or f'ended with code {done.returncode}'}")
    return done.stdout


def mounted(path: str) -> tuple[str, str, str]:
    """Return device, filesystem and mount point of what the path is on; no device where there is none of its own."""
    said = run("findmnt", "--json", "--output", "MAJ:MIN,FSTYPE,TARGET", "--target", path)
    mount = json.loads(said)["filesystems"][-1]
    device = Path("/sys/dev/block", mount["maj:min"])
    return f"/dev/{device.resolve().name}" if device.exists() else "", mount["fstype"], mount["target"]


def partition_room(name: str) -> int:
    """Return the bytes behind a partition, as the kernel sees its disk."""
    here = Path("/sys/class/block", Path(name).resolve().name).resolve()

    def number(folder: Path, file: str) -> int:
        return int((folder / file).read_text())

    others = [number(each.parent, "start") for each in here.parent.glob("*/partition")]
    room = room_behind(number(here, "start"), number(here, "size"), others, number(here.parent, "size"))
    if room >= LEAST and shutil.which("growpart") and not can_grow(name):
        return 0
    return room


def can_grow(name: str) -> bool:
    """Tell whether growpart would grow a partition: a table has limits of its own."""
    command = ["growpart", "--dry-run", *split_partition(name)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def look(path: str, done: frozenset) -> tuple[list[Step], str]:
    """Return the steps that are missing now, and why there are none where the stack is left alone. Raises GrowError."""
    device, filesystem, mount = mounted(path)
    layers, layout, volumes = [], "", []
    if device:
        columns = "NAME,TYPE,SIZE,FSTYPE"
        layers = parse_layers(run("lsblk", "--inverse", "--json", "--bytes", "--paths", "--output", columns, device))
    report = ("--reportformat", "json", "--units", "b", "--nosuffix", "--options")
    on_lvm = bool(layers) and layers[-1].kind == "lvm"
    if on_lvm:
        layout = parse_layout(run("lvs", *report, "lv_layout", layers[-1].name))
    reason = why_not(layers, filesystem, layout)
    if reason:
        return [], reason
    if on_lvm:
        fields = "pv_name,pv_size,dev_size,pe_start,vg_extent_size,vg_free_count"
        names = [layer.name for layer in layers if layer.holds == "LVM2_member"]
        volumes = parse_volumes(run("pvs", *report, fields, *names))
    rooms = {layer.name: partition_room(layer.name) for layer in layers if layer.kind == "part"}
    if filesystem == "xfs":
        size = parse_xfs_size(run("xfs_info", mount))
    else:
        size = parse_ext_size(run("dumpe2fs", "-h", layers[-1].name))
    return plan(layers, rooms, volumes, size, mount, done), ""


def grow(path: str) -> tuple[list[Step], str]:
    """Do one step after the other, looking anew before each; return all that has grown. Raises GrowError."""
    foretold, reason = look(path, frozenset())
    missing, done = foretold, {}
    while missing:
        run(*missing[0].command)
        done[missing[0].title] = missing[0]
        missing, reason = look(path, frozenset(done))
    titles = {step.title for step in foretold}
    # a tool may do the next one's work, as newer growparts do pvresize's
    return foretold + [step for title, step in done.items() if title not in titles], reason


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={"path": {"type": "path", "default": "/"}},
        supports_check_mode=True,
    )
    name_process("testbed-disk")
    path = module.params["path"]
    try:
        steps, reason = look(path, frozenset()) if module.check_mode else grow(path)
    except GrowError as error:
        module.fail_json(msg=f"{error}. Put that right, then run this again; it goes on from there")
    changes = [
        {
            "kind": "disk",
            "name": step.title,
            "action": "change",
            "detail": f"grows by {step.room / 2**30:.1f} GiB",
            "needs": ["package cloud-guest-utils"] if step.what == "partition" else [],
        }
        for step in steps
    ]
    after = "".join(f"{change['name']} {change['detail']}\n" for change in changes)
    growth = next((step.room for step in steps if step.what == "filesystem"), 0)
    module.exit_json(
        changed=bool(steps),
        testbed_changes=changes,
        growth_mb=growth // MIB,
        left_alone=reason,
        diff={"before": "", "after": after},
    )


if __name__ == "__main__":
    main()
