"""To which version a server may go, and through which it must."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provision import backup, deploy, spec, status, upgrade, upgrade_begun
from provision.cli import deployment
from provision.errors import TestbedError
from provision.smoke import run as smoke_run
from provision.spec_edit import with_version
from provision.upgrade import UpgradeError
from provision.upgrade_begun import Begun

KNOWN = ["1.17.0", "2.0.0", "2.3.0", "2.4.0"]


@pytest.mark.parametrize(
    ("current", "wanted"),
    [
        ("2.3.0", "2.4.0"),
        ("2.0.0", "2.4.0"),
        ("1.17.0", "2.0.0"),
        ("1.16.2", "1.17.0"),
        ("1.9.0", "1.17.0"),
        ("2.4.0", "2.4.0"),
    ],
)
def test_these_hops_are_legal(current, wanted):
    upgrade.check_hop(current, wanted, KNOWN)


@pytest.mark.parametrize(
    ("current", "wanted", "said"),
    [
        ("2.4.0", "2.3.0", "is older"),
        ("2.10.0", "2.9.0", "is older"),
        ("1.16.2", "2.4.0", "leads through 1.17"),
        ("1.9.0", "2.0.0", "leads through 1.17"),
        ("1.17.0", "2.4.0", "leads through 2.0"),
        ("1.17.1", "2.3.0", "leads through 2.0"),
        ("2.3.0", "2.5.0", "is not known here"),
    ],
)
def test_these_hops_are_refused_with_the_way(current, wanted, said):
    with pytest.raises(UpgradeError) as error:
        upgrade.check_hop(current, wanted, KNOWN)
    assert said in error.value.message
    assert error.value.remedy.endswith("nothing was changed.")


def test_the_versions_are_those_of_the_role():
    assert upgrade.known_versions() == ["2.3.0", "2.4.0"]


SPEC = "name: lab\nprovider: local\nusers: [{name: alice}]\nserver:\n  backend: docker   # the official one\n"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "testbed" / "lab"


NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(upgrade, "time", SimpleNamespace(time=lambda: NOW, gmtime=time.gmtime, strftime=time.strftime))


def _begun(state, current, wanted, made=NOW - 3600):
    state.mkdir(parents=True)
    told = {"current": current, "wanted": wanted, "folder": "/b", **({"made": made} if made else {})}
    (state / "upgrade.json").write_text(json.dumps(told))


def test_the_version_is_written_into_the_spec_and_nothing_else():
    after = with_version(SPEC, "t.yaml", "2.4.0")
    assert after == SPEC + "  version: 2.4.0\n"
    assert with_version(after, "t.yaml", "2.3.0") == after.replace("2.4.0", "2.3.0")
    assert with_version("server: {backend: docker}\n", "t", "2.3.0") == "server: {version: 2.3.0, backend: docker}\n"


def test_one_that_was_begun_goes_on_from_where_it_came(state):
    testbed = spec.parse(SPEC + "  version: 2.4.0\n", "t.yaml")
    with pytest.raises(UpgradeError, match="is 2.4.0 already"):
        upgrade.check(testbed, "2.4.0")
    _begun(state, "2.3.0", "2.4.0")  # testbed.yaml has the new version by then
    assert upgrade.check(testbed, "2.4.0") == "2.3.0"
    with pytest.raises(UpgradeError, match=r"an upgrade to 2\.4\.0 was begun"):
        upgrade.check(testbed, "2.3.0")


def test_from_a_version_whose_images_are_not_known_there_is_no_way_back():
    with pytest.raises(
        UpgradeError, match=r"version 2\.2\.0 of the server, which runs now, is not known here"
    ) as error:
        upgrade.check(spec.parse(SPEC + "  version: 2.2.0\n", "t.yaml"), "2.4.0")
    assert "a toolkit that knows both versions" in error.value.remedy


def test_the_embedded_server_has_none():
    with pytest.raises(UpgradeError, match="backend lite has no version"):
        upgrade.check(spec.load(None), "2.4.0")


class Steps:
    """The steps of an upgrade, in their order, around the decisions that are tested here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, data: str, problems: tuple[str, ...] = ()) -> None:
        self.taken: list[str] = []
        self.data = data
        self.running: dict[str, str] = {}
        self.no_image = ""
        self.testbed = spec.parse(SPEC + "  version: 2.3.0\n", "t.yaml")
        self.vault = SimpleNamespace(load=lambda: SimpleNamespace(id="1"))
        monkeypatch.setattr(upgrade, "play", self._play)
        found = SimpleNamespace(problems=[SimpleNamespace(message=each) for each in problems])
        monkeypatch.setattr(status, "collect", lambda _: found)
        monkeypatch.setattr(backup, "make", self._make)
        monkeypatch.setattr(upgrade, "_go_back", lambda session, folder, _: self.note(f"back to {folder}", session))
        monkeypatch.setattr(deploy, "forget_replaced", lambda _: None)
        monkeypatch.setattr(upgrade, "_running", lambda session, _: self.running or self._said(session))

    def _said(self, session: Any) -> dict[str, str]:
        return upgrade.images(session.testbed.server, session.testbed.server.version)

    def note(self, step: str, session: Any) -> None:
        self.taken.append(f"{step} as {session.testbed.server.version}")

    def _play(self, session: Any, name: str, _title: str, variables: dict[str, str]) -> Any:
        if name == "images":
            if self.no_image and variables["images_step"] == "fetch_images":
                raise TestbedError(self.no_image)
            self.note(f"{variables['images_step']} {variables['server_version']}", session)
            return None
        if variables["upgrade_to"]:
            self.note("hand over", session)
            self.data = variables["upgrade_to"]
        return SimpleNamespace(data={"data_version": self.data})

    def _make(self, session: Any, *_: Any) -> Any:
        self.note("backup", session)
        return SimpleNamespace(folder=Path("/made"))

    def go_on_with(self, testbed: Any) -> None:
        self.testbed = testbed

    def stage(self, _title: str) -> Any:
        import contextlib

        return contextlib.nullcontext(SimpleNamespace(result=""))

    def run(self, fails: str = "") -> None:
        def bring_up(session: Any, *, prove: bool, **_: Any) -> Any:
            self.note("up", session)
            if fails == "error":
                raise TestbedError("no image")
            checks = [SimpleNamespace(name="api answers", result="failed" if fails else "passed")]
            return SimpleNamespace(healthy=not fails, checks=checks)

        upgrade.run(self, "2.3.0", "2.4.0", Path("/to"), lambda v: self.taken.append(f"spec {v}"), bring_up)  # type: ignore[arg-type]


