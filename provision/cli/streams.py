"""Standard streams that take whatever is written to them, whoever reads them and in whatever encoding."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

# what marks and typography become where the encoding has no sign for them; words around them say the same
PLAIN = {"✓": "+", "✗": "x", "…": "...", "→": "->", "·": "-", "–": "-", "“": '"', "”": '"', "’": "'"}
PLAIN_ERRORS = "testbed-plain"


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


codecs.register_error(PLAIN_ERRORS, _plain)


class Output(io.TextIOWrapper):
    """Text for a reader that may go away, as `head` does: then the rest is dropped, and the work goes on."""

    def write(self, text: str) -> int:
        """Write `text`; drop it where nobody reads any more."""
        with self._unless_gone():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Hand on what was written; drop it where nobody reads any more."""
        with self._unless_gone():
            super().flush()

    @contextlib.contextmanager
    def _unless_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # what is left in the buffer goes there at exit
            os.close(nowhere)
            if not isinstance(error, BrokenPipeError):
                raise


def prepare() -> None:
    """Make this process's stdout and stderr such streams; open what the caller has closed."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # else the next file that is opened would get the number, and what is meant for people
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = _output(sys.stdout, 1)
    sys.stderr = _output(sys.stderr, 2)


def _output(stream: TextIO | None, number: int) -> Output:
    if stream is None:
        return Output(open(number, "wb", closefd=False), encoding="utf-8", errors=PLAIN_ERRORS)  # noqa: PTH123, SIM115
    line_buffering = number == 2 or stream.isatty()
    return Output(stream.buffer, encoding=stream.encoding, errors=PLAIN_ERRORS, line_buffering=line_buffering)
