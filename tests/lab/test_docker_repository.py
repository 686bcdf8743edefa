"""The Engine and Compose out of a signed repository that is laid out and named as Docker's own is.

Docker's repository cannot be reached from every machine, so this one is made on the spot: Debian's Engine and the
Compose of PyPI, packed under the names of Docker's, in an index that apt checks. The tests build on one another.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab.hosts import compose_plugin

if TYPE_CHECKING:
    from tests.lab.conftest import Engine, Host

pytestmark = pytest.mark.full

PLAYBOOK = Path(__file__).with_name("docker.yml")
PLACE = "/srv/docker"
SUITE = "dists/bookworm/stable/binary-amd64"
# what Debian's Engine needs, which a host without a network cannot fetch
NEEDED = ["iptables", "libip4tc2", "libip6tc2", "libmnl0", "libnetfilter-conntrack3", "libnfnetlink0", "libnftnl11"]
NEEDED += ["libxtables12", "netbase"]


def pack(tree: Path, name: str, depends: str, into: Path) -> None:
    """Make a package of a folder, which may have scripts of its maintainer's in DEBIAN."""
    control = {"Package": name, "Version": "5:20.10.24-lab", "Architecture": "amd64", "Depends": depends}
    control |= {"Maintainer": "the lab", "Description": "made for a test"}
    (tree / "DEBIAN").mkdir(exist_ok=True)
    text = "".join(f"{key}: {value}\n" for key, value in control.items() if value)
    (tree / "DEBIAN/control").write_text(text)
    subprocess.run(
        ["dpkg-deb", "--build", "-Zgzip", "-z1", "--root-owner-group", tree, into], check=True, capture_output=True
    )


def download(folder: Path, *names: str) -> None:
    """Fetch packages of the distribution."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *names], cwd=folder, check=True)


def build_packages(work: Path, into: Path) -> None:
    """Write the packages into a folder."""
    subprocess.run(["apt-get", "-qq", "update"], check=True)
    download(work / "debian", "docker.io", "containerd", "runc")
    engine, client, containerd, compose = (work / name for name in ("engine", "client", "containerd", "compose"))
    [package] = (work / "debian").glob("docker.io_*")
    subprocess.run(["dpkg-deb", "--raw-extract", package, engine], check=True)
    for name in ("containerd", "runc"):
        [package] = (work / "debian").glob(f"{name}_*")
        subprocess.run(["dpkg-deb", "--extract", package, containerd], check=True)
    (client / "usr/bin").mkdir(parents=True)
    shutil.move(engine / "usr/bin/docker", client / "usr/bin/docker")
    plugin = compose / "usr/libexec/docker/cli-plugins/docker-compose"
    plugin.parent.mkdir(parents=True)
    plugin.write_bytes(compose_plugin())
    plugin.chmod(0o755)
    download(into, *NEEDED)
    pack(engine, "docker-ce", "containerd.io, docker-ce-cli, iptables", into)
    pack(client, "docker-ce-cli", "", into)
    pack(containerd, "containerd.io", "", into)
    pack(compose, "docker-compose-plugin", "docker-ce-cli", into)


def index(root: Path) -> None:
    """Write the repository's index."""
    entries = []
    for package in sorted(root.glob("pool/*.deb")):
        control = subprocess.check_output(["dpkg-deb", "--field", package], text=True)
        content = package.read_bytes()
        entries.append(
            f"{control}Filename: {package.relative_to(root)}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
        )
    packages = root / SUITE / "Packages"
    packages.parent.mkdir(parents=True)
    packages.write_text("\n".join(entries))
    told = packages.read_bytes()
    line = f" {hashlib.sha256(told).hexdigest()} {len(told)} stable/binary-amd64/Packages\n"
    head = "Origin: Docker\nSuite: bookworm\nCodename: bookworm\nComponents: stable\nArchitectures: amd64\n"
    date = subprocess.check_output(["date", "--utc", "--rfc-email"], text=True).replace("+0000", "UTC")
    (root / "dists/bookworm/Release").write_text(f"{head}Date: {date}SHA256:\n{line}")


