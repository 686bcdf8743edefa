"""`upgrade --server`: to which version of the official server a testbed may go, and the way there and back.

The version that the data are of is kept beside them on the host. The new images come first: what takes long or fails
there takes nothing away. Once a backup is made the data are handed to the new version, and `up` does the rest; where
that fails, the backup is restored with the images of before, which go in the end. A file here says which backup that
is (upgrade_begun), so an upgrade that was killed goes on; it is gone once the testbed was seen to be well, so that data
which came since are never replaced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import yaml

from provision import archive, backup, deploy, hosts, inventory, status, upgrade_begun
from provision.errors import TestbedError
from provision.paths import ROLES
from provision.plays import play
from provision.reports import UpReport
from provision.session import Session
from provision.spec import Server, Testbed
from provision.spec_server import AGENT_SERVICES, SERVICES, Images, in_words
from provision.upgrade_begun import Begun

VERSIONS = ROLES / "clearml_server" / "vars" / "main.yml"
# major versions of MongoDB and Elasticsearch cannot be skipped: who is below one of these stops there (ClearML's docs)
STOPS = ((1, 17), (2, 0))
# a backup that is older is not restored by itself: the new server may have been at work since
RESTORED_S = 86400


class UpgradeError(TestbedError):
    """The server cannot go to that version."""


def known_versions() -> list[str]:
    """Return the versions whose images role clearml_server knows, the oldest first."""
    return sorted(_table(), key=parse)


@cache
def _table() -> dict[str, dict[str, str]]:
    """Return the images that belong to a version, by version."""
    found: dict[str, dict[str, str]] = yaml.safe_load(VERSIONS.read_text(encoding="utf-8"))["clearml_server_versions"]
    return found


def parse(version: str) -> tuple[int, ...]:
    """Return a version's numbers."""
    return tuple(int(part) for part in version.split("."))


def check_hop(current: str, wanted: str, known: list[str]) -> None:
    """Raise `UpgradeError` unless a server of version `current` may go to `wanted` at once. Pure."""
    now, then = parse(current), parse(wanted)
    if then < now:
        raise UpgradeError(
            f"the server is {current}, and {wanted} is older: stores that have migrated their data start no older one",
            "Restore a backup of then on a new testbed; nothing was changed.",
        )
    for stop in STOPS:
        if now[:2] < stop < then[:2]:
            through = ".".join(map(str, stop))
            raise UpgradeError(
                f"from {current} the way to {wanted} leads through {through}: its stores migrate their data there",
                f"Upgrade to {through} first, as ClearML's documentation has it; nothing was changed.",
            )
    if wanted not in known:
        raise UpgradeError(
            f"version {wanted} of the server is not known here", f"There are: {', '.join(known)}; nothing was changed."
        )


class BringUp(Protocol):
    """Brings a session's testbed up and checks it; `proven` is called before that is said to be complete."""

    def __call__(self, session: Session, *, prove: bool, proven: Callable[[], None] = ...) -> UpReport:
        """Return what that gave. Raises `TestbedError`."""


def check(testbed: Testbed, wanted: str, *, stores_backed_up: bool = False) -> str:
    """Return the version that the testbed's server has now. Raises `UpgradeError` where it cannot go to `wanted`.

    `stores_backed_up`: whoever asks says so of the stores that are elsewhere, where no backup of ours reaches.
    """
    server, former = testbed.server, upgrade_begun.find(testbed.name)
    if server.backend != "docker":
        raise UpgradeError(
            f"backend {server.backend} has no version of its own to upgrade",
            "Make a backup; then `testbed up` brings this toolkit's server. The way back is in docs/operations.md.",
        )
    if former and former.wanted != wanted:
        raise UpgradeError(
            f"an upgrade to {former.wanted} was begun and has not ended",
            f"Complete it: testbed upgrade --server {former.wanted}",
        )
    current = former.current if former else server.version
    check_hop(current, wanted, known_versions())
    if current == wanted:
        raise UpgradeError(f"the server is {current} already", "`testbed status` shows how it is; nothing was changed.")
    if current not in known_versions():
        raise UpgradeError(
            f"version {current} of the server, which runs now, is not known here, so there is no way back to it",
            "Upgrade with a toolkit that knows both versions; nothing was changed.",
        )
    refuse_kept_images(server, current, wanted)
    elsewhere = server.stores.elsewhere
    if elsewhere and not stores_backed_up:
        fitting = ", ".join(_table()[wanted][name] for name in elsewhere)
        raise UpgradeError(
            f"server {wanted} changes what is in {in_words(elsewhere)}, which server.stores has elsewhere: that is "
            "in no backup of the toolkit's, and cannot be put back by it",
            f"Drain the agents, back it up there, and see that it fits server {wanted}, which is made for {fitting}; "
            "then add --stores-backed-up. Nothing was changed.",
        )
    return current


