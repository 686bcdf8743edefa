"""How data looks on a page."""

import json
import math
from typing import Any

import pytest

from clearml_lite.web import pages, view
from clearml_lite.web.session import local_path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-23T01:02:03.456000+00:00", "2026-11-23 01:02:03"),
        ("2026-11-23T03:02:03+02:00", "2026-11-23 01:02:03"),
        ("2026-11-23T01:02:03", "2026-11-23 01:02:03"),
        ("never", "never"),
        ("0001-01-01T00:00:00+05:00", "0001-01-01T00:00:00+05:00"),
        ("9999-12-31T23:59:59-05:00", "9999-12-31T23:59:59-05:00"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_time_is_in_utc(text: str | None, shown: str) -> None:
    assert view.moment(text) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, ""), (0, "0 s"), (59.9, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (7500, "2 h 05 min")],
)
def test_a_duration(seconds: float | None, shown: str) -> None:
    assert view.duration(seconds) == shown


def test_how_long_a_task_ran() -> None:
    started = "2026-11-23T01:00:00+00:00"
    assert view.task_duration({"status": "created"}) == ""
    assert (
        view.task_duration({"status": "completed", "started": started, "completed": "2026-11-23T01:00:42+00:00"})
        == "42 s"
    )
    assert view.task_duration({"status": "stopped", "started": started, "active_duration": 5}) == "5 s"
    assert view.task_duration({"status": "in_progress", "started": "2020-01-01T00:00:00+00:00"}).endswith("min")