LAST = "remove_images 2.4.0 as 2.4.0"
FIRST = ["fetch_images 2.4.0 as 2.3.0", "backup as 2.3.0", "hand over as 2.3.0", "spec 2.4.0", "up as 2.4.0"]


def test_a_backup_is_made_before_anything_else(monkeypatch, state):
    steps = Steps(monkeypatch, "2.3.0")
    steps.run()
    assert steps.taken == [*FIRST, LAST]
    assert upgrade_begun.find("lab") is None


@pytest.mark.parametrize(("fails", "said"), [("error", "no image"), ("checks", "these checks failed: api answers")])
def test_a_failed_one_goes_back_to_the_backup_and_the_old_version(monkeypatch, state, fails, said):
    steps = Steps(monkeypatch, "2.3.0")
    with pytest.raises(UpgradeError) as error:
        steps.run(fails)
    assert steps.taken == [*FIRST, "spec 2.3.0", "back to /made as 2.3.0"]
    assert said in error.value.message
    assert "as it was, with server 2.3.0" in error.value.message
    assert upgrade_begun.find("lab") is None


def test_one_that_was_killed_after_the_backup_makes_no_other(monkeypatch, state):
    _begun(state, "2.3.0", "2.4.0")
    steps = Steps(monkeypatch, "2.4.0")
    with pytest.raises(UpgradeError):
        steps.run("error")
    assert steps.taken == ["spec 2.4.0", "up as 2.4.0", "spec 2.3.0", "back to /b as 2.3.0"]


def test_one_that_was_killed_before_the_data_were_handed_over_makes_a_new_backup(monkeypatch, state):
    _begun(state, "2.3.0", "2.4.0")
    steps = Steps(monkeypatch, "2.3.0")
    steps.run()
    assert steps.taken == [*FIRST, LAST]


def test_where_the_new_images_do_not_come_nothing_is_stopped_or_changed(monkeypatch, state):
    steps = Steps(monkeypatch, "2.3.0")
    steps.no_image = "no room for images"
    with pytest.raises(TestbedError, match="no room for images"):
        steps.run()
    assert steps.taken == []
    assert upgrade_begun.find("lab") is None


def test_while_it_is_under_way_a_file_tells_of_it(monkeypatch, state):
    steps = Steps(monkeypatch, "2.3.0")
    seen: list[Begun | None] = []
    monkeypatch.setattr(upgrade, "_use", lambda *_: seen.append(upgrade_begun.find("lab")))
    steps.run()
    assert seen == [None, Begun("2.3.0", "2.4.0", "/made", NOW)]


