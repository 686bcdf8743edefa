"""The page of `smoke --html` in a real browser without a network: light, dark, on a phone, printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from provision.reports import Check
from provision.smoke import page
from provision.smoke.agents import Ran

pytestmark = pytest.mark.long

NASTY = "<img src=x onerror=document.title='broken'> & \"quoted\" " + "x" * 120


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium; installed where it is not there yet."""
    if not shutil.which("chromium"):
        for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(["apt-get", "-qq", *command], env=environment, check=True, capture_output=True)
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments, timeout=120_000)
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with all that it may show, on a testbed that is broken."""
    failed = Check(
        name="queue is served: prepared",
        result="failed",
        seconds=60.2,
        reference="prepared",
        message="",
        expected="a worker that listens on prepared has reported in the last 180 s",
        seen=f"no worker serves queue prepared: {NASTY}",
        remedy="`testbed status` says more; `testbed up` mends it.",
        log=[f"testbed-agent-prepared on agent-1: 2026-11-23 05:59:1{number} a line {NASTY}" for number in range(8)],
    )
    steps = ("ingest", "prepare", "train", "evaluate", "consume")
    good = [
        Check(name=f"workload completes: {step}", result="passed", seconds=21.4, reference="f" * 32, message="")
        for step in steps
    ]
    left = Check(
        name="fixed users are on", result="skipped", seconds=0, reference="", message="whoever runs it decides"
    )
    services = [
        page.Row(f"testbed-agent-{name}", "runs", well=True, version="3.1.0") for name in ("default", "prepared")
    ]
    hosts = [page.HostCard(f"agent-{number}", services, "agents") for number in range(4)]
    epochs = range(15)
    text = page.render(
        name="oran-lab",
        level="full",
        at="2026-11-23 06:00 UTC",
        version="0.1.0",
        checks=[failed, *good, left],
        hosts=[page.HostCard("server", [page.Row("clearml-apiserver", "is unhealthy", well=False)], "server"), *hosts],
        figures={
            "loss": {
                "train": {"x": list(epochs), "y": [1.1 / (1 + each) for each in epochs]},
                "validation": {"x": list(epochs), "y": [1.2 / (1 + each) + 0.05 for each in epochs]},
            },
            "confusion": {"rows": [[910, 40, 50], [22, 870, 108], [61, 39, 900]], "x": list("abc"), "y": list("abc")},
            "maps": [
                {"title": "Path loss, measured", "rows": [[70 + x + y for x in range(30)] for y in range(18)]},
                {"title": "Path loss, error", "rows": [[x - 15, None, 2.5] * 10 for x in range(18)]},
            ],
            "ran": [Ran("f" * 32, step, "prepared", f"agent-1:{'x' * 24}", "completed", 4.5) for step in steps[1:]],
            "latency": dict.fromkeys(steps[1:], 4.5),
        },
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text)
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_and_is_legible(browser, report, scheme, width):
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 740}, offline=True)
    shown, wrong, asked = context.new_page(), [], []
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(report.as_uri())
    assert asked == [report.as_uri()]
    assert wrong == []
    assert shown.title() == "The testbed is broken: queue is served: prepared: oran-lab"
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.locator("h1").bounding_box()["y"] < 100, "the verdict is the first thing"
    for selector in ("h1", ".fault dd", ".checks td", ".soft", ".matrix td", "svg text"):
        assert _contrast(shown, selector) >= 4.5, selector
    if folder := os.environ.get("TESTS_SCREENSHOTS"):
        shown.screenshot(path=f"{folder}/smoke-{scheme}-{width}.png", full_page=True)
    context.close()


def _contrast(shown, selector: str) -> float:
    """The contrast of the first such text and the page, by the formula of WCAG 2."""
    ink = shown.locator(selector).first.evaluate(
        "e => (e instanceof SVGElement) ? getComputedStyle(e).fill : getComputedStyle(e).color"
    )
    ground = shown.evaluate("getComputedStyle(document.body).backgroundColor")

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(ink), luminance(ground)))
    return (light + 0.05) / (dark + 0.05)


def test_it_prints_on_white_whatever_the_screen_is(browser, report, tmp_path):
    context = browser.new_context(color_scheme="dark", offline=True)
    shown = context.new_page()
    shown.goto(report.as_uri())
    shown.emulate_media(media="print")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert shown.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    printed = shown.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) in (2, 3, 4, 5)
    context.close()
