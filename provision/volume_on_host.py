"""Archives, unpacks and compares the data of a server on this machine. Runs on hosts, as root: Python 3.8, no library.

The argument is a JSON object; `action` is one of these. What happens is told on stderr, a JSON object a line.

archive   stops the server, writes its folder to stdout as a tar archive, and starts it again, also when it is stopped
          by a signal or nobody reads on. First it tells how much there is, and awaits a line on stdin. It gives up
          when a store had to be killed to stop, or nothing was taken for `patience_s` seconds.
unpack    makes the folder `PATH.restored-ID` of an archive on stdin, checked against the checksums in it.
compare   compares files below the folder with checksums on stdin; `under`: only those below this one.

The last entry of an archive is `SHA256SUMS`, with a line for each file, as sha256sum writes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

TOP = "data"  # the folder, in the archive
SUMS = "SHA256SUMS"
CHUNK = 1 << 20
# beside what is in it, so much of a filesystem stays free
SPARE_BYTES = 200 << 20
SUPERVISOR_CONF = "/etc/supervisor/supervisord.conf"
STORES = ("redis", "mongo", "elasticsearch")
KILLED = 137  # the exit code of a container that was ended by SIGKILL, as who does not stop in time is
# who ends what a killed command left does not interrupt a process of this name (see leftovers_on_host)
MUST_END = "testbed-server"


class VolumeError(Exception):
    """It cannot be done; the text says why."""


class Stopped(BaseException):
    """A signal came."""


def tell(**event: Any) -> None:
    """Say what happened, to whoever still reads."""
    with contextlib.suppress(OSError):
        print(json.dumps(event), file=sys.stderr, flush=True)


def line_of(digest: str, name: str) -> bytes:
    """Return a line of checksums as sha256sum writes it, for a name with a line break or backslash, too."""
    plain = name.replace("\\", "\\\\").replace("\n", "\\n")
    return os.fsencode("{}{}  {}\n".format("\\" if plain != name else "", digest, plain))


def read_line(line: bytes) -> tuple[str, str]:
    """Return checksum and name of such a line. Raises ValueError."""
    text = os.fsdecode(line.rstrip(b"\n"))
    escaped = text.startswith("\\")
    digest, found, name = text[escaped:].partition("  ")
    if not found or len(digest) != 64:
        raise ValueError("no line of checksums")
    return digest, name.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\") if escaped else name


class Hashing:
    """A file that is read once, and hashed on the way."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read on."""
        data = self._stream.read(size)
        self.digest.update(data)
        return data


class Awaited:
    """A stream that is written to as long as somebody takes what is written. Raises VolumeError, and is deaf then."""

    def __init__(self, stream: IO[bytes], patience_s: int) -> None:
        self._stream, self._patience_s, self._left = stream, patience_s, False
        signal.signal(signal.SIGALRM, self._give_up)

    def _give_up(self, _number: int, _frame: Any) -> None:
        raise VolumeError(
            f"nobody took the data for {self._patience_s} s, as when the machine that asked for them sleeps or has "
            "lost its network. The backup was given up, and the server started again"
        )

    def write(self, data: bytes) -> int:
        """Write all of it."""
        if not self._left:
            self._watched(lambda: self._stream.write(data))
        return len(data)

    def flush(self) -> None:
        """Have all of it taken."""
        self._watched(self._stream.flush)

    def _watched(self, act: Callable[[], Any]) -> None:
        signal.alarm(self._patience_s)
        try:
            act()
        except BaseException:
            self._left = True  # tarfile writes what it holds as it is closed
            raise
        finally:
            signal.alarm(0)


def walk(folder: Path) -> Iterator[Path]:
    """Yield all paths below a folder, each folder before what is in it, in the same order always."""
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from walk(path)


def measure(folder: Path) -> tuple[int, int]:
    """Return how many bytes and files are below a folder."""
    size = files = 0
    for path in walk(folder):
        with contextlib.suppress(FileNotFoundError):  # the server still works
            found = path.lstat()
            if stat.S_ISREG(found.st_mode):
                size, files = size + found.st_size, files + 1
    return size, files


