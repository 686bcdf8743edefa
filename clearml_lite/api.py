"""The API server: finds the endpoint, reads parameters from wherever they are, wraps the answer in its envelope."""

import asyncio
import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qs

from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from clearml_lite import bodies
from clearml_lite import services as _services  # noqa: F401  registers the endpoints
from clearml_lite.auth import API_VERSION, COOKIE, Authenticator, Identity
from clearml_lite.config import Config
from clearml_lite.dispatch import ENDPOINTS, Call, Endpoint
from clearml_lite.encoding import encode
from clearml_lite.errors import ApiError
from clearml_lite.storage import Document, Storage, Transaction

LOG = logging.getLogger(__name__)

TOO_MANY = 429
LARGEST_BODY = 32 * 1024 * 1024  # the SDK sends batches of at most 15 MB (api.http.max_req_size)
_PATH = re.compile(r"/(?:v(?P<version>\d+(?:\.\d+)?)/)?(?P<name>\w+\.\w+)/?")
_MALFORMED = "The browser (or proxy) sent a request that this server could not understand."
_METHODS = frozenset({"DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"})
_NOBODY = Identity("", "", "")

Ask = Callable[..., Document]
Result = TypeVar("Result")


class ApiServer:
    """Answers API requests; handlers run in threads, each in a transaction of its own."""

    def __init__(
        self, config: Config, storage: Storage, authenticator: Authenticator, threads: ThreadPoolExecutor
    ) -> None:
        self._config = config
        self._storage = storage
        self._authenticator = authenticator
        self._threads = threads
        self._room = bodies.Room()
        self._secure_cookie = config.urls.api.startswith("https://")

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application; there is one handler for all paths, so that it needs no router."""
        request = Request(scope, receive)
        if request.method in _METHODS:
            response = await self._handle(request)
        else:
            response = PlainTextResponse("Method Not Allowed", 405, headers={"Allow": ", ".join(sorted(_METHODS))})
        await response(scope, receive, send)

    async def _handle(self, request: Request) -> Response:
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            return PlainTextResponse(f"Content encoding is not supported ({encoding})", status_code=415)
        name, version = request.url.path.strip("/"), API_VERSION
        cookie: tuple[str, int] | None = None
        try:
            if not (match := _PATH.fullmatch(request.url.path)):
                raise ApiError(400, 0, f"Invalid request path {request.url.path}")
            name, version = match["name"], match["version"] or API_VERSION
            endpoint = ENDPOINTS.get(name)
            if endpoint is None:
                raise ApiError(404, 0, f"Unable to find endpoint for name {name} and version {API_VERSION}")
            data, call = await self._answered(request, endpoint, version)
            cookie = call.cookie
            response = _attached(*call.attachment) if call.attachment else _envelope(name, version, 200, 0, "OK", data)
        except ApiError as error:
            response = _envelope(name, version, error.code, error.subcode, str(error), {})
            if error.code == TOO_MANY:
                response.headers["Retry-After"] = "1"
            response.headers.update(bodies.HEADERS.get(error.code, {}))
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception:
            LOG.exception("%s failed", name)
            response = _envelope(name, version, 500, 100, "General data error (see the server's log)", {})
        if cookie is not None:
            token, life = cookie
            response.set_cookie(
                COOKIE, token, max_age=life, httponly=True, samesite="strict", secure=self._secure_cookie
            )
        return response

    async def _answered(self, request: Request, endpoint: Endpoint, version: str) -> tuple[Document, Call]:
        """What the endpoint answers to whoever may ask it."""
        is_form = _is_form(request)
        identity: Identity | None = None
        if is_form or not _is_small(request):
            # before the body: nobody unknown takes memory or time with it
            identity = await self._identified(request, endpoint)
        most = bodies.SMALL_BODY if endpoint.anonymous or is_form else LARGEST_BODY
        with self._room.place() as place:
            body = await bodies.read(request, most, place)
            form = await _form(request) if is_form else None

            def answer() -> tuple[Document, Call]:
                caller = self._identify(request, endpoint) if identity is None else identity
                return self._call(request, endpoint, caller, version, body, form)

            return await self._in_thread(answer)

    @contextmanager
    def asking(self, identity: Identity, address: str, *, writes: bool = False) -> Iterator[Ask]:
        """Endpoints for whoever asks inside this process: `ask(name, **parameters)`, all in one transaction.

        Args:
            writes: the transaction may change data; all of it is undone by an error.

        Raises:
            ApiError: by `ask`, as the endpoint would answer.
        """
        with self._storage.write() if writes else self._storage.read() as transaction:

            def ask(name: str, **parameters: Any) -> Document:
                endpoint = ENDPOINTS[name]
                if endpoint.writes and not writes:
                    raise RuntimeError(f"{name} needs a transaction that writes")
                _require_role(endpoint, identity)
                data = {key: value for key, value in parameters.items() if value is not None}
                endpoint.validator.check(data)
                return _handled(self._new_call(endpoint, identity, transaction, data, address))

            yield ask

    async def _identified(self, request: Request, endpoint: Endpoint) -> Identity:
        """Who calls; whoever may not has the body read away, so that the answer gets through."""
        try:
            return await self._in_thread(self._identify, request, endpoint)
        except ApiError:
            await bodies.read_away(request)
            raise

    def _identify(self, request: Request, endpoint: Endpoint) -> Identity:
        if endpoint.anonymous:
            return _NOBODY
        identity = self._authenticator.identify(request.headers, request.cookies, _address(request))
        _require_role(endpoint, identity)
        return identity

    async def _in_thread(self, act: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, act, *arguments)

    def _call(
        self,
        request: Request,
        endpoint: Endpoint,
        identity: Identity,
        version: str,
        body: bodies.Body,
        form: FormData | None,
    ) -> tuple[Document, Call]:
        lines = endpoint.lines(body) if endpoint.lines else []
        sent = {} if endpoint.lines else _parameters(request, endpoint, body, form)
        data = {name: value for name, value in sent.items() if value is not None}
        endpoint.validator.check(data)
        with self._storage.write() if endpoint.writes else self._storage.read() as transaction:
            call = self._new_call(endpoint, identity, transaction, data, _address(request), version)
            call.lines = lines
            call.worker = request.headers.get("x-clearml-worker") or request.headers.get("x-trains-worker") or ""
            call.nulls = frozenset(sent.keys() - data.keys())
            return _handled(call), call

    def _new_call(
        self,
        endpoint: Endpoint,
        identity: Identity,
        transaction: Transaction,
        data: Document,
        address: str,
        version: str = API_VERSION,
    ) -> Call:
        major, _, minor = version.partition(".")
        return Call(
            data=data,
            identity=identity,
            transaction=transaction,
            config=self._config,
            authenticator=self._authenticator,
            endpoint=endpoint,
            version=(int(major), int(minor or 0)),
            lines=[],
            address=address,
            worker="",
        )


def _require_role(endpoint: Endpoint, identity: Identity) -> None:
    if endpoint.roles and identity.role not in endpoint.roles:
        allowed = ", ".join(endpoint.roles)
        raise ApiError(403, 20, f"Forbidden (not allowed for role): role={identity.role}, allowed=({allowed})")


def _handled(call: Call) -> Document:
    try:
        return call.endpoint.handler(call)
    except OverflowError as error:
        raise ApiError(400, 12, "Validation error (a number is too large)") from error


async def _form(request: Request) -> FormData:
    try:
        return await request.form()
    except (
        MultiPartException,
        LookupError,
        ValueError,
    ) as error:  # also a charset that is none, or not that of the text
        raise ApiError(400, 0, _MALFORMED) from error


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").startswith(
        ("application/x-www-form-urlencoded", "multipart/form-data")
    )


def _is_small(request: Request) -> bool:
    """Whether the body is so small that it may be read before it is known who sends it."""
    length = request.headers.get("content-length", "")
    if not length:
        return "transfer-encoding" not in request.headers
    return length.isdecimal() and len(length) <= 6 and int(length) <= bodies.SMALL_BODY


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _parameters(request: Request, endpoint: Endpoint, body: bodies.Body, form: FormData | None) -> Document:
    data: Document = {}
    for name, values in parse_qs(request.url.query, keep_blank_values=True).items():
        data[name] = endpoint.validator.from_text(name, values)
    if form is not None:
        for name in form:
            data[name] = endpoint.validator.from_text(
                name, [value for value in form.getlist(name) if isinstance(value, str)]
            )
    elif body and not body.isspace():
        try:
            content = json.loads(body, parse_constant=_no_json)
        except (ValueError, RecursionError) as error:
            raise ApiError(400, 0, _MALFORMED) from error
        if not isinstance(content, dict):
            raise ApiError(400, 12, "Validation error (the request must be a JSON object)")
        data |= content
    return data


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _attached(name: str, text: str) -> Response:
    return PlainTextResponse(text, headers={"Content-Disposition": f"attachment; filename={name}"})


def _envelope(name: str, version: str, code: int, subcode: int, message: str, data: Any) -> Response:
    transaction = uuid.uuid4().hex
    content = {
        "meta": {
            "id": transaction,
            "trx": transaction,
            "endpoint": {"name": name, "requested_version": version, "actual_version": "1.0"},
            "result_code": code,
            "result_subcode": subcode,
            "result_msg": message,
            "error_stack": None,
            "error_data": {},
        },
        "data": data,
    }
    return Response(encode(content), status_code=code, media_type="application/json")
