"""What the tests of a testbed that is up on this machine share. They need root, as `testbed up` does."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from provision import spec
from provision.clearml_api import ClearmlApi
from provision.credentials.ensure import parse_key
from provision.paths import HOST_MARKER, ROOT, state_dir
from provision.secrets import KeyPair, Secrets, Vault

pytestmark = pytest.mark.deployed


@pytest.fixture(scope="session")
def testbed() -> spec.Testbed:
    return spec.load(spec.EXAMPLE)


@pytest.fixture(scope="module")
def secrets(testbed) -> Secrets:
    """The secrets of now: a test may have replaced those of the module before."""
    found = Vault(testbed.name).load()
    assert found is not None, "no testbed is up on this machine; ./testbed up --yes"
    return found


@pytest.fixture
def api(testbed, secrets):
    with ClearmlApi(testbed.server.url("api"), secrets.toolkit) as api:
        yield api


@pytest.fixture
def enqueue(api, testbed):
    """A function that has a task sleep so long on the prepared queue; all that is left of them goes afterwards."""
    made = []
    queue = api.call("queues.get_all", name=f"^{testbed.agents.prepared_queue}$")["queues"][0]["id"]

    def enqueue(seconds: int) -> str:
        script = {"binary": "python", "entry_point": "sleep.py", "working_dir": ".", "repository": "", "branch": ""}
        script |= {"diff": f"import time\ntime.sleep({seconds})\n", "requirements": {"pip": ""}}
        task = api.call("tasks.create", name=f"sleep {seconds}", type="testing", script=script)["id"]
        made.append(task)
        api.call("tasks.enqueue", task=task, queue=queue)
        return task

    yield enqueue
    for task in made:
        api.call("tasks.stop", task=task, force=True)
        api.call("tasks.delete", task=task, force=True)


@pytest.fixture
def status_of(api):
    return lambda task: api.call("tasks.get_by_id", task=task)["task"]["status"]


@pytest.fixture(scope="session")
def eventually() -> Callable[..., object]:
    """Ask until there is an answer that is true; fail with what was awaited when `seconds` are over."""

    def wait(what: str, ask: Callable[[], object], seconds: float) -> object:
        end = time.monotonic() + seconds
        while not (found := ask()):
            assert time.monotonic() < end, f"{what}: not within {seconds} s"
            time.sleep(0.2)
        return found

    return wait


@pytest.fixture(scope="session")
def pid_of() -> Callable[[str], int]:
    """The process of a service, as its manager knows it; 0 where it does not run."""

    def ask(service: str) -> int:
        if Path("/run/systemd/system").is_dir():
            command = ["systemctl", "show", "--property=MainPID", "--value", service]
        else:
            command = ["supervisorctl", "pid", service]
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        return int(shown) if shown.isdigit() else 0

    return ask


@pytest.fixture(scope="session")
def keys_in_use(testbed) -> Callable[[], dict[str, KeyPair]]:
    """A function that reads every key that the testbed has issued and works with, by its holder."""

    def read() -> dict[str, KeyPair]:
        confs = {f"user {user.name}": Path(f"~{user.name}/clearml.conf").expanduser() for user in testbed.users}
        confs |= {f"agent {w.name}": Path(f"/etc/testbed/agent-{w.name}.conf") for w in testbed.agents.workers}
        confs |= {"inference": Path("/etc/testbed/inference.conf"), "watchdog": Path("/etc/testbed/watchdog.json")}
        found = {name: parse_key(path.read_text()) for name, path in confs.items()}
        assert all(found.values()), found.keys()
        return {**found, "toolkit": Vault(testbed.name).load().toolkit}

    return read


@pytest.fixture(scope="session")
def kill_when_taken(eventually, tmp_path_factory) -> Callable[..., None]:
    """A function that runs a command, and kills it when the server has new secrets and nobody else has."""

    def run(*arguments: str) -> None:
        before = json.loads(HOST_MARKER.read_text())["id"]
        command = [str(ROOT / "testbed"), *arguments, "--yes", "--spec", str(spec.EXAMPLE)]
        said = tmp_path_factory.mktemp("killed") / "said"
        with said.open("wb") as out:
            begun = psutil.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)

        def taken() -> bool:
            taken = json.loads(HOST_MARKER.read_text())["id"] != before
            assert taken or begun.poll() is None, said.read_text()
            return taken

        eventually("the testbed is taken", taken, 300)
        for process in [begun, *begun.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        begun.wait()

    return run


def _values(found: object) -> Iterator[str]:
    if isinstance(found, dict):
        for value in found.values():
            yield from _values(value)
    elif isinstance(found, str):
        yield found


@pytest.fixture(scope="session")
def find_secret_values(testbed) -> Callable[[], list[bytes]]:
    """A function that reads every secret of the deployment: the vault's, and the secret keys that only hosts hold."""

    def find() -> list[bytes]:
        secrets = Vault(testbed.name).load()
        certificates = {"authority", "certificate"}  # everybody may see them
        values = set(_values(secrets.model_dump(exclude={"id": True, "tls": certificates})))
        confs = [Path(f"~{user.name}/clearml.conf").expanduser() for user in testbed.users]
        confs += [Path(f"/etc/testbed/agent-{worker.name}.conf") for worker in testbed.agents.workers]
        for conf in [*confs, Path("/etc/testbed/inference.conf"), Path("/etc/testbed/watchdog.json")]:
            key = parse_key(conf.read_text())
            assert key is not None, conf
            values.add(key.secret_key)
        # an access key is a name, not a secret: it is shown in labels, logs and tables
        public = {secrets.toolkit.access_key} | {
            key["user_key"] for key in secrets.clearml.model_dump().values() if isinstance(key, dict)
        }
        return sorted(value.encode() for value in values - public)

    return find


