"""Settings of a run, as they are given."""

import pytest
from workload import cli
from workload.errors import WorkloadError


def wanted(*arguments):
    return cli._wanted(cli._parser().parse_args(["ingest", *arguments]))


def test_the_window_is_the_days_before_now_or_what_is_said():
    found = wanted("--days=2")
    assert found.end - found.start == 2 * 86_400 * cli.NS + 1
    found = wanted("--start=2026-11-01", "--end=2026-11-01T02:00:00.000001+01:00")
    assert (found.start, found.end - found.start) == (1_793_491_200 * cli.NS, 3600 * cli.NS + 1000)
    assert wanted("--start=2026-11-01T00:00:00Z").start == found.start


def test_fields_and_tags_are_lists_of_names():
    found = wanted("--fields", "rsrp, cqi", "--tags", "")
    assert (found.fields, found.tags) == (("rsrp", "cqi"), ())
    assert (wanted().fields, wanted().tags) == (None, None)


def test_a_window_that_ends_before_it_begins_is_one_message():
    with pytest.raises(WorkloadError, match=r"from 2026-11-02T.* to 2026-11-01T.* has no length: check --start"):
        wanted("--start=2026-11-02", "--end=2026-11-01")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--start=yesterday", "expected a time as 2026-11-01"),
        ("--format=arrow", "invalid choice"),
        ("--days=0", "1 or more"),
    ],
)
def test_what_cannot_be_is_refused(argument, message, capsys):
    with pytest.raises(SystemExit):
        wanted(argument)
    assert message in capsys.readouterr().err
