"""The page of faults is that of the tests, and says how each is made."""

from tests.integration.deployed import test_smoke_faults as of_testbed
from tests.integration.smoke import fault_table
from tests.integration.smoke import test_faults as of_server


def test_the_page_is_as_generated():
    assert fault_table.PAGE.read_text(encoding="utf-8") == fault_table.page(), (
        "run .venv/bin/python -P -m tests.integration.smoke.fault_table"
    )


def test_every_fault_says_how_it_is_made():
    assert [fault.name for fault in (*of_server.FAULTS, *of_testbed.FAULTS) if not fault.broken.__doc__] == []
