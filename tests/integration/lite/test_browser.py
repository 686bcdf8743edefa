"""The pages in a real browser: charts, colours, narrow screens, the policy, keys and clones as a person makes them."""

import json
import math
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

pytestmark = pytest.mark.long

NASTY = "<img src=x onerror=document.title='broken'> & \"quoted\""
FIGURES = {
    "heatmap": {"type": "heatmap", "z": [[1, 2], [3, 4]]},
    "table": {"type": "table", "header": {"values": ["a", "b"]}, "cells": {"values": [[1, 2], [3, 4]]}},
    "bar": {"type": "bar", "x": [NASTY, "b"], "y": [1, 2]},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's chromium; installed where it is not there yet."""
    if not shutil.which("chromium"):
        for command in (
            ["apt-get", "-qq", "update"],
            ["apt-get", "-qqy", "--no-install-recommends", "install", "chromium"],
        ):
            environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"chromium is not here, and cannot be had: {done.stderr}"
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments, timeout=120_000)
        yield started
        started.close()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """A page of somebody else's on another port of the same host."""

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title>")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def task(lite: Any) -> str:
    """A task with scalars and plots, and names that would be HTML."""
    parameters = {"Args": {"lr": {"section": "Args", "name": "lr", "value": "0.1"}}}
    project = lite.call("projects.create", {"name": f"project {NASTY}"})["id"]
    fields = {"name": f"task {NASTY}", "type": "training", "project": project, "hyperparams": parameters}
    identifier = lite.call("tasks.create", fields)["id"]
    events: list[dict[str, Any]] = [
        {
            "type": "training_stats_scalar",
            "iter": step,
            "metric": metric,
            "variant": NASTY,
            "value": math.exp(-step / 9),
        }
        for metric in ("loss", "accuracy")
        for step in range(60)
    ]
    events += [
        {
            "type": "plot",
            "iter": 1,
            "metric": name,
            "variant": NASTY,
            "plot_str": json.dumps({"data": [data], "layout": {}}),
        }
        for name, data in FIGURES.items()
    ]
    events.append({"type": "log", "msg": f"\x1b[1mline\x1b[0m {NASTY}"})
    lines = "\n".join(
        json.dumps({"task": identifier, "timestamp": 1000 + number} | event) for number, event in enumerate(events)
    )
    headers = {"Content-Type": "application/json-lines", "Authorization": f"Bearer {lite.token()}"}
    answer = httpx.post(f"{lite.urls['api']}/events.add_batch", content=lines, headers=headers, timeout=30)
    assert answer.json()["data"]["errors"] == 0
    return str(identifier)


class Visit:
    """A window of its own, logged in, which notes what went wrong in it."""

    def __init__(self, browser: Browser, lite: Any, **options: Any) -> None:
        self.context = browser.new_context(base_url=lite.urls["web"], **options)
        self.context.set_default_timeout(60_000)
        self.page: Page = self.context.new_page()
        self.wrong: list[str] = []
        self.asked: set[str] = set()
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(re.sub(r"^(\w+://[^/]*).*", r"\1", request.url)))

    def log_in(self, path: str) -> None:
        self.page.goto(path)
        self.page.get_by_label("Username").fill("alice")
        self.page.get_by_label("Password").fill("alice-pass-1")
        self.page.get_by_role("button", name="Log in").click()

    def drawn(self, number: int) -> None:
        """Waits until so many charts are drawn."""
        for chart in range(number):
            box = self.page.locator(".chart").nth(chart)
            box.scroll_into_view_if_needed()
            expect(box).to_have_attribute("data-drawn", "yes", timeout=60_000)
            expect(box.locator(".main-svg").first).to_be_visible()


@pytest.fixture
def visit(browser: Browser, lite: Any, task: str) -> Iterator[Any]:
    visits: list[Visit] = []

    def start(path: str, **options: Any) -> Visit:
        visits.append(Visit(browser, lite, **options))
        visits[-1].log_in(path)
        return visits[-1]

    yield start
    for each in visits:
        assert each.wrong == []
        assert each.asked <= {lite.urls["web"], "data:", "blob:"} | {
            host for host in each.asked if host[:5] in ("data:", "blob:")
        }
        assert each.page.title() != "broken"
        each.context.close()


