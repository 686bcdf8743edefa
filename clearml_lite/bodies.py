"""Bodies of requests: read up to a limit, and what is refused read away."""

import asyncio
from collections.abc import AsyncIterator, Iterator

from starlette.requests import Request

from clearml_lite.errors import ApiError

# what somebody may send who is not known yet, and what a form of the API holds
SMALL_BODY = 64 * 1024
# so much more of a too large body is read: a proxy that sends takes a closed connection for a server that is down
REFUSED = 16 * 1024 * 1024
# so long nothing of a body may come
IDLE_SECONDS = 60.0
TOO_SLOW = 408

Body = bytes | bytearray


async def chunks(request: Request) -> AsyncIterator[bytes]:
    """A body as it arrives.

    Raises:
        ApiError: 408 when nothing came for too long.
    """
    arriving = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                chunk = await anext(arriving)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise ApiError(TOO_SLOW, 0, f"Nothing of the request body came for {IDLE_SECONDS:g} s") from error
        yield chunk


async def read(request: Request, most: int) -> Body:
    """The whole body; a small one `request.form()` finds, too.

    Raises:
        ApiError: 413 when it has more than `most` bytes; it has been read away then. 408 when it stops coming.
    """
    content = bytearray()
    size = 0
    async for chunk in chunks(request):
        size += len(chunk)
        if size <= most:
            content += chunk
            continue
        content.clear()
        if size >= most + REFUSED:
            break
    if size > most:
        raise ApiError(413, 0, f"Request body is larger than {most} bytes")
    if size > SMALL_BODY:
        return content  # a copy of it would be as large again
    request._body = bytes(content)
    return request._body


def lines(body: Body) -> Iterator[str]:
    """The lines of a body, one after the other, so that they are never all there at once; at least one."""
    begin = 0
    while (end := body.find(b"\n", begin)) >= 0:
        yield body[begin:end].decode("utf-8", "replace")
        begin = end + 1
    if begin < len(body) or not body:
        yield body[begin:].decode("utf-8", "replace")


async def read_away(request: Request) -> None:
    """Reads a body that nobody wants to its end.

    An answer before the end has nginx close a connection that it has just said to keep open (its documentation of
    `lingering_close`): what the client sends next on it is lost.
    """
    async for _ in chunks(request):
        pass
