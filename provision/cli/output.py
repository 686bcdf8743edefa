"""What the verbs print for people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from provision.smoke.plugin import Check
    from provision.spec import Testbed


def show_checks(console: Console, checks: list[Check], log: Path) -> None:
    from provision.smoke.run import table

    console.print()
    console.print(table(checks))
    for check in checks:
        if check.result == "failed":
            console.print(f"\n[bold red]✗ {check.name}[/]")
            console.print(check.message, markup=False)
    failed = sum(check.result == "failed" for check in checks)
    console.print(f"\n{len(checks) - failed} of {len(checks)} checks passed. Log: {log}", soft_wrap=True)


def show_where(console: Console, testbed: Testbed, log: Path) -> None:
    console.print(f"\nTestbed [bold]{testbed.name}[/] is up.")
    for name, what in (("web", "Web"), ("api", "API"), ("files", "Files")):
        console.print(f"  {what:<10} {testbed.server.url(name)}", soft_wrap=True, markup=False)  # type: ignore[arg-type]
    console.print(f"  {'InfluxDB':<10} {testbed.telemetry.url}", soft_wrap=True, markup=False)
    for user in testbed.users:
        console.print(
            f"  {'User':<10} {user.name}: ~{user.name}/clearml.conf, ~{user.name}/clearml-venv",
            soft_wrap=True,
            markup=False,
        )
    console.print("Next: testbed status, testbed smoke, testbed down")


def show_status(console: Console, found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from provision.status import age

    def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
        table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
        console.print()

    show(
        "Services",
        ["Host", "Service", "State"],
        [[s["host"], s["name"], "running" if s["running"] else "stopped"] for s in found["services"]],
    )
    show(
        "Versions",
        ["Program", "Version"],
        [[name, version or "not installed"] for name, version in found["versions"].items()],
    )
    show(
        "Workers",
        ["Worker", "Queues", "Task", "Last report"],
        [[w["name"], ", ".join(w["queues"]), w["task"] or "idle", age(w["last_report"])] for w in found["workers"]],
    )
    show("Queues", ["Queue", "Waiting"], [[queue["name"], str(queue["waiting"])] for queue in found["queues"]])
    show(
        "Disk",
        ["Host", "Path", "Free"],
        [[d["host"], d["path"], f"{d['free'] / 1e9:.0f} of {d['size'] / 1e9:.0f} GB"] for d in found["disk"]],
    )
    for problem in found["problems"]:
        console.print(f"[bold red]✗[/] {escape(problem)}")
    if found["healthy"]:
        console.print("[green]✓[/] All is well.")
