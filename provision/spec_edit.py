"""A change of testbed.yaml's text that leaves all else as it is: comments, order, layout. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
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


def with_users(text: str, file: str, users: Sequence[Mapping[str, str]]) -> str:
    """Return a valid spec's `text` with more users at the end of `users`; `file` is its name for messages.

    Raises `SpecError` where the text is written in such a way that this would change something else, too.
    """
    if not users:
        return text
    entries = [
        ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in user.items()) for user in users
    ]
    node = _users(text)
    last = node.value[-1]
    if node.flow_style:
        end = last.end_mark.index
        found = text[:end] + "".join(f", {{{entry}}}" for entry in entries) + text[end:]
    else:
        lines = text.splitlines(keepends=True)
        below = _last_line(last) + 1
        above = "".join(lines[:below])
        above += "" if above.endswith("\n") else "\n"
        indent = " " * node.start_mark.column
        found = above + "".join(f"{indent}- {{{entry}}}\n" for entry in entries) + "".join(lines[below:])
    _check_users(text, found, file, lambda there: [*there, *map(dict, users)], "Add them to `users` there yourself")
    return found


def without_users(text: str, file: str, names: Collection[str]) -> str:
    """Return a valid spec's `text` without the users of these `names`; `file` is its name for messages.

    Comments between users stay. Raises `SpecError` as `with_users` does.
    """
    found = text
    for name in names:
        found = _without_user(found, name)
    _check_users(
        text,
        found,
        file,
        lambda there: [user for user in there if user["name"] not in names],
        f"Take {', '.join(names)} out of `users` there yourself",
    )
    return found


def _without_user(text: str, name: str) -> str:
    node = _users(text)
    names = [next(holds.value for key, holds in user.value if key.value == "name") for user in node.value]
    if name not in names:
        return text
    at = names.index(name)
    gone = node.value[at]
    if node.flow_style:
        if at + 1 < len(names):
            return text[: gone.start_mark.index] + text[node.value[at + 1].start_mark.index :]
        return text[: node.value[at - 1].end_mark.index] + text[gone.end_mark.index :]
    lines = text.splitlines(keepends=True)
    first = text.count("\n", 0, text.rindex("-", 0, gone.start_mark.index))
    return "".join(lines[:first] + lines[_last_line(gone) + 1 :])


def _users(text: str) -> yaml.SequenceNode:
    root = yaml.compose(text, Loader=Loader)
    assert isinstance(root, yaml.MappingNode)  # noqa: S101 (the text is a valid spec)
    node = next(holds for key, holds in root.value if key.value == "users")
    assert isinstance(node, yaml.SequenceNode)  # noqa: S101 (the text is a valid spec)
    return node


def _check_users(
    before: str, after: str, file: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], remedy: str
) -> None:
    wanted = yaml.load(before, Loader)  # noqa: S506 (a SafeLoader)
    wanted["users"] = change(wanted["users"])
    try:
        found = yaml.load(after, Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        found = None
    if found != wanted:
        raise SpecError(f"{file}: its users cannot be changed without changing more", f"{remedy}, then: testbed up")


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
