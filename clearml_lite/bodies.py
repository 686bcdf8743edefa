"""Bodies of requests: read up to a limit, and what is refused read away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from starlette.requests import Request

from clearml_lite.errors import ApiError

# what somebody may send who is not known yet, and what a form of the API holds
SMALL_BODY = 64 * 1024
# so much of larger bodies is here at the same time
ROOM = 64 * 1024 * 1024
# so long nothing of a body may come
IDLE_SECONDS = 60.0
TOO_SLOW = 408
NO_ROOM = 503
# what their answers carry
HEADERS = {TOO_SLOW: {"Connection": "close"}, NO_ROOM: {"Retry-After": "1"}}

Body = bytes | bytearray


class Room:
    """Memory for the bodies that are here at the same time, but for small ones. Used by one event loop."""

    def __init__(self, size: int = ROOM) -> None:
        self._left = size

    @contextlib.contextmanager
    def place(self) -> Iterator["Place"]:
        """A body's part of it, which is given back at the end of the block."""
        place = Place(self)
        try:
            yield place
        finally:
            place.leave()

    def take(self, size: int) -> bool:
        """Whether there was so much left, which is taken then; a negative size gives back."""
        if size > self._left:
            return False
        self._left -= size
        return True


class Place:
    """What one body has taken of a room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._taken = 0

    def grow(self, size: int) -> bool:
        """Whether the room has so much more."""
        if not self._room.take(size):
            return False
        self._taken += size
        return True

    def leave(self) -> None:
        """Give all of it back."""
        self._room.take(-self._taken)
        self._taken = 0


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


async def read(request: Request, most: int, place: Place) -> Body:
    """The whole body; a small one `request.form()` finds, too.

    Raises:
        ApiError: 413 when it has more than `most` bytes, 503 when there is no room for it; it has been read away then.
            408 when it stops coming.
    """
    content = bytearray()
    size = 0
    fits = True
    async for chunk in chunks(request):
        size += len(chunk)
        fits = fits and (size <= SMALL_BODY or place.grow(len(chunk)))
        if fits and size <= most:
            content += chunk
            continue
        content = bytearray()
        place.leave()
    if size > most:
        raise ApiError(413, 0, f"Request body is larger than {most} bytes")
    if not fits:
        raise ApiError(NO_ROOM, 0, "Too many large requests at the same time; try again")
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