@pytest.fixture(scope="session")
def leavings(testbed) -> Callable[[], set[Path]]:
    """A function that tells what Ansible, a check or a command that has ended could have left."""
    homes = [Path("~").expanduser(), *(Path(f"~{user.name}").expanduser() for user in testbed.users)]
    places = [home / ".ansible" for home in homes]
    state = state_dir(testbed.name)

    def there() -> set[Path]:
        left = {path for path in Path("/tmp").iterdir() if "ansible" in path.name or "testbed-check" in path.name}
        left |= {path for place in places for path in [place, *place.rglob("*")] if path.exists()}
        return left | {
            path for name in ("run-*", "look-*", "**/artifacts", "**/fact_cache") for path in state.glob(name)
        }

    return there


@dataclass(frozen=True)
class Watched:
    """An `up -vvv` on a testbed where nothing differs, and what was seen meanwhile; `seen`: cmdline and environ."""

    done: subprocess.CompletedProcess[str]
    files_before: dict[str, tuple[int, int]]
    files_after: dict[str, tuple[int, int]]
    received: int
    left: set[Path]
    seen: dict[str, set[bytes]]
    secret_values: list[bytes]
    log: str


def _received_from_elsewhere() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    return sum(int(line.split(":")[1].split()[0]) for line in lines if not line.strip().startswith("lo:"))


@pytest.fixture(scope="session")
def files() -> Callable[[], dict[str, tuple[int, int]]]:
    """A function that tells size and time of change of every file that `up` looks after."""

    def there() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.lstat().st_size, path.lstat().st_mtime_ns)
            for folder in ("/etc/testbed", "/opt/testbed/wheels", "/etc/supervisor", "/etc/systemd/system", "/home")
            for path in Path(folder).rglob("*")
            if path.is_file() and "clearml-venv" not in path.parts and ".clearml" not in path.parts
        }

    return there


@pytest.fixture(scope="session")
def second_up(command, testbed, files, leavings, find_secret_values) -> Watched:
    """`up -vvv` where nothing differs. Where something did, because of other tests, `up` mended that before."""

    def watched() -> Watched:
        before, received, there = files(), _received_from_elsewhere(), leavings()
        seen: dict[str, set[bytes]] = {"cmdline": set(), "environ": set()}
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.01):  # the command needs the cores, too
                for process in Path("/proc").glob("[0-9]*"):
                    for name, found in seen.items():
                        try:
                            found.add((process / name).read_bytes())
                        except OSError:
                            continue  # the process has ended

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            done = command("up", "--yes", "-vvv")
        finally:
            over.set()
            watcher.join()
        received = _received_from_elsewhere() - received
        log = max((state_dir(testbed.name) / "logs").glob("up-*.log"), key=lambda path: path.stat().st_mtime)
        left = leavings() - there
        return Watched(done, before, files(), received, left, seen, find_secret_values(), log.read_text())

    first = watched()
    return first if "(quick)" in first.done.stdout else watched()
