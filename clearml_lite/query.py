"""`get_all` requests compiled to SQL: filters, order, paging, projection."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from clearml_lite import patterns
from clearml_lite.errors import validation_error
from clearml_lite.migrations import path_expression as unchecked_expression
from clearml_lite.storage import Document, Transaction

MEMBERSHIP = frozenset({"tags", "system_tags"})
# Compared without regard to case.
LOWER_CASE = frozenset({"type", "framework"})
# Sections whose values are texts, numbers too: these are ordered as what they mean.
TEXT_SECTIONS = frozenset({"hyperparams", "configuration", "metadata", "runtime"})
DATES = frozenset(
    {"created", "started", "completed", "published", "last_update", "last_change", "status_changed"}
    | {"last_worker_report", "last_report_time", "last_activity_time", "register_time"}
)
PAGING = frozenset({"order_by", "page", "page_size", "refresh_scroll", "scroll_id", "size"})
# Conditions on several fields at once, and how they are joined; the SDK sends `_or_`, too.
_MULTIPLE = {"_all_": " AND ", "_and_": " AND ", "_any_": " OR ", "_or_": " OR "}
NO_FILTER = PAGING | {
    *_MULTIPLE,
    "only_fields",
    "max_task_entries",
    "search_hidden",
    "search_text",
    "shallow_search",
}
PATTERNS = frozenset({"name", "description"})
SEARCHED_TEXT = ("id", "name", "comment", "description", "tags", "uri")
_SCALAR = (str, int, float)
_COMPARISON = re.compile(r"(>=|>|<=|<)(.*)", re.DOTALL)
_LITERAL = re.compile(r"\^((?:[^\\.^$*+?{}\[\]|()]|\\\W)*)\$")


class Query:
    """Conditions that documents of a collection must all meet."""

    def __init__(self) -> None:
        self.conditions: list[str] = []
        self.params: list[Any] = []

    def add(self, condition: str, *params: Any) -> None:
        """Adds an SQL condition over `doc`, `id` and `seq`."""
        self.conditions.append(f"({condition})")
        self.params.extend(params)

    def equal(self, field: str, value: Any) -> None:
        """The field has this value; None: it has none."""
        self.add(f"{path_expression(field)} IS ?", value)

    def matches(self, field: str, pattern: str) -> None:
        """The regular expression is found in the field.

        Raises:
            ApiError: it is no regular expression, or too large a one.
        """
        if field not in MEMBERSHIP and (literal := _LITERAL.fullmatch(pattern)):
            self.equal(field, re.sub(r"\\(\W)", r"\1", literal[1]))
            return
        patterns.check(field, pattern)
        if field in MEMBERSHIP:
            self.add(f"EXISTS (SELECT 1 FROM json_each(doc, '$.{field}') WHERE regexp(?, value))", pattern)  # noqa: S608
        else:
            self.add(f"regexp(?, {path_expression(field)})", pattern)

    def one_of(self, field: str, values: Sequence[Any]) -> None:
        """A list filter: any of the values, unless `-value` or an operator says otherwise.

        `__$all`, `__$any`, `__$and`, `__$or` hold for what follows them, which is a group of its own; `__$not` for the
        next value. Values that all begin with <, <=, > or >= are bounds.
        """
        comparisons = [_COMPARISON.fullmatch(value) if isinstance(value, str) else None for value in values]
        if values and all(comparisons):
            for comparison in filter(None, comparisons):
                self.add(f"{path_expression(field)} {comparison[1]} ?", _comparable(field, comparison[2].strip()))
            return
        if field in DATES:
            values = [_comparable(field, value) if isinstance(value, str) else value for value in values]
        groups: list[tuple[str, list[tuple[bool, Any]]]] = [("OR", [])]
        excluded: list[tuple[bool, Any]] = []
        negate = False
        for value in values:
            if value in ("__$all", "__$and"):
                groups.append(("AND", []))
            elif value in ("__$any", "__$or"):
                groups.append(("OR", []))
            elif value in ("__$not", "__$nop"):
                negate = value == "__$not"
            elif isinstance(value, str) and value.startswith("-") and len(value) > 1:
                excluded.append((True, value[1:]))
            else:
                groups[-1][1].append((negate, value))
                negate = False
        for operator, terms in [*groups, ("AND", excluded)]:
            self._group(field, operator, terms)

    def dotted(self, field: str, value: Any) -> None:
        """A filter by a path: a value, any of a list, or two numbers as bounds, of which one may be null."""
        if isinstance(value, list) and len(value) == 2 and _are_bounds(value):
            for sign, bound in zip((">=", "<="), value, strict=True):
                if bound is not None:
                    self.add(f"{path_expression(field)} {sign} ?", bound)
        elif isinstance(value, list) and all(item is None or isinstance(item, _SCALAR) for item in value):
            self.one_of(field, value)
        elif isinstance(value, _SCALAR):
            self.equal(field, value)
        else:
            raise validation_error(field, "must be a value, a list, or bounds")

    @property
    def condition(self) -> str:
        """All conditions as one."""
        return " AND ".join(self.conditions) or "1"

    def count(self, transaction: Transaction, collection: str) -> int:
        """How many documents meet all conditions."""
        return transaction.count(collection, self.condition, self.params)

    def values(self, transaction: Transaction, collection: str, *path: str) -> list[Any]:
        """What a field holds in the documents that meet all conditions, each value once, sorted.

        Raises:
            ApiError: 400/12 when the names that lead to it are none of a field.
        """
        try:
            return transaction.values(collection, path, self.condition, self.params)
        except ValueError as error:
            raise validation_error("name", str(error)) from error

    def names(self, transaction: Transaction, collection: str, *path: str) -> list[str]:
        """The names of an object's members in the documents that meet all conditions, sorted."""
        return [name for name, _ in transaction.pairs(collection, path, self.condition, self.params)]

    def names_below(self, transaction: Transaction, collection: str, *path: str) -> list[tuple[str, str]]:
        """The names of an object's members with those of their own members."""
        found = transaction.pairs(collection, path, self.condition, self.params, keys=True)
        return [(name, own) for name, own in found if own is not None]

    def run(
        self, transaction: Transaction, collection: str, order: str = "seq", limit: int = -1, offset: int = 0
    ) -> list[Document]:
        """The documents that meet all conditions."""
        return transaction.select(collection, self.condition, self.params, order, limit, offset)

    def _group(self, field: str, operator: str, terms: list[tuple[bool, Any]]) -> None:
        if not terms:
            return
        if operator == "OR" and field not in MEMBERSHIP and not any(negate or value is None for negate, value in terms):
            condition = f"{_compared(field)} IN ({', '.join('?' * len(terms))})"
        else:
            condition = f" {operator} ".join(
                ("NOT " if negate else "") + _term(field, value) for negate, value in terms
            )
        self.add(condition, *(_cased(field, value) for _, value in terms))


