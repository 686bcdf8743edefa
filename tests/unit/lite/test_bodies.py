"""Bodies that arrive at the same time: so much memory is theirs, and who finds none is told to come again."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request

from clearml_lite import bodies
from clearml_lite.errors import ApiError

MEGABYTE = 1 << 20


def request(chunks: AsyncIterator[bytes]) -> Request:
    async def receive() -> dict[str, Any]:
        chunk = await anext(chunks, b"")
        return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}

    return Request({"type": "http", "method": "POST", "path": "/", "headers": []}, receive)


async def megabytes(count: int, before_the_last: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    for _ in range(count - 1):
        yield bytes(MEGABYTE)
    if before_the_last:
        await before_the_last.wait()
    yield bytes(MEGABYTE)


async def size_of(room: bodies.Room, chunks: AsyncIterator[bytes], most: int = 8 * MEGABYTE) -> int:
    with room.place() as place:
        return len(await bodies.read(request(chunks), most, place))


def test_who_finds_no_room_is_told_and_has_left_nothing_behind() -> None:
    async def meet() -> None:
        room, over = bodies.Room(6 * MEGABYTE), asyncio.Event()
        first = asyncio.create_task(size_of(room, megabytes(4, over)))
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as refused:
            await size_of(room, megabytes(4))
        assert refused.value.code == bodies.NO_ROOM
        assert await size_of(room, megabytes(2)) == 2 * MEGABYTE, "there is as much as before"
        over.set()
        assert await first == 4 * MEGABYTE
        assert await size_of(room, megabytes(6)) == 6 * MEGABYTE, "all of it is free again"

    asyncio.run(meet())


def test_what_is_too_large_takes_no_room_and_small_bodies_need_none() -> None:
    async def meet() -> None:
        room = bodies.Room(2 * MEGABYTE)
        for count in (3, 30):
            body = megabytes(count)
            with pytest.raises(ApiError) as refused:
                await size_of(room, body, most=2 * MEGABYTE)
            assert refused.value.code == 413
            assert await anext(body, None) is None, "it was read to its end"
        assert await size_of(room, megabytes(2)) == 2 * MEGABYTE

        async def small() -> AsyncIterator[bytes]:
            yield bytes(bodies.SMALL_BODY)

        assert await size_of(bodies.Room(0), small()) == bodies.SMALL_BODY

    asyncio.run(meet())


@pytest.mark.parametrize("path", ["/events.add_batch", "/projects.create"])
def test_the_api_says_when_to_come_again(client: Any, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(bodies.Room, "take", lambda _, size: size < 0)
    answer = client.post(path, content=b" " * (bodies.SMALL_BODY + 1))
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["meta"]["result_msg"] == "Too many large requests at the same time; try again"
