"""What the verbs print."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from textwrap import indent
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from provision.changes import Change
    from provision.reports import Check, Report, SecretsReport, StatusReport, UpReport

WIDEST = 10_000


def show_json(report: Report) -> None:
    """Print a report as one document, in ASCII: any encoding has that."""
    click.echo(json.dumps(report.model_dump(mode="json"), indent=2))


def show_rows(
    console: Console,
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[RenderableType]],
    right: str | None = None,
) -> None:
    """Print a table (column `right` to the right), or a paragraph for each row where it is too wide."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column == right else "left", overflow="fold")
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
        right="Time",
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
    for user in report.users:
        console.print(f"  {'User':<10} {user.name}: {user.conf}, {user.venv}", soft_wrap=True, markup=False)
    console.print("Next: testbed status, testbed smoke, testbed down")


def show_status(console: Console, found: StatusReport) -> None:
    """Print what stands and how it is."""
    from rich.markup import escape
    from rich.text import Text

    from provision.status import age

    def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
        show_rows(console, title, columns, [[Text(cell) for cell in row] for row in rows])
        console.print()

    show(
        "Services",
        ["Service", "State", "Host"],
        [[service.name, "running" if service.running else "stopped", service.host] for service in found.services],
    )
    show(
        "Versions",
        ["Program", "Version"],
        [[name, version or "not installed"] for name, version in found.versions.items()],
    )
    show(
        "Workers",
        ["Worker", "Queues", "Task", "Last report"],
        [[w.name, ", ".join(w.queues), w.task or "idle", age(w.last_report)] for w in found.workers],
    )
    show("Queues", ["Queue", "Waiting"], [[queue.name, str(queue.waiting)] for queue in found.queues])
    show(
        "Disk",
        ["Path", "Free", "Host"],
        [[disk.path, f"{disk.free / 1e9:.0f} of {disk.size / 1e9:.0f} GB", disk.host] for disk in found.disk],
    )
    for problem in found.problems:
        console.print(f"[bold red]✗[/] {escape(problem)}")
    if found.healthy:
        console.print("[green]✓[/] All is well.")


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
