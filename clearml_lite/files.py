"""The file server: uploads streamed to disk and made visible in one step, downloads with ranges, deletes."""

import asyncio
import errno
import json
import logging
import mimetypes
import os
import re
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from clearml_lite import bodies
from clearml_lite.auth import Authenticator
from clearml_lite.errors import ApiError
from clearml_lite.folder import ARRIVING, FILES

LOG = logging.getLogger(__name__)

CHUNK = 1 << 20
LARGEST_LIST = 16 * CHUNK  # names of files to delete
_HTML = "text/html; charset=utf-8"
# Shown by a browser these could run as a page of ours; they are only ever downloaded.
_ACTIVE_TYPES = re.compile(r"html|xml|svg|javascript|ecmascript|pdf|flash", re.IGNORECASE)
_UNUSABLE_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.EINVAL)
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")

Result = TypeVar("Result")


class FileServer:
    """Keeps files under `<data_dir>/files`; what is still arriving is under `<data_dir>/arriving`."""

    def __init__(self, data_dir: Path, authenticator: Authenticator, threads: ThreadPoolExecutor) -> None:
        self._root = data_dir / FILES
        self._arriving = data_dir / ARRIVING
        shutil.rmtree(self._arriving, ignore_errors=True)
        for folder in (self._root, self._arriving):
            folder.mkdir(parents=True, exist_ok=True)
        self._authenticator = authenticator
        self._threads = threads
        self._room = bodies.Room()
        self.app = Starlette(
            routes=[
                Route("/", self._index, methods=["GET"]),
                Route("/", self._upload, methods=["POST"]),
                Route("/delete_many", self._delete_many, methods=["POST"]),
                Route("/{path:path}", self._options, methods=["OPTIONS"]),
                Route("/{path:path}", self._download, methods=["GET"]),
                Route("/{path:path}", self._delete, methods=["DELETE"]),
            ],
            exception_handlers={ApiError: _refused, OSError: _failed, ClientDisconnect: _gone},
        )

    async def _index(self, request: Request) -> Response:
        if "authorization" in request.headers:
            await self._authenticated(request)
        return PlainTextResponse("OK", media_type=_HTML)

    async def _options(self, request: Request) -> Response:
        return PlainTextResponse("", headers={"Allow": "GET, HEAD, OPTIONS, DELETE"})

    async def _upload(self, request: Request) -> Response:
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            return PlainTextResponse(f"Content encoding is not supported ({encoding})", 415)
        await self._authenticated(request)
        kind, options = parse_options_header(request.headers.get("content-type"))
        if kind != b"multipart/form-data" or b"boundary" not in options:
            return PlainTextResponse("multipart/form-data is expected, with a field for each file", 400)
        upload = _Upload(options[b"boundary"], self._arriving, self._resolved)
        try:
            async for chunk in bodies.chunks(request):
                await self._in_thread(partial(upload.feed, chunk))
            stored = await self._in_thread(upload.finish)
        except FormParserError as error:
            return PlainTextResponse(f"Malformed multipart body: {error}", 400)
        finally:
            upload.discard()
        return JSONResponse(stored, headers={"Content-Type": _HTML})

    async def _download(self, request: Request) -> Response:
        await self._authenticated(request)
        return await self.file(request)

    async def file(self, request: Request) -> Response:
        """The file that the request's path names, or a part of it, for somebody who may have it."""
        path = self._resolved(request.path_params["path"])
        file = await self._in_thread(lambda: path.open("rb") if path.is_file() else None)
        if file is None:
            raise _not_found()
        return await _file_response(request, file, path.name, self._in_thread)

    async def _delete(self, request: Request) -> Response:
        await self._authenticated(request)
        name = request.path_params["path"]
        if not await self._in_thread(lambda: self._removed(name)):
            return PlainTextResponse(f"File {name} not found", 404)
        return PlainTextResponse(name, media_type=_HTML)

    async def _delete_many(self, request: Request) -> Response:
        await self._authenticated(request)
        with self._room.place() as place:
            body = await bodies.read(request, LARGEST_LIST, place)
            names = await self._in_thread(lambda: _names(body))
        if not names:
            return PlainTextResponse("files are missing", 400)
        return JSONResponse(await self._in_thread(lambda: self._remove_all(names)), headers={"Content-Type": _HTML})

    def _remove_all(self, names: list[str]) -> dict[str, Any]:
        deleted: dict[str, str] = {}
        errors: dict[str, list[str]] = {}
        for name in names:
            path = name.lstrip("/")
            if not path:
                errors.setdefault("Empty path not allowed", []).append(name)
            elif self._removed(path):
                deleted[name] = path
            else:
                errors.setdefault("Not found", []).append(name)
        return {"deleted": deleted, "errors": errors}

    def _removed(self, name: str) -> bool:
        try:
            path = self._resolved(name)
            if not path.is_file():
                return False
            path.unlink()
        except (ApiError, FileNotFoundError):
            return False
        _sync_folder(path.parent)
        return True

    def _resolved(self, name: str) -> Path:
        """Where a file is kept.

        Raises:
            ApiError: 404 for a path that would leave the server's folder.
        """
        parts = name.lstrip("/").split("/")
        if not parts[-1] or "\0" in name or any(part in ("", ".", "..") for part in parts):
            raise _not_found()
        path = self._root.joinpath(*parts)
        if path.resolve() != self._root.resolve().joinpath(*parts):
            raise _not_found()
        return path

    async def _authenticated(self, request: Request) -> None:
        try:
            await self._in_thread(lambda: self._authenticator.identify_bearer(request.headers, request.cookies))
        except ApiError:
            await bodies.read_away(request)
            raise

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


