"""What is mounted, and how a folder goes that is a mount point or has one in it: its contents go, the folder stays."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOUNTS = Path("/proc/self/mountinfo")
FILESYSTEMS_OWN = "lost+found"


class Mount(NamedTuple):
    """What is mounted; `root`: which folder of the device's filesystem."""

    point: str
    device: str
    root: str


def parse_mounts(text: str) -> list[Mount]:
    """Return what is mounted, from /proc/self/mountinfo; what comes later covers up what was before."""
    found = []
    for line in filter(None, text.split("\n")):
        _, _, device, root, point = line.split(" ")[:5]
        found.append(Mount(plain(point), device, plain(root)))
    return found


def read_mounts() -> list[Mount]:
    """Return what is mounted now."""
    return parse_mounts(MOUNTS.read_text(errors="surrogateescape"))


def plain(name: str) -> str:
    """Return a name as it is; the kernel writes a space, a tab, a line break and a backslash as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), name)


def mount_points(path: Path) -> set[Path]:
    """Return the mount points that a path is or has in it, by the names that they have below `path`."""
    there = path.parent.resolve() / path.name
    points = {Path(mount.point) for mount in read_mounts()}
    return {path / point.relative_to(there) for point in points if there in (point, *point.parents)}


def content(folder: Path) -> list[Path]:
    """Return what is in a folder, such as the root of a disk of its own."""
    return [path for path in folder.iterdir() if path.name != FILESYSTEMS_OWN]


def take_away(path: Path, *, check: bool, empty_mounted: bool = True) -> list[dict]:
    """Remove a file, or a folder with all that is in it, unless `check`; return that as changes.

    What is mounted stays mounted: of a mount point the contents go (unless not `empty_mounted`), and it stays with the
    folders that lead to it.
    """
    if not os.path.lexists(path):
        return []
    points = mount_points(path)
    gone = list(_going(path, points, empty_mounted))
    for each in [] if check else gone:
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()
    if not points:
        return [{"kind": "folder", "name": str(path), "action": "remove"}]
    mounted = ", ".join(map(str, sorted(points)))
    detail = f"emptied, {mounted} is mounted" if empty_mounted else f"emptied but for {mounted}, which is mounted"
    return [{"kind": "folder", "name": str(path), "action": "change", "detail": detail}] if gone else []


def cannot_go(error: OSError) -> str:
    """Return what to tell of a file or folder that could not be removed."""
    return f"{error.filename}: {error.strerror}: unmount it, then run down again"


def _going(path: Path, points: set[Path], empty_mounted: bool) -> Iterator[Path]:
    """Yield what can be removed as a whole; `points`: the mount points that the path is or has in it."""
    if not points:
        yield path
    elif path in points and not empty_mounted:
        return
    elif path.is_dir() and not path.is_symlink():
        for each in content(path) if path in points else path.iterdir():
            below = {point for point in points if each in (point, *point.parents)}
            yield from _going(each, below, empty_mounted)