def test_charts_are_drawn_without_anything_from_elsewhere(visit: Any, task: str) -> None:
    seen = visit(f"/tasks/{task}/scalars")
    seen.drawn(2)
    expect(seen.page.locator(".chart .legendtext").first).to_contain_text("quoted")
    seen.page.get_by_role("link", name="time", exact=True).click()
    seen.drawn(2)
    seen.page.get_by_role("link", name="Plots").click()
    seen.drawn(len(FIGURES))
    # a heat map keeps its edges: without its style attribute the browser would blur them
    rendering = "getComputedStyle(document.querySelector('.heatmaplayer image')).imageRendering"
    assert seen.page.evaluate(rendering) == "pixelated"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone_and_the_colours_of_its_owner(visit: Any, task: str, scheme: str) -> None:
    seen = visit(f"/tasks/{task}", color_scheme=scheme, viewport={"width": 360, "height": 740})
    for path in ("", "/scalars", "/plots", "/console", "/clone"):
        seen.page.goto(f"/tasks/{task}{path}")
        seen.page.wait_for_load_state("networkidle")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360, path
    for path in ("/projects", "/projects/*", "/queues", "/credentials"):
        seen.page.goto(path)
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360, path
    paper = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(int(part) for part in re.findall(r"\d+", paper)[:3])
    assert (lightness < 200) == (scheme == "dark")


def test_a_page_on_another_port_cannot_use_the_session(visit: Any, lite: Any, elsewhere: str) -> None:
    seen = visit("/projects")
    expect(seen.page.get_by_role("heading", level=1)).to_contain_text("Projects")
    (session,) = [cookie for cookie in seen.context.cookies() if cookie["value"]]
    assert session["name"] == "clearml_lite_session"
    other = seen.context.new_page()
    for name, path, method in (
        ("api", "users.get_current_user", "get"),
        ("api", "auth.create_credentials", "post"),
        ("files", "a/file", "get"),
        ("web", "credentials/create", "post"),
    ):
        other.goto(elsewhere)
        with other.expect_navigation() as navigation:
            other.evaluate(
                """([action, method]) => {
                    const form = document.createElement("form");
                    Object.assign(form, {action, method});
                    document.body.append(form);
                    form.submit();
                }""",
                [f"{lite.urls[name]}/{path}", method],
            )
        refused = 403 if name == "web" else 401
        assert navigation.value.status == refused, path
    assert "created" not in str(lite.call("auth.get_credentials"))


def test_what_others_have_named_is_text(visit: Any, task: str) -> None:
    seen = visit(f"/tasks/{task}")
    expect(seen.page.get_by_role("heading", level=1)).to_contain_text(NASTY)
    for path in ("/console", "/clone", "/plots", "/scalars"):
        seen.page.goto(f"/tasks/{task}{path}")
        seen.page.wait_for_load_state("networkidle")
        assert seen.page.locator("img").count() == 0
    seen.page.goto("/projects")
    expect(seen.page.get_by_role("link", name=f"project {NASTY}")).to_be_visible()


def test_a_clone_with_another_parameter_waits_in_its_queue(visit: Any, lite: Any, task: str) -> None:
    seen = visit(f"/tasks/{task}/clone")
    seen.page.get_by_label("Name").fill("with another rate")
    seen.page.get_by_label("lr").fill("0.5")
    seen.page.get_by_label("Queue").select_option(label="default (0 waiting)")
    seen.page.get_by_role("button", name="Clone").click()
    expect(seen.page.get_by_role("heading", level=1)).to_contain_text("with another rate")
    (new,) = lite.call("tasks.get_all", {"name": "^with another rate$"})["tasks"]
    assert (new["status"], new["hyperparams"]["Args"]["lr"]["value"]) == ("queued", "0.5")
    seen.page.get_by_role("link", name="Queues and workers").click()
    expect(seen.page.get_by_role("link", name="with another rate")).to_be_visible()


def test_a_key_works_until_it_is_revoked(visit: Any, lite: Any) -> None:
    seen = visit("/credentials")
    seen.page.get_by_label("What for").fill("browser")
    seen.page.get_by_role("button", name="Create new credentials").click()
    shown = seen.page.locator("#new-key").inner_text()
    key, secret = (re.search(rf'"{name}" = "([^"]+)"', shown) for name in ("access_key", "secret_key"))
    assert key
    assert secret
    login = f"{lite.urls['api']}/auth.login"
    assert httpx.get(login, auth=(key[1], secret[1])).status_code == 200
    seen.page.goto("/credentials")
    assert secret[1] not in seen.page.content()
    seen.page.get_by_role("button", name=f"Revoke {key[1]}").click()
    expect(seen.page.locator("td code")).to_have_count(0)
    assert httpx.get(login, auth=(key[1], secret[1])).status_code == 401
