"""What people see while the toolkit works: one line per stage, live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

# without a terminal, a task within a stage is worth a line of its own from here on
SLOW_TASK_S = 5.0
# a terminal narrower than this gets no columns
WIDTH_OF_COLUMNS = 80


def duration(seconds: float) -> str:
    """Return seconds as people write them: `0.4 s`, `12 s`, `3 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


class PeopleConsole(Console):
    """A console on a stream that drops what nobody reads any more, so a reader that has gone ends nothing."""

    @property
    def is_live(self) -> bool:
        """Whether lines can be drawn over: a terminal, and one that can; colours alone (FORCE_COLOR) are none."""
        return self.file.isatty() and not self.is_dumb_terminal and self.encoding.lower().startswith("utf")


class Stage:
    """One stage of a command while it runs."""

    def __init__(self, console: Console, title: str, live: Live | None) -> None:
        self.result = ""
        self._console = console
        self._title = title
        self._live = live
        self._began = time.monotonic()
        self._step = ""
        self._step_began = self._began

    def step(self, text: str) -> None:
        """Say what is being done now; saying the same again lets its time run on."""
        if text == self._step:
            return
        self._tell_slow_step()
        self._step, self._step_began = text, time.monotonic()

    @property
    def now(self) -> str:
        """What is being done now; empty when nothing was said."""
        return self._step

    def note(self, text: str) -> None:
        """Print a line that stays, above the line of the stage."""
        self._console.print(Text(f"    {text}"))

    def finish(self, mark: str, style: str) -> None:
        """Print the stage's closing line."""
        self._tell_slow_step()
        took = duration(time.monotonic() - self._began)
        narrow = self._console.width < WIDTH_OF_COLUMNS
        columns = f"{self._title}  {took}  {self.result}" if narrow else f"{self._title:<34} {took:>12}   {self.result}"
        line = Text.assemble((f"{mark} ", style), columns)
        self._console.print(line)

    def _tell_slow_step(self) -> None:
        took = time.monotonic() - self._step_began
        if self._live is None and self._step and took >= SLOW_TASK_S:
            self.note(f"{self._step}  {duration(took)}")

    def __rich__(self) -> Spinner:
        now = time.monotonic()
        line = Text(f"{self._title}  {duration(now - self._began)}", no_wrap=True, overflow="ellipsis")
        if self._step:
            line.append(f"  {self._step}  {duration(now - self._step_began)}", style="dim")
        return Spinner("dots", line)


@contextmanager
def stage(console: Console, title: str) -> Iterator[Stage]:
    """Show a stage while the block runs; its closing line says how long it took and `result`."""
    if isinstance(console, PeopleConsole) and console.is_live:
        with Live(console=console, refresh_per_second=8, transient=True) as live:
            current = Stage(console, title, live)
            live.update(current)
            yield from _run(current)
    else:
        yield from _run(Stage(console, title, None))


def _run(current: Stage) -> Iterator[Stage]:
    try:
        yield current
    except BaseException:
        current.finish("✗", "bold red")
        raise
    current.finish("✓", "green")
