"""The bench of enqueue to first line finds the line, and tells what is beyond the poll."""

from tests.bench.queue import first_line


def test_the_first_line_is_found_in_a_console():
    assert first_line.first_line("Running task\nFIRST LINE 12.5\nDone\n") == 12.5
    assert first_line.first_line("Running task\n") is None


def test_the_figures_tell_what_is_beyond_the_poll():
    assert first_line.summary([4.0, 7.0, 9.0], 5.0) == "| 3 | 7.0 s | 4.0 s | 9.0 s | 5 s | 2.0 s |"
