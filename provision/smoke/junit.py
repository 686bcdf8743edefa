"""The checks as JUnit XML, which CI systems read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from provision.reports import Check

# what XML 1.0 cannot hold
UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(name: str, checks: Sequence[Check]) -> bytes:
    """Return the results as a JUnit document: a suite for each run, named after what was checked. Pure."""
    suites = ElementTree.Element("testsuites", name="testbed smoke")
    for run in dict.fromkeys(check.run for check in checks):
        of_run = [check for check in checks if check.run == run]
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=f"{name}, run {run}",
            tests=str(len(of_run)),
            failures=str(sum(check.result == "failed" for check in of_run)),
            errors="0",
            skipped=str(sum(check.result == "skipped" for check in of_run)),
            time=f"{sum(check.seconds for check in of_run):.3f}",
        )
        for check in of_run:
            case = ElementTree.SubElement(
                suite, "testcase", classname="smoke", name=_text(check.name), time=f"{check.seconds:.3f}"
            )
            if check.result == "failed":
                failure = ElementTree.SubElement(case, "failure", message=_text(check.seen or check.message))
                failure.text = _text(check.message)
            elif check.result == "skipped":
                ElementTree.SubElement(case, "skipped", message=_text(check.message))
    text: str = ElementTree.tostring(suites, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'.encode()


def _text(text: str) -> str:
    return UNPRINTABLE.sub("?", text)
