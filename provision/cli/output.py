"""What the verbs print."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from textwrap import indent
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console, RenderableType
    from rich.text import Text

    from provision.changes import Change
    from provision.cloud.plan import Action as CloudAction
    from provision.cloud.plan import Plan
    from provision.reports import (
        AuditReport,
        Check,
        DrainReport,
        KeyState,
        ListReport,
        Report,
        SecretsReport,
        StatusReport,
        UpReport,
    )

WIDEST = 10_000
OTHERS = "Other administrators need the new secrets: testbed secrets export FILE"
SHOWN_OFFSET_S = 5.0  # a clock that differs by less is nothing to tell


def show_json(report: Report) -> None:
    """Print a report as one document, in ASCII: any encoding has that."""
    click.echo(json.dumps(report.model_dump(mode="json"), indent=2))


def show_rows(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[RenderableType]],
    right: Sequence[str] = (),
) -> None:
    """Print a table (columns `right` to the right), or a paragraph for each row where it is too wide."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    if console.measure(table, options=console.options.update(width=WIDEST)).maximum <= console.width:
        console.print(table)
        return
    if title:
        console.print(Text(title, style="bold"))
    for row in rows:
        first, *others = zip(columns, row, strict=True)
        console.print(first[1], overflow="fold")
        for column, value in others:
            if str(value):
                line = Text(f"{column}: ").append(value if isinstance(value, Text) else str(value))
                console.print(Padding(line, (0, 0, 0, 2)), overflow="fold")


def show_checks(console: Console, checks: list[Check], log: str) -> None:
    """Print the checks, and below them what is wrong with those that failed."""
    from rich.text import Text

    from provision.console import duration

    marks = {"passed": ("✓ passed", "green"), "failed": ("✗ failed", "bold red"), "skipped": ("- skipped", "yellow")}
    console.print()
    show_rows(
        console,
        "",
        ["Check", "Result", "Time", "ID or URL"],
        [
            [Text(check.name), Text(*marks[check.result]), duration(check.seconds), Text(check.reference)]
            for check in checks
        ],
        right=["Time"],
    )
    for check in checks:
        if check.result == "failed":
            console.print(f"\n[bold red]✗ {check.name}[/]")
            console.print(check.message, markup=False)
    failed = sum(check.result == "failed" for check in checks)
    console.print(f"\n{len(checks) - failed} of {len(checks)} checks passed. Log: {log}", soft_wrap=True)


def show_changes(console: Console, changes: list[Change], *, diff: bool) -> None:
    """Print what would come, change or go, by host and kind."""
    from provision.changes import KINDS, text_diff

    if not changes:
        console.print("Nothing would change.")
        return
    for host in dict.fromkeys(change.host for change in changes):
        for kind, title in KINDS.items():
            found = [change for change in changes if change.host == host and change.kind == kind]
            if found:
                console.print(f"\n{title}" + (f" on {host}" if host else ""), style="bold", markup=False)
            for change in found:
                line = f"  {change.action:<8} {change.name}"
                line += f" ({change.detail})" if change.detail else ""
                line += f" - after {', '.join(change.needs)}" if change.needs else ""
                console.print(line, soft_wrap=True, markup=False)
                if diff and (text := text_diff(change)):
                    console.print(indent(text, " " * 6), markup=False, soft_wrap=True)
    counts = Counter(change.action for change in changes)
    console.print(f"\n{', '.join(f'{count} to {action}' for action, count in counts.items())}. Nothing was changed.")


def show_where(console: Console, report: UpReport) -> None:
    """Print where the testbed's services and its users' files are."""
    console.print(f"\nTestbed [bold]{report.testbed}[/] is up.")
    urls = report.urls
    for what, where in (("Web", urls.web), ("API", urls.api), ("Files", urls.files), ("InfluxDB", urls.telemetry)):
        console.print(f"  {what:<10} {where}", soft_wrap=True, markup=False)
    if urls.outside:
        console.print(f"  {'Outside':<10} {urls.outside} (the web app, for whom `security` lets in)", soft_wrap=True)
    for user in report.users:
        console.print(f"  {'User':<10} {user.name}: {user.conf}, {user.venv}", soft_wrap=True, markup=False)
    console.print("Next: testbed status, testbed smoke, testbed down")


