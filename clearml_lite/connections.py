"""Connections whose client is slow, or sends more than a request's head should be: answered and closed."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 20.0
LARGEST_HEAD = 64 * 1024


class Connection(HttpToolsProtocol):
    """uvicorn's, with a limit to the time and the size of a request's line and headers."""

    _waiting: asyncio.TimerHandle | None = None
    _begun = False  # a request: what comes is its head or body, also when it was answered before all of it was there
    _size = 0

    def connection_made(self, transport: Any) -> None:
        """A client is there: it has a request to send."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """More of a request."""
        if self._waiting is None and not self._begun:
            self._wait_for_head()
        super().data_received(data)
        if self._waiting is not None:
            self._size += len(data)
            if self._size > LARGEST_HEAD:
                self._refuse("431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._begun = True
        self._wait_for_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; those that come after a body are passed over, for nothing limits them."""
        if self._waiting is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """All that was waited for."""
        self._head_is_there()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        super().on_message_complete()
        self._begun = False

    def _wait_for_head(self) -> None:
        self._head_is_there()
        self._size = 0
        self._waiting = self.loop.call_later(HEAD_SECONDS, self._refuse, "408 Request Timeout")

    def _head_is_there(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _refuse(self, status: str) -> None:
        self._head_is_there()
        if not self.transport.is_closing():
            self.transport.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            self.transport.close()
