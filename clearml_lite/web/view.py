"""Pure: how data looks on a page."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from clearml_lite.storage import Document

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_TABS = {"output/log": "/console", "log": "/console", "scalar": "/scalars", "plots": "/plots", "debugImages": "/images"}
DEEPEST = 50
STATUS_NAMES = {
    "created": "Draft", "queued": "Pending", "in_progress": "Running", "completed": "Completed",
    "published": "Published", "stopped": "Aborted", "failed": "Failed",
}  # fmt: skip


def moment(text: str | None) -> str:
    """A time of a document, to the second, in UTC."""
    if not text:
        return ""
    try:
        parsed = datetime.fromisoformat(text)
        return f"{parsed if parsed.tzinfo is None else parsed.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):  # no time, or one that UTC has no year for
        return text


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `2 h 05 min`."""
    if seconds is None:
        return ""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def task_duration(task: Document) -> str:
    """How long a task has run, or ran."""
    started, completed = task.get("started"), task.get("completed")
    if not started:
        return ""
    end = datetime.fromisoformat(completed) if completed else datetime.now(UTC)
    if not completed and task.get("status") != "in_progress":
        return duration(task.get("active_duration"))
    return duration(max((end - datetime.fromisoformat(started)).total_seconds(), 0))


def size(number: float | None) -> str:
    """Bytes as people say them: `3.2 MB`."""
    if number is None:
        return ""
    value = float(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def value(number: Any) -> str:
    """A value as it was reported, with six digits."""
    return f"{number:.6g}" if isinstance(number, float) else str(number)


def status_name(status: str) -> str:
    """A status in the words of ClearML's web app."""
    return STATUS_NAMES.get(status, status)


def link(url: Any, files: str) -> str:
    """Where a browser gets a file: for those of this server, these pages; nothing for `s3://` and the like.

    Args:
        url: whatever a client sent.
        files: this server's public URL of the file server.
    """
    if not isinstance(url, str):
        return ""
    if url.startswith(f"{files}/"):
        return "/files/" + url[len(files) + 1 :].lstrip("/")
    return url if re.match(r"https?://", url) else ""


def parameters(task: Document) -> list[tuple[str, list[Document]]]:
    """Sections of hyper-parameters with their items, by name."""
    sections = sorted((task.get("hyperparams") or {}).items())
    return [(name, [items[key] | {"key": key} for key in sorted(items)]) for name, items in sections]


def sent_parameters(known: Mapping[str, Mapping[str, Document]], form: Sequence[tuple[str, str]]) -> Document:
    """A task's hyper-parameters with the values that a form brings.

    Args:
        form: fields in their order; `section`, `parameter` and `value` of each parameter follow on one another.
    """
    changed: Document = {section: {key: dict(item) for key, item in items.items()} for section, items in known.items()}
    section = key = ""
    for name, text in form:
        if name == "section":
            section = text
        elif name == "parameter":
            key = text
        elif name == "value" and key in changed.get(section, {}):
            item = changed[section][key]
            text = text.replace("\r\n", "\n")
            if text != str(item.get("value") or "").replace("\r\n", "\n"):
                item["value"] = text
    return changed


def latest_values(task: Document) -> list[Document]:
    """The last, least and greatest value of each scalar."""
    variants = [each for metric in (task.get("last_metrics") or {}).values() for each in metric.values()]
    return sorted(variants, key=lambda each: (str(each.get("metric")), str(each.get("variant"))))


def scalar_figures(metrics: Mapping[str, Mapping[str, Document]], key: str) -> list[Document]:
    """A figure for each metric, a line in it for each variant."""
    axis = {"title": {"text": "time (UTC)" if key == "iso_time" else "iteration"}}
    return [
        {
            "title": metric,
            "data": [
                {
                    "type": "scatter", "mode": "lines+markers" if len(series["x"]) < 50 else "lines",
                    "name": variant, "x": series["x"], "y": series["y"],
                }
                for variant, series in variants.items()
            ],
            "layout": {"xaxis": axis, "showlegend": True, "legend": {"orientation": "h", "y": -0.2}},
        }
        for metric, variants in metrics.items()
    ]  # fmt: skip


def plot_figures(events: Sequence[Document], linked: Callable[[str], str]) -> list[Document]:
    """A figure for each plot event; one that is no plot says so.

    Args:
        linked: where a browser gets the file behind a URL.
    """
    figures = []
    for event in events:
        title = f"{event.get('metric', '')} / {event.get('variant', '')}"
        figure: Document = {"title": title, "iter": event.get("iter"), "data": [], "layout": {}}
        try:
            plot = json.loads(event.get("plot_str") or "")
            if _is_deep(plot):
                figure["problem"] = "This plot is nested too deeply."
            elif isinstance(plot, dict):
                data, layout = plot.get("data"), plot.get("layout")
                figure["data"] = data if isinstance(data, list) else []
                figure["layout"] = layout if isinstance(layout, dict) else {}
        except (TypeError, ValueError, RecursionError):
            figure["problem"] = "This plot cannot be read."
        shown = figure["layout"].get("images")
        for image in shown if isinstance(shown, list) else []:
            if isinstance(image, dict) and isinstance(image.get("source"), str):
                source = image["source"]
                image["source"] = source if source.startswith("data:image/") else linked(source)
        figures.append(figure)
    return figures


def _is_deep(content: Any) -> bool:
    """Whether it is nested so deeply that to write it again might end in a RecursionError."""
    holders = [content] if isinstance(content, dict | list) else []
    for _ in range(DEEPEST):
        inside = (each for holder in holders for each in (holder.values() if isinstance(holder, dict) else holder))
        holders = [each for each in inside if isinstance(each, dict | list)]
        if not holders:
            return False
    return True


def console_line(event: Document) -> Document:
    """A console event as text: without terminal codes; of what a line wrote over itself, the last."""
    text = _ESCAPES.sub("", str(event.get("msg") or "")).replace("\r\n", "\n")
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    milliseconds = event.get("timestamp")
    shown = ""
    if isinstance(milliseconds, int) and 0 <= milliseconds < 10**14:
        shown = f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    return {"time": shown, "text": _CONTROL.sub("", text).rstrip("\n"), "level": str(event.get("level") or "")}


def task_tab(rest: str) -> str:
    """Which page of a task a path of the official web app means."""
    return next((tab for name, tab in _TABS.items() if rest.rstrip("/").endswith(name)), "")


def without_nan(content: Any) -> Any:
    """The content, with nothing where JSON has no number."""
    if isinstance(content, float) and not math.isfinite(content):
        return None
    if isinstance(content, dict):
        return {key: without_nan(each) for key, each in content.items()}
    if isinstance(content, list):
        return [without_nan(each) for each in content]
    return content


def query(page: Any, /, **changes: Any) -> str:
    """A link to a page with another query; None takes an argument out."""
    arguments = {key: text for key, text in {**page.query, **changes}.items() if text not in (None, "")}
    return f"{page.path}?{urlencode(arguments)}" if arguments else str(page.path)


FILTERS: dict[str, Callable[..., str]] = {
    "moment": moment, "duration": duration, "task_duration": task_duration, "size": size, "value": value,
    "status_name": status_name, "query": query,
}  # fmt: skip
