"""The synthetic telemetry: reproducible, of the size asked for, flawed as real data is, learnable but not by a line."""

import numpy as np
import pytest
from workload import fill, generator

END = 1_790_000_000
START = END - 30 * generator.DAY


def table(points=20_000, seed=1, period=60, start=START, end=END, first_ue=0):
    """All reports as one: fields as rows x columns in the order of FIELDS."""
    chunks = list(generator.generate(start, end, points, seed, period, first_ue))
    fields = np.concatenate([np.column_stack([chunk.fields[name] for name in generator.FIELDS]) for chunk in chunks])
    time, ue, label = (np.concatenate([getattr(chunk, name) for chunk in chunks]) for name in ("time", "ue", "label"))
    return time, ue, label, fields


def linear_accuracy(inputs, labels):
    """Of the best least-squares fit on the first 70 %, on the rest."""
    inputs = np.column_stack([inputs, np.ones(len(inputs))])
    cut = int(0.7 * len(inputs))
    weights, *_ = np.linalg.lstsq(inputs[:cut], np.eye(3)[labels[:cut]], rcond=None)
    return float(((inputs[cut:] @ weights).argmax(axis=1) == labels[cut:]).mean())


@pytest.mark.parametrize(
    ("points", "period", "seconds"),
    [(1, 60, 3600), (777, 60, 86400), (20_000, 60, 30 * 86400), (50_000, 1, 3600), (3000, 10, 86400), (1000, 60, 60)],
)
def test_writes_as_many_points_as_asked_for_once_each_and_in_order(points, period, seconds):
    time, ue, _, _ = table(points, period=period, start=END - seconds)
    assert len(time) == points
    assert len(set(zip(time.tolist(), ue.tolist()))) == points
    assert (np.diff(time) >= 0).all()
    assert (time > END - seconds).all()
    assert (time <= END).all()
    assert (time % period == 0).all()


def test_same_seed_and_range_give_the_same_points_and_another_seed_others():
    for first, second in zip(table(2000), table(2000)):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(table(2000)[3], table(2000, seed=2)[3], equal_nan=True)


@pytest.mark.parametrize("period", [0, 61, -1])
def test_a_reporting_period_is_1_to_60_s(period):
    with pytest.raises(ValueError, match="1 to 60 s"):
        next(generator.generate(START, END, 10, 1, period))


def test_a_range_without_a_reporting_period_is_refused():
    with pytest.raises(ValueError, match="no reporting period"):
        next(generator.generate(END, END, 10, 1))


def test_data_has_gaps_and_outliers():
    time, _, _, fields = table()
    missing = np.isnan(fields).mean(axis=0)
    assert (missing > 0.01).all()
    assert (missing < 0.03).all()
    latency = fields[:, list(generator.FIELDS).index("latency_dl")]
    assert 0.001 < (latency > 10 * np.nanmedian(latency)).mean() < 0.01
    silent = np.diff(np.unique(time)).max()
    assert silent > 60, "there is no time without a report"


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("cqi", 1, 15),
        ("mcs", 0, 28),
        ("prb_used_dl", 0, 100),
        ("rsrp", -156, -31),
        ("rsrq", -43, 20),
        ("connected_ues", 1, 200),
    ],
)
def test_values_keep_to_the_ranges_of_the_field(name, low, high):
    values = table()[3][:, list(generator.FIELDS).index(name)]
    assert np.nanmin(values) >= low
    assert np.nanmax(values) <= high


@pytest.mark.parametrize("seed", range(1, 6))
def test_slices_are_balanced_and_a_linear_model_is_far_below_one_that_sees_the_interplay_with_the_load(seed):
    _, _, label, fields = table(seed=seed)
    assert (np.bincount(label) / len(label) > 0.25).all()
    inputs = np.where(np.isnan(fields), np.nanmean(fields, axis=0), fields)
    inputs = np.clip((inputs - inputs.mean(axis=0)) / inputs.std(axis=0), -3, 3)
    load = inputs[:, [list(generator.FIELDS).index("connected_ues")]]
    assert linear_accuracy(inputs, label) < 0.75
    assert linear_accuracy(np.column_stack([inputs, inputs * load, inputs**2]), label) > 0.8


def test_label_is_the_last_column_of_select_star():
    assert sorted([*generator.FIELDS, *generator.TAGS, generator.LABEL])[-1] == generator.LABEL


def test_more_ues_are_other_series():
    assert not set(table(500)[1]) & set(table(500, first_ue=1000)[1])


def test_line_protocol_leaves_out_what_is_missing_and_marks_integers():
    (reports,) = generator.generate(END - 60, END, 1, 1)
    for name in reports.fields:
        reports.fields[name][:] = np.nan
    reports.fields["rsrp"][:], reports.fields["cqi"][:] = -95.04, 7
    (line,) = fill.line_protocol(reports, "ran data")
    cell, ue, label = reports.cell[0], reports.ue[0], reports.label[0]
    expected = f"ran\\ data,cell=cell-{cell:02d},ue=ue-{ue:04d} rsrp=-95.0,cqi=7i,ue_slice={label}i {END // 60 * 60}"
    assert line == expected
