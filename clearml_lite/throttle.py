"""How often somebody may guess."""

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock

REMEMBERED = 10_000


class Throttle:
    """Allows a number of tries at once, and one more each time that an interval has passed.

    Args:
        burst: tries that are allowed at once.
        interval: seconds after which there is one more.
        clock: seconds that only grow.
    """

    def __init__(self, burst: int, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst = burst
        self._interval = interval
        self._clock = clock
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()  # when all tries of somebody are there again
        self._lock = Lock()

    def take(self, who: Hashable) -> float:
        """Takes one try: 0.0, or the seconds until there is one."""
        with self._lock:
            now = self._clock()
            full_at = max(self._full_at.get(who, now), now) + self._interval
            wait = full_at - now - self._burst * self._interval
            if wait > 0:
                return wait
            self._full_at[who] = full_at
            self._full_at.move_to_end(who)
            if len(self._full_at) > REMEMBERED:
                self._full_at.popitem(last=False)
            return 0.0

    def forgive(self, who: Hashable) -> None:
        """Gives all tries back: it was no guess."""
        with self._lock:
            self._full_at.pop(who, None)