@pytest.mark.parametrize(
    ("number", "shown"),
    [(None, ""), (0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (3.2e9, "3.2 GB"), (5e15, "5000.0 TB")],
)
def test_a_size(number: float | None, shown: str) -> None:
    assert view.size(number) == shown


@pytest.mark.parametrize(
    ("url", "link"),
    [
        ("http://files:8081/p/a%20b.csv", "/files/p/a%20b.csv"),
        ("http://files:8081//evil", "/files/evil"),
        ("http://files:80810/p", "http://files:80810/p"),
        ("https://elsewhere/x", "https://elsewhere/x"),
        ("s3://bucket/x", ""),
        ("javascript:alert(1)", ""),
        ("data:text/html,x", ""),
        ("", ""),
        (None, ""),
        (7, ""),
        (["http://files:8081/p"], ""),
    ],
)
def test_where_a_browser_gets_a_file(url: Any, link: str) -> None:
    assert view.link(url, "http://files:8081") == link


@pytest.mark.parametrize(
    ("path", "goes_to"),
    [
        ("/tasks/1?a=b", "/tasks/1?a=b"),
        ("/", "/"),
        ("//evil", "/"),
        ("/\\evil", "/"),
        ("https://evil", "/"),
        ("", "/"),
        ("/a\nb", "/"),
        ("/a\\b", "/"),
    ],
)
def test_a_login_leads_to_this_server_only(path: str, goes_to: str) -> None:
    assert local_path(path) == goes_to


def test_sent_parameters_change_values_and_nothing_else() -> None:
    known = {
        "Args": {"lr": {"name": "lr", "value": "0.1", "type": "float"}, "text": {"name": "text", "value": "a\r\nb"}}
    }
    form = [
        ("section", "Args"), ("parameter", "lr"), ("value", "0.2"),
        ("section", "Args"), ("parameter", "text"), ("value", "a\r\nb"),
        ("section", "Args"), ("parameter", "new"), ("value", "no"),
        ("section", "Other"), ("parameter", "lr"), ("value", "no"),
    ]  # fmt: skip
    assert view.sent_parameters(known, form) == {
        "Args": {"lr": {"name": "lr", "value": "0.2", "type": "float"}, "text": {"name": "text", "value": "a\r\nb"}}
    }
    assert known["Args"]["lr"]["value"] == "0.1"


def test_a_figure_for_each_metric_and_a_line_for_each_variant() -> None:
    metrics = {"loss": {"train": {"x": [1, 2], "y": [0.5, 0.25]}, "val": {"x": [1], "y": [0.75]}}}
    (figure,) = view.scalar_figures(metrics, "iter")
    assert figure["title"] == "loss"
    assert [(line["name"], line["x"], line["y"]) for line in figure["data"]] == [
        ("train", [1, 2], [0.5, 0.25]),
        ("val", [1], [0.75]),
    ]
    assert figure["layout"]["xaxis"]["title"]["text"] == "iteration"
    assert view.scalar_figures(metrics, "iso_time")[0]["layout"]["xaxis"]["title"]["text"] == "time (UTC)"


@pytest.mark.parametrize(
    "plot", ["no JSON", "", None, "[1]", '"text"', "null", "7", 7, ["a"], '{"data": 1, "layout": []}', "[" * 100_000]
)
def test_what_is_no_plot_is_an_empty_figure(plot: Any) -> None:
    (figure,) = view.plot_figures([{"metric": "m", "variant": "v", "iter": 3, "plot_str": plot}], str)
    assert (figure["title"], figure["iter"], figure["data"], figure["layout"]) == ("m / v", 3, [], {})


@pytest.mark.parametrize("levels", [60, 300, 600, 10_000])
def test_a_plot_that_is_nested_too_deeply_says_so_and_the_others_are_shown(levels: int) -> None:
    for deep in ("[" * levels + "]" * levels, '{"a":' * levels + "1" + "}" * levels):
        events = [{"plot_str": f'{{"data": [{deep}], "layout": {{}}}}'}, {"plot_str": '{"data": [{"z": [[1]]}]}'}]
        content = pages.Data({"figures": view.plot_figures(events, str)})
        refused, shown = json.loads(content.json())["figures"]
        assert "This plot" in refused["problem"]
        assert shown["data"] == [{"z": [[1]]}]
        assert "problem" not in shown


def test_pictures_in_plots_come_from_this_server() -> None:
    sources = ["http://files/x.png", "data:image/png;base64,AA", "javascript:alert(1)", "https://elsewhere/y"]
    plot = {"data": [], "layout": {"images": [*({"source": source} for source in sources), 1, {"source": 2}]}}
    (figure,) = view.plot_figures([{"plot_str": json.dumps(plot)}], lambda url: view.link(url, "http://files"))
    images = figure["layout"]["images"]
    assert [image["source"] for image in images[:4]] == ["/files/x.png", sources[1], "", sources[3]]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("\x1b[31mred\x1b[0m <b>", "red <b>"),
        ("10%\r20%\r30%\n", "30%"),
        ("a\r\nb\r\n", "a\nb"),
        ("link \x1b]8;;http://x\x07here\x1b]8;;\x07", "link here"),
        ("bell\x07\x00", "bell"),
        ("tab\there", "tab\there"),
        (None, ""),
        (5, "5"),
    ],
)
def test_a_console_line_is_plain_text(message: Any, text: str) -> None:
    assert view.console_line({"msg": message})["text"] == text


@pytest.mark.parametrize(("stamp", "time"), [(0, "1970-01-01 00:00:00"), (10**18, ""), ("x", ""), (None, ""), (-1, "")])
def test_a_console_line_has_its_time(stamp: Any, time: str) -> None:
    assert view.console_line({"timestamp": stamp})["time"] == time


@pytest.mark.parametrize(
    ("rest", "tab"),
    [
        ("output/log", "/console"),
        ("output/metrics/scalar", "/scalars"),
        ("output/metrics/plots", "/plots"),
        ("output/debugImages", "/images"),
        ("artifacts/output", ""),
        ("", ""),
    ],
)
def test_links_of_clients_find_their_page(rest: str, tab: str) -> None:
    assert view.task_tab(rest) == tab


def test_what_is_no_number_is_nothing() -> None:
    content = {"y": [1.0, math.nan, math.inf, [-math.inf]], "text": "NaN"}
    assert view.without_nan(content) == {"y": [1.0, None, None, [None]], "text": "NaN"}


def test_a_value_has_six_digits() -> None:
    assert [view.value(number) for number in (0.123456789, 3, "x", 1e-9)] == ["0.123457", "3", "x", "1e-09"]
