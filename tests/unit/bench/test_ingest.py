"""The bench of ingestion counts what the program takes that it runs, and nothing of its own."""

import os
import sys

import pytest

from tests.bench.ingest import read


def test_a_run_has_the_memory_of_the_program_and_not_of_who_measures(tmp_path):
    ballast = bytearray(os.urandom(1 << 20)) * 300
    small = read.measured([sys.executable, "-I", "-S", "-c", "pass"], dict(os.environ), tmp_path, os.getpid())
    large = read.measured(
        [sys.executable, "-I", "-S", "-c", "x = b'x' * (100 << 20)"], dict(os.environ), tmp_path, os.getpid()
    )
    assert len(ballast) == 300 << 20
    assert small.mib < 60
    assert 95 < large.mib - small.mib < 130
    assert small.seconds > 0


def test_the_processor_s_seconds_are_of_the_program_and_of_the_process_that_is_named(tmp_path):
    work = [sys.executable, "-I", "-S", "-c", "for _ in range(5_000_000): pass"]
    run = read.measured(work, dict(os.environ), tmp_path, os.getpid())
    assert run.own > 0.01
    assert 0 <= run.database < run.own  # this process waits


def test_a_program_that_fails_is_no_figure(tmp_path):
    with pytest.raises(Exception, match="returned non-zero exit status 3"):
        read.measured([sys.executable, "-c", "raise SystemExit(3)"], dict(os.environ), tmp_path, os.getpid())


def test_points_have_ten_fields_and_are_in_order_of_time():
    lines = list(read.lines(100))
    assert len(lines) == 100
    assert {line.split()[1].count("=") for line in lines} == {10}
    times = [int(line.split()[2]) for line in lines]
    assert times == sorted(times)
    assert read.BEGIN <= times[0] <= times[-1] < read.BEGIN + read.SPAN
    assert len({tuple(line.split()[::2]) for line in lines}) == 100  # no point takes another's place
