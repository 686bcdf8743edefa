"""Endpoints: what a service registers, and what its handlers get."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from clearml_lite.auth import Authenticator, Identity
from clearml_lite.bodies import Body
from clearml_lite.config import Config
from clearml_lite.schema import Schema, Validator, request_schema
from clearml_lite.storage import Document, Transaction


@dataclass(slots=True)
class Call:
    """One validated request inside its transaction.

    Attributes:
        data: the parameters; whatever the schema does not know is there too.
        lines: what an endpoint that takes lines makes of its body, to be read once.
        version: API level that the client asked for, e.g. (2, 23).
        nulls: the parameters that were sent as null, which mostly means the same as not to send them.
        cookie: token to set as the client's cookie, with its life in seconds; empty and 0 to remove it.
        attachment: name and text of a file to answer with, in place of data.
    """

    data: Document
    identity: Identity
    transaction: Transaction
    config: Config
    authenticator: Authenticator
    endpoint: "Endpoint"
    version: tuple[int, int]
    lines: Iterable[Document]
    address: str
    worker: str
    nulls: frozenset[str] = frozenset()
    cookie: tuple[str, int] | None = None
    attachment: tuple[str, str] | None = None


Handler = Callable[[Call], Document]
Lines = Callable[[Body], Iterable[Document]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An API endpoint; `writes` gives its handler a transaction that may change data."""

    name: str
    handler: Handler
    validator: Validator
    writes: bool
    roles: Sequence[str]
    anonymous: bool
    lines: Lines | None


ENDPOINTS: dict[str, Endpoint] = {}


def endpoint(
    name: str,
    *,
    writes: bool = False,
    roles: Sequence[str] = (),
    anonymous: bool = False,
    lines: Lines | None = None,
    schema: Schema | None = None,
) -> Callable[[Handler], Handler]:
    """Registers a handler.

    Args:
        name: service.action.
        writes: the handler changes data.
        roles: who may call it; empty is everybody who is logged in.
        anonymous: needs no login.
        lines: reads the body, which is JSON lines and not one object, before the transaction begins.
        schema: the request's schema where the SDK has none.
    """

    def register(handler: Handler) -> Handler:
        validator = Validator(request_schema(name) if schema is None else schema)
        ENDPOINTS[name] = Endpoint(name, handler, validator, writes, roles, anonymous, lines)
        return handler

    return register


def object_schema(required: Mapping[str, str], optional: Mapping[str, str] | None = None) -> Schema:
    """A schema in short: types by property."""
    properties = {name: {"type": kind} for name, kind in {**required, **(optional or {})}.items()}
    return {"type": "object", "required": list(required), "properties": properties}
