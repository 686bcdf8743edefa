"""Telemetry that is generated where there is no InfluxDB looks as what is ingested from one."""

from workload.generate import table
from workload.generator import FIELDS, LABEL, TAGS, generate
from workload.prepare import clean


def test_a_chunk_is_a_table_that_the_next_step_takes():
    (chunk,) = generate(0, 86400, 1000, seed=1)
    frame = table(chunk)
    assert list(frame) == ["time", *TAGS, *FIELDS, LABEL]
    assert frame["time"].dtype == "int64"
    assert (frame["time"] % 60_000_000_000 == 0).all()
    assert len(frame) == 1000
    cleaned = clean(frame, LABEL, ["time", *TAGS])
    assert len(cleaned) == 1000
    assert set(cleaned[LABEL]) == {0, 1, 2}
