"""Figures of pieces add up to those of the whole."""

import numpy as np
import pyarrow as pa
import pytest
from workload.statistics import added, figures, row


def whole(values):
    return figures(pa.chunked_array([values]))


@pytest.mark.parametrize("cuts", [(0, 3), (10, 500), (1, 999)])
def test_figures_of_pieces_add_up(cuts):
    values = np.random.default_rng(1).normal(1e6, 3, 1000)
    pieces = [whole(pa.array(piece)) for piece in np.split(values, cuts)]
    found = {"count": 0}
    for piece in pieces:
        found = added(found, piece)
    assert found["count"] == 1000
    assert found["mean"] == pytest.approx(values.mean(), rel=1e-12)
    assert found["squares"] == pytest.approx(values.var() * 1000, rel=1e-6)
    assert (found["min"], found["max"]) == (values.min(), values.max())


def test_integers_stay_whole_beyond_what_a_float_holds():
    found = whole(pa.array([2**62 + 1, -(2**62) - 3, None], pa.int64()))
    assert (found["count"], found["min"], found["max"]) == (2, -(2**62) - 3, 2**62 + 1)
    assert whole(pa.array([2**63 + 1], pa.uint64()))["max"] == 2**63 + 1


def test_booleans_have_a_share_and_strings_are_counted():
    assert whole(pa.array([True, False, True, True, None]))["mean"] == 0.75
    assert whole(pa.array(["a", None, "b"])) == {"count": 2}
    assert whole(pa.array([None, None], pa.float64())) == {"count": 0}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="NaN or an infinite value"):
        whole(pa.array([1.0, value, 2.0]))


def test_large_finite_values_are_none_of_these():
    assert whole(pa.array([1e308, 1e308]))["max"] == 1e308


def test_a_line_of_the_table():
    found = whole(pa.array([1.0, 3.0, None]))
    assert row("rsrp", "float", found, 3) == ["rsrp", "float", "2", "1", "2", "1", "1", "3"]
    assert row("ue", "tag", {"count": 3}, 3) == ["ue", "tag", "3", "0", "", "", "", ""]