def show_problems_of(console: Console, found: StatusReport) -> None:
    """Print each problem with what to do, or that there is none."""
    from rich.markup import escape

    for problem in found.problems:
        console.print(f"[bold red]✗[/] {escape(problem.message)}", soft_wrap=True)
        console.print(f"    {escape(problem.remedy)}", soft_wrap=True)
    if found.healthy:
        console.print("[green]✓[/] All is well.")


def show_status(console: Console, found: StatusReport, *, problems: bool = True) -> None:
    """Print what stands and how it is, and the `problems`."""
    from rich.text import Text

    from provision.status import age

    def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
        if rows:
            show_rows(console, title, columns, [[Text(cell) for cell in row] for row in rows])
            console.print()

    show(
        "Services",
        ["Service", "State", "Host"],
        [[service.name, service.state, service.host] for service in found.services],
    )
    show(
        "Versions",
        ["Program", "Version"],
        [[name, version or "not installed"] for name, version in found.versions.items()],
    )
    show(
        "Workers",
        ["Worker", "Queues", "Task", "Last report", "Drained"],
        [[w.name, ", ".join(w.queues), w.task or "idle", age(w.last_report), w.drained or ""] for w in found.workers],
    )
    show("Queues", ["Queue", "Waiting"], [[queue.name, str(queue.waiting)] for queue in found.queues])
    show(
        "Disk",
        ["Path", "Free", "Used", "Inodes", "Host"],
        [
            [
                disk.path + ("" if disk.writable else " (read-only)"),
                f"{disk.free / 1e9:.0f} of {disk.size / 1e9:.0f} GB",
                f"{disk.used:.0%}",
                f"{disk.inodes_used:.0%}",
                disk.host,
            ]
            for disk in found.disk
        ],
    )
    if found.stores:
        show(
            "Stores elsewhere",
            ["Store", "Where", "State"],
            [[each.name, f"{each.host}:{each.port}", each.problem or "answers"] for each in found.stores],
        )
    if found.certificates:
        show(
            "Certificates",
            ["Service", "Good until"],
            [[each.url, each.ends[:10] if each.ends else "refused"] for each in found.certificates],
        )
    show(
        "Clocks",
        ["Of", "Ahead of this machine's"],
        [[clock.of, f"{clock.offset:.1f} s"] for clock in found.clocks if abs(clock.offset) >= SHOWN_OFFSET_S],
    )
    if problems:
        show_problems_of(console, found)


def watch_status(console: Console, look: Callable[[], StatusReport], seconds: float, *, as_json: bool) -> None:
    """Print what `look` finds, again and again until Ctrl-C: in place on a terminal, else below each other."""
    from rich.live import Live

    from provision.console import PeopleConsole

    with contextlib.ExitStack() as held, contextlib.suppress(KeyboardInterrupt):
        live = None
        if not as_json and isinstance(console, PeopleConsole) and console.is_live:
            live = held.enter_context(Live(console=console, screen=True, auto_refresh=False))
        while True:
            found = look()
            if as_json:
                click.echo(json.dumps(found.model_dump(mode="json")))
            elif live is not None:
                live.update(_status_text(console, found, f"Every {seconds:g} s; Ctrl-C ends it"), refresh=True)
            else:
                console.print(found.at, style="bold")
                show_status(console, found)
            time.sleep(seconds)


def _status_text(console: Console, found: StatusReport, note: str) -> Text:
    """Return what `show_status` prints, problems first where the terminal is too low for all of it."""
    from rich.console import Console
    from rich.text import Text

    page = Console(
        file=io.StringIO(), width=console.width, force_terminal=True, color_system="standard", highlight=False
    )
    with page.capture() as captured:
        page.print(f"{found.at}  {note}", style="dim")
        show_problems_of(page, found)
        page.print()
        show_status(page, found, problems=False)
    return Text.from_ansi(captured.get())


