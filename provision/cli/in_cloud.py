"""What `up`, `down` and their kin do with a testbed in a cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from provision.cli.group import confirm, confirm_by_name, make_console
from provision.cli.output import show_json, show_plan
from provision.errors import SpecError, StoppedError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from provision.changes import Change
    from provision.cloud.plan import Plan
    from provision.cloud.progress import Progress
    from provision.cloud.run import Project, Survey
    from provision.console import Stage
    from provision.machines import Machine
    from provision.spec import Testbed

SERVERS, SSH = "Bring up the servers", "Wait for SSH"
NOTHING = "The cloud is as testbed.yaml says; there is nothing to do."
# what a plan's verbs are in a list of changes
AS_CHANGE = {"create": "add", "change": "change", "replace": "replace", "delete": "remove"}


def look(console: Console, testbed: Testbed, parallel: int) -> Survey:
    """Look at the project, and show that this goes on."""
    from provision.cloud import run
    from provision.console import stage

    with stage(console, "Look at the project") as current:
        found = run.survey(testbed, parallel)
        current.result = f"cloud {testbed.openstack.cloud}" if testbed.openstack else ""
    return found


def pin(testbed: Testbed, machines: Sequence[Machine], console: Console, limit_s: float) -> None:
    """Pin the host keys of machines that are not known here yet: from their consoles, else the first that they show.

    Raises `ReachError` when nobody answers for `limit_s` seconds.
    """
    from provision import remote, ssh
    from provision.cloud.run import consoles

    def warn(text: str) -> None:
        console.print(f"Warning: {text}", markup=False, soft_wrap=True)

    known, read = remote.known_hosts(testbed.name), consoles(testbed)
    ssh.pin(machines, known, tell=lambda name, text: None, warn=warn, console=read, limit_s=limit_s)


class Steps:
    """The stages of a command before it has a session: stopped, it says what was done and what was not."""

    def __init__(self, console: Console, *to_do: str) -> None:
        self.to_do = list(to_do)
        self._console = console
        self._done: list[str] = []
        self._now: tuple[str, Stage] | None = None

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Show a stage while the block runs."""
        from provision.console import stage

        self.to_do = [other for other in self.to_do if other != title]
        with stage(self._console, title) as current:
            self._now = title, current
            yield current
            self._now = None  # before it is shown: whoever sees it done may stop the command at once
            self._done.append(title)

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Say what was done and what was not when the block is stopped. Raises `StoppedError`."""
        from provision import stopping

        try:
            yield
        except KeyboardInterrupt:
            lines = [f"  done         {title}" for title in self._done]
            if self._now:
                title, stage = self._now
                lines.append(f"  stopped in   {title}" + (f", at {stage.now}" if stage.now else ""))
            lines += [f"  not started  {title}" for title in self.to_do]
            told, again = "\n".join([f"stopped {stopping.reason()}", *lines]), "Run the same command again to go on."
            raise StoppedError(told, again, exit_code=stopping.exit_code()) from None

    @contextmanager
    def followed(self, title: str) -> Iterator[Progress]:
        """Show the application of plans as a stage."""
        from provision.cloud.progress import Progress

        with self.stage(title) as current:
            progress = Progress(current.step, current.note)
            try:
                yield progress
            finally:
                current.result = progress.result


def reach(steps: Steps, project: Project, machines: Sequence[Machine]) -> None:
    """Wait until new servers let us in by SSH, with their host keys pinned. Raises `ReachError`."""
    from provision import remote, ssh
    from provision.cloud.console import reader

    with steps.stage(SSH) as current:

        def tell(name: str, text: str) -> None:
            current.step(f"{name}: {text}")

        def warn(text: str) -> None:
            current.note(f"Warning: {text}")

        known = remote.known_hosts(project.testbed.name)
        ssh.pin(machines, known, tell=tell, warn=warn, console=reader(project.connection), parallel=project.parallel)
        ssh.wait(machines, known, tell=tell, warn=warn, parallel=project.parallel)
        current.result = f"{len(machines)} hosts"


@contextmanager
def held(testbed: Testbed, verb: str) -> Iterator[None]:
    """Keep other commands of this account on this machine off the testbed. Raises `BusyError`."""
    from provision import locks
    from provision.paths import make_private, state_dir

    state = state_dir(testbed.name)
    make_private(state)
    with locks.hold(state / "lock", f"testbed {testbed.name}", locks.this_command(testbed.name, verb)):
        yield


def check_up(
    testbed: Testbed,
    console: Console,
    vault_password_file: Path | None,
    *,
    parallel: int,
    as_json: bool,
    diff: bool,
    verbose: int,
) -> None:
    """Show what `up` would change in the cloud and on the hosts that are there. Raises `ShortError`."""
    from provision import deploy
    from provision.cli.output import show_changes
    from provision.cloud.machines import machines_of
    from provision.cloud.run import refuse
    from provision.machines import with_group
    from provision.reports import CheckReport
    from provision.session import open_check
    from provision.spec_types import SINGLE

    found = look(console, testbed, parallel).look
    refuse(found.plan)
    machines = machines_of(testbed, found.observed)
    changes: list[Change] = []
    # what lives on hosts that are not there yet cannot be looked at
    whole = all(len(with_group(machines, group)) == 1 for group in SINGLE)
    if whole:
        with open_check(
            testbed, "up --check", console, vault_password_file, machines=machines, verbosity=verbose
        ) as session:
            changes = deploy.check_up(session)
    if as_json:
        show_json(CheckReport.of(testbed.name, [*as_changes(found.plan), *changes], diff=diff))
        return
    show_plan(make_console(), found.plan, nothing=NOTHING)
    if whole:
        show_changes(make_console(), changes, diff=diff)
    else:
        make_console().print("Not all servers are there yet, so what the playbooks would do is not looked at.")


def told(testbed: Testbed, machines: Sequence[Machine]) -> Testbed:
    """Return the testbed with addresses in its URLs, to be shown; of a server that is not there, with its name."""
    from provision.cloud.desired import nodes
    from provision.machines import Machine, resolved

    assert testbed.openstack is not None  # noqa: S101 (the provider is openstack)
    internal = {machine.name: machine.internal for machine in machines}
    wanted = nodes(testbed.openstack)
    return resolved(
        testbed, [Machine(node.name, node.groups, "", internal.get(node.name, node.name), "") for node in wanted]
    )


def as_changes(plan: Plan) -> list[Change]:
    """Return what a plan does as a list of changes."""
    from provision.changes import Change

    return [
        Change("", action.kind, action.name, AS_CHANGE[action.verb], action.why)  # type: ignore[arg-type]
        for action in plan.work
        if action.verb in AS_CHANGE
    ]


def bring_up(
    testbed: Testbed,
    console: Console,
    vault_password_file: Path | None,
    *,
    verb: str,
    yes: bool,
    as_json: bool,
    verbose: int,
    parallel: int,
    break_lock: bool,
    prove: bool = False,
    rebuild: Sequence[str] = (),
    agreed: Callable[[], None] = lambda: None,
) -> None:
    """Bring up a testbed in a cloud: plan, question, servers, SSH, playbooks, checks.

    `rebuild`: nodes to make anew; `agreed` is called when the person has agreed. Raises `TestbedError`.
    """
    from provision import deploy
    from provision.cli import deployment
    from provision.cloud.desired import nodes
    from provision.cloud.machines import machines_of
    from provision.cloud.run import refuse
    from provision.session import open_session
    from provision.smoke import STAGE

    assert testbed.openstack is not None  # noqa: S101 (the provider is openstack)
    names = [node.name for node in nodes(testbed.openstack)]
    if unknown := [name for name in rebuild if name not in names]:
        raise SpecError(f"the testbed has no server {', '.join(unknown)}", f"There are: {', '.join(names)}.")
    found = look(console, testbed, parallel)
    anew = frozenset(server.id for server in found.look.observed.servers if server.node in rebuild)
    seen = found.look.rebuilding(anew)
    show_plan(console, seen.plan, nothing=NOTHING)
    refuse(seen.plan)
    project = found.project
    assert project is not None  # noqa: S101 (else the plan was refused)
    console.print()
    for line in deploy.describe(told(testbed, machines_of(testbed, seen.observed))):
        console.print(f"  - {line}", soft_wrap=True, markup=False)
    lost = [
        action.name for action in seen.plan.work if action.kind == "server" and action.verb in ("replace", "delete")
    ]
    warning = f"All on the disks of {', '.join(lost)} is lost. " if lost else ""
    confirm(f"{warning}Go ahead?", yes)
    stages = (*deploy.stages(testbed), STAGE)
    steps = Steps(console, SERVERS, SSH, *stages)
    with ExitStack() as at_work:
        with held(testbed, verb), steps.stoppable():  # the session holds the testbed itself
            at_work.enter_context(project.marked(seen.observed, break_lock=break_lock))
            agreed()
            with steps.followed(SERVERS) as progress:
                observed = project.bring_up(progress, rebuild=anew, agreed=seen, fresh=yes)
            machines = machines_of(testbed, observed)
            reach(steps, project, machines)
        with open_session(
            testbed,
            verb,
            console,
            vault_password_file,
            machines=machines,
            verbosity=verbose,
            stages=stages,
            break_lock=break_lock,
        ) as session:
            report = deployment.bring_up(session, prove=prove)
    deployment.show_up(console, report, as_json=as_json)


def take_down(
    testbed: Testbed,
    console: Console,
    *,
    yes: bool,
    purge: bool,
    check: bool,
    as_json: bool,
    keep_volumes: bool,
    parallel: int,
    break_lock: bool,
) -> None:
    """Delete all that the testbed has in the cloud, after the name was typed where it holds data. `TestbedError`."""
    from provision.cloud.run import Project
    from provision.console import stage
    from provision.deploy import revoke_elsewhere
    from provision.reports import CheckReport, DownReport

    with stage(console, "Look at the project"):
        project = Project.of(testbed, parallel)
        found = project.removal(keep_volumes=keep_volumes)
    name, deleted, revoked = testbed.name, 0, 0
    nothing = f"Nothing of testbed {name} is in the cloud."
    if check:
        if as_json:
            show_json(CheckReport.of(name, as_changes(found.plan), diff=False))
        else:
            show_plan(make_console(), found.plan, nothing=nothing)
        return
    show_plan(console, found.plan, nothing=nothing)
    if purge:
        console.print("[bold red]And its secrets and logs[/] on this machine.")
    if found.plan.work:
        what = f"This deletes testbed {name} from the cloud, with all data on its servers."
        if found.observed.servers or found.observed.volumes:
            confirm_by_name(what, name, yes)
        else:
            confirm(f"This deletes testbed {name} from the cloud. Go ahead?", yes)
        steps = Steps(console)
        with (
            held(testbed, "down"),
            steps.stoppable(),
            project.marked(found.observed, break_lock=break_lock),
            steps.followed("Delete what the testbed has") as progress,
        ):
            project.take_down(progress, keep_volumes=keep_volumes)
        deleted = progress.done["delete"]
        if testbed.server.is_external:
            with stage(console, "Revoke the testbed's keys") as current:
                revoked, current.result = revoke_elsewhere(testbed)
    elif purge:
        confirm("Remove its secrets and logs?", yes)
    _forget(testbed, purge=purge)
    if found.plan.work:
        console.print("Deleted." if purge else "Deleted. Its secrets stay here; `testbed up` makes it anew.")
    if as_json:
        show_json(DownReport(testbed=name, changed=0, deleted=deleted, revoked=revoked, purged=purge, log=None))


def _forget(testbed: Testbed, *, purge: bool) -> None:
    """Remove what this machine knows of hosts that are gone; with `purge` all that it knows of the testbed."""
    import shutil

    from provision.paths import config_dir, state_dir

    for name in ("known_hosts", "proven"):
        (state_dir(testbed.name) / name).unlink(missing_ok=True)
    if purge:
        for folder in (config_dir(testbed.name), state_dir(testbed.name)):
            shutil.rmtree(folder, ignore_errors=True)
