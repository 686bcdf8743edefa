"""The verbs of the agents: drain, undrain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli.group import break_lock_option, json_option, load, main, make_console, spec_option, vault_option
from provision.cli.output import show_json, show_workers
from provision.errors import Exit

if TYPE_CHECKING:
    from provision.reports import DrainReport

names_argument = click.argument("names", metavar="[HOST|WORKER|HOST:WORKER]...", nargs=-1)


@main.command()
@names_argument
@click.option("--wait", is_flag=True, help="Return when no worker runs a task any more.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="With --wait: give up after so long, with exit code 1; the workers stay drained.",
)
@spec_option
@vault_option
@break_lock_option
@json_option
def drain(
    names: tuple[str, ...],
    wait: bool,
    timeout: float | None,
    spec: Path | None,
    vault_password_file: Path | None,
    break_lock: bool,
    as_json: bool,
) -> None:
    """Have workers finish what they run, and take no other task until they are undrained.

    All workers, or those of the hosts and with the names given. A drained worker stays so over `up` and reboots, and
    `testbed status` says since when. What runs goes on to its end; what waits in the queues is left to other workers.
    `testbed undrain` ends it.

    \b
    Examples:
      testbed drain                            all of them; before an upgrade, say
      testbed drain agent-2 --wait             returns when agent-2 can be switched off
      testbed drain gpu --wait --timeout 3600  the worker gpu on every host, for an hour at most
    """
    from provision import drain as draining
    from provision.session import need_root, open_session

    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait")
    testbed, console = load(spec), make_console(stderr=as_json)
    need_root(testbed)
    with open_session(
        testbed, "drain", console, vault_password_file, stages=draining.DRAIN, break_lock=break_lock
    ) as session:
        chosen = draining.choose(names, draining.workers(session))
        changed = draining.drain(session, chosen)
    # what runs may take hours: meanwhile the testbed is not held
    with (
        open_session(
            testbed, "drain", console, vault_password_file, machines=session.machines, changes=False
        ) as session,
        session.stage("Wait for the workers") as stage,
    ):

        def tell(found: DrainReport) -> None:
            busy = [worker.name for worker in found.workers if worker.state == "finishing"]
            stage.step(f"{', '.join(busy)} at work" if busy else "")
            stage.result = f"{len(found.workers) - len(busy)} of {len(found.workers)} drained"

        report = draining.wait(
            lambda: draining.report(session, chosen, changed, drained=True),
            timeout if wait else draining.ANSWER_S,
            tell,
            all_of_it=wait,
        )
    if as_json:
        show_json(report)
    else:
        show_workers(console, report)
    if wait and not report.done:
        raise SystemExit(Exit.FAILED)


@main.command()
@names_argument
@spec_option
@vault_option
@break_lock_option
@json_option
def undrain(
    names: tuple[str, ...], spec: Path | None, vault_password_file: Path | None, break_lock: bool, as_json: bool
) -> None:
    """Have drained workers take tasks again: all, or those named as in `testbed drain`.

    \b
    Examples:
      testbed undrain
      testbed undrain agent-2 agent-3:default
    """
    from provision import drain as draining
    from provision.session import need_root, open_session

    testbed, console = load(spec), make_console(stderr=as_json)
    need_root(testbed)
    with open_session(
        testbed, "undrain", console, vault_password_file, stages=draining.UNDRAIN, break_lock=break_lock
    ) as session:
        chosen = draining.choose(names, draining.workers(session))
        changed = draining.undrain(session, chosen)
        report = draining.report(session, chosen, changed, drained=False)
    if as_json:
        show_json(report)
    else:
        show_workers(console, report)
