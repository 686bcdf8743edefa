"""How long a service does not answer while something is done to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from provision import forward

# between two questions, and how long an answer may take
EVERY_S = 0.1
ANSWER_S = 2.0


class Away:
    """How long, in seconds, nobody answered so far."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def add(self, answered: bool, seconds: float) -> None:
        """Count `seconds` since the last question, unless it was `answered`."""
        if not answered:
            self.seconds += seconds


@contextmanager
def watched(url: str) -> Iterator[Away]:
    """Ask `url` over and over while the block runs, and count for how long it does not answer."""
    found, over = Away(), threading.Event()

    def watch() -> None:
        with forward.client(timeout=ANSWER_S) as http:
            last = time.monotonic()
            while not over.wait(EVERY_S):
                answered = _answers(http, url)
                now = time.monotonic()
                found.add(answered, now - last)
                last = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def _answers(http: httpx.Client, url: str) -> bool:
    try:
        return http.get(url).is_success
    except httpx.HTTPError:
        return False