@pytest.mark.parametrize(
    ("data", "problems", "said"),
    [("2.2.0", (), "the data are of server 2.2.0"), ("2.3.0", ("disk full",), "the testbed is not well: disk full")],
)
def test_nothing_begins_on_other_data_or_on_a_testbed_that_is_not_well(monkeypatch, state, data, problems, said):
    steps = Steps(monkeypatch, data, problems)
    with pytest.raises(UpgradeError, match=said):
        steps.run()
    assert steps.taken == []


def test_what_was_replaced_stays_where_the_old_server_is_not_well_either(monkeypatch):
    monkeypatch.setattr(upgrade.archive, "read", lambda *_: None)
    monkeypatch.setattr(backup, "open_secrets", lambda *_: None)
    monkeypatch.setattr(backup, "bring", lambda *_: ({"path": "/data/clearml"}, None))
    monkeypatch.setattr(deploy, "forget_replaced", lambda _: pytest.fail("it is gone"))
    ill = SimpleNamespace(healthy=False, checks=[SimpleNamespace(name="api answers", result="failed")])
    session: Any = SimpleNamespace(vault=None, testbed=None)
    with pytest.raises(UpgradeError, match="these checks failed: api answers") as error:
        upgrade._go_back(session, Path("/made"), lambda *_, **__: ill)  # type: ignore[arg-type]
    assert "kept in /data/clearml.before" in str(error.value.remedy)


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ("redis: 'r.example/redis@sha256:" + "a" * 64 + "'", "redis"),
        ("apiserver: a, webserver: b, mongo: c", "mongo, apiserver, webserver"),
    ],
)
def test_images_that_would_stay_what_they_are_are_refused_with_the_way(images, named):
    testbed = spec.parse(SPEC + f"  version: 2.3.0\n  images: {{{images}}}\n", "t.yaml")
    with pytest.raises(UpgradeError) as error:
        upgrade.check(testbed, "2.4.0")
    assert error.value.message == f"server.images in testbed.yaml names what runs as {named}, which so stays what it is"
    assert "run `testbed up`: it starts the images of 2.3.0. Then upgrade" in error.value.remedy


def test_an_image_stays_that_is_the_same_with_both_versions_or_has_none(monkeypatch):
    table = {"2.3.0": {"server": "s:1", "redis": "redis:8"}, "2.4.0": {"server": "s:2", "redis": "redis:8"}}
    table = {version: {"mongo": "m", "elasticsearch": "e", **found} for version, found in table.items()}
    monkeypatch.setattr(upgrade, "_table", lambda: table)
    agent = f"agent_services: true\n  images: {{redis: r, agent_services: 'a@sha256:{'a' * 64}'}}"
    assert upgrade.check(spec.parse(SPEC + f"  version: 2.3.0\n  {agent}\n", "t.yaml"), "2.4.0") == "2.3.0"


def test_nothing_begins_where_something_else_runs_than_testbed_yaml_says(monkeypatch, state):
    steps = Steps(monkeypatch, "2.3.0")
    steps.running = {**upgrade.images(steps.testbed.server, "2.3.0"), "mongo": f"mongo@sha256:{'a' * 64}"}
    with pytest.raises(
        UpgradeError, match="mongo runs mongo@sha256:a*, and by testbed.yaml it is to run mongo:7"
    ) as error:
        steps.run()
    assert error.value.remedy.startswith("Bring that up first: testbed up.")
    assert steps.taken == []


class Host:
    """A host on which docker tells what each container was made from, or that there is none."""

    def __init__(self, images: dict[str, str]) -> None:
        self.images = images

    def run(self, command: str, *names: str) -> Any:
        assert command.count("%s") == len(names)
        if not {*names} <= {*self.images}:
            return SimpleNamespace(rc=1, stdout="", stderr="No such container\n")
        return SimpleNamespace(rc=0, stdout="".join(f"{self.images[name]}\n" for name in names), stderr="")


def test_what_runs_is_asked_of_docker(monkeypatch):
    host = Host({"testbed-clearml-redis": "redis:7.4.1", "testbed-clearml-apiserver": "clearml/server:2.3.0"})
    monkeypatch.setattr(upgrade.hosts, "connect", lambda file, name: host if (file, name) == ("i", "one") else None)
    inventory = {"all": {"children": {"server": {"hosts": {"one": {}}}}}}
    session: Any = SimpleNamespace(inventory=inventory, inventory_file="i")
    assert upgrade._running(session, ["apiserver", "redis"]) == {
        "apiserver": "clearml/server:2.3.0",
        "redis": "redis:7.4.1",
    }
    with pytest.raises(UpgradeError, match="one: the images that run cannot be told: No such container"):
        upgrade._running(session, ["mongo"])