def images(server: Server, version: str) -> dict[str, str]:
    """Return by service the image that role clearml_server starts for `version`. Pure."""
    own, given = _table()[version], server.images.by_service
    prefix = f"{server.registry}/" if server.registry else ""
    return {
        service: given.get(service) or prefix + own.get(service, own["server"])
        for service in SERVICES
        if service not in server.stores.elsewhere and (service != AGENT_SERVICES or server.agent_services)
    }


def refuse_kept_images(server: Server, current: str, wanted: str) -> None:
    """Raise `UpgradeError` where server.images would keep a service at its image of `current`. Pure."""
    free = server.model_copy(update={"images": Images()})
    now, then = images(free, current), images(free, wanted)
    kept = [name for name in then if name in server.images.by_service and now[name] != then[name]]
    kept = [name for name in kept if name != AGENT_SERVICES]  # its publisher gives it no version
    if kept:
        raise UpgradeError(
            f"server.images in testbed.yaml names what runs as {', '.join(kept)}, which so stays what it is",
            f"Take that out there, and run `testbed up`: it starts the images of {current}. Then upgrade, and name "
            f"those of {wanted} there. Nothing was changed.",
        )


def refuse_other_images(said: dict[str, str], running: dict[str, str]) -> None:
    """Raise `UpgradeError` unless the images that run, by service, are those that testbed.yaml says. Pure."""
    for service, image in said.items():
        if running[service] != image:
            raise UpgradeError(
                f"{service} runs {running[service]}, and by testbed.yaml it is to run {image}",
                "Bring that up first: testbed up. A failed upgrade goes back to that; nothing was changed.",
            )


def _running(session: Session, services: Collection[str]) -> dict[str, str]:
    """Return the images that services of the official server run. Raises `UpgradeError`."""
    names = [inventory.container(service) for service in services]
    [server] = inventory.hosts(session.inventory, "server")
    command = "docker inspect --format {{.Config.Image}} " + " ".join("%s" for _ in names)
    done = hosts.connect(session.inventory_file, server).run(command, *names)
    if done.rc != 0:
        raise UpgradeError(f"{server}: the images that run cannot be told: {done.stderr.strip()}", "Try: testbed up")
    return dict(zip(services, done.stdout.split(), strict=True))


def _use(session: Session, version: str) -> None:
    """Go on with another version of the testbed's server."""
    server = session.testbed.server.model_copy(update={"version": version})
    session.go_on_with(session.testbed.model_copy(update={"server": server}))


def run(
    session: Session, current: str, wanted: str, to: Path, write_spec: Callable[[str], None], bring_up: BringUp
) -> tuple[UpReport, Path]:
    """Take the server from `current` to `wanted`; return how the testbed is then, and the backup's folder.

    `to`: the folder for the backup. `write_spec` puts a version into testbed.yaml. Raises `UpgradeError` when the new
    server did not come up well; the testbed is then as it was.
    """
    _use(session, current)
    handed = _hand_over(session, wanted, to)
    write_spec(wanted)
    try:
        _use(session, wanted)
        report = bring_up(session, prove=True)
        if not report.healthy:
            failed = ", ".join(each.name for each in report.checks if each.result == "failed")
            raise UpgradeError(f"these checks failed: {failed}", "See the log.")
    except TestbedError as error:
        refuse_old(handed, error)
        write_spec(current)
        _use(session, current)
        elsewhere = in_words(session.testbed.server.stores.elsewhere)
        stays = f"\nWhat server {wanted} has changed in {elsewhere} stays: restore that there." if elsewhere else ""
        said = f"server {wanted} did not come up well: {error.message}"
        try:
            _go_back(session, Path(handed.folder), bring_up)
        except TestbedError as other:
            raise UpgradeError(
                f"{said}\nNor did server {current} with the data of before: {other.message}{stays}", other.remedy
            ) from None
        upgrade_begun.end(session.testbed.name)
        but = " but for its stores elsewhere" if elsewhere else ""
        raise UpgradeError(
            f"{said}\nThe testbed is as it was{but}, with server {current}.{stays}",
            f"Mend that and run it again. The backup is {handed.folder}.",
        ) from None
    upgrade_begun.end(session.testbed.name)
    _images(session, "Remove the images of before", "remove_images", wanted)
    return report, Path(handed.folder)


