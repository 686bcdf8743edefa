"""Bodies of requests: read up to a limit, and what is refused read away."""

from starlette.requests import Request

from clearml_lite.errors import ApiError

# what somebody may send who is not known yet, and what a form of the API holds
SMALL_BODY = 64 * 1024
# so much of a refused body is still read: a proxy that sends takes a closed connection for a server that is down
REFUSED = 16 * 1024 * 1024


async def read(request: Request, most: int) -> bytes:
    """The whole body, which `request.form()` finds, too.

    Raises:
        ApiError: 413 when it has more than `most` bytes; it has been read away then.
    """
    chunks = bytearray()
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= most:
            chunks += chunk
            continue
        chunks.clear()
        if size >= most + REFUSED:
            break
    if size > most:
        raise ApiError(413, 0, f"Request body is larger than {most} bytes")
    request._body = bytes(chunks)
    return request._body


async def read_away(request: Request) -> None:
    """Reads a body that nobody wants, up to `REFUSED` bytes."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size >= REFUSED:
            return