def show_workers(console: Console, found: DrainReport) -> None:
    """Print how far workers are that were drained or undrained."""
    from rich.text import Text

    words = {"working": "takes tasks", "finishing": "takes no other task", "drained": "drained"}
    show_rows(
        console,
        "",
        ["Worker", "State", "Since", "Task"],
        [[Text(w.name), words[w.state], Text(w.since or ""), Text(w.task or "")] for w in found.workers],
    )
    if any(worker.state == "finishing" for worker in found.workers):
        console.print("The tasks go on to their end. To wait for it: testbed drain --wait", soft_wrap=True)


# what a plan does, in this order
VERBS = {"create": "green", "change": "yellow", "replace": "bold red", "delete": "bold red", "wait": "yellow"}
SHOWN_NAMES = 6
UNITS = {"ram": "RAM (MiB)", "gigabytes": "volumes (GiB)"}


def show_plan(console: Console, plan: Plan, *, nothing: str) -> None:
    """Print what would happen in the cloud, alike resources together, then the quotas and what is in the way.

    `nothing`: what to say where there is nothing to do.
    """
    from rich.text import Text

    from provision.cloud.progress import plural

    for verb, style in VERBS.items():
        alike: dict[tuple[str, str], list[str]] = {}
        for action in plan.actions:
            if action.verb == verb:
                alike.setdefault((action.kind, _reason(action, plan)), []).append(action.name)
        for (kind, why), names in alike.items():
            count = "" if len(names) == 1 else f"{len(names)} "
            line = Text.assemble("  ", (f"{verb:<8}", style), f" {count}{plural(kind, len(names))}: ")
            line.append(_named(names))
            if why:
                line.append(f" ({why})", style="dim")
            console.print(line, soft_wrap=True)
    kept = Counter(action.kind for action in plan.actions if action.verb == "keep")
    if kept:
        console.print(
            f"  left alone: {', '.join(f'{count} {plural(kind, count)}' for kind, count in kept.items())}",
            soft_wrap=True,
        )
    if not plan.work and plan.fits:
        console.print(nothing)
    show_quotas(console, plan)
    show_problems(console, plan)


def show_quotas(console: Console, plan: Plan) -> None:
    """Print the quotas before and after as a table, where the plan does anything."""
    from rich.text import Text

    if not plan.work or not plan.quotas:
        return
    console.print()
    show_rows(
        console,
        "",
        ["Quota", "Now", "Then", "Limit", "Short"],
        [
            [
                Text(UNITS.get(row.name, row.name)),
                Text(str(row.before)),
                Text(str(row.after)),
                Text(str(row.limit) if row.limit >= 0 else "none"),
                Text(str(row.short_by) if row.short_by else "", style="bold red"),
            ]
            for row in plan.quotas
        ],
        right=["Now", "Then", "Limit", "Short"],
    )


def show_problems(console: Console, plan: Plan) -> None:
    """Print all that stands in the way of a plan, each with its remedy."""
    from rich.text import Text

    from provision.cloud.run import in_the_way

    for message, remedy in in_the_way(plan):
        console.print(Text.assemble("\n", ("✗ ", "bold red"), message), soft_wrap=True)
        console.print(Text(f"    {remedy}"), soft_wrap=True)


def _named(names: list[str]) -> str:
    if len(names) <= SHOWN_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: SHOWN_NAMES - 1])}, … {names[-1]}"


def _reason(action: CloudAction, plan: Plan) -> str:
    """Why, and what a server is made of; that something is made as it is not there goes without saying."""
    made = plan.chosen.nodes.get(action.name) if plan.chosen and action.kind == "server" else None
    if made is None or action.verb not in ("create", "replace"):
        return "" if action.verb == "create" else action.why
    flavor = made.flavor
    of = f"{flavor.name}: {flavor.vcpus} vCPU, {flavor.ram} MiB, {flavor.disk} GiB; {made.image.name}"
    return of if action.verb == "create" else f"{action.why}; {of}"


