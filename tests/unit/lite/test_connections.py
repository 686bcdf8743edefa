"""Clients that are slow or send without end: each gets its code, and nothing of the server."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from clearml_lite import bodies, connections


async def _echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{request.method} {len(await request.body())} {len(request.headers)}")


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A server with little patience."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)
    app = Starlette(routes=[Route("/", _echo, methods=["GET", "POST"])])
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=connections.Connection, log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    running = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    running.start()
    yield listener.getsockname()
    server.should_exit = True
    running.join()
    listener.close()


def answer(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    client.settimeout(60)
    received = b""
    while chunk := client.recv(65536):
        received += chunk
    return received


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET /", b"\r\n"])
def test_who_never_ends_the_head_of_a_request_is_sent_away(address: tuple[str, int], sent: bytes) -> None:
    with socket.create_connection(address) as client:
        client.sendall(sent)
        assert answer(client).startswith(b"HTTP/1.1 408 Request Timeout\r\n")


def test_who_sends_one_byte_after_the_other_is_sent_away(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nlong: ")
        client.settimeout(0.02)
        received = b""
        with contextlib.suppress(ConnectionError):  # it is closed already
            while not received:
                client.sendall(b"x")
                with contextlib.suppress(TimeoutError):
                    received = client.recv(100)
        assert received.startswith(b"HTTP/1.1 408 ") or not received


@pytest.mark.parametrize("part", [b"x" * 1000, b"a: b\r\n" * 200])
def test_a_head_without_end_is_refused(address: tuple[str, int], part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 60)
    with socket.create_connection(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nlong: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                client.sendall(part)
        with contextlib.suppress(ConnectionError):
            assert answer(client).startswith(b"HTTP/1.1 431 ")


def test_requests_one_after_the_other_are_as_ever(address: tuple[str, int]) -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
    with socket.create_connection(address) as client:
        client.sendall(request * 3 + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = answer(client)
    assert received.count(b"HTTP/1.1 200 OK") == 4
    assert received.count(b"POST 100000 2") == 3
    assert received.endswith(b"GET 0 2")


def test_headers_after_a_body_are_passed_over(address: tuple[str, int]) -> None:
    trailers = b"a: b\r\n" * 50_000
    head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(address) as client:
        client.sendall(head + b"3\r\nabc\r\n0\r\n" + trailers + b"\r\n")
        assert answer(client).endswith(b"POST 3 3")


async def _stops() -> AsyncIterator[bytes]:
    yield b"{"
    await asyncio.Event().wait()


def test_a_body_that_stops_coming_is_given_up(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "IDLE_SECONDS", 0.1)
    refused = client.post("/tasks.get_all", content=_stops())
    assert refused.status_code == 408
    assert refused.json()["meta"]["result_msg"] == "Nothing of the request body came for 0.1 s"
    assert refused.headers["connection"] == "close"
