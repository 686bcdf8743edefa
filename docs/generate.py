"""Writes docs/reference/ from the spec's models, the command line, the reports, the roles and clearml_lite.

Run it after a change of any: `.venv/bin/python docs/generate.py`.
"""

from __future__ import annotations

import ast
import gzip
import importlib.util
import inspect
import json
import re
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from clearml_lite import services as _services  # noqa: F401  registers the endpoints
from clearml_lite.dispatch import ENDPOINTS
from provision import reports, spec, spec_types
from provision.cli import main
from provision.errors import Exit
from provision.paths import ROLES, ROOT

REFERENCE = Path(__file__).parent / "reference"
TESTS = [Path(__file__).parents[1] / "tests" / kind / "lite" for kind in ("unit", "integration")]
TRACES = Path(__file__).parents[1] / "tests" / "integration" / "lite" / "traces"
MARK = re.compile(r"pytest\.mark\.(\w+)")
NOTE = "<!-- Made by docs/generate.py: change the source and run it again. -->"


def table(*rows: tuple[str, ...]) -> str:
    """Return rows as a table; the first has the titles."""
    lines = ["| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def page(title: str, *parts: str) -> str:
    """Return a page of parts, with an empty line between."""
    return "\n\n".join([NOTE, f"# {title}", *parts]) + "\n"


def prose(text: str) -> str:
    """Return a docstring or a help text as Markdown; what click leaves unwrapped becomes a block."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            title, *lines = paragraph.removeprefix("\b\n").splitlines()
            block = title.endswith(":") and not title.startswith(" ") and "  " not in title
            parts += [title] if block else []
            parts.append("```text\n" + inspect.cleandoc("\n".join(lines if block else [title, *lines])) + "\n```")
        else:
            parts.append(paragraph)
    return "\n\n".join(parts)


class Schema:
    """A model's JSON schema, read the way that a person asks about it."""

    def __init__(self, model: type[BaseModel]) -> None:
        self.root = model.model_json_schema(mode="serialization" if issubclass(model, reports.Report) else "validation")

    def models(self, node: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the sections that `node` may hold."""
        if "$ref" in node:
            return [self.root["$defs"][node["$ref"].rpartition("/")[2]]]
        below = [*node.get("anyOf", []), *node.get("oneOf", []), *node.get("allOf", [])]
        below += [node["items"]] if "items" in node else []
        return [found for each in below for found in self.models(each)]

    def kind(self, node: dict[str, Any]) -> str:
        """Return the type in words."""
        if "anyOf" in node or "oneOf" in node:
            kinds = [self.kind(each) for each in node.get("anyOf", node.get("oneOf")) if each.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
        if self.models(node):
            return "list of sections" if node.get("type") == "array" else "section"
        if node.get("type") == "array":
            return f"list of {self.kind(node['items'])}"
        if node.get("format") == "path":
            return "path"
        names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
        if node.get("type") == "object":
            return "map"
        return names.get(node.get("type", ""), names["string"])

    def allowed(self, node: dict[str, Any]) -> str:
        """Return what the values may be."""
        if "enum" in node or "const" in node:
            return ", ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
        for below in ("anyOf", "oneOf"):
            if below in node:
                return "; ".join(filter(None, dict.fromkeys(self.allowed(each) for each in node[below])))
        if "items" in node:
            least = "at least one" if node.get("minItems") else ""
            return "; ".join(filter(None, [least, self.allowed(node["items"])]))
        if "pattern" in node:
            return spec_types.MEANINGS[node["pattern"]]
        if "maximum" in node:
            return f"{node.get('minimum', 0)} to {node['maximum']}"
        return f"{node['minimum']} or more" if "minimum" in node else ""

    def value(self, node: dict[str, Any]) -> str:
        """Return type and what is allowed."""
        return ": ".join(filter(None, [self.kind(node), self.allowed(node)]))

    def default(self, name: str, node: dict[str, Any], section: dict[str, Any]) -> str:
        """Return the default, or that there is none."""
        if name in section.get("required", []):
            return "**required**"
        value = node.get("default")
        plain = isinstance(value, str | int | float)
        return f"default `{value}`" if plain else "default: none" if value in (None, []) else "default: see below"

    def sections(
        self, section: dict[str, Any], path: str = ""
    ) -> Iterator[tuple[str, dict[str, Any], list[tuple[str, str, dict[str, Any]]]]]:
        """Yield (path, section, its (path, key, node)s) for the section and all below it."""
        entries = [(f"{path}{name}", name, node) for name, node in section["properties"].items()]
        yield path, section, entries
        for below, _, node in entries:
            mark = "[]." if node.get("type") == "array" else "."
            for found in self.models(node):
                yield from self.sections(found, below + mark)


def testbed_yaml() -> str:
    """Return the page about every key of testbed.yaml."""
    schema = Schema(spec.Testbed)
    parts = [
        "`testbed init` writes a commented example. Every key that has a default may be left out. `[]` stands for each"
        " entry of a list. A key that is not here is an error: the message names the line and the nearest key.",
    ]
    for path, section, entries in schema.sections(schema.root):
        title = f"`{path.rstrip('.').removesuffix('[]')}`" if path else "The whole file"
        tag = section["properties"].get("source", {}).get("const")
        parts.append(f"## {title}" + (f" with `source: {tag}`" if tag else ""))
        parts.append(prose(section["description"]))
        rows = [("key", "meaning", "value")]
        for full, name, node in entries:
            value = f"{schema.value(node)}; {schema.default(name, node, section)}"
            rows.append((f"`{full}`", node.get("description", ""), value))
        parts.append(table(*rows))
    return page("testbed.yaml", *parts)


def json_documents() -> str:
    """Return the page about what `--json` prints."""
    parts = [
        "Every command that reports has `--json`: one document on stdout, in ASCII; progress and messages are on"
        " stderr. Keys are stable: one may be added, none is renamed or removed within a major version."
        " The [exit code](command.md#exit-codes) is the same as without `--json`."
        " `[]` stands for each entry of a list.",
    ]
    for model in reports.Report.__subclasses__():
        if not model.__name__.endswith("Report"):
            continue
        schema = Schema(model)
        title, _, text = inspect.cleandoc(model.__doc__ or "").partition(": ")
        parts += [f"## {title}", text[:1].upper() + text[1:]]
        rows = [("key", "meaning", "value")]
        for _, _, entries in schema.sections(schema.root):
            rows += [(f"`{full}`", node.get("description", ""), schema.value(node)) for full, _, node in entries]
        parts.append(table(*rows))
    return page("JSON for scripts", *parts)


def verbs(group: click.Group, path: str = "testbed") -> Iterator[tuple[str, click.Command]]:
    """Yield (how it is called, command) for every verb."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from verbs(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def command_line() -> str:
    """Return the page about every verb and option, and the exit codes."""
    codes = table(("code", "meaning"), *((f"`{int(code)}`", code.meaning) for code in Exit))
    everywhere = (
        "`testbed --help` and `testbed VERB --help` say the same as this page. From a checkout the command is"
        " `./testbed`. `--debug`, before or after the verb, shows a traceback, too, when something goes wrong."
    )
    parts = [everywhere, "## Exit codes", codes]
    for called, command in verbs(main):
        context = click.Context(command, info_name=called)
        parts += [f"## {called}", "```text\n" + command.get_usage(context).removeprefix("Usage: ") + "\n```"]
        parts.append(prose(command.help or ""))
        rows = [("option", "meaning")]
        for parameter in command.params:
            if isinstance(parameter, click.Option) and "--debug" not in parameter.opts:
                rows.append(option(parameter, context))
        if len(rows) > 1:
            parts.append(table(*rows))
    return page("The command", *parts)


def option(parameter: click.Option, context: click.Context) -> tuple[str, str]:
    """Return an option's row."""
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    if isinstance(parameter.type, click.Choice):
        names += " " + " or ".join(f"`{choice}`" for choice in parameter.type.choices)
    elif not parameter.is_flag:
        names += f" `{parameter.make_metavar(context)}`"
    default = f" Default: `{parameter.default}`." if parameter.show_default and not parameter.is_flag else ""
    return names, (parameter.help or "") + default


def roles() -> str:
    """Return the page about every role's variables."""
    described = importlib.util.spec_from_file_location("readme", ROLES / "readme.py")
    if described is None or described.loader is None:
        raise FileNotFoundError(ROLES / "readme.py")
    readme = importlib.util.module_from_spec(described)
    described.loader.exec_module(readme)
    parts = [
        "What `up` installs on hosts, for those who use the roles in playbooks of their own. `testbed` sets these"
        " variables from `testbed.yaml`; nobody else needs to.",
    ]
    for role in readme.roles():
        text = readme.readme(role).replace(readme.NOTE + "\n\n", "")
        parts.append(re.sub(r"^#", "##", text, flags=re.MULTILINE).strip())
    return page("Roles", *parts)


def lite_api() -> str:
    """Return the page about the endpoints of clearml_lite, beside those that the SDK's schemas describe."""
    described = set(json.loads(files("clearml_lite").joinpath("schemas.json").read_text()))
    recorded = recorded_calls()
    parts = [
        "What the [server backend `lite`](../server.md) answers. **SDK** says that the ClearML SDK ships a schema of"
        " the request, by which it is checked; **recorded** is how often calls are replayed that were recorded between"
        " ClearML's own clients and the official server; **test** says that a test of its own calls it. All of them are"
        " called with what fits their schemas and what nearly does. Whatever is not answered, or not here, gets 404/0.",
    ]
    tested = "".join(path.read_text(encoding="utf-8") for folder in TESTS for path in folder.glob("*.py"))
    services: dict[str, list[str]] = {}
    for name in sorted(described | ENDPOINTS.keys()):
        services.setdefault(name.partition(".")[0], []).append(name)
    for service, names in services.items():
        rows = [("endpoint", "what it does", "SDK", "recorded", "test")]
        for name in names:
            text = inspect.getdoc(ENDPOINTS[name].handler) if name in ENDPOINTS else "not answered"
            summary = " ".join((text or "").split("\n\n")[0].split())
            known, named = ("yes" if it_is else "" for it_is in (name in described, _names(tested, name)))
            rows.append((f"`{name}`", summary, known, str(recorded[name] or ""), named))
        parts += [f"## {service}", table(*rows)]
    return page("The API of clearml_lite", *parts)


def _names(code: str, endpoint: str) -> bool:
    """Return whether tests name an endpoint, also as one of several: `queues.move_task_{where}`."""
    if re.search(rf"\b{re.escape(endpoint)}\b", code):
        return True
    patterns = {
        re.sub(r"\\\{.*?\\\}", r"\\w+", re.escape(text)) for text in re.findall(r'f"(\w+\.\w*\{\w+\}\w*)"', code)
    }
    return any(re.fullmatch(pattern, endpoint) for pattern in patterns)


def smoke() -> str:
    """Return the page about the checks of the stack, from their docstrings and markers."""
    parts = [
        "What `testbed smoke` promises, check by check. Those at level **quick** run in seconds; **full** runs all of"
        " them. With `--conf FILE`, where there is no testbed, those run whose **where** says *any server*"
        " or *a server alone*. Each check is safe on a testbed in use: what the workload makes is in a project"
        " `smoke/…` of its own, which is removed at the end. A failed check says what was expected, what was seen, what"
        " to try, and the last lines of the log"
        " of the service concerned.",
    ]
    for path in sorted((ROOT / "tests" / "stack").glob("test_*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        of_module = {
            name
            for node in module.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
            for name in MARK.findall(ast.unparse(node.value))
        }
        rows = [("check", "what it promises", "level", "where")]
        for node in module.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = of_module | {name for each in node.decorator_list for name in MARK.findall(ast.unparse(each))}
                promise = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                level = "full" if "full" in marks else "quick"
                where = "hosts" if "hosts" in marks else "a server alone" if "conf" in marks else "any server"
                where += ", with TLS" if "tls" in marks else ""
                rows.append((node.name.removeprefix("test_").replace("_", " "), promise, level, where))
        title = path.stem.removeprefix("test_").replace("_", " of ").capitalize()
        parts += [f"## {title}", (ast.get_docstring(module) or "").split("\n\n")[0], table(*rows)]
    return page("What the smoke test checks", *parts)


def recorded_calls() -> Counter[str]:
    """Return how many calls the replayed recordings have, by endpoint."""
    calls: Counter[str] = Counter()
    for trace in sorted(TRACES.glob("*.jsonl.gz")):
        with gzip.open(trace, "rt", encoding="utf-8") as lines:
            for line in lines:
                call = json.loads(line)
                if call["server"] == "api":
                    calls[call["path"].partition("?")[0].rpartition("/")[2]] += 1
    return calls


PAGES = {
    "testbed-yaml.md": testbed_yaml,
    "command.md": command_line,
    "json.md": json_documents,
    "roles.md": roles,
    "lite-api.md": lite_api,
    "smoke.md": smoke,
}

if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (REFERENCE / name).write_text(make(), encoding="utf-8")
