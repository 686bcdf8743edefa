"""The version, from git: the builder of the wheel and `testbed version` in a checkout both ask here.

Only the standard library is imported, because the builder runs this file alone. No library for this: those that there
are take longer to import than `testbed version` takes.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

DISTRIBUTION = "clearml-testbed"
UNKNOWN = "0+unknown"
# counted from, until the first tag
FIRST = "0.1.0"
# `git archive` writes the commit here, and what `git describe` says of it (see .gitattributes)
ARCHIVED = "$Format:%H %(describe:tags=true,match=v[0-9]*,abbrev=40)$"
DESCRIBED = re.compile(
    r"v(?P<tag>\d+(?:\.\d+)*(?:(?:a|b|rc)\d+)?)(?:-(?P<commits>\d+)-g(?P<node>[0-9a-f]+))?(?P<dirty>-dirty)?$"
)


def current() -> str:
    """Return the version of the toolkit that runs: an installed one's from its metadata, a checkout's from git."""
    from provision.paths import INSTALLED

    if not INSTALLED:
        return find()
    import importlib.metadata

    return importlib.metadata.version(DISTRIBUTION)


def find(root: Path = Path(__file__).parent.parent) -> str:
    """Return the version (PEP 440) of the sources below `root`: a clone, an archive of git, or a source distribution.

    A commit after tag v1.2.3 has version 1.2.4.devN+gCOMMIT, with N commits since the tag; `.dirty` is added to what
    has changes of its own. N is 0 where it is not known, as in a shallow clone.
    """
    if (root / ".git").exists():  # a file in a work tree; a repository around ours is none of ours
        return _of_clone(root)
    node, _, described = ARCHIVED.partition(" ")
    if re.fullmatch(r"[0-9a-f]{40}", node):
        return _of_description(described) or _development(FIRST, 0, node)
    if (root / "PKG-INFO").exists():
        found = re.search(r"^Version: (\S+)$", (root / "PKG-INFO").read_text(encoding="utf-8"), re.MULTILINE)
        return found[1] if found else UNKNOWN
    return UNKNOWN


def _of_clone(root: Path) -> str:
    try:
        described = _git(root, "describe", "--tags", "--long", "--abbrev=40", "--match=v[0-9]*", "--dirty", "--always")
        if (version := _of_description(described)) is not None:
            return version
        node = _git(root, "rev-parse", "HEAD")
        shallow = _git(root, "rev-parse", "--is-shallow-repository") == "true"
        commits = 0 if shallow else int(_git(root, "rev-list", "--count", "HEAD"))
        return _development(FIRST, commits, node, dirty=described.endswith("-dirty"))
    except (OSError, subprocess.CalledProcessError):  # no git here, or no commit yet
        return UNKNOWN


def _git(root: Path, *arguments: str) -> str:
    # whoever runs `sudo ./testbed` works in another's checkout, which git would refuse
    command = ["git", "-c", f"safe.directory={root.resolve()}", "-C", str(root), *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # of a hook that calls us
        environment.pop(name, None)
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def _of_description(described: str) -> str | None:
    """Return the version that `git describe --tags --long` stands for; None where it names no tag of ours."""
    found = DESCRIBED.match(described)
    if found is None:
        return None
    tag, commits, node = found["tag"], int(found["commits"] or 0), found["node"]
    if not commits and not found["dirty"]:
        return tag
    following = re.sub(r"\d+$", lambda last: str(int(last[0]) + 1), tag)
    return _development(following, commits, node, dirty=bool(found["dirty"]))


def _development(release: str, commits: int, node: str, *, dirty: bool = False) -> str:
    return f"{release}.dev{commits}+g{node[:7]}{'.dirty' if dirty else ''}"
