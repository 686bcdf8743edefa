"""What the disk below a folder lacks is read from lsblk, LVM's reports and the filesystem's own words."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROLES = Path(__file__).parents[3] / "roles"
MIB, GIB = 2**20, 2**30
SECTORS = GIB // 512


def load() -> ModuleType:
    name = "ansible.module_utils.testbed_record"
    for full, file in ((name, "module_utils/testbed_record.py"), ("testbed_grow", "library/testbed_grow.py")):
        spec = importlib.util.spec_from_file_location(full, ROLES / "common" / file)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(full, module)
        spec.loader.exec_module(module)
    return module


grow = load()
Layer, Volume = grow.Layer, grow.Volume


def lsblk(*devices):
    """The tree of lsblk --inverse, each device below the one before."""
    tree: list = []
    for name, kind, size, holds in reversed(devices):
        device = {"name": name, "type": kind, "size": size, "fstype": holds}
        tree = [device | ({"children": tree} if tree else {})]
    return json.dumps({"blockdevices": tree})


LV = ("/dev/mapper/vg-root", "lvm", 3 * GIB, "ext4")
PART = ("/dev/vda3", "part", 3 * GIB, "LVM2_member")
DISK = ("/dev/vda", "disk", 128 * GIB, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (lsblk(DISK), [Layer("/dev/vda", "disk", 128 * GIB, "")]),
        (lsblk(LV, PART, DISK), [Layer(*DISK[:3], ""), Layer(*PART), Layer(*LV)]),
        # util-linux before 2.33 writes sizes as text
        (lsblk(("/dev/vda1", "part", "1048576", "ext4")), [Layer("/dev/vda1", "part", 1048576, "ext4")]),
        # a volume group on two partitions of a disk
        (
            json.dumps(
                {
                    "blockdevices": [
                        {
                            "name": "lv", "type": "lvm", "size": 1, "fstype": "xfs",
                            "children": [
                                {"name": "p1", "type": "part", "size": 2, "fstype": "LVM2_member",
                                 "children": [{"name": "d", "type": "disk", "size": 3, "fstype": None}]},
                                {"name": "p2", "type": "part", "size": 4, "fstype": "LVM2_member",
                                 "children": [{"name": "d", "type": "disk", "size": 3, "fstype": None}]},
                            ],
                        }
                    ]
                }
            ),
            [
                Layer("d", "disk", 3, ""),
                Layer("p1", "part", 2, "LVM2_member"),
                Layer("p2", "part", 4, "LVM2_member"),
                Layer("lv", "lvm", 1, "xfs"),
            ],
        ),
    ],
)  # fmt: skip
def test_layers_are_told_from_the_disk_up(text, expected):
    assert grow.parse_layers(text) == expected


def pvs(dev_size, pv_size, free=0, pe_start=MIB, extent=4 * MIB):
    row = {"pv_name": "/dev/vda3", "pv_size": str(pv_size), "dev_size": str(dev_size), "pe_start": str(pe_start)}
    row |= {"vg_extent_size": str(extent), "vg_free_count": str(free)}
    return json.dumps({"report": [{"pv": [row]}]})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (pvs(3 * GIB, 3 * GIB - 4 * MIB), Volume("/dev/vda3", 0, 0)),  # less than an extent is left
        (pvs(128 * GIB, 3 * GIB - 4 * MIB), Volume("/dev/vda3", 125 * GIB, 0)),
        (pvs(3 * GIB, 3 * GIB - 4 * MIB, free=10), Volume("/dev/vda3", 0, 40 * MIB)),
        (pvs(3 * GIB, 3 * GIB - 4 * MIB, free=10, extent=64 * MIB), Volume("/dev/vda3", 0, 640 * MIB)),
    ],
)
def test_a_physical_volume_has_room_for_whole_extents(text, expected):
    assert grow.parse_volumes(text) == [expected]


def test_the_layout_of_a_logical_volume():
    assert grow.parse_layout('{"report": [{"lv": [{"lv_layout": "thin,sparse"}]}]}') == "thin,sparse"


def test_the_size_of_an_ext_filesystem():
    said = "Filesystem volume name:   root\nReserved block count:     20480\nBlock count:              409600\n"
    assert grow.parse_ext_size(f"{said}Free blocks:              80\nBlock size:               4096\n") == 409600 * 4096


def test_the_size_of_an_xfs():
    said = (
        "meta-data=/dev/mapper/vg-root    isize=512    agcount=4, agsize=25344 blks\n"
        "         =                       sectsz=512   attr=2, projid32bit=1\n"
        "data     =                       bsize=4096   blocks=101376, imaxpct=25\n"
        "log      =internal log           bsize=4096   blocks=1368, version=2\n"
    )
    assert grow.parse_xfs_size(said) == 101376 * 4096


@pytest.mark.parametrize(
    ("start", "size", "starts", "expected"),
    [
        (2048, 3 * SECTORS, [2048], 128 * GIB - 3 * GIB - MIB),
        (2048, 128 * SECTORS - 2048 - 33, [2048], 33 * 512),  # the table's second header
        (2048, SECTORS, [2048, 2048 + SECTORS], 0),  # another partition is next to it
        (
            2048 + SECTORS,
            SECTORS,
            [2048, 2048 + SECTORS],
            128 * GIB - 2 * GIB - MIB,
        ),  # one before is none of its business
        (2048, SECTORS, [2048, 2048 + 5 * SECTORS], 4 * GIB),
    ],
)
def test_a_partition_has_room_up_to_the_next_one_or_the_disks_end(start, size, starts, expected):
    assert grow.room_behind(start, size, starts, 128 * SECTORS) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/dev/vda1", ("/dev/vda", "1")),
        ("/dev/sdb12", ("/dev/sdb", "12")),
        ("/dev/nvme0n1p3", ("/dev/nvme0n1", "3")),
        ("/dev/mmcblk0p2", ("/dev/mmcblk0", "2")),
    ],
)
def test_a_partition_is_a_number_on_a_disk(name, expected):
    assert grow.split_partition(name) == expected


@pytest.mark.parametrize(
    ("layers", "filesystem", "layout", "expected"),
    [
        ([Layer(*DISK)], "ext4", "", ""),
        ([Layer(*DISK), Layer(*PART), Layer(*LV)], "xfs", "linear", ""),
        ([], "overlay", "", "it is on no disk"),
        ([Layer(*DISK), Layer("/dev/md0", "raid1", 1, "")], "ext4", "", "it is on /dev/md0 (raid1)"),
        ([Layer(*DISK), Layer("/dev/mapper/x", "crypt", 1, "")], "ext4", "", "it is on /dev/mapper/x (crypt)"),
        ([Layer(*DISK), Layer(*LV)], "ext4", "thin,sparse", "its logical volume is thin,sparse"),
        ([Layer(*DISK)], "btrfs", "", "its filesystem is btrfs"),
    ],
)
def test_what_we_do_not_know_is_left_alone(layers, filesystem, layout, expected):
    assert grow.why_not(layers, filesystem, layout) == expected


ON_LVM = [Layer("/dev/vda", "disk", 128 * GIB, ""), Layer(*PART), Layer(*LV)]
PLAIN = [Layer("/dev/vda", "disk", 128 * GIB, ""), Layer("/dev/vda1", "part", 3 * GIB, "ext4")]
WHOLE = [Layer("/dev/vda", "disk", 128 * GIB, "xfs")]


def titles(*arguments, done=()):
    return [step.title for step in grow.plan(*arguments, frozenset(done))]


PARTITION, PV, LOGICAL = "partition /dev/vda3", "physical volume /dev/vda3", "logical volume /dev/mapper/vg-root"


@pytest.mark.parametrize(
    ("layers", "rooms", "volumes", "size", "expected"),
    [
        (PLAIN, {"/dev/vda1": 125 * GIB}, [], 3 * GIB, ["partition /dev/vda1", "filesystem /"]),
        (PLAIN, {"/dev/vda1": 0}, [], 3 * GIB, []),
        (PLAIN, {"/dev/vda1": 31 * MIB}, [], 3 * GIB - 10 * MIB, []),  # what tables and filesystems leave anyway
        (PLAIN, {"/dev/vda1": 0}, [], 1 * GIB, ["filesystem /"]),  # killed in between
        (WHOLE, {}, [], 3 * GIB, ["filesystem /"]),
        (ON_LVM, {"/dev/vda3": 0}, [Volume("/dev/vda3", 0, 0)], 3 * GIB, []),
        (
            ON_LVM,
            {"/dev/vda3": 125 * GIB},
            [Volume("/dev/vda3", 0, 0)],
            3 * GIB,
            [PARTITION, PV, LOGICAL, "filesystem /"],
        ),
        (ON_LVM, {}, [Volume("/dev/vda3", 125 * GIB, 0)], 3 * GIB, [PV, LOGICAL, "filesystem /"]),
        (ON_LVM, {}, [Volume("/dev/vda3", 0, 125 * GIB)], 3 * GIB, [LOGICAL, "filesystem /"]),
        (ON_LVM, {}, [Volume("/dev/vda3", 0, 0)], 1 * GIB, ["filesystem /"]),
    ],
)
def test_each_layer_grows_into_what_is_free_below_it(layers, rooms, volumes, size, expected):
    assert titles(layers, rooms, volumes, size, "/") == expected


def test_the_sizes_add_up():
    steps = grow.plan(ON_LVM, {"/dev/vda3": 100 * GIB}, [Volume("/dev/vda3", 0, 4 * GIB)], 3 * GIB, "/", frozenset())
    assert [step.room // GIB for step in steps] == [100, 100, 104, 104]


def test_a_step_comes_once_in_a_run():
    room = {"/dev/vda1": 125 * GIB}
    assert titles(PLAIN, room, [], 3 * GIB, "/", done=["partition /dev/vda1"]) == ["filesystem /"]


@pytest.mark.parametrize(("holds", "expected"), [("ext4", "resize2fs"), ("xfs", "xfs_growfs")])
def test_a_filesystem_grows_by_its_own_tool(holds, expected):
    [step] = grow.plan([Layer("/dev/vda", "disk", 9 * GIB, holds)], {}, [], GIB, "/srv", frozenset())
    assert step.command == [expected, "/srv" if holds == "xfs" else "/dev/vda"]
