"""Writes each role's README.md from its meta/argument_specs.yml: `python roles/readme.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).parent
NOTE = "<!-- Made from meta/argument_specs.yml by roles/readme.py: change it there. -->"


def markdown(text: str | list[str]) -> str:
    """Return Ansible's markup as Markdown, fit for a table cell too."""
    words = " ".join(text) if isinstance(text, list) else text
    return re.sub(r"C\(([^)]*)\)", r"`\1`", words).replace("|", "\\|").strip()


def type_of(option: dict[str, Any]) -> str:
    """Return the option's type as a reader wants it: `list of str`."""
    kind = option.get("type", "str")
    return f"list of {option['elements']}" if "elements" in option else kind


def rows(options: dict[str, Any], prefix: str = "") -> list[str]:
    """Return a table row for each option, and below it one for each of its own options."""
    lines = []
    for name, option in options.items():
        default = (
            "**required**" if option.get("required") else f"`{option['default']!r}`" if "default" in option else ""
        )
        choices = f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}." if "choices" in option else ""
        text = markdown(option["description"]).rstrip(".") + "." + choices
        lines.append(f"| `{prefix}{name}` | {type_of(option)} | {default} | {text} |")
        lines += rows(option.get("options", {}), f"{prefix}{name}.")
    return lines


def entry(name: str, spec: dict[str, Any]) -> list[str]:
    """Return the section for one way to call the role."""
    title = [] if name == "main" else ["", f"## `tasks_from: {name}`", "", markdown(spec["short_description"]) + "."]
    about = [
        line
        for text in [spec.get("description", [])]
        for part in ([text] if isinstance(text, str) else text)
        for line in ("", markdown(part))
    ]
    options = spec.get("options", {})
    table = ["", "| variable | type | default | what it is |", "| --- | --- | --- | --- |", *rows(options)]
    return [*title, *about, *(table if options else [])]


def readme(role: Path) -> str:
    """Return the README of a role."""
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    lines = [f"# {role.name}", "", NOTE, "", markdown(specs["main"]["short_description"]) + "."]
    for name, spec in specs.items():
        lines += entry(name, spec)
    return "\n".join(lines) + "\n"


def roles() -> list[Path]:
    """Return the folders of all roles."""
    return sorted(path.parent.parent for path in ROLES.glob("*/meta/argument_specs.yml"))


if __name__ == "__main__":
    for path in roles():
        (path / "README.md").write_text(readme(path))
