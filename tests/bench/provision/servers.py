"""Servers from nothing, and a plan where nothing is to do: `up`'s part in the cloud beside its peers, in one run.

    TESTBED_LAB_CLOUD=clouds.yaml .venv/bin/python -P -m tests.bench.provision.servers [1 10 50 100]

The peers: `floor`, the SDK's create calls at the same concurrency and one list poll; an `openstack.cloud.server`
playbook with async, and one with a loop, up to 50 servers. All go through one proxy, which counts the API calls. What
counts is the ratio to the floor: seconds are those of the machine. The first entry of clouds.yaml is the
administrator's of a test cloud (`tests/lab/openstack`) with fake hypervisors; the run makes a project there, and
removes it.

The collection breaks with openstacksdk 4.15 and later, so it has a venv of its own, with what was current for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import openstack

from tests.lab.openstack.bed import Bed, Done
from tests.lab.openstack.cloud import ENTRY, Cloud, Project
from tests.lab.openstack.proxy import Proxy, running

HERE = Path(__file__).parent
COUNTS = (1, 10, 50, 100)
PEERS_UP_TO = 50  # beyond, the playbooks take from ten minutes to half an hour, and each server as long as before
PARALLEL = 16
POLL_S = 2.0
NETWORK = "bench"
FLAVOR = "t1.large"
IMAGE = "blank"
PEER = ["ansible-core==2.19.14", "openstacksdk==4.14.0"]
COLLECTIONS = "ansible==12.3.0"  # the package that carries openstack.cloud 2.5.0
QUOTAS = {"instances": 200, "cores": 2000, "ram": 4 * 1024 * 1024, "port": 500}


@dataclass(frozen=True)
class Took:
    """Seconds, and API calls."""

    seconds: float
    calls: int


@dataclass
class Bench:
    """A project behind the proxy, and the testbed in it."""

    project: Project
    proxy: Proxy
    bed: Bed
    peer: Path

    def measured(self, work: Callable[[], object]) -> Took:
        """Return what a piece of work took."""
        self.proxy.forget()
        began = time.monotonic()
        work()
        return Took(time.monotonic() - began, len(self.proxy.calls))

    def up(self, count: int) -> None:
        """Make a testbed of so many servers."""
        agents = {"count": count - 1} if count > 1 else {"on": "server"}
        self.bed.say(nodes={"agents": agents})
        _succeeded(self.bed.run("up", PARALLEL))

    def plan(self) -> None:
        """Plan, where nothing is to be done."""
        done = self.bed.command("plan")
        _succeeded(done)
        assert "there is nothing to do" in done.out, done.out

    def floor(self, count: int) -> None:
        """Make servers with nothing but the calls that it takes."""
        connection = openstack.connect(cloud=ENTRY)
        image = connection.image.find_image(IMAGE).id
        flavor = connection.compute.find_flavor(FLAVOR).id
        network = connection.network.find_network(NETWORK).id

        def create(number: int) -> str:
            wanted = {"image_id": image, "flavor_id": flavor, "networks": [{"uuid": network}]}
            return str(connection.compute.create_server(name=f"floor-{number}", **wanted).id)

        with ThreadPoolExecutor(PARALLEL) as pool:
            wanted = set(pool.map(create, range(count)))
        while not wanted <= {each.id for each in connection.compute.servers() if each.status == "ACTIVE"}:
            time.sleep(POLL_S)

    def playbook(self, name: str, count: int) -> None:
        """Run the peer's playbook."""
        variables = {"count": count, "cloud": ENTRY, "image": IMAGE, "flavor": FLAVOR, "network": NETWORK}
        variables["ansible_python_interpreter"] = self.peer / "bin" / "python"
        command = [
            self.peer / "bin" / "ansible-playbook",
            "-i",
            "localhost,",
            "-f",
            str(PARALLEL),
            HERE / f"{name}.yml",
        ]
        command += [word for item in variables.items() for word in ("-e", "{}={}".format(*item))]
        own = {"ANSIBLE_COLLECTIONS_PATH": str(self.peer), "ANSIBLE_HOME": str(self.bed.folder / "ansible")}
        done = subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)
        _succeeded(Done(done.returncode, done.stdout, done.stderr))

    def clear(self) -> None:
        """Delete all servers."""
        compute = self.project.connection.compute
        while servers := list(compute.servers()):
            with ThreadPoolExecutor(PARALLEL) as pool:
                list(pool.map(compute.delete_server, [each for each in servers if not each.task_state]))
            time.sleep(POLL_S)


def _succeeded(done: Done) -> None:
    if done.code:
        sys.exit(f"exit code {done.code}\n{done.out[-3000:]}{done.err[-3000:]}")


def make_peer(folder: Path) -> Path:
    """Return a venv with the peer, made once a machine."""
    if not (folder / "ansible_collections").exists():
        venv.create(folder, with_pip=True)
        pip = [folder / "bin" / "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *PEER], check=True)
        with tempfile.TemporaryDirectory() as wheels:
            subprocess.run([*pip, "download", "--no-deps", "--dest", wheels, COLLECTIONS], check=True)
            (wheel,) = Path(wheels).iterdir()
            with zipfile.ZipFile(wheel) as archive:
                ours = [name for name in archive.namelist() if name.startswith("ansible_collections/openstack/")]
                archive.extractall(folder, ours)
    return folder


def main(counts: list[int]) -> None:
    """Measure and print."""
    cloud = Cloud(Path(os.environ["TESTBED_LAB_CLOUD"]))
    peer = make_peer(Path(tempfile.gettempdir()) / f"testbed-bench-peer-{os.geteuid()}")
    with tempfile.TemporaryDirectory() as name, cloud.project("bench", QUOTAS) as project, running(cloud) as proxy:
        network = project.connection.network.create_network(name=NETWORK)
        project.connection.network.create_subnet(network_id=network.id, ip_version=4, cidr="10.60.0.0/22")
        settings = {"image": IMAGE, "flavor": FLAVOR, "network": NETWORK}
        bed = Bed("bench", project, Path(name), proxy.auth_url, settings)
        os.environ["OS_CLIENT_CONFIG_FILE"] = str(bed.clouds)
        bench = Bench(project, proxy, bed, peer)
        print(f"{'servers':>7}  {'what':<24}{'seconds':>8}{'calls':>7}   ratio to the floor")
        for count in counts:
            _round(bench, count)


def _round(bench: Bench, count: int) -> None:
    floor = bench.measured(lambda: bench.floor(count))
    _say(count, "floor", floor, floor)
    bench.clear()
    _say(count, "up", bench.measured(lambda: bench.up(count)), floor)
    _say(count, "plan, nothing to do", bench.measured(bench.plan), floor)
    _succeeded(bench.bed.run("down", PARALLEL))
    if count > PEERS_UP_TO:
        return
    _say(count, "playbook, async", bench.measured(lambda: bench.playbook("async", count)), floor)
    bench.clear()
    _say(count, "playbook, loop", bench.measured(lambda: bench.playbook("loop", count)), floor)
    _say(count, "playbook, loop, again", bench.measured(lambda: bench.playbook("loop", count)), floor)
    bench.clear()


def _say(count: int, name: str, took: Took, floor: Took) -> None:
    print(f"{count:>7}  {name:<24}{took.seconds:>8.1f}{took.calls:>7}   {took.seconds / floor.seconds:.2f}", flush=True)


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or list(COUNTS))
