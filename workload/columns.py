"""Which fields and tags of a measurement are read, and as what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Sequence

from workload.errors import SourceError

TAG = "tag"
KINDS = ("float", "integer", "unsigned", "string", "boolean", TAG)  # as InfluxDB calls the types of fields


@dataclass(frozen=True)
class Column:
    """A field of one of InfluxDB's types, or a tag."""

    name: str
    kind: str

    @property
    def query(self) -> str:
        """As it is selected: a field and a tag may have the same name."""
        return f"{quoted(self.name)}::{'tag' if self.kind == TAG else 'field'}"


def quoted(name: str) -> str:
    """An identifier of InfluxQL."""
    return '"{}"'.format(name.replace("\\", "\\\\").replace('"', '\\"'))


def choose(
    fields: Iterable[tuple[str, str]],
    tags: Iterable[str],
    only_fields: Sequence[str] | None = None,
    only_tags: Sequence[str] | None = None,
) -> list[Column]:
    """The columns to read, by name as in `SELECT *`; None: all there are.

    fields: each name with its type, once for each type that the field has. Raises SourceError for a name that is not
    there or is both a field and a tag, and for a field of two types.
    """
    types: dict[str, list[str]] = {}
    for name, kind in fields:
        types.setdefault(name, []).append(kind)
    tags = list(tags)
    chosen_fields = _chosen("field", types, only_fields)
    chosen_tags = _chosen("tag", tags, only_tags)
    if not chosen_fields:
        raise SourceError("no field is asked for: name at least one in --fields")
    for name in chosen_fields:
        if len(types[name]) > 1:
            raise SourceError(
                f"field {name!r} is {' in some points and '.join(sorted(types[name]))} in others:"
                " name the other fields in --fields, or write it anew as one type"
            )
        if types[name][0] not in KINDS:
            raise SourceError(f"field {name!r} has the unknown type {types[name][0]!r}: leave it out of --fields")
        if name in chosen_tags:
            raise SourceError(f"{name!r} is a field and a tag: leave it out of --fields or out of --tags")
    columns = [Column(name, types[name][0]) for name in chosen_fields] + [Column(name, TAG) for name in chosen_tags]
    return sorted(columns, key=lambda column: column.name)


def _chosen(what: str, there: Iterable[str], only: Sequence[str] | None) -> list[str]:
    names = sorted(there)
    for name in only or ():
        if name not in names:
            raise SourceError(f"there is no {what} {name!r} (there is: {', '.join(names) or 'none'}): check --{what}s")
    return names if only is None else list(dict.fromkeys(only))