def write_archive(folder: Path, out: IO[bytes]) -> None:
    """Write the folder to `out`, in one pass, and the checksums of its files behind; memory does not grow with it."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar, tempfile.TemporaryFile() as sums:
        tar.add(folder, TOP, recursive=False)
        for path in walk(folder):
            inside = f"{TOP}/{path.relative_to(folder)}"
            entry = tar.gettarinfo(str(path), inside)
            if entry is None or not (entry.isreg() or entry.isdir() or entry.issym() or entry.islnk()):
                continue  # a socket or a pipe: whoever listens there makes it anew
            if entry.isreg() or entry.islnk():
                with path.open("rb") as file:
                    if entry.islnk():  # a second name of a file; it comes back as a file of its own
                        entry.type, entry.linkname = tarfile.REGTYPE, ""
                        entry.size = os.fstat(file.fileno()).st_size
                    hashing = Hashing(file)
                    tar.addfile(entry, hashing)
                sums.write(line_of(hashing.digest.hexdigest(), inside))
            else:
                tar.addfile(entry)
            forget(tar)
        entry = tarfile.TarInfo(SUMS)
        entry.size, entry.mode = sums.tell(), 0o600
        sums.seek(0)
        tar.addfile(entry, sums)


def forget(tar: tarfile.TarFile) -> None:
    """Let an archive not keep its entries in memory."""
    tar.members = []  # type: ignore[attr-defined]
    tar.inodes = {}  # type: ignore[attr-defined]


def manage(server: dict[str, Any], action: str) -> None:
    """Stop or start the server, by its service manager or by Compose. Raises VolumeError with their words."""
    if "compose" in server:
        command = ["docker", "compose", "--file", server["compose"], action]
    elif Path("/run/systemd/system").is_dir():
        command = ["systemctl", action, server["service"]]
    else:
        command = ["supervisorctl", "--configuration", SUPERVISOR_CONF, action, server["service"]]
    # a signal of the terminal's is for this process alone
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, check=False)
    said = (done.stdout + done.stderr).decode(errors="replace").strip()
    if done.returncode != 0 and "already started" not in said and "not running" not in said:
        raise VolumeError(f"{' '.join(command)}: {said[-1000:]}")


def refuse_killed(server: dict[str, Any]) -> None:
    """Raise VolumeError where a store was killed as it stopped, for then its data are not as it writes them."""
    if "compose" not in server:
        return
    compose = ["docker", "compose", "--file", server["compose"], "ps", "--all", "--quiet"]
    form = '{{index .Config.Labels "com.docker.compose.service"}} {{.State.ExitCode}}'
    states = said_by(["docker", "inspect", "--format", form, *said_by(compose).split()])
    ended = dict(line.rsplit(" ", 1) for line in states.splitlines())
    killed = [store for store in STORES if ended.get(store) == str(KILLED)]
    if killed:
        raise VolumeError(
            f"{' and '.join(killed)} did not stop in time or ran out of memory, and was killed: what it had not "
            "written is missing in its data. No backup was made, and the server was started again. See its log, and "
            "try when less is being written"
        )


def said_by(command: list[str]) -> str:
    """Return what a command prints. Raises VolumeError with its words where it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True, check=False)
    if done.returncode != 0:
        raise VolumeError(f"{' '.join(command[:3])}: {done.stderr.decode(errors='replace').strip()[-1000:]}")
    return done.stdout.decode()


