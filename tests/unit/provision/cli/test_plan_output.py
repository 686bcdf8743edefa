"""What `plan` prints: alike resources together, quotas before and after, all that is in the way."""

from __future__ import annotations

import io
import json

import pytest
from click.testing import CliRunner
from rich.console import Console

from provision.cli import main
from provision.cli.in_cloud import as_changes
from provision.cli.output import show_plan, show_testbeds, since
from provision.cloud.choose import Chosen, Made, Problem
from provision.cloud.observed import FlavorOffer, Image
from provision.cloud.plan import Action, Plan, QuotaRow
from provision.reports import ListReport, PlanReport, TestbedInProject

AGENTS = [Action("create", "server", f"agent-{number}", "not there") for number in range(1, 51)]
MADE = Made(Image("i-1", "focal", "active", 3, 512), FlavorOffer("f-1", "m1.large", 8, 8192, 128, {}))
KEPT = [Action("keep", "port", "server", "", "p-1"), Action("keep", "port", "agent-1", "", "p-2")]
CHANGED = Action("change", "server", "server", "flavor m1.small → m1.large", "s-1")
REPLACED = Action("replace", "server", "agent-1", "image focal → jammy", "s-2")
GONE = Action("delete", "floating IP", "203.0.113.9", "no longer wanted", "f-1")
QUOTAS = (QuotaRow("cores", 2, 26, 20), QuotaRow("ram", 4096, 20480, -1), QuotaRow("ports", 5, 5, 50))


def printed(plan: Plan, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    show_plan(console, plan, nothing="Nothing to do.")
    return console.file.getvalue()  # type: ignore[attr-defined]


def chosen(*names: str) -> Chosen:
    return Chosen(dict.fromkeys(names, MADE), None, None, ())


def test_fifty_servers_alike_are_one_line_that_says_what_they_are_made_of():
    text = printed(Plan((*AGENTS, *KEPT), chosen=chosen(*(action.name for action in AGENTS))))
    assert text.splitlines()[:2] == [
        "  create   50 servers: agent-1, agent-2, agent-3, agent-4, agent-5, … agent-50 "
        "(m1.large: 8 vCPU, 8192 MiB, 128 GiB; focal)",
        "  left alone: 2 ports",
    ]


def test_what_is_changed_replaced_or_deleted_says_why():
    lines = printed(Plan((GONE, REPLACED, CHANGED), chosen=chosen("server", "agent-1"))).splitlines()
    assert lines == [
        "  change   server: server (flavor m1.small → m1.large)",
        "  replace  server: agent-1 (image focal → jammy; m1.large: 8 vCPU, 8192 MiB, 128 GiB; focal)",
        "  delete   floating IP: 203.0.113.9 (no longer wanted)",
    ]


def test_quotas_are_shown_before_and_after_and_the_short_ones_with_the_largest_layout():
    text = printed(Plan((CHANGED,), quotas=QUOTAS, largest="server, 1 agents"))
    rows = [line.split() for line in text.splitlines()]
    assert ["cores", "2", "26", "20", "6"] in rows
    assert ["RAM", "(MiB)", "4096", "20480", "none"] in rows
    assert ["ports", "5", "5", "50"] in rows
    assert "✗ quota of cores: 26 needed, 20 allowed (2 used): 6 short\n    The largest layout that fits: server" in text


def test_every_problem_has_its_remedy_below():
    text = printed(Plan((), problems=(Problem("no image", "Name one."), Problem("no zone", "Name another."))))
    assert "✗ no image\n    Name one.\n\n✗ no zone\n    Name another.\n" in text
    assert "Nothing to do." not in text


def test_nothing_to_do_is_said_so():
    assert printed(Plan(tuple(KEPT), quotas=QUOTAS[1:])) == "  left alone: 2 ports\nNothing to do.\n"


def test_on_a_narrow_terminal_quotas_are_paragraphs():
    text = printed(Plan((CHANGED,), quotas=QUOTAS), width=30)
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[lines.index("cores") :][:5] == ["cores", "  Now: 2", "  Then: 26", "  Limit: 20", "  Short: 6"]


def test_the_report_has_every_resource_and_every_quota():
    plan = Plan((CHANGED, *KEPT), problems=(Problem("no image", "Name one."),), quotas=QUOTAS, largest="server")
    found = PlanReport.of("ran", plan)
    assert found.fits is False
    assert [(action.action, action.kind, action.name, action.id) for action in found.actions] == [
        ("change", "server", "server", "s-1"),
        ("keep", "port", "server", "p-1"),
        ("keep", "port", "agent-1", "p-2"),
    ]
    assert [(row.name, row.short_by) for row in found.quotas] == [("cores", 6), ("ram", 0), ("ports", 0)]
    assert [problem.remedy for problem in found.problems] == ["Name one."]


def test_a_plan_is_a_list_of_changes_for_check():
    waits = Action("wait", "server", "agent-2", "it is in BUILD", "s-3")
    found = as_changes(Plan((*AGENTS[:1], CHANGED, REPLACED, GONE, waits, *KEPT)))
    assert [(change.action, change.kind, change.name) for change in found] == [
        ("add", "server", "agent-1"),
        ("change", "server", "server"),
        ("replace", "server", "agent-1"),
        ("remove", "floating IP", "203.0.113.9"),
    ]


def test_provider_local_has_no_cloud_to_plan():
    shown = CliRunner().invoke(main, ["plan"])
    assert shown.exit_code == 0
    assert shown.stdout.startswith("Provider local has no cloud to plan; `testbed up --check` lists")
    as_json = CliRunner().invoke(main, ["plan", "--json"])
    assert json.loads(as_json.stdout)["actions"] == []


@pytest.mark.parametrize(
    ("seconds", "said"), [(-5, "0 s"), (90, "90 s"), (150, "2 minutes"), (7300, "2 hours"), (200_000, "2 days")]
)
def test_an_age_is_said_as_people_do(seconds: int, said: str):
    import datetime

    moment = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    assert since(moment.isoformat()) == said


def test_testbeds_are_a_table_with_who_is_at_work():
    now = "2000-01-01T00:00:00+00:00"
    console = Console(file=io.StringIO(), width=120, highlight=False)
    mine = TestbedInProject(
        name="ran", servers=2, floating_ips=["203.0.113.9"], created=now, holder="ada@laptop", since=now
    )
    show_testbeds(console, ListReport(cloud="lab", testbeds=[mine]))
    show_testbeds(console, ListReport(cloud="lab", testbeds=[]))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[1].split()[:3] == ["ran", "2", "203.0.113.9"]
    assert "ada@laptop, since" in lines[1]
    assert lines[-1] == "No testbed in the project of cloud lab."