def show_difference(console: Console, path: Path, before: str, after: str) -> None:
    """Print how a file's text changes."""
    import difflib

    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), str(path), str(path), lineterm="", n=1)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def since(moment: str) -> str:
    """Return how long ago an ISO 8601 time was, as people say it."""
    seconds = (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(moment)).total_seconds()
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}s"
    return f"{max(0.0, seconds):.0f} s"


def show_testbeds(console: Console, found: ListReport) -> None:
    """Print the testbeds of a project."""
    from rich.text import Text

    if not found.testbeds:
        console.print(f"No testbed in the project of cloud {found.cloud}.", markup=False)
        return
    show_rows(
        console,
        "",
        ["Testbed", "Servers", "Floating IPs", "Age", "At work"],
        [
            [
                Text(each.name),
                Text(str(each.servers)),
                Text(", ".join(each.floating_ips)),
                Text(since(each.created)),
                Text(f"{each.holder}, since {since(each.since)}" if each.holder and each.since else ""),
            ]
            for each in found.testbeds
        ],
        right=["Servers"],
    )


def show_secrets(console: Console, found: SecretsReport) -> None:
    """Print where the secrets are, what they are, and whether the running testbed takes them."""
    from rich.markup import escape

    vault = found.vault
    where = f"mode {vault.mode}, owner {vault.owner}" if vault.there else "not there"
    console.print(f"Secrets of testbed [bold]{found.testbed}[/], id {found.id or 'none'}", soft_wrap=True)
    console.print(f"  {'Vault':<10} {vault.path} ({where})", soft_wrap=True, markup=False)
    console.print(f"  {'Password':<10} from {vault.password_from}", soft_wrap=True, markup=False)
    for kind, names in found.holds.items():
        console.print(f"  {kind:<10} {len(names)}: {', '.join(names)}", soft_wrap=True, markup=False)
    console.print()
    for check in found.checks:
        mark = "[green]✓[/]" if check.result == "yes" else "[bold red]✗[/]"
        console.print(f"{mark} {escape(check.name)}: {check.result}", soft_wrap=True)
        if check.remedy:
            console.print(f"    {escape(check.remedy)}", soft_wrap=True)


def printable(text: str) -> str:
    """Return what others wrote so that a terminal shows it and does nothing else: `?` for what is not printable."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def show_keys(console: Console, keys: list[KeyState]) -> None:
    """Print keys as a table, and below it what their states mean where these are not good."""
    from rich.text import Text

    from provision.credentials.keys import STATES

    if not keys:
        console.print("No keys.")
        return
    show_rows(
        console,
        "",
        ["User", "Purpose", "Key", "Issued", "Expires", "Last used", "From", "State"],
        [
            [
                Text(printable(key.user)),
                Text(printable(key.purpose or key.label or "no label")),
                Text(printable(key.access_key)),
                Text(key.issued or ""),
                Text(key.expires or ""),
                Text((key.last_used or "never").removesuffix("Z").replace("T", " ")),
                Text(printable(key.last_used_from or "")),
                Text(key.state),
            ]
            for key in keys
        ],
    )
    for state in dict.fromkeys(key.state for key in keys if key.state != "good"):
        console.print(f"{state}: {STATES[state]}", soft_wrap=True, markup=False)


def show_findings(console: Console, found: AuditReport) -> None:
    """Print what is not well with keys, each with what to do."""
    from rich.markup import escape

    for finding in found.findings:
        console.print(f"[bold red]✗[/] {finding.kind}: {escape(printable(finding.message))}", soft_wrap=True)
        console.print(f"    {escape(printable(finding.remedy))}", soft_wrap=True)
    if found.healthy:
        console.print(f"[green]✓[/] {found.keys} keys, and all is well.")
