"""A registered model is whole in itself, and what it is not is refused."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from workload import registered
from workload.errors import ModelError
from workload.registered import Card, Output, Predictor
from workload.scaler import Scaler

SCALER = Scaler(["a", "b"], [1.0, 2.0], [0.0, 2.0], [1.0, 4.0])
CONFIG = {"kind": "classifier", "sha256": "00", "inputs": asdict(SCALER)}
LABELS = {"eMBB": 0, "mMTC": 2, "URLLC": 1}
LOSS = Output("loss", "dB", 40.0, 80.0)


def test_a_card_is_read_as_it_was_written():
    assert registered.card(json.dumps(CONFIG), LABELS, "m1") == Card(
        "classifier", "00", SCALER, ("eMBB", "URLLC", "mMTC")
    )
    regression = {**CONFIG, "kind": "regression", "output": asdict(LOSS)}
    assert registered.card(json.dumps(regression), {}, "m1") == Card("regression", "00", SCALER, (), LOSS)


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({}, LABELS),
        ({**CONFIG, "inputs": {"columns": []}}, LABELS),
        (CONFIG, {}),
        ({**CONFIG, "kind": "regression"}, {}),
        ({**CONFIG, "kind": "forest"}, LABELS),
        ("text", LABELS),
    ],
)
def test_a_model_without_its_scaler_labels_or_hash_is_refused(config, labels):
    with pytest.raises(ModelError, match="model m1 has no scaler, label map and hash"):
        registered.card(config if isinstance(config, str) else json.dumps(config), labels, "m1")


def test_rows_become_numbers_in_the_order_of_the_model():
    rows = [{"b": "3.5", "a": 1}, {"a": None}, {"a": math.inf, "b": True}]
    found = registered.table(rows, ["a", "b"])
    assert np.array_equal(found, [[1, 3.5], [np.nan, np.nan], [np.nan, 1]], equal_nan=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"c": 1}, r"row 0: the model has no input 'c' \(it has: a, b\)"),
        ({"a": "x"}, "row 0: 'a' is no number: 'x'"),
        ({"a": [1]}, "'a' is no number"),
    ],
)
def test_a_row_that_the_model_cannot_take_is_named(row, message):
    with pytest.raises(ModelError, match=message):
        registered.table([row], ["a", "b"])


def predictor(card, raw):
    """Without Keras: what the network gives is given."""
    found = Predictor.__new__(Predictor)
    found.card = card
    found.raw = raw
    return found


def test_a_classifier_answers_with_labels_and_probabilities():
    seen = []

    def raw(inputs):
        seen.extend(inputs.tolist())
        return np.array([[0.1, 0.7, 0.2]])

    found = predictor(registered.card(json.dumps(CONFIG), LABELS, "m1"), raw).predict([{"b": 6}])
    assert found == [{"label": "URLLC", "probabilities": {"eMBB": 0.1, "URLLC": 0.7, "mMTC": 0.2}}]
    assert seen == [[1.0, 1.0]]  # what is missing is filled, and all is scaled


def test_a_regression_answers_in_its_unit():
    card = Card("regression", "00", SCALER, (), LOSS)
    assert predictor(card, lambda inputs: np.array([[0.5]])).predict([{"a": 1}]) == [{"loss": 80.0}]


def test_the_hash_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert registered.sha256(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")
