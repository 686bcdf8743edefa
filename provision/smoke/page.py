"""The results as one page for people: a file that asks nobody for anything. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision.paths import TEMPLATES
from provision.reports import Check, StatusReport
from provision.smoke.problem import HostService
from provision.spec import Service

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 480, 260, 44, 30, 12


@dataclass(frozen=True)
class Row:
    """Something on a host: a service or a program, how it is, and its version."""

    what: str
    state: str
    well: bool | None  # None: not known
    version: str = ""


@dataclass(frozen=True)
class HostCard:
    """A host, or a server that is known by its URLs alone."""

    name: str
    rows: list[Row]
    note: str = ""


def of_testbed(
    status: StatusReport,
    groups: Mapping[str, Sequence[str]],
    checks: Sequence[Check],
    versions: Mapping[HostService, str],
) -> list[HostCard]:
    """Return every host with its services, the programs, and the URLs.

    `groups`: what each host is, by host; `versions`: of each service on each host.
    """
    cards = [
        HostCard(
            host,
            [
                Row(each.name, each.state, each.running, versions.get((host, each.name), ""))
                for each in status.services
                if each.host == host
            ],
            ", ".join(roles),
        )
        for host, roles in groups.items()
    ]
    # Of the server's host and of one agents' host: so they are no host's own
    programs = [
        Row(name, "installed" if version else "not found", True if version else None, version or "")
        for name, version in status.versions.items()
    ]
    urls: dict[Service, str] = {"web": status.urls.web, "api": status.urls.api, "files": status.urls.files}
    return [*cards, HostCard("Programs", programs), HostCard("URLs", _urls(urls, checks))]


def of_server(name: str, urls: Mapping[Service, str], version: str, checks: Sequence[Check]) -> list[HostCard]:
    """Return the one server that is known, with what the checks say of its services."""
    return [HostCard("ClearML server", _urls(urls, checks, version), f"as {name} leads to it")]


def _urls(urls: Mapping[Service, str], checks: Sequence[Check], version: str = "") -> list[Row]:
    rows = []
    for service, url in urls.items():
        results = {check.result for check in checks if check.name in (f"{service} answers", f"{service} answer")}
        said, well = "not asked", None
        if "failed" in results:
            said, well = "is not well", False
        elif "passed" in results:
            said, well = "answers", True
        rows.append(Row(f"{service}: {url}", said, well, version if service == "api" else ""))
    return rows


def curves(series: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return curves by epoch as an SVG; empty without points."""
    points = {name: list(zip(found["x"], found["y"], strict=False)) for name, found in sorted(series.items())}
    points = {name: found for name, found in points.items() if found}
    if not points:
        return ""
    last = max(x for found in points.values() for x, _ in found) or 1
    most = max(y for found in points.values() for _, y in found) or 1

    def at(x: float, y: float) -> str:
        across = LEFT + (WIDTH - LEFT - 10) * x / last
        return f"{across:.1f},{HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * y / most:.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Loss by epoch">']
    for share in (0, 0.5, 1):
        y = at(0, most * share).partition(",")[2]
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - 10}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{most * share:.2g}</text>')
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 10}">0</text>')
    parts.append(f'<text x="{WIDTH - 10}" y="{HEIGHT - 10}" text-anchor="end">epoch {last:g}</text>')
    for number, (name, found) in enumerate(points.items()):
        colour = f"c{number % 2}"
        parts.append(f'<polyline class="{colour}" points="{" ".join(at(x, y) for x, y in found)}"/>')
        x = WIDTH - 20
        parts.append(
            f'<text class="{colour}" x="{x}" y="{TOP + 14 + 16 * number}" text-anchor="end">{_plain(name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _plain(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum() or letter in " -_./")


def matrix(found: Mapping[str, Any] | None, title: str) -> dict[str, Any] | None:
    """Return a matrix with the share of the largest cell for each, for its colour; None where there is none."""
    if not found or not found["rows"]:
        return None
    most = max((abs(float(cell)) for row in found["rows"] for cell in row if cell is not None), default=0) or 1
    rows = [[_cell(cell, most) for cell in row] for row in found["rows"]]
    return {"title": title, "x": found["x"], "y": found["y"], "rows": rows}


def _cell(value: float | None, most: float) -> dict[str, Any]:
    if value is None:  # as NaN comes out of Plotly's JSON
        return {"text": "", "share": 0.0}
    return {"text": f"{float(value):g}", "share": abs(float(value)) / most}


def heatmap(found: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Return a map of values in dB as an SVG with its title and range, north up; None where there is none.

    The stronger the colour, the larger the value; what is below zero has another one. A cell without a value is empty.
    """
    rows = (found or {}).get("rows") or []
    values = [float(cell) for row in rows for cell in row if cell is not None]
    if found is None or not values:
        return None
    low, high, most = min(values), max(values), max(map(abs, values)) or 1
    least = low if low > 0 else 0.0
    across = max(len(row) for row in rows)
    edge = WIDTH / across
    parts = [f'<svg viewBox="0 0 {WIDTH} {edge * len(rows):.1f}" role="img" aria-label="{_plain(found["title"])}">']
    for number, row in enumerate(reversed(rows)):
        for column, cell in enumerate(row):
            if cell is not None:
                share = 0.1 + 0.9 * (abs(float(cell)) - least) / ((most - least) or 1)
                parts.append(
                    f'<rect class="{"m1" if cell < 0 else "m0"}" x="{edge * column:.1f}" y="{edge * number:.1f}"'
                    f' width="{edge:.1f}" height="{edge:.1f}" fill-opacity="{share:.2f}"/>'
                )
    return {"title": found["title"], "range": f"{low:.1f} to {high:.1f} dB", "svg": "".join([*parts, "</svg>"])}


def _verdict(what: str, checks: Sequence[Check], only: str) -> str:
    """Return it in words; it says no more than the checks that ran."""
    failed = [check.name for check in checks if check.result == "failed"]
    if failed:
        return f"{what} is broken: {failed[0]}"
    if not any(check.result == "passed" for check in checks):
        return f"{what} was not checked"
    return f"{what} passed the checks with “{only}” in their names" if only else f"{what} works"


def render(
    *,
    name: str,
    level: str,
    at: str,
    version: str,
    checks: Sequence[Check],
    hosts: Sequence[HostCard],
    figures: Mapping[str, Any],
    left_out: Sequence[str] = (),
    only: str = "",
) -> str:
    """Return the page of the checks; of those with `only` in their names, where that is given.

    `figures` are what the checks have seen: `loss`, `confusion`, `maps`, `latency`, `ran`.
    """
    import jinja2
    import markupsafe

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True
    )
    failed = [check for check in checks if check.result == "failed"]
    what = "The server" if left_out else "The testbed"
    return environment.get_template("smoke.html.j2").render(
        verdict=_verdict(what, checks, only),
        healthy=not failed,
        name=name,
        level=level,
        at=at,
        version=version,
        checks=checks,
        failed=failed,
        passed=sum(check.result == "passed" for check in checks),
        skipped=sum(check.result == "skipped" for check in checks),
        runs=max((check.run for check in checks), default=1),
        hosts=hosts,
        left_out=left_out,
        losses=markupsafe.Markup(curves(figures.get("loss") or {})),  # noqa: S704 (made here, of numbers and letters)
        confusion=matrix(figures.get("confusion"), "Confusion matrix: label by row, predicted by column"),
        maps=[
            drawn | {"svg": markupsafe.Markup(drawn["svg"])}  # noqa: S704 (as above)
            for found in figures.get("maps", [])
            if (drawn := heatmap(found))
        ],
        latency=figures.get("latency") or {},
        ran=figures.get("ran", []),
    )