ELSEWHERE = "  stores: {mongo: {host: m.example}, redis: {host: r.example}}\n"


def test_stores_that_are_elsewhere_have_to_be_backed_up_there_first():
    testbed = spec.parse(SPEC + ELSEWHERE + "  version: 2.3.0\n", "t.yaml")
    with pytest.raises(UpgradeError, match="which server.stores has elsewhere: that is in no backup") as error:
        upgrade.check(testbed, "2.4.0")
    assert "MongoDB (tasks, models, users) and Redis (sessions, queues of work)" in error.value.message
    assert "made for mongo:8.0.15, redis:8.2.3" in error.value.remedy
    assert "add --stores-backed-up. Nothing was changed." in error.value.remedy
    assert upgrade.check(testbed, "2.4.0", stores_backed_up=True) == "2.3.0"


def test_a_failed_one_does_not_say_that_stores_elsewhere_are_as_they_were(monkeypatch, state):
    steps = Steps(monkeypatch, "2.3.0")
    steps.testbed = spec.parse(SPEC + ELSEWHERE + "  version: 2.3.0\n", "t.yaml")
    with pytest.raises(UpgradeError) as error:
        steps.run("error")
    assert "The testbed is as it was but for its stores elsewhere, with server 2.3.0." in error.value.message
    assert "What server 2.4.0 has changed in MongoDB (tasks, models, users) and Redis" in error.value.message
    assert error.value.message.endswith("stays: restore that there.")


def test_where_the_old_server_does_not_come_up_either_both_reasons_are_told(monkeypatch, state):
    steps = Steps(monkeypatch, "2.3.0")

    def fails(*_: Any) -> None:
        raise TestbedError("mongo is exited (100)", "Look at its log.")

    monkeypatch.setattr(upgrade, "_go_back", fails)
    with pytest.raises(UpgradeError) as error:
        steps.run("error")
    assert "server 2.4.0 did not come up well: no image" in error.value.message
    assert "Nor did server 2.3.0 with the data of before: mongo is exited (100)" in error.value.message
    assert error.value.remedy == "Look at its log."
    assert upgrade_begun.find("lab") is not None


@pytest.mark.parametrize("made", [NOW - 86_401, 0.0])
def test_an_old_backup_is_not_restored_by_itself_for_the_new_server_may_have_been_at_work_since(
    monkeypatch, state, made
):
    _begun(state, "2.3.0", "2.4.0", made)
    steps = Steps(monkeypatch, "2.4.0")
    with pytest.raises(UpgradeError, match="so it was not restored: what came since would be lost") as error:
        steps.run("checks")
    assert steps.taken == ["spec 2.4.0", "up as 2.4.0"]
    assert "these checks failed: api answers" in error.value.message
    assert "set server.version to 2.3.0, then: testbed restore /b" in str(error.value.remedy)
    assert upgrade_begun.find("lab") is not None


@pytest.mark.parametrize("healthy", [True, False])
def test_once_the_testbed_was_well_there_is_no_upgrade_to_go_back_from(monkeypatch, state, healthy):
    _begun(state, "2.3.0", "2.4.0")
    testbed = spec.parse(SPEC + "  version: 2.4.0\n", "t.yaml")
    session: Any = SimpleNamespace(testbed=testbed, proven=state / "proven", machines=(), log=state / "log")
    monkeypatch.setattr(deploy, "up", lambda *_: SimpleNamespace(changed=1, issued=0, revoked=0))
    checks: list[Any] = [{"name": "api answers", "result": "passed" if healthy else "failed", "seconds": 1.0}]
    checks = [smoke_run.Check(**each, reference="", message="") for each in checks]
    monkeypatch.setattr(smoke_run, "run", lambda *_: SimpleNamespace(checks=checks))
    assert deployment.bring_up(session, prove=False).healthy == healthy
    assert (upgrade_begun.find("lab") is None) == healthy
    if healthy:  # another one begins anew, with a backup of its own
        assert upgrade.check(spec.parse(SPEC + "  version: 2.3.0\n", "t.yaml"), "2.4.0") == "2.3.0"


def test_one_that_was_killed_before_it_changed_anything_is_no_problem_of_the_testbed(monkeypatch, state):
    _begun(state, "2.3.0", "2.4.0")
    steps = Steps(monkeypatch, "2.3.0")
    seen: list[Begun | None] = []

    def collect(_: Any) -> Any:
        seen.append(upgrade_begun.find("lab"))
        return SimpleNamespace(problems=[])

    monkeypatch.setattr(status, "collect", collect)
    steps.run()
    assert seen == [None]
