"""Regular expressions that users send: some never end, so all have a limit to their time and size.

They are Python's, as the module `regex` reads them: unlike `re` it can stop.
"""

import math
import re
import time
from functools import lru_cache

import regex

from clearml_lite.errors import ApiError, validation_error

# seconds of processor time that the patterns of a request may take together
LIMIT = 2.0
LONGEST = 10_000
# `regex` writes a part that is repeated in a repeated part out, when it reads the pattern: (a{1000}){1000} is a million
MOST_REPEATED = 100_000
_REPEATED = re.compile(r"\{([0-9]*)(?:,([0-9]*))?\}")
# there `regex` reads a number with blanks and comments around it, too
_VERBOSE = re.compile(r"(?<!\\)(?:\\\\)*\(\?[A-Za-z0-9]*x")


def check(field: str, pattern: str) -> None:
    """Refuses what cannot be used as a pattern.

    Raises:
        ApiError: 400/12.
    """
    if _VERBOSE.search(pattern[:LONGEST]):
        raise validation_error(field, f"the verbose mode, (?x), is not offered: {pattern[:100]!r}")
    repeated = [max(map(_times, found)) for found in _REPEATED.findall(pattern[:LONGEST])]
    if len(pattern) > LONGEST or math.prod(repeated) > MOST_REPEATED:
        raise validation_error(field, f"the regular expression is too large: {pattern[:100]!r}")
    try:
        _compiled(pattern)
    except (regex.error, ValueError, RecursionError, OverflowError) as error:
        raise validation_error(field, f"{pattern!r} is not a regular expression: {error}") from error


def _times(digits: str) -> int:
    """How often a part is there that is repeated; at least once, since {0} takes no other repeat away."""
    return int(digits.lstrip("0")[:9] or 1)


class Matcher:
    """Searches with patterns that have been checked, until their time is over."""

    def __init__(self) -> None:
        self._left = LIMIT

    def reset(self) -> None:
        """Begins another request."""
        self._left = LIMIT

    def search(self, pattern: str, value: object) -> bool:
        """Whether a value has the pattern in it; False for nothing, and when the time is over (see `require_time`)."""
        if value is None or self._left <= 0:
            return False
        begun = time.thread_time()
        try:
            return _compiled(pattern).search(str(value), timeout=self._left) is not None
        except TimeoutError:
            self._left = 0
            return False
        finally:
            self._left -= time.thread_time() - begun

    def require_time(self) -> None:
        """Refuses an answer that is not whole.

        Raises:
            ApiError: 400/12 when the patterns of the request took too long.
        """
        if self._left <= 0:
            reason = f"the regular expression takes more than {LIMIT:g} s: make it simpler, without repeats in repeats"
            raise ApiError(400, 12, f"Validation error ({reason})")


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> "regex.Pattern[str]":
    return regex.compile(pattern)