def answers(url: str) -> bool:
    """Tell whether a server answers there, whatever it says but that it is broken."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500
    except OSError:
        return False


def start(server: dict[str, Any]) -> None:
    """Start the server and wait until it answers. Raises VolumeError."""
    manage(server, "start")
    deadline = time.monotonic() + server["wait_s"]
    while not answers(server["answers"]):
        if time.monotonic() > deadline:
            raise VolumeError(f"the server does not answer {server['wait_s']} s after its start: {server['answers']}")
        time.sleep(0.1)


def stop_at_signals() -> None:
    """Let a signal end what is being done, once."""

    def stopped(_number: int, _frame: Any) -> None:
        ignore_signals()
        raise Stopped

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stopped)


def ignore_signals() -> None:
    """Let nothing but SIGKILL interrupt what comes now."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def version(command: list[str]) -> list[str]:
    """Return the words with which the server tells its version. Raises VolumeError."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0 or not done.stdout.strip():
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise VolumeError(f"the server does not tell its version: {said or command[0]}")
    return done.stdout.decode().split()


def archive(asked: dict[str, Any]) -> None:
    """Archive the folder while the server is stopped. Raises VolumeError."""
    folder, server = Path(asked["path"]), asked["server"]
    if not folder.is_dir():
        raise VolumeError(f"{folder} is not there")
    found = version(asked["version"])
    size, files = measure(folder)
    tell(event="found", bytes=size, files=files, version=found)
    if not sys.stdin.readline():  # whoever asked has gone, or there is no room for it
        return
    stop_at_signals()
    began = time.monotonic()
    try:
        Path("/proc/self/comm").write_text(MUST_END)
        manage(server, "stop")
        refuse_killed(server)
        Path("/proc/self/comm").write_text("testbed-archive")
        out = Awaited(sys.stdout.buffer, asked["patience_s"])
        write_archive(folder, out)  # type: ignore[arg-type]
        out.flush()
    finally:
        ignore_signals()
        Path("/proc/self/comm").write_text(MUST_END)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what was written is all
        start(server)
        downtime = time.monotonic() - began
    tell(event="archived", downtime=downtime)


def is_mount_point(folder: Path, mounts: str) -> bool:
    """Tell whether something is mounted at a folder, from the text of mountinfo; also where it is of the same disk."""
    there = str(folder.parent.resolve() / folder.name)
    escaped = "".join(f"\\{ord(letter):03o}" if letter in " \t\n\\" else letter for letter in there)
    return any(line.split(" ")[4] == escaped for line in mounts.split("\n") if line)


def unpack(asked: dict[str, Any]) -> None:
    """Unpack stdin beside the folder. Raises VolumeError."""
    folder = Path(asked["path"])
    if is_mount_point(folder, Path("/proc/self/mountinfo").read_text(errors="surrogateescape")):
        raise VolumeError(
            f"{folder} is a mount point, so no other folder can take its place. Nothing was changed. Mount its disk "
            f"at {folder.parent} instead, with the data in {folder.name} there, then restore again"
        )
    beside, ready = (folder.with_name(f"{folder.name}.{what}-{asked['id']}") for what in ("restoring", "restored"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    room = os.statvfs(folder.parent)
    if room.f_bavail * room.f_frsize < asked["bytes"] + SPARE_BYTES:
        free, needed = room.f_bavail * room.f_frsize >> 20, (asked["bytes"] + SPARE_BYTES) >> 20
        raise VolumeError(f"{folder.parent} has {free} MiB free, and {needed} are needed beside the data of now")
    for old in (beside, ready):
        shutil.rmtree(old, ignore_errors=True)
    beside.mkdir(mode=0o700)
    tell(event="ready")
    stop_at_signals()
    try:
        count = read_archive(sys.stdin.buffer, beside)
        (beside / TOP).rename(ready)
        sync(folder.parent)
    finally:
        ignore_signals()
        shutil.rmtree(beside, ignore_errors=True)
    tell(event="unpacked", files=count)


def sync(folder: Path) -> None:
    """Have all on disk before anybody is told that it is."""
    os.sync()
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def read_archive(stream: IO[bytes], target: Path) -> int:
    """Unpack an archive into `target`, then read its files back; return how many. Raises VolumeError."""
    with tempfile.TemporaryFile(dir=str(target)) as sums:
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                tar.extraction_filter = lambda member, _path: member  # it was judged before
                for entry in tar:
                    if entry.name == SUMS:
                        shutil.copyfileobj(tar.extractfile(entry), sums)  # type: ignore[arg-type]
                    else:
                        refuse_strange(entry, target)
                        tar.extract(entry, str(target), numeric_owner=True)
                    forget(tar)
        except (tarfile.TarError, EOFError) as error:
            raise VolumeError(f"the archive is cut off or damaged: {error}") from None
        while stream.read(CHUNK):  # its padding
            pass
        if not sums.tell():
            raise VolumeError("the archive is cut off: its checksums are missing")
        sums.seek(0)
        count, wrong = compare_files(sums, target, "")
    if wrong:
        raise VolumeError(f"{len(wrong)} files differ from the archive, such as {wrong[0]}: is the disk broken?")
    return count


def refuse_strange(entry: tarfile.TarInfo, target: Path) -> None:
    """Raise VolumeError for what no archive of ours has: it could write elsewhere."""
    parts = entry.name.split("/")
    ours = entry.isreg() or entry.isdir() or entry.issym()
    above = target.joinpath(*parts[:-1])
    if (
        not ours
        or parts[0] != TOP
        or ".." in parts
        or os.path.realpath(above) != os.path.realpath(target) + "".join(f"/{part}" for part in parts[:-1])
    ):
        raise VolumeError(f"the archive holds what no backup has: {entry.name}")


def compare_files(sums: IO[bytes], top: Path, under: str) -> tuple[int, list[str]]:
    """Return how many files were compared with their checksums, and the names of the first that differ."""
    count, wrong = 0, []
    for line in sums:
        digest, name = read_line(line)
        if under and not name.startswith(f"{under}/"):
            continue
        count += 1
        found = hashlib.sha256()
        try:
            with (top / name).open("rb") as file:
                for chunk in iter(lambda: file.read(CHUNK), b""):
                    found.update(chunk)
        except OSError:
            wrong.append(name)
            continue
        if found.hexdigest() != digest:
            wrong.append(name)
    return count, wrong


def compare(asked: dict[str, Any]) -> None:
    """Compare what is in place now with checksums on stdin; names in these begin with TOP."""
    folder = Path(asked["path"])
    with tempfile.TemporaryDirectory() as here:
        (Path(here) / TOP).symlink_to(folder)
        under = "/".join([TOP, asked["under"]]) if asked["under"] else ""
        count, wrong = compare_files(sys.stdin.buffer, Path(here), under)
    tell(event="compared", files=count, differ=wrong[:5], differing=len(wrong))


def main(asked: dict[str, Any]) -> int:
    """Do what was asked; tell what went wrong."""
    try:
        {"archive": archive, "unpack": unpack, "compare": compare}[asked["action"]](asked)
    except (VolumeError, OSError) as error:
        tell(event="failed", message=str(error))
        return 1
    except Stopped:
        return 1
    return 0


if __name__ == "__main__":
    os._exit(main(json.loads(sys.argv[1])))  # what nobody read stays unwritten
