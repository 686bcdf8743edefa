"""The web server: routes, sessions, headers, errors. What is on a page is in pages.py."""

import asyncio
import gzip
import hashlib
import logging
import mimetypes
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote

from jinja2 import ChainableUndefined, Environment, PackageLoader
from starlette.applications import Starlette
from starlette.datastructures import FormData
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from clearml_lite import __version__, bodies
from clearml_lite.api import ApiServer
from clearml_lite.auth import Authenticator, Identity
from clearml_lite.config import Config
from clearml_lite.errors import ApiError
from clearml_lite.files import FileServer
from clearml_lite.web import pages, view
from clearml_lite.web.pages import Page
from clearml_lite.web.session import Sessions, local_path

LOG = logging.getLogger(__name__)

CHARTS = "plotly.min.js"  # in the package plotly: https://github.com/plotly/plotly.py, MIT
LARGEST_FORM = 4 * 1024 * 1024
MOST_FIELDS = 20_000
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# the charting library draws with style attributes: without, a heat map is shown blurred
CHARTS_POLICY = f"{POLICY}; style-src-attr 'unsafe-inline'"
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


Result = TypeVar("Result")


class WebServer:
    """Pages for people: the API's endpoints answer for them, with the API's rules."""

    def __init__(
        self,
        config: Config,
        api: ApiServer,
        files: FileServer,
        authenticator: Authenticator,
        threads: ThreadPoolExecutor,
    ) -> None:
        self._config = config
        self._api = api
        self._authenticator = authenticator
        self._threads = threads
        self._room = bodies.Room()
        self._files = files
        self._sessions = Sessions(authenticator, config.token_secret, secure=config.urls.web.startswith("https://"))
        self._templates = Environment(
            loader=PackageLoader("clearml_lite.web"), autoescape=True, undefined=ChainableUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._templates.filters |= view.FILTERS
        self._templates.globals |= {"version": __version__, "urls": config.urls, "asset": _asset_url}
        routes = [
            Route("/", self._home),
            Route("/login", self._login_page),
            Route("/login", self._login, methods=["POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/static/{name}", self._asset),
            Route("/files/{path:path}", self._file),
        ]
        routes += [Route(path, self._shown(show)) for path, show in pages.SHOWN.items()]
        routes += [Route(path, self._done(do), methods=["POST"]) for path, do in pages.DONE.items()]
        routes += [Route(path, self._moved(target)) for path, target in pages.MOVED.items()]
        self.app = Starlette(
            routes=routes,
            exception_handlers={
                ApiError: self._failed, ClientDisconnect: _gone, 404: self._not_found, Exception: self._broken
            },
        )  # fmt: skip

    async def _home(self, request: Request) -> Response:
        if await self._in_thread(lambda: self._sessions.identity(request.cookies)):
            return RedirectResponse("/projects", 303, _HEADERS)
        return await self._login_page(request)

    async def _login_page(self, request: Request) -> Response:
        return self._login_form(request, local_path(request.query_params.get("next", "/")))

    def _login_form(self, request: Request, goes_on: str, problem: str = "", status: int = 200) -> Response:
        visitor = self._sessions.visitor(request.cookies)
        content = {"form_token": self._sessions.form_token(visitor), "goes_on": goes_on, "problem": problem}
        response = self._rendered("login.html", content, status)
        self._sessions.remember_visitor(response, visitor)
        return response

    async def _login(self, request: Request) -> Response:
        form = await self._form(request)
        goes_on = local_path(_text(form, "next"))
        visitor = self._sessions.visitor(request.cookies)
        if not self._sessions.is_form_token(_text(form, "form_token"), visitor):
            return self._login_form(
                request, goes_on, "The page was too old, or cookies are off. Please try again.", 403
            )
        try:
            identity = await self._in_thread(
                lambda: self._authenticator.by_credentials(
                    _text(form, "username").strip(), _text(form, "password"), _address(request)
                )
            )
        except ApiError as error:
            problem = str(error) if error.code == 429 else "Wrong username or password."
            return self._login_form(request, goes_on, problem, error.code)
        if identity.internal:
            problem = "This key belongs to the server itself; log in as a user."
            return self._login_form(request, goes_on, problem, 403)
        response = RedirectResponse(goes_on, 303, _HEADERS)
        self._sessions.log_in(response, identity)
        return response

    async def _logout(self, request: Request) -> Response:
        response: Response = RedirectResponse("/login", 303, _HEADERS)

        def end(page: Page) -> Response:
            page.ask("auth.logout")
            self._sessions.log_out(response)
            return response

        return await self._done(end)(request)

    async def _asset(self, request: Request) -> Response:
        name = request.path_params["name"]
        # what was made is kept: nothing is, for names that somebody made up
        asset = await self._in_thread(lambda: _asset(name)) if name in _asset_names() else None
        if asset is None:
            return await self._not_found(request, None)
        # the name in a page carries the content's hash
        headers = _HEADERS | {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
        content, compressed, media_type = asset
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(compressed, headers=headers | {"Content-Encoding": "gzip"}, media_type=media_type)
        return Response(content, headers=headers, media_type=media_type)

    async def _file(self, request: Request) -> Response:
        if not await self._in_thread(lambda: self._sessions.identity(request.cookies)):
            return self._to_login(request)
        try:
            return await self._files.file(request)
        except OSError as error:  # such as a name that is too long
            raise ApiError(404, 0, "There is no such file.") from error

    def _shown(self, show: Callable[[Page], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            def work() -> Response:
                identity = self._sessions.identity(request.cookies)
                if identity is None:
                    return self._to_login(request)
                with self._api.asking(identity, _address(request)) as ask:
                    page = self._page(request, identity, ask, FormData())
                    return self._answer(page, show(page))

            return await self._in_thread(work)

        return respond

    def _done(self, do: Callable[[Page], Any]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            form = await self._form(request)

            def work() -> Response:
                identity = self._sessions.identity(request.cookies)
                if identity is None:
                    return RedirectResponse("/login", 303, _HEADERS)
                if not self._sessions.is_form_token(_text(form, "form_token"), identity.session or ""):
                    raise ApiError(403, 0, "This form is not from a page of this session: load the page again")
                with self._api.asking(identity, _address(request), writes=True) as ask:
                    page = self._page(request, identity, ask, form)
                    return self._answer(page, do(page))

            return await self._in_thread(work)

        return respond

    def _moved(self, target: Callable[[dict[str, str]], str]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            return RedirectResponse(target(request.path_params), 307, _HEADERS)

        return respond

    def _page(self, request: Request, identity: Identity, ask: Callable[..., Any], form: FormData) -> Page:
        return Page(
            ask=ask,
            identity=identity,
            config=self._config,
            path=request.url.path,
            ids=request.path_params,
            query=dict(request.query_params),
            form=[(name, value) for name, value in form.multi_items() if isinstance(value, str)],
            form_token=self._sessions.form_token(identity.session or ""),
        )

    def _answer(self, page: Page, content: Any) -> Response:
        if isinstance(content, Response):
            return content
        if isinstance(content, pages.Elsewhere):
            return RedirectResponse(content.path, 303, _HEADERS)
        if isinstance(content, pages.Data):
            return Response(content.json(), headers=_HEADERS, media_type="application/json")
        answer = self._rendered(content.template, content.values | {"page": page, "form_token": page.form_token})
        if content.charts:
            answer.headers["Content-Security-Policy"] = CHARTS_POLICY
        return answer

    def _to_login(self, request: Request) -> Response:
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        if request.headers.get("sec-fetch-site") == "cross-site":
            # The session's cookie does not come along with a link from elsewhere; it does from this page to itself.
            return self._rendered("again.html", {"path": path})
        return RedirectResponse(f"/login?next={quote(path)}", 303, _HEADERS)

    def _rendered(self, template: str, values: dict[str, Any], status: int = 200) -> HTMLResponse:
        values = {"page": None, "form_token": ""} | values
        return HTMLResponse(self._templates.get_template(template).render(values), status, _HEADERS)

    async def _failed(self, request: Request, error: Exception) -> Response:
        status = error.code if isinstance(error, ApiError) else 500
        # what is not there is 400 in the API, and 404 for a browser
        status = 404 if isinstance(error, ApiError) and error.subcode in pages.NOT_THERE else status
        response = self._rendered("problem.html", {"problem": str(error), "status": status}, status)
        response.headers.update(bodies.HEADERS.get(status, {}))
        return response

    async def _not_found(self, request: Request, error: Exception | None) -> Response:
        return self._rendered("problem.html", {"problem": "There is no such page.", "status": 404}, 404)

    async def _broken(self, request: Request, error: Exception) -> Response:
        LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
        problem = "The page could not be made (see the server's log)."
        return self._rendered("problem.html", {"problem": problem, "status": 500}, 500)

    async def _form(self, request: Request) -> FormData:
        """A form's fields.

        Raises:
            ApiError: 413 when it is too large or has too many fields, 415 when it is none, 503 when too many come at
                the same time.
        """
        if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            raise ApiError(415, 0, "A form is expected")
        with self._room.place() as place:
            body = await bodies.read(request, LARGEST_FORM, place)
            return await self._in_thread(lambda: _fields(body))

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _fields(body: bodies.Body) -> FormData:
    """A form's fields: not by Starlette's parser, which calls a function for every `&`, and counts no empty fields.

    Raises:
        ApiError: 413 when there are too many.
    """
    try:
        found = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise ApiError(413, 0, f"The form has more than {MOST_FIELDS} fields") from error
    return FormData([*found])


def _text(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


@cache
def _asset(name: str) -> tuple[bytes, bytes, str] | None:
    """Content, compressed content and media type of what lies in static/, or of the charting library."""
    if name == CHARTS:
        found = find_spec("plotly")  # not imported: that takes half a second
        if found is None or found.origin is None:
            return None
        content = (Path(found.origin).parent / "package_data" / CHARTS).read_bytes()
    elif name in _asset_names():
        content = resources.files("clearml_lite.web").joinpath("static", name).read_bytes()
    else:
        return None
    return content, gzip.compress(content, 6), mimetypes.guess_type(name)[0] or "application/octet-stream"


@cache
def _asset_names() -> frozenset[str]:
    static = resources.files("clearml_lite.web").joinpath("static")
    return frozenset({CHARTS, *(entry.name for entry in static.iterdir())})


@cache
def _asset_url(name: str) -> str:
    """Where a page finds an asset; another one after its content has changed."""
    asset = _asset(name)
    return f"/static/{name}?{hashlib.sha256(asset[0] if asset else b'').hexdigest()[:16]}"
