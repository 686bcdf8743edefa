"""Every command block of README and docs runs, in the setting that the comment above it names:

    <!-- run: SETTING -->          or  <!-- run: SETTING, long -->, for the lab tier
    <!-- not run: REASON -->       for `./testbed test` and the README's `./testbed up --yes` alone, which CI runs

| setting | the reader is |
| --- | --- |
| anywhere | in a folder with `./testbed` in it; no testbed is needed |
| checkout | in a clean checkout; what is generated or locked must come out as it is there |
| administrator | root where the built-in testbed is up, with `./testbed` in the folder; says yes to questions |
| removes | the same, and takes the testbed down; it is brought up again afterwards |
| user | the testbed's first user, in the home; `user as FILE`: saves the block there |
| root | root, typing line by line: `su - researcher`, then as that user |
| cloud | an administrator with a cloud (tests/lab/openstack/test_docs.py); `until SSH`: stopped there |

Blocks of one page and one setting run in their order, in the same place, as a reader would. Every `yaml` block is a
part of testbed.yaml and must be valid. A `text` block is no command.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pexpect
import pytest
import yaml

from provision import spec
from provision.paths import ROOT, backups_dir
from provision.selftest import built_in_is_up

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(?:<!-- ([^\n]*) -->\n)?^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NO_COMMANDS = {"text", "yaml"}
MARKERS = {
    "anywhere": [],
    "checkout": [],
    "administrator": ["deployed"],
    "removes": ["removes"],
    "user": ["deployed"],
    "root": ["deployed"],
}
CLOUD = ("cloud", "cloud, until SSH")
LONGEST_S = 1800
ANSWERS = {r"\[y/N\]:": "y", "(Passphrase of the file|Repeat for confirmation):": "five words that nobody uses"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    comment: str
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def setting(self) -> str:
        """The whole of what follows `run: `, without the file to save as."""
        return self.comment.removeprefix("run: ").partition(" as ")[0]


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text[: found.start()].count("\n") + 1, found[1] or "", found[2], found[3])
        for found in BLOCK.finditer(text)
    ]


ALL = [block for page in PAGES for block in blocks(page)]
COMMANDS = [block for block in ALL if block.language not in NO_COMMANDS]


def groups():
    """Yield a test for each page and setting."""
    runs = [block for block in COMMANDS if block.comment.startswith("run: ") and block.setting not in CLOUD]
    for (page, setting), found in groupby(
        sorted(runs, key=lambda b: (str(b.page), b.setting)), lambda b: (b.page, b.setting)
    ):
        name, _, long = setting.partition(", ")
        marks = [getattr(pytest.mark, marker) for marker in MARKERS.get(name, []) + ([long] if long else [])]
        yield pytest.param(list(found), id=f"{page.relative_to(ROOT)}, {name}", marks=marks)


@pytest.mark.parametrize("block", COMMANDS, ids=lambda block: block.where)
def test_a_command_block_says_where_it_runs(block):
    assert block.language in ("bash", "python"), "name the language: bash or python, else text (output) or yaml"
    if block.comment.startswith("not run: "):
        # a test cannot run the tests that it belongs to: these alone are left to CI, which reads them off the README
        commands = [line.partition("#")[0].strip() for line in block.text.splitlines()]
        assert all(re.match(r"\./testbed (test\b|up --yes$)", command) for command in filter(None, commands))
        return
    assert block.comment.startswith("run: "), f"put `<!-- run: SETTING -->` above it; see {Path(__file__).name}"
    if block.setting in CLOUD:
        return
    name, _, long = block.setting.partition(", ")
    assert name in MARKERS
    assert long in ("", "long")


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "yaml"], ids=lambda block: block.where)
def test_a_yaml_block_is_a_part_of_a_testbed(block):
    whole = {**yaml.safe_load(spec.EXAMPLE.read_text()), **yaml.safe_load(block.text)}
    assert spec.parse(yaml.safe_dump(whole), block.where)


@pytest.fixture
def without_backups():
    """Backups that the commands of a page make go with the test."""
    folder = backups_dir(spec.load(spec.EXAMPLE).name)
    before = {*folder.glob("*")}
    yield
    for path in {*folder.glob("*")} - before:
        shutil.rmtree(path)


@pytest.mark.usefixtures("without_backups")
@pytest.mark.parametrize("found", list(groups()))
def test_commands_run_as_written(found, tmp_path, request):
    name = found[0].setting.partition(", ")[0]
    if name == "removes":
        request.addfinalizer(lambda: up(tmp_path))
        if not built_in_is_up():
            up(tmp_path)
    if name == "checkout":
        copy_checkout(tmp_path)
    elif name in ("anywhere", "administrator", "removes"):
        (tmp_path / "testbed").symlink_to(ROOT / "testbed")
    for block in found:
        run = {"user": as_user, "root": as_root}.get(name, as_administrator)
        code, output = run(block, tmp_path)
        assert code == 0, f"{block.where}: exit code {code}\n{block.text}\n{output[-4000:]}"
    if name == "checkout":
        changed = subprocess.run(
            ["git", "diff", "--exit-code", "--ignore-matching-lines=^ *--hash"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert changed.returncode == 0, f"the commands of {found[0].where} are due:\n{changed.stdout[:4000]}"


def as_administrator(block: Block, folder: Path) -> tuple[int | None, str]:
    """Run a block on a terminal and answer yes."""
    script = folder.parent / f"{folder.name}.block"
    script.write_text(block.text)
    terminal = pexpect.spawn(
        "bash", ["-eu", str(script)], cwd=str(folder), encoding="utf-8", timeout=LONGEST_S, dimensions=(50, 200)
    )
    shown = ""
    while (asked := terminal.expect([pexpect.EOF, *ANSWERS])) > 0:
        shown += terminal.before
        terminal.sendline([*ANSWERS.values()][asked - 1])
    terminal.close()
    return terminal.exitstatus, shown + (terminal.before or "")


def as_user(block: Block, folder: Path) -> tuple[int, str]:
    """Run a block as the testbed's first user; save it where it says so."""
    user = spec.load(spec.EXAMPLE).users[0].name
    _, _, file = block.comment.partition(" as ")
    if file:
        path = Path(f"~{user}").expanduser() / file
        path.write_text(block.text)
        shutil.chown(path, user)
        path.chmod(0o644)
        return 0, ""
    return typed(["su", "-", user], f"set -e\n{block.text}")


def as_root(block: Block, folder: Path) -> tuple[int, str]:
    """Type a block at root's prompt: after `su - USER` the rest is that user's."""
    return typed(["bash"], "set -e\n" + re.sub(r"^(su - .*)$", r"\1\nset -e", block.text, flags=re.MULTILINE))


def typed(shell: list[str], lines: str) -> tuple[int, str]:
    done = subprocess.run(
        shell,
        input=lines.encode(),  # through a pipe, a shell takes no more than it needs, and a shell below it the rest
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LONGEST_S,
        check=False,
    )
    return done.returncode, done.stdout.decode(errors="replace")


def up(folder: Path) -> None:
    subprocess.run([str(ROOT / "testbed"), "up", "--yes", "--spec", str(spec.EXAMPLE)], cwd=folder, check=True)


def copy_checkout(folder: Path) -> None:
    """Put the files of this checkout, as they are now, into a repository of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=folder, check=True, env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull})
