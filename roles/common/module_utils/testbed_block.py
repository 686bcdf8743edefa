"""A marked block of ours in a text file that is others': their lines stay as and where they are."""

from __future__ import annotations


class DamagedError(Exception):
    """The block's last line is gone; the text says what to do."""


def split(text: str, begin: str, end: str) -> tuple[str, str, str]:
    """Return what is before the block, the block, and what is after it. Raises DamagedError when its end is missing."""
    before, found, rest = text.partition(f"{begin}\n")
    if not found:
        return text, "", ""
    ours, found_end, after = rest.partition(f"{end}\n")
    if not found_end:
        raise DamagedError(
            f"the line '{begin}' has no '{end}' below it. Put that line below the last line of the block"
        )
    return before, f"{begin}\n{ours}{end}\n", after


def replaced(text: str, begin: str, end: str, lines: list[str]) -> str:
    """Return the text with these lines in the block, where it is or else at the end; without lines there is none."""
    before, there, after = split(text, begin, end)
    block = "\n".join([begin, *lines, end]) + "\n" if lines else ""
    gap = "\n" if block and not there and before and not before.endswith("\n") else ""
    return before + gap + block + after