class _Upload:
    """Files of one multipart request, written as they arrive and put in place together at its end."""

    def __init__(self, boundary: bytes, arriving: Path, resolve: Callable[[str], Path]) -> None:
        self._arriving = arriving
        self._resolve = resolve
        self._header_name = self._header_value = b""
        self._name = ""
        self._open: BinaryIO | None = None
        self._files: list[tuple[str, Path, Path]] = []
        self._complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value_arrives,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._part_ends,
                "on_end": self._ends,
            },
        )

    def feed(self, chunk: bytes) -> None:
        self._parser.write(chunk)

    def finish(self) -> list[str]:
        """Puts all files in place; each is whole or not there, whatever happens."""
        if not self._complete:
            raise FormParserError("the body ends early")
        for _, temporary, target in self._files:
            new_folders = [folder for folder in target.parents if not folder.exists()]
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.replace(target)
            for folder in {target.parent, *(folder.parent for folder in new_folders)}:
                _sync_folder(folder)
        return [name for name, _, _ in self._files]

    def discard(self) -> None:
        """Removes what has not been put in place."""
        if self._open:
            self._open.close()
        for _, temporary, _ in self._files:
            temporary.unlink(missing_ok=True)

    def _part_begins(self) -> None:
        self._name = ""
        self._header_name = self._header_value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_arrives(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_ends(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._name = parse_options_header(self._header_value)[1].get(b"name", b"").decode("utf-8", "replace")
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        name = self._name.lstrip("/")
        target = self._resolve(name)
        temporary = self._arriving / uuid.uuid4().hex
        self._open = temporary.open("xb")
        self._files.append((name, temporary, target))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._open:
            self._open.write(memoryview(data)[start:end])

    def _part_ends(self) -> None:
        if self._open:
            self._open.flush()
            os.fsync(self._open.fileno())
            self._open.close()
            self._open = None

    def _ends(self) -> None:
        self._complete = True


def _names(body: bodies.Body) -> list[str]:
    """The files that a request names; none when it is malformed."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return []
    names = content.get("files") if isinstance(content, dict) else None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


async def _file_response(
    request: Request, file: BinaryIO, name: str, in_thread: Callable[[Callable[[], bytes]], Any]
) -> Response:
    """The open file, or the part of it that is asked for; closes it when it has been sent."""
    status = os.fstat(file.fileno())
    size, etag = status.st_size, f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    attached = "download" in request.query_params or _ACTIVE_TYPES.search(media_type)
    headers = {
        "ETag": etag,
        "Last-Modified": formatdate(status.st_mtime, usegmt=True),
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=300",
        "Content-Disposition": f"{'attachment' if attached else 'inline'}; filename*=UTF-8''{quote(name)}",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Content-Type": f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type,
        "X-Content-Type-Options": "nosniff",
    }
    if etag in re.split(r"\s*,\s*", request.headers.get("if-none-match", "")):
        file.close()
        return Response(
            status_code=304, headers={key: value for key, value in headers.items() if key != "Content-Type"}
        )
    start, end, code = 0, size, 200
    span = _RANGE.fullmatch(request.headers.get("range", ""))
    if span and (span[1] or span[2]) and request.headers.get("if-range", etag) == etag:
        start = int(span[1]) if span[1] else max(size - int(span[2]), 0)
        end = min(int(span[2]) + 1, size) if span[1] and span[2] else size
        if start >= end:
            file.close()
            return PlainTextResponse("Requested range not satisfiable", 416, {"Content-Range": f"bytes */{size}"})
        code = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        file.close()
        return Response(status_code=code, headers=headers)

    async def content() -> AsyncIterator[bytes]:
        with file:
            position = file.seek(start)
            while chunk := await in_thread(partial(file.read, min(CHUNK, end - position))):
                position += len(chunk)
                yield chunk

    return StreamingResponse(content(), code, headers)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_found() -> ApiError:
    return ApiError(404, 0, "The requested file was not found on the server")


async def _refused(request: Request, error: Exception) -> Response:
    code = error.code if isinstance(error, ApiError) else 500
    return PlainTextResponse(str(error), code, bodies.HEADERS.get(code))


async def _failed(request: Request, error: Exception) -> Response:
    number = error.errno if isinstance(error, OSError) else None
    if number in _UNUSABLE_PATH:
        return PlainTextResponse("The path cannot be used for a file", 400)
    LOG.error("%s %s: %s", request.method, request.url.path, error)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return PlainTextResponse("No space is left on the server", 507)
    return PlainTextResponse("The file cannot be read or written (see the server's log)", 500)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