def sign(root: Path, home: Path) -> str:
    """Sign the index with a new key; return the key in ASCII form."""
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    try:
        subprocess.run([*gpg, "--quick-generate-key", "lab", "ed25519", "sign"], check=True, capture_output=True)
        release = root / "dists/bookworm/Release"
        subprocess.run([*gpg, "--clearsign", "--output", str(release.with_name("InRelease")), str(release)], check=True)
        return subprocess.check_output([*gpg, "--armor", "--export", "lab"], text=True)
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Path, Path]:
    """The repository as an archive, the key that signs it, and one that does not."""
    work = tmp_path_factory.mktemp("repository")
    root = work / "debian-repository"
    (root / "pool").mkdir(parents=True)
    build_packages(work, root / "pool")
    index(root)
    keys = [work / "other.asc", work / "key.asc"]
    for key in keys:  # the last one's signature stays
        (root / "dists/bookworm/InRelease").unlink(missing_ok=True)
        key.write_text(sign(root, work / f"gpg-{key.stem}"))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(root, "debian")
    return packed.getvalue(), keys[1], keys[0]


@pytest.fixture(scope="module")
def host(engine: Engine, repository: tuple[bytes, Path, Path]) -> Iterator[Host]:
    """A host with the repository on its disk, and no network."""
    name = "testbed-lab-repository"
    # overlay on overlay does not work
    found = engine.start(name, "--network", "none", "--volume", "/var/lib/docker")
    try:
        found.run("mkdir", PLACE)
        found.run("tar", "--extract", "--no-same-owner", "-C", PLACE, data=repository[0])
        yield found
    finally:
        engine.run("rm", "--force", "--volumes", name)


def play(host: Host, key: Path, *arguments: str, tags: str = "up") -> str:
    """Play with Docker's own packages as the source."""
    given = {"docker_repository": f"file:{PLACE}", "docker_key_file": str(key)}
    return host.play(PLAYBOOK, "--tags", tags, "--extra-vars", json.dumps(given), *arguments)


def changed(output: str) -> int:
    """Return the number of changed tasks in a play's recap."""
    found = re.search(r"changed=(\d+)", output)
    assert found
    return int(found[1])


def packages(host: Host) -> set[str]:
    """Return the packages that are installed."""
    return set(host.run("dpkg-query", "--show", "--showformat", "${Package}\n").split())


def test_check_mode_tells_what_comes_and_writes_nothing(host: Host, repository: tuple[bytes, Path, Path]) -> None:
    before = packages(host)
    told = play(host, repository[1], "--check", "--diff")
    assert "docker-ce" in told
    assert "testbed-docker.list" in told
    assert packages(host) == before
    assert host.run("ls", "/etc/apt/sources.list.d") == ""


def test_a_repository_that_another_key_has_signed_is_refused(host: Host, repository: tuple[bytes, Path, Path]) -> None:
    with pytest.raises(AssertionError, match="not signed|NO_PUBKEY|couldn't be verified"):
        play(host, repository[2])
    assert "docker-ce" not in packages(host)


def test_the_engine_and_compose_come_from_the_repository(host: Host, repository: tuple[bytes, Path, Path]) -> None:
    assert changed(play(host, repository[1])) > 0
    assert packages(host) >= {"docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin"}
    assert host.run("docker", "info", "--format", "{{.LoggingDriver}}").strip() == "json-file"
    assert re.match(r"v?\d+\.\d+", host.run("docker", "compose", "version", "--short"))


def test_a_second_run_changes_nothing(host: Host, repository: tuple[bytes, Path, Path]) -> None:
    assert changed(play(host, repository[1])) == 0
    assert changed(play(host, repository[1], "--check", "--diff")) == 0


def test_it_goes_with_its_repository(host: Host, repository: tuple[bytes, Path, Path]) -> None:
    play(host, repository[1], tags="down")
    assert not packages(host) & {"docker-ce", "docker-ce-cli", "containerd.io", "docker-compose-plugin", "iptables"}
    left = ["/etc/testbed", "/etc/docker", "/opt/containerd", "/etc/apt/sources.list.d/testbed-docker.list"]
    assert host.run("sh", "-c", f"ls -d {' '.join(left)} 2>/dev/null; ls /var/lib/docker", check=False) == ""