def _add_multiple(query: Query, wanted: Mapping[str, Any], joined: str) -> None:
    """A condition on each of several fields: a `pattern`, or bounds in time (`datetime`)."""
    fields, pattern, bounds = _texts(wanted, "fields"), _texts(wanted, "pattern"), _texts(wanted, "datetime")
    each = Query()
    for field in fields:
        of_field = Query()
        if pattern:
            of_field.matches(field, pattern[0])
        if bounds:
            of_field.one_of(field, bounds)
        if of_field.conditions:
            each.add(of_field.condition, *of_field.params)
    if each.conditions:
        query.add(joined.join(each.conditions), *each.params)


def path_expression(field: str) -> str:
    """SQL for a dotted field.

    Raises:
        ApiError: it is not the name of a field.
    """
    try:
        return unchecked_expression(field)
    except ValueError as error:
        raise validation_error("fields", str(error)) from error


def _texts(wanted: Mapping[str, Any], name: str) -> list[str]:
    value = wanted.get(name)
    texts = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(text, str) for text in texts):
        raise validation_error(name, "must be text!")
    return texts


def _are_bounds(values: Sequence[Any]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return bool(numbers) and all(value is None or value in numbers for value in values)


def _cased(field: str, value: Any) -> Any:
    return value.lower() if field in LOWER_CASE and isinstance(value, str) else value


def _compared(field: str) -> str:
    return f"lower({path_expression(field)})" if field in LOWER_CASE else path_expression(field)


def _term(field: str, value: Any) -> str:
    if field not in MEMBERSHIP:
        return f"({_compared(field)} IS ?)"
    if value is None:
        return f"(? IS NULL AND coalesce(json_array_length(doc, '$.{field}'), 0) = 0)"
    return f"EXISTS (SELECT 1 FROM json_each(doc, '$.{field}') WHERE value = ?)"  # noqa: S608


def _comparable(field: str, text: str) -> Any:
    """A number as a number, a date (also as seconds since 1970) in the form that documents hold."""
    try:
        number = float(text)
    except ValueError:
        return iso(_parsed_date(text))
    if field not in DATES:
        return number
    try:
        return iso(datetime.fromtimestamp(number, UTC))
    except (ValueError, OverflowError, OSError) as error:
        raise validation_error(field, f"{text!r} is no date") from error


def _parsed_date(text: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise validation_error("date", f"{text!r} is neither a number nor a date") from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def iso(moment: datetime) -> str:
    """A time as documents hold it: UTC, ISO 8601, cut to milliseconds."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000).isoformat(timespec="microseconds")


def now() -> str:
    """This moment as documents hold it."""
    return iso(datetime.now(UTC))


def compile_filters(parameters: Mapping[str, Any], known: Sequence[str]) -> Query:
    """The conditions of a get_all request.

    Args:
        parameters: the validated request.
        known: the properties of the endpoint's schema; those that are no control (paging, order, …) filter by the
            field of their name. So do all dates (older clients watch `last_update`, which not every schema has), and
            others whose name is a path, such as `metadata.owner.value`.
    """
    query = Query()
    for field in [*known, *sorted(DATES.difference(known))]:
        value = parameters.get(field)
        if value is None or field in NO_FILTER:
            continue
        if field in PATTERNS:
            query.matches(field, value)
        elif isinstance(value, list):
            query.one_of(field, value)
        elif isinstance(value, str) and _COMPARISON.fullmatch(value):
            query.one_of(field, [value])
        else:
            query.equal(field, value)
    for field in parameters.keys() - set(known):
        if "." in field:
            query.dotted(field, parameters[field])
    for operator, joined in _MULTIPLE.items():
        if isinstance(wanted := parameters.get(operator), Mapping):
            _add_multiple(query, wanted, joined)
    if text := parameters.get("search_text"):
        found = " OR ".join(f"instr(lower({path_expression(field)}), lower(?))" for field in SEARCHED_TEXT)
        query.add(found, *[text] * len(SEARCHED_TEXT))
    return query


def order_clause(order_by: Sequence[str] | None) -> str:
    """SQL for `order_by` (`-field` descends); entities of equal rank in the order they were made."""
    terms = []
    for field in order_by or ():
        name = field.removeprefix("-")
        if name and not name.startswith("@"):  # @text_score and the like: no field
            terms.append(f"{_ordered(name)} {'DESC' if field.startswith('-') else 'ASC'}")
    return ", ".join([*terms, "seq"])


def _ordered(field: str) -> str:
    section, _, rest = field.partition(".")
    return f"as_number({path_expression(field)})" if rest and section in TEXT_SECTIONS else path_expression(field)


def find(
    transaction: Transaction,
    collection: str,
    parameters: Mapping[str, Any],
    query: Query,
    complete: Callable[[Document], Document] = lambda document: document,
) -> tuple[list[Document], str | None]:
    """Runs a get_all request.

    Args:
        complete: adds to a document what is not stored in it.

    Returns:
        the documents, projected to `only_fields`, and the scroll ID when the request scrolls.
    """
    offset, limit, scroll_id = 0, -1, None
    scrolls = parameters.get("size") or parameters.get("scroll_id")
    if scrolls:
        limit = parameters.get("size") or 500
        offset = 0 if parameters.get("refresh_scroll") else scroll_offset(parameters.get("scroll_id"))
    elif parameters.get("page_size"):
        limit = parameters["page_size"]
        offset = (parameters.get("page") or 0) * limit
    documents = query.run(transaction, collection, order_clause(parameters.get("order_by")), limit, offset)
    if scrolls:
        scroll_id = new_scroll_id(offset + len(documents))
    documents = [complete(document) for document in documents]
    if fields := parameters.get("only_fields"):
        documents = [projection(document, fields) for document in documents]
    return documents, scroll_id


def new_scroll_id(offset: int) -> str:
    """A scroll ID that goes on after this many results."""
    return f"offset-{offset}"


def scroll_offset(scroll_id: str | None) -> int:
    """How many results were given before.

    Raises:
        ApiError: the scroll ID is none of this server's.
    """
    number = (scroll_id or new_scroll_id(0)).removeprefix("offset-")
    if not number.isdecimal() or len(number) > 12:
        raise validation_error("scroll_id", f"{scroll_id!r} was not given by this server")
    return int(number)


def projection(document: Document, fields: Sequence[str]) -> Document:
    """The document's fields that these dotted paths name; a path through a missing part leaves its nearest parent."""
    result: Document = {}
    for field in fields:
        _copy(document, result, field.split("."))
    return result


def _copy(source: Document, target: Document, path: Sequence[str]) -> None:
    name, rest = path[0], path[1:]
    if name not in source:
        return
    value = source[name]
    if rest and isinstance(value, dict):
        _copy(value, target.setdefault(name, {}), rest)
    elif rest and isinstance(value, list):
        items = target.setdefault(name, [{} for _ in value])
        for item, into in zip(value, items, strict=True):
            if isinstance(item, dict):
                _copy(item, into, rest)
    else:
        target[name] = value