def _images(session: Session, title: str, step: str, version: str) -> None:
    secrets = session.vault.load()
    whose = {"whose_id": secrets.id if secrets else ""}
    play(session, "images", title, {**whose, "images_step": step, "server_version": version})


def refuse_old(handed: Begun, error: TestbedError) -> None:
    """Raise `UpgradeError` where the backup is too old to be restored without being asked for."""
    if time.time() - handed.made <= RESTORED_S:
        return
    raise UpgradeError(
        f"server {handed.wanted} did not come up well: {error.message}\nThe backup of server {handed.current} is of "
        f"{day_of(handed)}, so it was not restored: what came since would be lost.",
        f"Mend that, then: testbed up. To go back all the same, set server.version to {handed.current}, then: "
        f"testbed restore {handed.folder}",
    ) from None


def day_of(begun: Begun) -> str:
    """Return when the backup of an upgrade was made, for people."""
    return f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime(begun.made))} UTC" if begun.made else "an unknown day"


def _hand_over(session: Session, wanted: str, to: Path) -> Begun:
    """Make a backup and hand the data to the new version, unless that is done; return what is handed over."""
    name, current = session.testbed.name, session.testbed.server.version
    secrets = session.vault.load()
    whose = {"whose_id": secrets.id if secrets else ""}
    data = play(session, "upgrade", "Look at the data", {**whose, "upgrade_to": ""}).data["data_version"]
    former = upgrade_begun.find(name)
    if former and data == wanted:
        return former
    if data != current:
        raise UpgradeError(
            f"the data are of server {data}, and testbed.yaml says {current}",
            f"Set server.version to {data} first; nothing was changed.",
        )
    upgrade_begun.end(name)  # it was killed before it had changed anything
    with session.stage("Look whether all is well") as stage:
        problems = status.collect(session).problems
        if problems:
            raise UpgradeError(
                f"the testbed is not well: {problems[0].message}",
                "Mend that first: testbed status. Nothing was changed.",
            )
        said = images(session.testbed.server, current)
        refuse_other_images(said, _running(session, said))
        stage.result = "yes"
    _images(session, f"Fetch the images of server {wanted}", "fetch_images", wanted)
    moment = time.time()
    made = backup.make(session, session.testbed, to, f"{archive.default_name(name, moment)}-before-{wanted}")
    handed = Begun(current, wanted, str(made.folder), moment)
    upgrade_begun.write(name, handed)
    play(session, "upgrade", f"Hand the data to server {wanted}", {**whose, "upgrade_to": wanted})
    return handed


def _go_back(session: Session, folder: Path, bring_up: BringUp) -> None:
    """Restore the backup with the version of before."""
    manifest = archive.read(folder, lambda _done, _whole: None)
    opened = backup.open_secrets(folder, session.vault, session.testbed, None)
    place, _kept = backup.bring(session, folder, manifest, opened)
    report = bring_up(session, prove=True, proven=lambda: _compare(session, folder, place))
    if not report.healthy:
        failed = ", ".join(each.name for each in report.checks if each.result == "failed")
        raise UpgradeError(
            f"these checks failed: {failed}",
            f"See the log. The backup is {folder}; what was replaced is kept in {place['path']}.before.",
        )
    deploy.forget_replaced(session)


def _compare(session: Session, folder: Path, place: dict[str, Any]) -> None:
    backup.compare(session, folder, place)
