"""Preparation: numbers from whatever came, gaps filled, and nothing of the test part in the scaler."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from workload import prepare
from workload.evaluate import confusion

NAN = float("nan")


def frame(**columns):
    return pd.DataFrame(columns)


def test_files_become_one_table_in_order_of_time(tmp_path):
    frame(time=[30, 10], a=[3, 1]).to_csv(tmp_path / "b.csv", index=False)
    (tmp_path / "more").mkdir()
    frame(time=[20], a=[2]).to_parquet(tmp_path / "more" / "a.parquet")
    (tmp_path / "notes.txt").write_text("not data")
    assert prepare.read_folder(tmp_path)["a"].tolist() == [1, 2, 3]


def test_a_folder_without_data_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no CSV or Parquet"):
        prepare.read_folder(tmp_path)


def test_strings_and_tags_become_numbers_and_the_label_an_integer_in_the_last_column():
    cleaned = prepare.clean(
        frame(label=["2", "0", "1.0", None], a=["1.5", "x", 3, 4], cell=["c1", "c2", "c3", "c4"], b=[1, np.inf, 3, 4]),
        "label",
        ["cell", "not there"],
    )
    assert list(cleaned) == ["a", "b", "label"]
    assert cleaned["label"].tolist() == [2, 0, 1]
    assert cleaned["label"].dtype == "int64"
    assert cleaned["a"].isna().tolist() == [False, True, False]
    assert cleaned["b"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"a": [1.0]}, "no column 'label'.*a"), ({"label": [1], "cell": ["c1"]}, "cell.*drop_columns")],
)
def test_what_cannot_be_trained_on_is_named(columns, message):
    with pytest.raises(ValueError, match=message):
        prepare.clean(frame(**columns), "label", [])


@pytest.mark.parametrize(
    ("strategy", "filled"),
    [
        ("mean", [3.0, 2.0, 4.0, 3.0, 100.0]),  # of the first four rows: 100 is test data
        ("median", [3.0, 2.0, 4.0, 3.0, 100.0]),
        ("zero", [0.0, 2.0, 4.0, 0.0, 100.0]),
        ("ffill", [3.0, 2.0, 4.0, 4.0, 100.0]),  # nothing before the first: the mean
        ("bfill", [2.0, 2.0, 4.0, 100.0, 100.0]),
    ],
)
def test_gaps_are_filled_by_what_the_training_part_knows(strategy, filled):
    data, _ = prepare.fill_missing(frame(a=[NAN, 2.0, 4.0, NAN, 100.0]), strategy, 4)
    assert data["a"].tolist() == filled


def test_an_unknown_fill_strategy_is_an_error_that_lists_them():
    with pytest.raises(ValueError, match="mean, median, zero, ffill, bfill"):
        prepare.fill_missing(frame(a=[1.0]), "guess", 1)


@pytest.mark.parametrize(("scaling", "center", "scale"), [("standard", 2.0, 1.0), ("minmax", 1.0, 2.0)])
def test_the_scaler_knows_the_training_part_only(scaling, center, scale):
    scaler = prepare.fit_scaler(frame(a=[1.0, 3.0], constant=[5.0, 5.0]), scaling, [2.0, 5.0])
    assert (scaler.center[0], scaler.scale[0]) == (center, scale)
    scaled = scaler.apply(frame(constant=[5.0, 5.0], a=[1000.0, NAN]))
    assert scaled.dtype == np.float32
    assert scaled.tolist() == [[(1000 - center) / scale, 0.0], [(2 - center) / scale, 0.0]]


def test_the_scaler_survives_as_json():
    scaler = prepare.fit_scaler(frame(a=[1.0, 3.0]), "standard", [2.0])
    assert prepare.Scaler(**json.loads(json.dumps(asdict(scaler)))) == scaler


def test_an_unknown_normalisation_is_an_error_that_lists_them():
    with pytest.raises(ValueError, match="standard, minmax"):
        prepare.fit_scaler(frame(a=[1.0]), "log", [0.0])


def test_the_split_is_ordered_and_no_part_is_empty():
    assert prepare.split_rows(100, 0.7, 0.15) == (70, 85)
    for rows, train in ((3, 0.7), (100, 0.9)):
        with pytest.raises(ValueError, match="cannot be split"):
            prepare.split_rows(rows, train, 0.15)


def test_the_confusion_matrix_counts_labels_by_row():
    assert confusion(np.array([0, 0, 2]), np.array([0, 1, 2]), 3).tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
