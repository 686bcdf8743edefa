"""The verbs of a testbed in a cloud: plan, scale, rebuild, list; and those of its hosts: ssh, inventory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from provision.cli.group import (
    break_lock_option,
    json_option,
    load,
    main,
    make_console,
    parallel_option,
    spec_option,
    vault_option,
    verbose_option,
    yes_option,
)
from provision.cli.in_cloud import NOTHING, bring_up, look, pin
from provision.cli.output import show_difference, show_json, show_plan, show_testbeds
from provision.errors import Exit, SpecError

if TYPE_CHECKING:
    from provision.spec import Testbed

# a host that is up answers at once
ANSWER_S = 60.0


@main.command()
@spec_option
@parallel_option
@json_option
def plan(spec: Path | None, parallel: int, as_json: bool) -> None:
    """Show what `up` would do in the cloud, and change nothing.

    Lists what would be created, changed, replaced, deleted and left alone, with reasons, and the project's quotas
    before and after. Names all at once what is missing or wrong (quota, image, flavor, network, zone, permission,
    clock, endpoint, certificate, SSH key), each with its remedy, and the largest layout that fits.

    Exit code 0 where it can be done, whether there is anything to do or not; 2 where it cannot.

    \b
    Examples:
      testbed plan
      testbed plan --spec lab.yaml
      testbed plan --json | jq '.actions[] | select(.action != "keep")'
    """
    testbed = load(spec)
    if testbed.provider != "openstack":
        _plan_nothing(testbed, as_json=as_json)
        return
    found = look(make_console(stderr=as_json), testbed, parallel).look.plan
    if as_json:
        from provision.reports import PlanReport

        show_json(PlanReport.of(testbed.name, found))
    else:
        show_plan(make_console(), found, nothing=NOTHING)
    if not found.fits:
        raise SystemExit(Exit.BAD_INPUT)


def _plan_nothing(testbed: Testbed, *, as_json: bool) -> None:
    if as_json:
        from provision.cloud.plan import Plan
        from provision.reports import PlanReport

        show_json(PlanReport.of(testbed.name, Plan(())))
    else:
        click.echo(f"Provider {testbed.provider} has no cloud to plan; `testbed up --check` lists what would change.")


@main.command("list")
@click.option(
    "--spec",
    type=click.Path(path_type=Path),
    help="A testbed's file, whose openstack.cloud is looked at. Default: testbed.yaml here.",
)
@click.option("--cloud", help="Entry of clouds.yaml; needs no testbed.yaml.")
@parallel_option
@json_option
def list_(spec: Path | None, cloud: str | None, parallel: int, as_json: bool) -> None:
    """List every testbed of a project in the cloud, also those of other administrators.

    Whatever carries a testbed's mark counts. For each: its servers and floating IPs, how old its oldest part is, and
    who works on it now.

    \b
    Examples:
      testbed list                             the project of ./testbed.yaml
      testbed list --cloud lab                 the project of entry `lab` of clouds.yaml
      testbed list --cloud lab --json | jq -r '.testbeds[].name'
    """
    from provision.cloud import listing
    from provision.cloud.connect import connect
    from provision.reports import ListReport, TestbedInProject

    if cloud is None:
        section = load(spec).openstack
        if section is None:
            raise click.UsageError("the testbed has no cloud; name one with --cloud")
        cloud = section.cloud
    found = listing.by_testbed(listing.read(connect(cloud, parallel), parallel))
    report = ListReport(
        cloud=cloud,
        testbeds=[
            TestbedInProject(
                name=each.name,
                servers=each.servers,
                floating_ips=each.floating_ips,
                created=each.created,
                holder=each.holder.holder if each.holder else None,
                since=each.holder.since.isoformat() if each.holder else None,
            )
            for each in found
        ],
    )
    if as_json:
        show_json(report)
    else:
        show_testbeds(make_console(), report)


@main.command()
@spec_option
@click.option("--list", "list_", is_flag=True, help="All groups and hosts, with variables. The default.")
@click.option("--host", help="The variables of one host.")
def inventory(spec: Path | None, list_: bool, host: str | None) -> None:
    """Print the testbed's hosts as an Ansible inventory script does.

    With provider openstack the hosts come from the cloud, as they are now. Holds no secret; the way to each host has
    the testbed's own known hosts and its jump host.

    \b
    Examples:
      testbed inventory | jq ._meta.hostvars
      testbed inventory --host agent-1

    As an inventory for Ansible, in a file `lab` with mode 755:

    \b
      #!/bin/sh
      exec testbed inventory --spec /path/to/testbed.yaml "$@"

    \b
    Then:
      ansible -i ./lab agents -m ping
    """
    import json

    from provision import inventory_script, remote
    from provision.session import machines_of

    if list_ and host:
        raise click.UsageError("either --list or --host")
    testbed = load(spec)
    machines, known = machines_of(testbed), remote.known_hosts(testbed.name)
    found = inventory_script.of_host(machines, known, host) if host else inventory_script.listed(machines, known)
    click.echo(json.dumps(found, indent=2))


@main.command()
@spec_option
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(spec: Path | None, host: str, command: tuple[str, ...]) -> None:
    """Log in to a host of the testbed, or run a command there.

    Goes the way that the toolkit goes: the testbed's known hosts, its key, its jump host. HOST is a name as in
    `testbed inventory`, such as `server` or `agent-1`. The exit code is ssh's: that of the command, or 255.

    \b
    Examples:
      testbed ssh agent-3
      testbed ssh agent-3 -- df -h /
      testbed ssh server -- sudo journalctl -n 50 -u testbed-clearml-lite
    """
    import os

    from provision import remote
    from provision import ssh as ways
    from provision.inventory_script import named
    from provision.session import machines_of

    testbed = load(spec)
    machine, known = named(machines_of(testbed), host), remote.known_hosts(testbed.name)
    words = ways.command(machine, known, *command)
    pin(testbed, [machine], make_console(stderr=True), ANSWER_S)
    os.execvp(words[0], words)  # noqa: S606 (a list, no shell)


@main.command()
@spec_option
@vault_option
@yes_option
@parallel_option
@break_lock_option
@json_option
@verbose_option
@click.argument("group_counts", metavar="GROUP=COUNT...", nargs=-1, required=True)
def scale(
    spec: Path | None,
    vault_password_file: Path | None,
    yes: bool,
    parallel: int,
    break_lock: bool,
    as_json: bool,
    verbose: int,
    group_counts: tuple[str, ...],
) -> None:
    """Change how many servers a group has: in testbed.yaml, and then in the cloud as `up` does.

    The file is what is wanted, so the count is changed there; its comments and layout stay. Nothing is written where
    the project has no room for it, or you do not agree.

    \b
    Examples:
      testbed scale agents=6
      testbed scale agents=6 clients=2 --spec lab.yaml --yes
    """
    from provision import spec as specs

    console = make_console(stderr=as_json)
    path = spec or Path(specs.DEFAULT_FILE)
    before = specs.read(path)  # not the built-in one: there is a file to change
    after = _scaled(before, path, group_counts)
    testbed = specs.parse(after, str(path))
    show_difference(console, path, before, after)

    def write() -> None:
        if after != before:
            specs.replace(path, before, after)

    bring_up(
        testbed,
        console,
        vault_password_file,
        verb="scale",
        yes=yes,
        as_json=as_json,
        verbose=verbose,
        parallel=parallel,
        break_lock=break_lock,
        agreed=write,
    )


def _scaled(text: str, path: Path, group_counts: tuple[str, ...]) -> str:
    """Return the spec's text with other counts. Raises `SpecError`."""
    from provision import spec as specs
    from provision.spec_edit import with_count
    from provision.spec_types import GROUPS

    for word in group_counts:
        group, _, number = word.partition("=")
        if group not in GROUPS or not number.isdecimal() or int(number) < 1:
            raise click.UsageError(f"{word}: write GROUP=COUNT, such as agents=6; groups: {', '.join(GROUPS)}")
        testbed = specs.parse(text, str(path))
        if testbed.openstack is None:
            raise SpecError(f"provider {testbed.provider} makes no servers, so none can be more or fewer")
        if (host := testbed.openstack.nodes.of(group).on) is not None:
            raise SpecError(
                f"{group} live on the servers of {host}",
                f"Give them servers of their own in {path}: openstack.nodes.{group}.count",
            )
        text = with_count(text, str(path), group, int(number))
    return text


@main.command()
@spec_option
@vault_option
@yes_option
@parallel_option
@break_lock_option
@json_option
@verbose_option
@click.argument("hosts", metavar="HOST...", nargs=-1, required=True)
def rebuild(
    spec: Path | None,
    vault_password_file: Path | None,
    yes: bool,
    parallel: int,
    break_lock: bool,
    as_json: bool,
    verbose: int,
    hosts: tuple[str, ...],
) -> None:
    """Make servers anew, from the image of testbed.yaml, and set them up as `up` does.

    A server keeps its port, and with it its addresses; all on its disk is lost.

    \b
    Examples:
      testbed rebuild agent-3
      testbed rebuild agent-1 agent-2 --yes
    """
    testbed = load(spec)
    if testbed.provider != "openstack":
        raise SpecError(f"provider {testbed.provider} makes no servers, so none can be made anew")
    bring_up(
        testbed,
        make_console(stderr=as_json),
        vault_password_file,
        verb="rebuild",
        yes=yes,
        as_json=as_json,
        verbose=verbose,
        parallel=parallel,
        break_lock=break_lock,
        rebuild=hosts,
    )
