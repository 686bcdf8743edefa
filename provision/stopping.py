"""Ctrl-C, a termination and a closed terminal stop a command alike: as KeyboardInterrupt, wherever it is."""

from __future__ import annotations

import os
import signal
from types import FrameType

from provision.errors import Exit

_STOPS = {
    signal.SIGINT: (Exit.STOPPED, "by Ctrl-C"),
    signal.SIGTERM: (Exit.TERMINATED, "by SIGTERM"),
    signal.SIGHUP: (Exit.HUNG_UP, "as its terminal was closed"),
}
_received = signal.SIGINT


def listen() -> None:
    """Stop at each of the signals that this process was not told to ignore (`nohup`)."""
    for number in _STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def exit_code() -> Exit:
    """Return the exit code of a command that was stopped: 128 and the signal's number, as shells have it."""
    return _STOPS[_received][0]


def reason() -> str:
    """Return what stopped the command, in words."""
    return _STOPS[_received][1]


def _stop(number: int, frame: FrameType | None) -> None:
    global _received
    _received = signal.Signals(number)
    if _received == signal.SIGHUP:  # to write to a terminal that is gone would fail, and there is still work to do
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            if os.isatty(stream):
                os.dup2(nowhere, stream)
    raise KeyboardInterrupt
