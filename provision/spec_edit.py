"""A change of testbed.yaml's text that leaves all else as it is: comments, order, layout. Pure."""

from __future__ import annotations

from typing import Any

import yaml

from provision.errors import SpecError
from provision.spec import Loader
from provision.spec_types import Group


def with_count(text: str, file: str, group: Group, count: int) -> str:
    """Return a valid spec's `text` with `openstack.nodes.GROUP.count` as given; `file` is its name for messages.

    Raises `SpecError` where the text is written in such a way that this would change something else, too.
    """
    path = ("openstack", "nodes", group, "count")
    found = _set(text, yaml.compose(text, Loader=Loader), path, count)
    if yaml.load(found, Loader) != _wanted(yaml.load(text, Loader), path, count):  # noqa: S506 (a SafeLoader)
        raise SpecError(
            f"{file}: the count of {group} cannot be changed without changing more",
            f"Write openstack.nodes.{group}.count: {count} there yourself, then: testbed up",
        )
    return found


def with_version(text: str, file: str, version: str) -> str:
    """Return a valid spec's `text` with `server.version` as given; `file` is its name for messages.

    Raises `SpecError` where the text is written in such a way that this would change something else, too.
    """
    path = ("server", "version")
    found = _set(text, yaml.compose(text, Loader=Loader), path, version)
    if yaml.load(found, Loader) != _wanted(yaml.load(text, Loader), path, version):  # noqa: S506 (a SafeLoader)
        raise SpecError(
            f"{file}: the server's version cannot be changed without changing more",
            f"Write server.version: {version} there yourself, then: testbed upgrade --server {version}",
        )
    return found


def _wanted(data: Any, path: tuple[str, ...], value: int | str) -> Any:
    if not path:
        return value
    there = data or {}
    return {**there, path[0]: _wanted(there.get(path[0]), path[1:], value)}


def _set(text: str, node: yaml.Node | None, path: tuple[str, ...], value: int | str) -> str:
    """Return `text` with `value` at `path` below the mapping `node`."""
    assert isinstance(node, yaml.MappingNode)  # noqa: S101 (the text is a valid spec)
    key, *below = path
    for there, holds in node.value:
        if there.value != key:
            continue
        if not below:
            return _replaced(text, holds, str(value))
        if isinstance(holds, yaml.MappingNode):
            return _set(text, holds, tuple(below), value)
        return _replaced(text, holds, f" {_flow(tuple(below), value)}")  # the key stands there without a value
    return _added(text, node, f"{key}: {_flow(tuple(below), value)}")


def _flow(path: tuple[str, ...], value: int | str) -> str:
    return f"{{{path[0]}: {_flow(path[1:], value)}}}" if path else str(value)


def _replaced(text: str, node: yaml.Node, by: str) -> str:
    return text[: node.start_mark.index] + by + text[node.end_mark.index :]


def _added(text: str, node: yaml.MappingNode, entry: str) -> str:
    """Return `text` with an entry at the end of a mapping."""
    if node.flow_style:
        begin = node.start_mark.index + 1
        return f"{text[:begin]}{entry}{', ' if node.value else ''}{text[begin:]}"
    lines = text.splitlines(keepends=True)
    last = _last_line(node) + 1
    above = "".join(lines[:last])
    if not above.endswith("\n"):
        above += "\n"
    return f"{above}{' ' * node.start_mark.column}{entry}\n{''.join(lines[last:])}"


def _last_line(node: yaml.Node) -> int:
    """Return the last line of a node, from 0; what follows a block, such as comments, is counted as its own by YAML."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    end: yaml.Mark = node.end_mark
    return end.line - 1 if end.column == 0 and end.line > node.start_mark.line else end.line
